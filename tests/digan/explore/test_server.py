"""The server: who may use it, what it answers, and that nothing it is sent ends in a traceback."""

import asyncio
import json
import socket
import time

import pytest
import torch
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from digan.errors import ConfigError
from digan.explore import server
from digan.explore.pictures import Painter
from digan.explore.server import Explorer, listen
from tests.digan.explore.conftest import build

HERE = "http://127.0.0.1:8000"
PICTURES = "ws://127.0.0.1:8000/pictures"


@pytest.fixture
def explorer():
    return Explorer(build(), "runs/00000-demo")


@pytest.fixture
def client(explorer):
    with TestClient(explorer.app, base_url=HERE) as client:
        yield client


def decode(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def receive(page, kind: str) -> tuple[dict, bytes]:
    """Return the last picture of a request of this kind."""
    while True:
        header, pixels = decode(page.receive_bytes())
        if header["kind"] == kind and header["final"]:
            return header, pixels


def test_the_page_has_its_files_and_nothing_else(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    for name, kind in {"style.css": "text/css", "main.js": "text/javascript", "icon.svg": "image/svg+xml"}.items():
        assert client.get(f"/{name}").headers["content-type"].startswith(kind)
    for path in ("/server.py", "/../server.py", "/%2e%2e/server.py", "/page/main.js", "/..%2fserver.py", "/index"):
        assert client.get(path).status_code == 404
    assert client.post("/").status_code == 405


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:9", "[::1]:8000", "192.168.1.7:80", "mine"])
def test_known_names_and_addresses_are_served(host):
    explorer = Explorer(build(), "network", hosts=frozenset({"Mine"}))
    with TestClient(explorer.app, base_url=HERE) as client:
        assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "[", "a@b", "http://[", "[::1"),
        *("]", "[x]", "[v1.x]", "\u2100"),
    ],
)
def test_other_names_are_refused(client, host):
    headers = {"host": host.encode()}
    reply = client.get("/", headers=headers)
    assert (reply.status_code, reply.text.count("\n"), reply.text[-1]) == (403, 0, ".")
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(PICTURES, headers=headers):
        pass
    assert closed.value.code == 1008


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "http://127.0.0.1:8001", "null", "http://localhost:8000"),
        *("http://[", "http://[::1", "http://]", "http://\u2100", "", "//", "http://[v1.x]", "http://[x]"),
    ],
)
def test_pages_of_other_sites_are_refused(client, origin, message):
    headers = {"origin": origin.encode()}
    reply = client.post("/file", json=message("file"), headers=headers)
    assert (reply.status_code, reply.text) == (403, "Requests from pages of other sites are refused.")
    assert client.post("/command", json=message("file"), headers=headers).status_code == 403
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(PICTURES, headers=headers):
        pass
    assert closed.value.code == 1008


def test_a_page_learns_about_the_network(client):
    with client.websocket_connect(PICTURES, headers={"origin": HERE}) as page:
        about = page.receive_json()
    assert about | {"methods": None} == {
        "kind": "network",
        "network": "runs/00000-demo",
        "trained": "7 kimg",
        "resolution": 64,
        "scale": 2,
        "classes": [],
        "frames": 5,
        "clips": [],
        "methods": None,
        "max_side": 2048,
        "max_file_side": 1024,
        "max_frames": 1000,
    }


@pytest.mark.parametrize(
    ("names", "expected"), [(["a", "b", "c"], ["a", "b", "c"]), (["a"], ["0", "1", "2"]), (None, ["0", "1", "2"])]
)
def test_classes_have_names_or_numbers(names, expected):
    g = build(3)
    g.metadata = {"data": {"class_names": names}}
    assert Explorer(g, "network").description()["classes"] == expected


def test_a_network_without_metadata_is_described():
    g = build()
    g.metadata = {"data": "none", "clips_seen": "many"}
    about = Explorer(g, "network").description()
    assert (about["trained"], about["frames"]) == ("", 16)


@pytest.mark.parametrize("kind", ["frames", "slice", "enlarged", "motions"])
def test_pictures_are_those_of_the_painter(client, kind, message):
    sent = message(kind)
    painter = Painter(build())
    painter.warm_up()
    with client.websocket_connect(PICTURES) as page:
        page.receive_json()
        page.send_json(sent)
        header, pixels = receive(page, kind)
    assert (header["id"], header["generation"]) == (1, 2)
    with torch.no_grad():
        request = server.parse_request(json.dumps(sent), 0)
        pictures = [picture for step in painter.steps(request) for picture in step]
    final = next(picture for picture in pictures if picture.header["final"])
    if kind != "slice":  # whose rows of a step depend on the speed
        assert pixels == final.pixels.numpy().tobytes()


def test_two_pages_are_served_independently(client, message):
    with client.websocket_connect(PICTURES) as first, client.websocket_connect(PICTURES) as second:
        for page in (first, second):
            page.receive_json()
        first.send_json(message(motion=1, times=[0.5]))
        second.send_json(message(motion=2, times=[0.5]))
        pictures = [receive(page, "frames")[1] for page in (first, second)]
        first.send_json(message(motion=2, times=[0.5]))
        assert receive(first, "frames")[1] == pictures[1] != pictures[0]


def test_wrong_messages_are_one_sentence_and_the_page_goes_on(client, message):
    with client.websocket_connect(PICTURES) as page:
        page.receive_json()
        for wrong in ("nonsense", "{}", json.dumps(message(psi=99)), "[" * 10000):
            page.send_text(wrong)
            error = page.receive_json()
            assert error["kind"] == "error"
            assert error["message"].endswith(".")
            assert "\n" not in error["message"]
        page.send_bytes(b"\0")
        assert page.receive_json()["message"] == "a message must be text."
        page.send_json(message())
        receive(page, "frames")


def test_a_defect_is_one_sentence_on_the_page(client, explorer, message, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError
        yield

    monkeypatch.setattr(explorer.painter, "steps", broken)
    with client.websocket_connect(PICTURES) as page:
        page.receive_json()
        page.send_json(message())
        assert page.receive_json()["message"].startswith("this could not be rendered (ZeroDivisionError)")
    assert "ZeroDivisionError" in caplog.text


def test_too_many_pages_are_refused(client, monkeypatch):
    monkeypatch.setattr(server, "MAX_PAGES", 1)
    with client.websocket_connect(PICTURES) as page:
        page.receive_json()
        with client.websocket_connect(PICTURES) as other, pytest.raises(WebSocketDisconnect) as closed:
            other.receive_json()
        assert (closed.value.code, closed.value.reason) == (1013, "1 pages are open already; close one.")


def test_a_closed_page_leaves_nothing_behind(client, explorer, message):
    for _ in range(3):
        with client.websocket_connect(PICTURES) as page:
            page.receive_json()
            page.send_json(message())
    deadline = time.monotonic() + 60
    while explorer.pages and time.monotonic() < deadline:
        time.sleep(0.01)
    assert explorer.pages == 0
    assert explorer.scheduler._channels == []


def test_files_and_their_command(client, message):
    reply = client.post("/file", json=message("file"), headers={"origin": HERE})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "video/mp4")
    assert reply.content[4:8] == b"ftyp"
    text = client.post("/command", json=message("file")).json()["command"]
    assert text.startswith("digan sample --network runs/00000-demo ")


@pytest.mark.parametrize("path", ["/file", "/command"])
def test_a_wrong_file_is_one_sentence(client, path, message):
    for body in (json.dumps(message("file", frames=0)), "x", "\udcff".encode(errors="surrogatepass"), "[" * 20000):
        reply = client.post(path, content=body)
        assert reply.status_code == 400
        assert reply.json()["error"].endswith(".")


def test_only_so_many_files_are_rendered_at_a_time(client, explorer, message, monkeypatch):
    monkeypatch.setattr(explorer.rendering, "locked", lambda: True)
    reply = client.post("/file", json=message("file"))
    assert reply.json()["error"] == "2 files are being rendered already; wait for one of them."


def test_a_port_in_use_is_one_sentence():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^--host 127.0.0.1 --port {port} cannot be used \(.*\); give others.$"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot be used"):
        listen("no.such.host.invalid", 0)


def test_it_listens_on_the_address_alone():
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        assert listener.family == socket.AF_INET


def test_connections_do_not_wait_for_acknowledgements():
    """Two pictures in a row would otherwise be 40 ms apart, by Nagle's algorithm and delayed acknowledgements."""

    async def option():
        transports = []

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                transports.append(transport)

        with listen("127.0.0.1", 0) as listener:
            server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)  # as uvicorn does
            _, writer = await asyncio.open_connection(*listener.getsockname())
            while not transports:
                await asyncio.sleep(0.01)
            value = transports[0].get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
            transports[0].close()
            server.close()
            await server.wait_closed()
        return value

    assert asyncio.run(option())

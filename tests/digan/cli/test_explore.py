"""digan explore: the process of the server, from its start to Ctrl-C."""

import json
import re
import signal
import urllib.request
from pathlib import Path

import pytest
from websockets.sync.client import connect

from benchmarks.explore import start_server
from digan.cli import explore
from digan.cli.main import main
from digan.explore.server import listen
from tests.digan.explore.conftest import build

ROOT = Path(__file__).parents[3]


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.safetensors"
    g = build()
    g.save(path, **g.metadata)
    return path


def test_the_server_serves_and_stops(network, message):
    with start_server(network) as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        with urllib.request.urlopen(url) as page:
            assert b"<title>digan explore</title>" in page.read()
        with connect(url.replace("http", "ws") + "/pictures", compression="deflate") as page:
            assert page.protocol.extensions == []  # pixels are sent as they are
            assert json.loads(page.recv())["network"] == str(network)
            page.send(json.dumps(message(size=[32, 16], times=[0.5])))
            picture = page.recv()
            assert len(picture) - 4 - int.from_bytes(picture[:4], "little") == 32 * 16 * 3
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert (process.returncode, output.splitlines()[-1:], error) == (0, ["stopped"], "")


def test_a_long_message_closes_the_page_alone(network):
    with start_server(network) as (process, url):
        for _ in range(2):
            with connect(url.replace("http", "ws") + "/pictures") as page:
                page.recv()
                page.send("x" * 20000)
                with pytest.raises(Exception, match=r"1009|too big"):
                    page.recv()
        assert process.poll() is None


def test_a_port_in_use_is_one_sentence(network, capsys):
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert main(["explore", "--network", str(network), "--port", str(port), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"digan explore: --host 127.0.0.1 --port {port} cannot be used (")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--port 70000", "--port 70000 must be at most 65,535."),
        ("--dtype fp8", "argument --dtype: invalid choice: 'fp8'"),
        ("--device nowhere", "--device nowhere cannot be used here"),
    ],
)
def test_wrong_options_are_one_sentence(network, options, problem, capsys):
    assert main(["explore", "--network", str(network), *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"digan explore: {problem}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("localhost", "http://localhost:80")],
)
def test_the_address_to_open(host, expected):
    assert explore._url(host, 80) == expected


def test_on_all_interfaces_the_address_is_that_of_the_machine(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    assert explore._url("0.0.0.0", 80) == explore._url("::", 80) == "http://box:80"

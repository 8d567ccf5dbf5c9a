"""The server of the page: its files, a WebSocket for pictures, and downloads."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from digan.errors import ConfigError
from digan.explore import messages
from digan.explore.files import command, write_file
from digan.explore.messages import parse_file_request, parse_request
from digan.explore.pictures import METHODS, Painter
from digan.explore.scheduler import Job, Scheduler, reason
from digan.models.generator import Generator
from digan.sampling.latents import Latents

MAX_PAGES = 16
_MAX_FILES = 2  # rendered at a time
_OUTBOX = 8  # messages that a page may be behind
_PRIORITIES = {"frames": 0, "enlarged": 0, "slice": 1, "motions": 2}  # the lowest first
_MEDIA = {"mp4": "video/mp4", "gif": "image/gif", "png": "image/png", "slice": "image/png"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_SECURITY = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]


class Guard:
    """Refuses requests under a foreign host name, and requests that another site's page makes.

    A page of another site can reach a local server, under a name of its own that leads to it (DNS rebinding) or by a
    WebSocket, which browsers open across origins. Addresses cannot be rebound, so that an address is always accepted.

    Args:
        app: the application.
        hosts: the names by which the server may be reached.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed, with headers that confine the page to this server."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if (problem := self.problem(headers)) is None:
            return await self.app(scope, receive, _with_headers(send))
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1008, "reason": problem})
        return await PlainTextResponse(problem, status_code=403)(scope, receive, send)

    def problem(self, headers: Headers) -> str | None:
        """Return why a request is refused, or None."""
        host = headers.get("host", "")
        name = _host_name(host)
        if not (_is_address(name) or name in self.hosts):
            return "This server does not accept that host name; add it with --allow-host."
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return "Requests from pages of other sites are refused."
        return None


def _host_name(host: str) -> str:
    """Return the name in a Host header; "" if there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # as of an unclosed bracket
        return ""


def _netloc(origin: str) -> str:
    """Return the host and port of an Origin header in lower case; "" if there is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message["headers"], *_SECURITY]}
        await send(message)

    return wrapped


class Page:
    """One connection: takes requests from a page and sends it pictures."""

    def __init__(self, socket: WebSocket, painter: Painter, scheduler: Scheduler) -> None:
        self.socket, self.painter, self.scheduler = socket, painter, scheduler
        self.loop = asyncio.get_running_loop()
        self.outbox: asyncio.Queue[bytes | str] = asyncio.Queue()
        self.channel = scheduler.open(lambda: self.outbox.qsize() < _OUTBOX)

    async def serve(self) -> None:
        """Exchange messages until the page is closed."""
        sender = asyncio.create_task(self._send())
        try:
            while True:
                message = await self.socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                self._take(message.get("text"))
        finally:
            self.scheduler.close(self.channel)
            sender.cancel()

    def _take(self, text: str | None) -> None:
        try:
            if text is None:
                raise ConfigError("a message must be text.")
            request = parse_request(text, self.painter.g.config.num_classes)
        except ConfigError as error:
            return self._post(_error(error))
        kind = json.loads(text)["kind"]
        job = Job(
            request.generation,
            self.painter.steps(request),
            lambda pictures: self._post_from_thread(*(picture.encode() for picture in pictures)),
            lambda error: self._post_from_thread(_error(error)),
        )
        self.scheduler.submit(self.channel, kind, _PRIORITIES[kind], job)

    def _post(self, *messages: bytes | str) -> None:
        for message in messages:
            self.outbox.put_nowait(message)

    def _post_from_thread(self, *messages: bytes | str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._post, *messages)

    async def _send(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                message = await self.outbox.get()
                if isinstance(message, str):
                    await self.socket.send_text(message)
                else:
                    await self.socket.send_bytes(message)
                self.scheduler.wake()


def _error(error: BaseException) -> str:
    return json.dumps({"kind": "error", "message": reason(error)})


class Explorer:
    """The server's state and its routes.

    Args:
        g: the generator, on the device to render on; its weights are changed, see `Painter`.
        network: how the user named it, for commands.
        dtype: compute type of the matrix products; None for float32.
        hosts: names by which the server may be reached, beside addresses.
        latents: given clips by the names of their files; they take the place of the first samples.
    """

    def __init__(
        self,
        g: Generator,
        network: str,
        dtype: torch.dtype | None = None,
        hosts: frozenset[str] = frozenset(),
        latents: Mapping[str, Latents] | None = None,
    ) -> None:
        latents = latents or {}
        self.painter = Painter(g, dtype, list(latents.values()))
        self.network, self.clips = network, list(latents)
        self.scheduler = Scheduler()
        self.pages = 0
        self.rendering = asyncio.Semaphore(_MAX_FILES)
        routes = [
            WebSocketRoute("/pictures", self.pictures),
            Route("/file", self.file, methods=["POST"]),
            Route("/command", self.command, methods=["POST"]),
            *(Route(path, _static(name)) for path, name in _page_files()),
        ]
        app = Starlette(routes=routes, lifespan=self._lifespan)
        self.app = Guard(app, frozenset({"localhost", *(host.lower() for host in hosts)}))

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.scheduler.start()
        if not self.painter.rate:  # `digan explore` warms up before it serves
            await asyncio.wrap_future(self.scheduler.call(self.painter.warm_up))
        try:
            yield
        finally:
            self.scheduler.stop()

    def description(self) -> dict[str, Any]:
        """Return what the page needs to know about the network."""
        g = self.painter.g
        data = g.metadata.get("data")
        data = data if isinstance(data, dict) else {}
        clips = g.metadata.get("clips_seen")
        return {
            "kind": "network",
            "network": self.network,
            "trained": f"{clips / 1000:g} kimg" if isinstance(clips, int) else "",
            "resolution": g.config.resolution,
            "scale": self.painter.scale,
            "classes": _class_names(g.config.num_classes, data.get("class_names")),
            "frames": data.get("frames") if isinstance(data.get("frames"), int) else 16,
            "clips": [Path(name).name for name in self.clips],
            "methods": METHODS,
            "max_side": messages.MAX_SIDE,
            "max_file_side": messages.MAX_FILE_SIDE,
            "max_frames": messages.MAX_FRAMES,
        }

    async def pictures(self, socket: WebSocket) -> None:
        """Serve one page."""
        await socket.accept()
        if self.pages >= MAX_PAGES:
            return await socket.close(1013, f"{MAX_PAGES} pages are open already; close one.")
        self.pages += 1
        try:
            await socket.send_text(json.dumps(self.description()))
            await Page(socket, self.painter, self.scheduler).serve()
        except WebSocketDisconnect:
            pass
        finally:
            self.pages -= 1

    async def command(self, request: HttpRequest) -> Response:
        """Return the command that writes a file."""
        try:
            wanted = await self._file_request(request)
        except ConfigError as error:
            return _refusal(error)
        text = command(self.network, self.painter.dtype, wanted, self.painter.g.config.num_classes, self.clips)
        return JSONResponse({"command": text})

    async def file(self, request: HttpRequest) -> Response:
        """Render a file; stop when the page no longer waits for it."""
        try:
            wanted = await self._file_request(request)
            if self.rendering.locked():
                raise ConfigError(f"{_MAX_FILES} files are being rendered already; wait for one of them.")
            async with self.rendering:
                content = await self._rendered(request, wanted)
        except (ConfigError, OSError) as error:
            return _refusal(error)
        if content is None:
            return Response(status_code=499)
        return Response(content, media_type=_MEDIA[wanted.format])

    async def _rendered(self, request: HttpRequest, wanted: messages.FileRequest) -> bytes | None:
        """Render a file in a thread; None if the page went away."""
        cancelled = threading.Event()

        def call(function: Callable[[], Any]) -> Any:
            if cancelled.is_set():
                raise _Cancelled
            return self.scheduler.call(function).result()

        work = asyncio.create_task(asyncio.to_thread(write_file, self.painter, wanted, call))
        try:
            while not (await asyncio.wait({work}, timeout=0.5))[0]:
                if await request.is_disconnected():
                    cancelled.set()
            return await work
        except _Cancelled:
            return None
        finally:
            cancelled.set()

    async def _file_request(self, request: HttpRequest) -> messages.FileRequest:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > messages.MAX_MESSAGE:
                raise ConfigError(f"a message must be at most {messages.MAX_MESSAGE} bytes.")
        return parse_file_request(body.decode(errors="replace"), self.painter.g.config.num_classes)


class _Cancelled(Exception):
    """The page does not wait for its file any more."""


def _refusal(error: BaseException) -> Response:
    return JSONResponse({"error": reason(error)}, status_code=400)


def _class_names(count: int, names: Any) -> list[str]:
    known = names if isinstance(names, list) and len(names) == count else range(count)
    return [str(name) for name in known]


def _page_files() -> list[tuple[str, str]]:
    """Return the paths of the page's files: nothing else can be asked for."""
    names = sorted(file.name for file in files("digan.explore").joinpath("page").iterdir())
    return [("/", "index.html"), *((f"/{name}", name) for name in names)]


def _static(name: str) -> Callable[[HttpRequest], Response]:
    content = files("digan.explore").joinpath("page", name).read_bytes()
    media = _TYPES[name.rpartition(".")[2]]

    def respond(request: HttpRequest) -> Response:
        return Response(content, media_type=media)

    return respond


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio turns off Nagle's algorithm, which delays every second picture by 40 ms, only for a named protocol.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen()
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"--host {host} --port {port} cannot be used ({why}); give others.") from error
    return listener

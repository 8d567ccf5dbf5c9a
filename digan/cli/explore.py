"""`digan explore`: a trained network as a function of x, y and t, live in a browser."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import socket

import uvicorn
import websockets  # noqa: F401 (uvicorn needs it for WebSockets; without it, every connection is refused)

from digan.cli.device_options import DTYPES, add_precision, on_device
from digan.cli.options import OptionParser, add_latents, add_network, number
from digan.cli.terminal import plain_warnings
from digan.config import Range
from digan.explore.messages import MAX_MESSAGE
from digan.explore.server import Explorer, listen
from digan.files import checksum
from digan.models.generator import Generator
from digan.models.hub import find_network
from digan.run_results import WHICH
from digan.sampling.latents import read_latents

_SECONDS_TO_CLOSE = 2


def configure(parser: OptionParser) -> None:
    """Add the options of the command."""
    add_network(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all [%(default)s]")
    parser.add_argument(
        "--port",
        type=number(int, Range(minimum=0, maximum=65535)),
        default=8000,
        help="port to listen on; 0 for a free one [%(default)s]",
    )
    parser.add_argument(
        "--allow-host",
        nargs="+",
        default=[],
        help="further host names by which browsers reach this server, such as that of a proxy",
    )
    add_latents(parser)
    add_precision(parser, default="bf16")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    file = find_network(args.network, args.which)
    g = Generator.from_pretrained(file)
    digest = checksum(file) if args.latents else None
    with plain_warnings():
        latents = {str(path): read_latents(path, g, digest) for path in args.latents}
    on_device(g, args.device)
    with listen(args.host, args.port) as listener:
        names = frozenset({args.host, socket.gethostname(), *args.allow_host})
        # Commands on the page name the snapshot file: another snapshot may be the best one later.
        network = args.network if args.which == WHICH[0] else str(file)
        explorer = Explorer(g, network, DTYPES[args.dtype], names, latents)
        explorer.painter.warm_up()  # before serving: an error in the first picture ends the command with one sentence
        server = _Server(_config(explorer), _url(args.host, listener.getsockname()[1]))
        with contextlib.suppress(KeyboardInterrupt):  # once uvicorn has closed everything, it may raise it again
            server.run(sockets=[listener])
        if server.started:
            print("stopped")
    return 0


class _Server(uvicorn.Server):
    """Says where the page is, once it can be opened."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the address."""
        await super().startup(sockets)
        if self.started:
            print(f"open {self._url} in a browser; Ctrl-C stops the server", flush=True)


def _config(explorer: Explorer) -> uvicorn.Config:
    return uvicorn.Config(
        explorer.app,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,  # costs more time than raw pixels save
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SECONDS_TO_CLOSE,
    )


def _url(host: str, port: int) -> str:
    """Return the address to open; on all interfaces, that of this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        return f"http://{socket.gethostname()}:{port}"
    return f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"

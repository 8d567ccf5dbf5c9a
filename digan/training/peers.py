"""If one process of a launch ends without leaving, all others end too.

Every process keeps a connection to the main process. The system closes it when a process ends, however it ends, and
when a machine no longer answers. So the others learn of it within seconds, whatever they are doing, while collective
operations notice it late or never, and a slow process is never taken for an ended one.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import secrets
import selectors
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from digan.errors import ConfigError

if TYPE_CHECKING:
    from digan.training.processes import Processes

_STATUS = 1  # exit status of a process whose peer ended, the same as Python's after an error
_GRACE = 10.0  # seconds in which the main thread may finish what it writes, before it meets the missing peer
_BLAME_WINDOW = 5.0  # seconds after an error of a collective operation in which the end of a peer explains it
_BYE = "bye"


class PeerWatch:
    """Connections between the main process and each other one, watched by a thread.

    Args:
        processes: the processes, which have met.
        limit: seconds in which all must be connected: until then nobody notices that one has ended.

    Raises:
        UserError: the main process cannot be reached from one of them, or one does not answer in time.

    Attributes:
        peer_lost: set once another process is known to have ended.
    """

    def __init__(self, processes: Processes, limit: float | None = None) -> None:
        self.processes = processes
        self.peer_lost = threading.Event()
        self._left = False
        self._all_left = threading.Event()
        self._connections: dict[int, socket.socket] = {}
        address: list[Any] = []
        if processes.rank == 0:
            listener, token = socket.create_server((_own_address(), 0)), secrets.token_hex(16)
            threading.Thread(target=self._serve, args=(listener, token), daemon=True, name="peers").start()
            address = [*listener.getsockname()[:2], token]
        host, port, token = processes.exchange("the address of the main process", address, limit)[0]
        if processes.rank == 0:
            processes.together("the connections", lambda: None, limit)
        else:
            processes.together("the connections", lambda: self._connect(host, port, token), limit)

    def leave(self) -> None:
        """Tell the others that this process ends as intended; the main process waits until all others have left too.

        The main process may host the store that the others still read.
        """
        self._left = True
        if self.processes.rank == 0:
            self._all_left.wait(_GRACE)
        for connection in list(self._connections.values()):
            _send(connection, _BYE)

    def fail(self) -> None:
        """Exit if another process has ended, which explains the error being handled; else let the error end this one.

        The others notice only once this process is gone, so its shutdown may take at most `_GRACE` seconds.
        """
        self.end_if_lost(_BLAME_WINDOW)
        _end_within(_GRACE)

    def end_if_lost(self, seconds: float = 0) -> None:
        """Exit if another process has ended, or does so within some seconds; else return.

        The shutdown of the interpreter is skipped: it waits for the process group, which misses a member.
        """
        if self.peer_lost.wait(seconds):
            atexit._run_exitfuncs()  # ends the data workers, and closes files
            sys.stdout.flush()
            os._exit(_STATUS)

    def _connect(self, host: str, port: int, token: str) -> None:
        try:
            connection = socket.create_connection((host, port), timeout=30)
        except OSError as error:
            raise ConfigError(
                f"process 0 cannot be reached at {host}:{port} ({error.strerror or error}): make sure that no firewall "
                "blocks connections between the machines."
            ) from None
        self._connections[0] = _keep_alive(connection)
        _send(connection, f"{token} {self.processes.rank}")
        threading.Thread(target=self._listen, args=(connection,), daemon=True, name="peers").start()

    def _serve(self, listener: socket.socket, token: str) -> None:
        """Accept the connections of the others, and tell all of them which one ended first."""
        expected = set(range(1, self.processes.world))
        with listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while expected:
                for key, _ in selector.select():
                    if key.fileobj is listener:
                        connection = _keep_alive(listener.accept()[0])
                        given, _, rank = _receive(connection, 5.0).partition(" ")
                        if secrets.compare_digest(given.encode(), token.encode()) and int(rank) in expected:
                            self._connections[int(rank)] = connection
                            selector.register(connection, selectors.EVENT_READ, int(rank))
                        else:
                            connection.close()
                        continue
                    selector.unregister(key.fileobj)
                    expected.discard(key.data)
                    if _receive(self._connections[key.data]) != _BYE and not self._left:
                        self._tell_and_end(key.data)
                        return
        self._all_left.set()

    def _tell_and_end(self, lost: int) -> None:
        for rank, other in self._connections.items():
            if rank != lost:
                _send(other, str(lost))
        self._end(lost)

    def _listen(self, connection: socket.socket) -> None:
        text = _receive(connection)
        if text != _BYE and not self._left:
            self._end(int(text or 0))

    def _end(self, lost: int) -> None:
        """Say which process ended, and end this one, at the latest after `_GRACE` seconds."""
        if self.processes.speaks(ended=lost):
            name = f"{self.processes.name([lost])} of {self.processes.world}"
            text = "a run continues from its newest checkpoint with --resume latest"
            print(f"digan: {name} ended too early, so the others end too; {text}.", file=sys.stderr, flush=True)
        _end_within(_GRACE)
        self.peer_lost.set()


def _end_within(seconds: float) -> None:
    """Let this process exit with status 1 at the latest after some seconds.

    A thread outside Python does it, since the main thread may never come back from a collective operation.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115 - kept open


def _own_address() -> str:
    """Return the address at which the other machines reach this one: that of the interface that leads to the store."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
        return probe.getsockname()[0]


def _keep_alive(connection: socket.socket) -> socket.socket:
    """Let the system find out within 20 seconds that the other machine no longer answers."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return connection


def _send(connection: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):  # the other end is gone, which the watch notices
        connection.sendall(text.encode() + b"\n")


def _receive(connection: socket.socket, timeout: float | None = None) -> str:
    """Return the next line, or "" at the end of the connection."""
    connection.settimeout(timeout)
    data = b""
    with contextlib.suppress(OSError):
        while not data.endswith(b"\n") and (part := connection.recv(1)):
            data += part
    return data.decode(errors="replace").strip()

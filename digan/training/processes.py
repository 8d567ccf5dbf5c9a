"""The processes of a launch: they meet, agree before the first step, share their errors, and end together.

All of this passes through the store of `torch.distributed`, which exists before any process group and knows no devices.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch.distributed import DistError, PrefixStore, Store, TCPStore

from digan.errors import ConfigError, SharedError, UserError
from digan.training.launch import Place, find_place
from digan.training.peers import PeerWatch

_POLL = 0.1  # seconds, at most, between two looks into the store by a process that waits
NOTICE = 30.0  # seconds between two sentences about processes that are waited for
T = TypeVar("T")


class Processes:
    """All processes of a launch, as seen by one of them. All must make the same calls in the same order.

    Args:
        store: where they exchange values; None for a single process.
        rank: rank of this process.
        world: the number of processes.
        attempt: how often the launcher has restarted the processes.
        notice: seconds between two sentences about processes that are waited for.

    Attributes:
        hosts: the name of the machine of each process, known after `meet`.
        watch: notices the end of another process; None before `joined` starts it.
    """

    def __init__(
        self, store: Store | None = None, rank: int = 0, world: int = 1, attempt: int = 0, notice: float = NOTICE
    ) -> None:
        self.store, self.rank, self.world, self.attempt = store, rank, world, attempt
        self.hosts = [socket.gethostname()] * world
        self.watch: PeerWatch | None = None
        self._notice, self._exchanges, self._met = notice, 0, world == 1

    @property
    def on_this_machine(self) -> int:
        """The number of processes on the machine of this one."""
        return self.hosts.count(self.hosts[self.rank])

    @property
    def local_rank(self) -> int:
        """The rank of this process among those of its machine."""
        return self.hosts[: self.rank].count(self.hosts[self.rank])

    def meet(self, limit: float) -> None:
        """Wait until all processes are there, at most `limit` seconds.

        Raises:
            ConfigError: some are not; the message names them.
        """
        self.hosts = self.exchange("their start", socket.gethostname(), limit)
        self._met = True

    def exchange(self, what: str, value: Any, limit: float | None = None) -> list[Any]:
        """Return what each process gives, in the order of ranks.

        Args:
            what: what the processes are waiting for, for the sentence that says so every `notice` seconds.
            value: this process's value, which JSON can represent.
            limit: seconds to wait; None for ever, since `PeerWatch` ends a process whose peers have ended.

        Raises:
            ConfigError: the limit has passed; the message names the missing processes.
        """
        if self.store is None:
            return [value]
        keys = [f"{self._exchanges} {what} {rank}" for rank in range(self.world)]
        self._exchanges += 1
        try:
            self.store.set(keys[self.rank], json.dumps(value))
            self._wait(what, keys, limit)
            return [json.loads(self.store.get(key)) for key in keys]
        except DistError:
            if self.watch is not None:
                self.watch.fail()
            raise UserError("the main process, where the processes meet, no longer answers: see its output.") from None

    def agree(self, facts: Mapping[str, Any], remedy: str) -> None:
        """Compare facts, by name, over all processes.

        Args:
            facts: values that JSON can represent.
            remedy: the end of the sentence: what the user can do.

        Raises:
            UserError: a fact differs; the message names it, its values and the processes.
        """
        everyone = self.exchange("the same settings", dict(facts))
        differing = [name for name in facts if any(other.get(name) != everyone[0].get(name) for other in everyone)]
        if differing:
            parts = [self._difference(name, [other.get(name) for other in everyone]) for name in differing]
            self.refuse(f"the processes do not agree: {'; '.join(parts)}: {remedy}.")

    def together(self, what: str, work: Callable[[], T], limit: float | None = None) -> T:
        """Do `work` in every process and return this process's result; `limit` as for `exchange`.

        Raises:
            UserError: it raised one in some process, which ends all of them.
        """
        result, error = _attempt(work)
        self._share(what, error, limit)
        return result

    def main_first(self, what: str, work: Callable[[], T]) -> T:
        """Do `work` in the main process, then in the others, which may find what it left; errors as in `together`."""
        result, error = _attempt(work) if self.rank == 0 else (None, None)
        self._share(what, error)
        if self.world > 1:
            if self.rank:
                result, error = _attempt(work)
            self._share(what, error)
        return result

    def from_main(self, what: str, work: Callable[[], Any]) -> Any:
        """Do `work` in the main process and return its result, which JSON can represent, in all of them.

        Raises:
            UserError: it raised one, in all processes.
        """
        result, error = _attempt(work) if self.rank == 0 else (None, None)
        self._share(what, error)
        return self.exchange(what, result)[0]

    def speaks(self, ended: int | None = None) -> bool:
        """Return whether this process prints the shared messages of its machine; the rank `ended` no longer counts."""
        here = self.hosts[self.rank]
        return self.rank == min(rank for rank, host in enumerate(self.hosts) if host == here and rank != ended)

    def name(self, ranks: Sequence[int]) -> str:
        """Return the name of processes, with their machines if there are several: "processes 2, 3 (on node-b)"."""
        numbers = ", ".join(map(str, ranks))
        hosts = sorted({self.hosts[rank] for rank in ranks})
        where = f" (on {', '.join(hosts)})" if len(set(self.hosts)) > 1 else ""
        return f"process{'es' if len(ranks) > 1 else ''} {numbers}{where}"

    def _wait(self, what: str, keys: list[str], limit: float | None) -> None:
        """Wait for keys of the store, one for each process."""
        start = said = time.monotonic()
        # Not `Store.wait`, which logs a warning whenever its timeout has passed.
        while not self.store.check(keys):
            time.sleep(min(_POLL, max(time.monotonic() - start, 0.001)))
            if self.watch is not None:
                self.watch.end_if_lost()
            missing = [rank for rank, key in enumerate(keys) if not self.store.check([key])]
            waited = time.monotonic() - start
            if missing and limit is not None and waited >= limit:
                raise ConfigError(
                    f"{self.name(missing)} of {self.world} did not start within {limit / 60:g} minutes "
                    "(--start-timeout): see the output of the machines that are missing, and start all of them with "
                    "the same number of processes and the same main process address."
                )
            if missing and time.monotonic() - said >= self._notice and (self.speaks() or not self._met):
                said = time.monotonic()
                text = f"process {self.rank} has been waiting for {self.name(missing)} for {waited:.0f} s ({what})"
                print(f"digan: {text}.", file=sys.stderr, flush=True)

    def _share(self, what: str, error: UserError | None, limit: float | None = None) -> None:
        """Raise in every process if any process has an `error`."""
        if self.world == 1:
            if error is not None:
                raise error
            return
        texts = self.exchange(what, None if error is None else str(error), limit)
        failed = [rank for rank, text in enumerate(texts) if text is not None]
        if not failed:
            return
        text, same = texts[failed[0]], [rank for rank in failed if texts[rank] == texts[failed[0]]]
        where = "" if len(same) == self.world else f"{self.name(same)} of {self.world}: "
        self.refuse(f"{where}{text}")

    def refuse(self, text: str) -> NoReturn:
        """Raise `SharedError`, as every process must; one process per machine prints it."""
        raise SharedError(text, quiet=not self.speaks())

    def _difference(self, name: str, values: list[Any]) -> str:
        groups: dict[str, list[int]] = {}
        for rank, value in enumerate(values):
            groups.setdefault(json.dumps(value, sort_keys=True), []).append(rank)
        shown = [f"{json.loads(value)} in {self.name(ranks)}" for value, ranks in groups.items()]
        return f"{name} is {' but '.join(shown)}"


ALONE = Processes()


@contextmanager
def joined(limit: float) -> Iterator[Processes]:
    """Meet the other processes of the launch, and leave them at the end; a single process meets nobody.

    If one of them ends without leaving, all others end too, within seconds, each machine with one sentence.

    Args:
        limit: seconds to wait for the others.

    Raises:
        ConfigError: some did not start in time.
    """
    place = find_place()
    if place.world == 1:
        yield Processes(attempt=place.attempt)
        return
    store = _connect(place, limit)
    processes = Processes(PrefixStore(f"digan {place.attempt}", store), place.rank, place.world, place.attempt)
    processes.meet(limit)
    watch = processes.watch = PeerWatch(processes, limit)
    try:
        yield processes
    except SharedError:
        _leave(watch)
        raise
    except Exception:
        watch.fail()
        raise
    _leave(watch)


def _leave(watch: PeerWatch) -> None:
    watch.leave()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _connect(place: Place, limit: float) -> TCPStore:
    """Return the store of the launch, which the main process or the agent of its launcher hosts.

    Raises:
        ConfigError: it does not answer in time, or its port is in use.
    """
    if not place.hosts_store:
        _wait_for_host(place, limit)
    try:
        return TCPStore(
            place.address,
            place.port,
            place.world,
            is_master=place.hosts_store,
            timeout=timedelta(seconds=max(limit, NOTICE)),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except DistError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"MASTER_ADDR {place.address}, MASTER_PORT {place.port}: {reason}") from None


def _wait_for_host(place: Place, limit: float) -> None:
    """Wait until the store answers, and say so every `NOTICE` seconds."""
    start = said = time.monotonic()
    while True:
        try:
            socket.create_connection((place.address, place.port), timeout=5).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        waited = time.monotonic() - start
        where = f"process 0 at {place.address}:{place.port}"
        if waited >= limit:
            raise ConfigError(
                f"{where} did not answer within {limit / 60:g} minutes (--start-timeout): {reason}; see the output of "
                "that machine, and check MASTER_ADDR and MASTER_PORT."
            )
        if time.monotonic() - said >= NOTICE:
            said = time.monotonic()
            print(f"digan: process {place.rank} has been waiting for {where} for {waited:.0f} s.", file=sys.stderr)
        time.sleep(0.2)


def _attempt(work: Callable[[], T]) -> tuple[T | None, UserError | None]:
    try:
        return work(), None
    except UserError as error:
        return None, error

"""Processes agree, share errors and wait for each other, here as threads on one store."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from digan.errors import ConfigError, DataError, SharedError, UserError
from digan.training.processes import ALONE, Processes, joined
from tests.digan.training.launches import free_port, ranks, run


def each(world, work, machines=None, **options):
    """Call work(processes) for every rank in a thread; return each result, or the error raised."""
    store = HashStore()

    def call(rank):
        processes = Processes(store, rank, world, **options)
        processes.hosts = machines or processes.hosts
        try:
            return work(processes)
        except UserError as error:
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(call, range(world)))


def test_values_are_exchanged_in_the_order_of_ranks():
    assert (
        each(3, lambda p: [p.exchange("a", p.rank), p.exchange("a", {"b": None})])
        == [[[0, 1, 2], [{"b": None}] * 3]] * 3
    )
    assert ALONE.exchange("a", 5) == [5]


def test_the_main_process_decides():
    assert each(2, lambda p: p.from_main("a", lambda: f"of {p.rank}")) == ["of 0", "of 0"]
    order = []
    each(3, lambda p: p.main_first("a", lambda: order.append(p.rank)))
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]


def test_a_disagreement_names_the_fact_the_values_and_the_processes():
    facts = [{"--lr": 1, "--seed": 0}, {"--lr": 1, "--seed": 7}, {"--lr": 1, "--seed": 7}]
    errors = each(3, lambda p: p.agree(facts[p.rank], "do this"), machines=["a", "a", "b"])
    text = "the processes do not agree: --seed is 0 in process 0 (on a) but 7 in processes 1, 2 (on a, b): do this."
    assert [str(e) for e in errors] == [text] * 3
    assert [e.quiet for e in errors] == [False, True, False]  # one of each machine speaks
    assert each(2, lambda p: p.agree({"--lr": 1}, "")) == [None, None]


def test_the_number_of_a_process_on_its_machine():
    assert each(4, lambda p: p.local_rank, machines=["a", "b", "a", "a"]) == [0, 0, 1, 2]
    assert ALONE.local_rank == 0


@pytest.mark.parametrize("method", ["together", "main_first"])
def test_an_error_of_one_process_ends_all(method):
    def work(rank):
        if rank == 1:
            raise DataError("--data x is empty.")

    errors = each(2, lambda p: getattr(p, method)("data", lambda: work(p.rank)))
    assert [str(e) for e in errors] == ["process 1 of 2: --data x is empty."] * 2
    with pytest.raises(DataError):  # of its own class where there is only one process
        getattr(ALONE, method)("data", lambda: work(1))


def test_an_error_of_all_is_told_without_a_number():
    def refuse():
        raise ConfigError("--lr is bad.")

    assert [str(e) for e in each(2, lambda p: p.together("options", refuse))] == ["--lr is bad."] * 2
    errors = each(2, lambda p: p.from_main("options", refuse))
    assert all(isinstance(e, SharedError) and str(e) == "process 0 of 2: --lr is bad." for e in errors)


def test_waiting_is_told_and_ends_at_the_limit(capsys):
    processes = Processes(HashStore(), 0, 3, notice=0.2)
    processes.store.set("0 their start 2", '"b"')
    with pytest.raises(ConfigError, match=r"process 1 of 3 did not start within 0\.025 minutes \(--start-timeout\)"):
        processes.meet(1.5)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 1.5 / 0.2
    assert lines[0].startswith("digan: process 0 has been waiting for process 1 for 0 s (their start)")


def test_a_main_process_that_does_not_answer_is_named(monkeypatch):
    for name, value in ranks(2, free_port())[1].items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConfigError, match=r"process 0 at 127\.0\.0\.1:\d+ did not answer within .*refused"),
        joined(0.3),
    ):
        pass


def test_one_process_joins_nobody():
    with joined(0.1) as processes:
        assert processes.world == 1
        assert threading.active_count() < 50


WATCHED = """
import os, signal, time
from digan.training.processes import joined
with joined(60) as processes:
    if processes.rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(100)
"""


@pytest.mark.slow
def test_a_process_that_vanishes_ends_the_others_whatever_they_do(tmp_path):
    statuses, outputs = run([["-c", WATCHED]] * 3, tmp_path, ranks(3, free_port()))
    assert statuses == [1, 1, -9]
    line = (
        "digan: process 2 of 3 ended too early, so the others end too; a run continues from its newest checkpoint with "
    )
    assert outputs[0].startswith(line)
    assert outputs[1:] == ["", ""]  # one line on each machine


def test_the_name_of_this_machine_is_the_default():
    assert Processes(None, 0, 2).hosts == [socket.gethostname()] * 2

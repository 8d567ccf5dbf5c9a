"""A process that ends without leaving ends the others; here all of them are threads on one store."""

import socket
import threading

import pytest

from digan.training import peers
from tests.digan.training.test_processes import each


@pytest.fixture
def watches(monkeypatch):
    """Starts the watches of several processes, which only note that they have to end."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(peers, "_end_within", lambda seconds: None)
    started = []

    def start(world):
        started.extend(each(world, peers.PeerWatch))
        return started

    yield start
    for thread in threading.enumerate():
        if thread.name == "peers":
            thread.join(10)
            assert not thread.is_alive()  # else it would end the process of the tests after this one
    for watch in started:
        for connection in watch._connections.values():
            connection.close()


def test_processes_that_leave_end_nobody(watches):
    started = watches(3)
    for watch in started[:0:-1]:  # the main process waits for the others
        watch.leave()
        assert not started[0].peer_lost.wait(0.2)
    started[0].leave()
    assert not any(watch.peer_lost.wait(0.2) for watch in started)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_process_is_found_by_all_others(watches, lost, capfd):
    started = watches(3)
    started[lost]._connections[0].shutdown(socket.SHUT_RDWR)  # as the system does when a process ends
    others = [watch for watch in started if watch is not started[lost]]
    assert all(watch.peer_lost.wait(10) for watch in others)
    assert f"process {lost} of 3 ended too early" in capfd.readouterr().err


def test_a_process_that_ends_before_it_is_watched_is_waited_for_only_so_long():
    limit = 0.5
    _, error = each(2, lambda p: peers.PeerWatch(p, limit) if p.rank else None)
    assert str(error).startswith("process 0 of 2 did not start within ")
    error, _ = each(2, lambda p: None if p.rank else p.together("the connections", lambda: None, limit))
    assert str(error).startswith("process 1 of 2 did not start within ")


def test_the_main_process_is_missed_too(watches, capfd):
    started = watches(2)
    started[0]._connections[1].shutdown(socket.SHUT_RDWR)
    assert started[1].peer_lost.wait(10)
    assert "process 0 of 2 ended too early" in capfd.readouterr().err

"""One run at a time writes to a folder; the lock ends with its process, and survives no process that it forked."""

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from digan.errors import ConfigError, SharedError
from digan.training import run_lock
from digan.training.processes import Processes
from tests.digan.training.test_processes import each

# What another run does, without its imports.
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("12345 on other", end="", file=file, flush=True)
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_ends(tmp_path):
    with run_lock.run_lock(tmp_path) as note:
        assert note == ""
        with (
            pytest.raises(ConfigError, match=f"another run is writing to {tmp_path} .process {os.getpid()} on"),
            run_lock.run_lock(tmp_path),
        ):
            pass
    with run_lock.run_lock(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / run_lock.LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(ConfigError, match="12345 on other"), run_lock.run_lock(tmp_path):
                pass
        finally:
            process.send_signal(signal.SIGKILL)
    with run_lock.run_lock(tmp_path):
        pass


def test_restarted_processes_wait_for_the_end_of_those_they_replace(tmp_path):
    first = contextlib.ExitStack()
    first.enter_context(run_lock.run_lock(tmp_path))
    timer = threading.Timer(0.3, first.close)
    timer.start()
    with run_lock.run_lock(tmp_path, Processes(attempt=1)) as note:
        assert note == ""
    timer.join()


def test_restarted_processes_do_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_PATIENCE", 0.2)
    with (
        run_lock.run_lock(tmp_path),
        pytest.raises(ConfigError, match="another run is writing"),
        run_lock.run_lock(tmp_path, Processes(attempt=1)),
    ):
        pass


def test_the_refusal_reaches_every_process(tmp_path):
    def start(processes):
        with run_lock.run_lock(tmp_path, processes):
            return "locked"

    with run_lock.run_lock(tmp_path):
        refusals = each(2, start)
    assert [type(refusal) for refusal in refusals] == [SharedError, SharedError]
    assert all("another run is writing" in str(refusal) for refusal in refusals)
    assert each(2, start) == ["locked", "locked"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork of a process with threads
def test_a_forked_worker_does_not_hold_it(tmp_path):
    with run_lock.run_lock(tmp_path):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        deadline = time.monotonic() + 60
        while True:  # the child closes its copy just after it was forked
            try:
                with run_lock.run_lock(tmp_path):
                    break
            except ConfigError:
                assert time.monotonic() < deadline
    finally:
        worker.kill()
        worker.join()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_lock.fcntl, "flock", refuse)
    with run_lock.run_lock(tmp_path) as note:
        assert note.startswith(f"{tmp_path} cannot be locked (No locks available)")

"""One run at a time writes to a folder; the lock ends with its process, and survives no process that it forked."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from accelerate import Accelerator

from digan.errors import ConfigError
from digan.training import run_lock

# What another run does, without its imports.
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("12345 on other", end="", file=file, flush=True)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def test_a_second_run_is_refused_until_the_first_ends(tmp_path, accelerator):
    with run_lock.run_lock(tmp_path, accelerator) as note:
        assert note == ""
        with (
            pytest.raises(ConfigError, match=f"another run is writing to {tmp_path} .process {os.getpid()} on"),
            run_lock.run_lock(tmp_path, accelerator),
        ):
            pass
    with run_lock.run_lock(tmp_path, accelerator):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path, accelerator):
    command = [sys.executable, "-c", HOLD, str(tmp_path / run_lock.LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(ConfigError, match="12345 on other"), run_lock.run_lock(tmp_path, accelerator):
                pass
        finally:
            process.send_signal(signal.SIGKILL)
    with run_lock.run_lock(tmp_path, accelerator):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork of a process with threads
def test_a_forked_worker_does_not_hold_it(tmp_path, accelerator):
    with run_lock.run_lock(tmp_path, accelerator):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        deadline = time.monotonic() + 10
        while True:  # the child closes its copy just after it was forked
            try:
                with run_lock.run_lock(tmp_path, accelerator):
                    break
            except ConfigError:
                assert time.monotonic() < deadline
    finally:
        worker.kill()
        worker.join()


def test_a_file_system_without_locks_is_named(tmp_path, accelerator, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_lock.fcntl, "flock", refuse)
    with run_lock.run_lock(tmp_path, accelerator) as note:
        assert note.startswith(f"{tmp_path} cannot be locked (No locks available)")

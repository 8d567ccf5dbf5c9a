"""What commands print: columns that line up, progress with and without a terminal, warnings once."""

import io
import math
import warnings
from types import SimpleNamespace

import pytest

from digan.cli import terminal
from digan.cli.terminal import ProgressBar, ResultTable, plain_warnings, value_bars

RESULT = {"metric": "rfvd4_4f", "value": 1.23456, "std": None, "n_real": 4, "n_fake": 0, "features": "random conv"}
RESULT["seconds"] = 2.4


def test_columns_line_up_whatever_the_names(capsys):
    table = ResultTable(["rfvd4_4f", "is"], ["short", "a very long name of a row"])
    table.print_head()
    table.print_row("short", RESULT)
    table.print_row("a very long name of a row", {**RESULT, "std": 0.5, "metric": "is"})
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["metric", "clips", "value", "reals", "fakes", "features", "seconds"]
    assert first.split() == ["rfvd4_4f", "short", "1.2346", "4", "-", "random", "conv", "2"]
    assert "1.2346 ± 0.5" in second
    for word, texts in (("clips", ("short", "a very long")), ("features", ("random conv", "random conv"))):
        assert [line.index(text) for line, text in zip((first, second), texts, strict=True)] == [head.index(word)] * 2


def test_the_deviation_of_splits_stands_for_that_of_trials(capsys):
    ResultTable([], []).print_row("x", {**RESULT, "std_of_splits": 0.25})
    assert "± 0.25" in capsys.readouterr().out


def test_bars_are_as_long_as_their_values():
    assert list(map(len, value_bars([8.0, 2.0, 0.0, -1.0, math.nan, math.inf], width=4))) == [4, 1, 0, 0, 0, 0]
    assert value_bars([math.nan]) == value_bars([0.0]) == [""]


@pytest.fixture
def stderr(monkeypatch):
    """Replaces the terminal; set `is_terminal` to make it one."""

    class Stream(io.StringIO):
        is_terminal = False

        def isatty(self):
            return self.is_terminal

    stream = Stream()
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(stderr=stream))
    return stream


def test_progress_without_a_terminal_is_a_line_now_and_then(stderr, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with ProgressBar("rendering", True, "frame") as progress:
        for done in range(1, 31):
            now[0] += 1
            progress(done, 30)
    assert stderr.getvalue().splitlines() == [f"rendering: {n} of 30 frames" for n in (10, 20, 30)]


def test_progress_may_have_a_note(stderr, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with ProgressBar("inverting", True, "step") as progress:
        now[0] = 10
        progress(5, 30, "PSNR 20.0 dB")
        stderr.is_terminal = True
        progress(6, 30, "PSNR 21.0 dB")
        assert progress._bar.postfix == "PSNR 21.0 dB"
    assert stderr.getvalue() == "inverting: 5 of 30 steps, PSNR 20.0 dB\n"


def test_progress_on_a_terminal_is_a_bar_that_disappears(stderr, capsys):
    stderr.is_terminal = True
    with ProgressBar("rendering", True) as progress:
        progress(3, 7)
        assert (progress._bar.n, progress._bar.total) == (3, 7)
        progress(7, 7)
        assert (progress._bar.n, progress._bar.total) == (7, 7)
    assert "rendering" in capsys.readouterr().err
    assert not stderr.getvalue()


def test_progress_that_is_not_shown(stderr, capsys):
    stderr.is_terminal = True
    with ProgressBar("rendering", False) as progress:
        progress(3, 7)
    assert not stderr.getvalue() + capsys.readouterr().err


def test_a_warning_is_one_line_and_shown_once(stderr):
    with plain_warnings():
        for text in ("one", "two", "one"):
            warnings.warn(text, stacklevel=1)
    assert stderr.getvalue().splitlines() == ["warning: one", "warning: two"]

"""Lines on stderr: one that moves on a terminal, few and plain elsewhere."""

import io
import os
import sys

import pytest

from modelwright.core import progress


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Makes stderr a terminal of 20 columns, from the call on: capturing starts after fixtures."""

    def begin() -> Terminal:
        screen = Terminal()
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.setenv("COLUMNS", "20")
        return screen

    return begin


def test_quiet_without_a_terminal(capsys):
    """A moving line is nothing in a log; a line that stays is plain text, on stderr alone."""
    progress.show("step 1 of 9")
    progress.say("trained")

    assert ("", "trained\n") == capsys.readouterr()


def test_a_moving_line_is_seen_on_a_terminal_alone(terminal, monkeypatch):
    """Whoever makes costly lines can ask first: not in a log, nor where another process speaks."""
    in_a_log = progress.shown()
    terminal()
    on_a_terminal = progress.shown()
    monkeypatch.setattr(progress, "_hushed", True)

    assert (False, True, False) == (in_a_log, on_a_terminal, progress.shown())


def test_a_moving_line_is_replaced(terminal):
    """On a terminal each moving line goes back to the start and clears what was there."""
    screen = terminal()
    progress.show("step 1")
    progress.show("step 2")

    assert ["", "step 1", "step 2"] == screen.getvalue().split("\r\x1b[2K")


def test_a_line_that_stays_clears_the_moving_one(terminal):
    """What stays begins on a clean line and ends it."""
    screen = terminal()
    progress.show("step 1")
    progress.say("trained")

    assert screen.getvalue().endswith("\r\x1b[2Ktrained\n")


def test_a_moving_line_never_wraps(terminal):
    """A line longer than the terminal is cut, or it could not be replaced."""
    screen = terminal()
    progress.show("x" * 50)

    assert 20 > screen.getvalue().count("x") > 10


def test_the_work_goes_on_where_nobody_reads_what_is_said(monkeypatch):
    """A pipe that broke takes no more lines, and ends nothing."""
    ends = os.pipe()
    os.close(ends[0])
    with open(ends[1], "w") as pipe:
        monkeypatch.setattr("sys.stderr", pipe)
        for _ in range(2):
            progress.say("trained")
        with sys.stderr:  # what it was replaced by
            assert pipe is not sys.stderr
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.fileno())  # or closing it fails


def test_a_beat_is_due_once_in_a_while():
    """The first time it is due, directly after it is not."""
    beat = progress.Beat(every=60)

    assert [True, False, False] == [beat.due() for _ in range(3)]


def test_a_beat_comes_again(monkeypatch):
    """After its time it is due again."""
    times = iter((1000.0, 1000.4, 1000.5, 1000.6, 1001.1))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    beat = progress.Beat(every=0.5)

    assert [True, False, True, False, True] == [beat.due() for _ in range(5)]

"""Lines on stderr: one that moves on a terminal, few and plain elsewhere."""

import io
import os
import re
import sys
import threading
import time

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


@pytest.fixture
def quick(monkeypatch):
    """Moving lines of long work come a hundred times a second."""
    monkeypatch.setattr(progress, "QUIET_S", 0.01)


def shown_lines(screen: Terminal) -> list[str]:
    """Each moving line, in order."""
    return [line for line in screen.getvalue().split("\r\x1b[2K") if line]


def until(condition) -> None:
    """Wait for what another thread does; a test that waits in vain is ended by who runs it."""
    while not condition():
        time.sleep(0.001)


def test_rows_are_counted_while_they_come(terminal, quick, monkeypatch):
    """How many of how many, and what is left; nothing stays behind, and nothing is lost."""
    screen = terminal()
    monkeypatch.setenv("COLUMNS", "80")
    taken = []
    for one in progress.counted("abcd", "letters read", 4):
        taken.append(one)
        if one == "c":
            until(lambda: "letters read: 2 of 4, " in screen.getvalue())

    assert list("abcd") == taken
    assert re.fullmatch(r"letters read: 2 of 4, [\d.]+ [mµ]?s left", shown_lines(screen)[-1])
    assert screen.getvalue().endswith("\r\x1b[2K")


def test_without_a_number_to_come_they_are_counted_alone(terminal, quick):
    screen = terminal()
    for one in progress.counted(iter("abcd"), "letters"):
        if one == "d":
            until(lambda: shown_lines(screen)[-1:] == ["letters: 3"])


def test_what_cannot_be_counted_says_how_long_it_has_taken(terminal, quick):
    screen = terminal()
    with progress.working("export"):
        until(lambda: shown_lines(screen))

    assert re.fullmatch(r"export: \d+ .?s", shown_lines(screen)[0])


def test_of_works_within_each_other_the_innermost_speaks(terminal, quick):
    """And the outer one again when that is over."""
    screen = terminal()
    with progress.working("plan"):
        until(lambda: shown_lines(screen))
        with progress.working("export"):
            until(lambda: shown_lines(screen)[-1].startswith("export"))
            inner = len(shown_lines(screen))
            until(lambda: len(shown_lines(screen)) > inner + 3)
            assert all(one.startswith("export") for one in shown_lines(screen)[inner:])
        until(lambda: shown_lines(screen)[-1].startswith("plan"))


def test_who_speaks_anyway_is_not_interrupted(terminal, monkeypatch):
    """A line that somebody else wrote stays for a second."""
    monkeypatch.setattr(progress, "QUIET_S", 0.2)
    screen = terminal()
    with progress.working("train"):
        for step in range(20):
            progress.show(f"step {step}")
            time.sleep(0.02)

    assert all(one.startswith("step") for one in shown_lines(screen))


def test_work_that_is_done_at_once_shows_nothing(terminal):
    screen = terminal()
    with progress.working("export"):
        assert [1, 2] == list(progress.counted([1, 2], "numbers read"))

    assert "" == screen.getvalue()


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, None])
def test_whatever_ends_the_work_the_line_ends_with_it(terminal, quick, end):
    """An error goes through; who stops taking items leaves no thread behind."""
    screen, before = terminal(), threading.active_count()
    if end is None:
        rows = progress.counted("abcd", "letters")
        next(rows)
        until(lambda: shown_lines(screen))
        rows.close()
    else:
        with pytest.raises(end), progress.working("export"):
            until(lambda: shown_lines(screen))
            raise end

    assert before == threading.active_count()
    assert screen.getvalue().endswith("\r\x1b[2K")


def test_no_thread_where_nobody_looks(quick):
    """Nothing is shown in a log, so nothing is done for it."""
    before = threading.active_count()
    with progress.working("export"):
        inside = threading.active_count()
        assert [1, 2] == list(progress.counted([1, 2], "numbers read"))

    assert before == inside


def test_after_an_error_no_line_moves(terminal, quick):
    """A traceback keeps the rows alive that were counted; what is told of it stays."""
    screen = terminal()
    rows = progress.counted("abcd", "letters")
    next(rows)
    until(lambda: shown_lines(screen))
    progress.stand_still()
    time.sleep(0.05)  # a line on its way
    told = screen.getvalue()
    time.sleep(0.05)

    assert told == screen.getvalue()
    rows.close()

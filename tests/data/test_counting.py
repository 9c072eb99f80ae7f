"""Long work is counted on a moving line; short work, and work that nobody watches, is not."""

import pytest

from modelwright.data import counting
from modelwright.data.counting import counted


@pytest.fixture
def lines(monkeypatch):
    """What a terminal shows, when a second passes with each look at the clock."""
    said: list[str] = []
    clock = iter(range(1_000_000))
    monkeypatch.setattr(counting, "show", said.append)
    monkeypatch.setattr(counting, "shown", lambda: True)
    monkeypatch.setattr(counting.time, "monotonic", lambda: float(next(clock)))
    return said


def test_it_counts_and_says_what_is_left(lines):
    assert list("abcdefgh") == list(counted("abcdefgh", "letters read", 8))
    assert any(line.startswith("letters read: 4 of 8, ") and "left" in line for line in lines)
    assert "" == lines[-1]  # nothing stays behind


def test_without_a_number_to_come_it_counts_alone(lines):
    list(counted(iter("abcd"), "letters read"))

    assert "letters read: 3" in lines


def test_what_is_done_at_once_shows_nothing(lines, monkeypatch):
    monkeypatch.setattr(counting.time, "monotonic", lambda: 0.0)

    assert [1, 2] == list(counted([1, 2], "numbers read")) and lines == []


def test_nobody_sees_it_where_there_is_no_terminal(lines, monkeypatch):
    monkeypatch.setattr(counting, "shown", lambda: False)

    assert [1, 2] == list(counted([1, 2], "numbers read")) and lines == []

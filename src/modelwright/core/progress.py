"""Lines for people, on stderr: one that moves where there is a terminal, few elsewhere."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from modelwright.core.units import format_seconds

T = TypeVar("T")
QUIET_S = 1.0  # between moving lines of long work; most is done before the first
_hushed = False
_written = 0.0  # when the last line was
_working: list[threading.Event] = []  # which ends what is worked at, the innermost last


def hush() -> None:
    """Say nothing from here on: of processes that work together, one speaks."""
    global _hushed
    _hushed = True


def say(text: str, *, always: bool = False) -> None:
    """One line that stays; `always` is what even a hushed process has to say."""
    if _hushed and not always:
        return
    clear = "\r\x1b[2K" if sys.stderr.isatty() else ""
    _write(f"{clear}{text}\n")


def show(text: str) -> None:
    """A line that the next one replaces; nothing where stderr is not a terminal."""
    if shown():
        columns = _columns()
        _write("\r\x1b[2K" + text[: columns - 1])


def shown() -> bool:
    """Whether anybody sees moving lines."""
    return sys.stderr.isatty() and not _hushed


class Beat:
    """Says when a moving line is due: ten times a second, not at every step."""

    def __init__(self, every: float = 0.1) -> None:
        self._every, self._last = every, 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._every:
            return False
        self._last = now
        return True


def counted(items: Iterable[T], what: str, of: int | None = None) -> Iterator[T]:
    """The items as they come, and each second how many have come.

    Args:
        what: is done with them, such as "data: rows of a.csv read".
        of: how many there will be, if that is known; then the time that is left is shown as well.
    """
    number = 0
    with telling(lambda spent: _count(what, number, of, spent)):
        for number, one in enumerate(items):  # noqa: B007 - told of by the line
            yield one


def working(what: str) -> contextlib.AbstractContextManager[None]:
    """Around work in which nothing can be counted: each second how long it has taken."""
    return telling(lambda spent: f"{what}: {format_seconds(round(spent))}")


def _count(what: str, number: int, of: int | None, spent: float) -> str:
    """
    >>> _count("rows read", 0, 4000, 5.0), _count("rows read", 1000, None, 5.0)
    ('rows read: 5 s', 'rows read: 1,000')
    >>> _count("rows read", 1000, 4000, 5.0)
    'rows read: 1,000 of 4,000, 15 s left'
    """
    if not number:
        return f"{what}: {format_seconds(round(spent))}"
    if of is None:
        return f"{what}: {number:,}"
    left = spent * max(of - number, 0) / number
    return f"{what}: {number:,} of {of:,}, {format_seconds(left)} left"


@contextlib.contextmanager
def telling(line: Callable[[float], str]) -> Iterator[None]:
    """Around work: the line, of the seconds it has taken, whenever nothing else was said for one
    second. It goes at the end. Of works within each other the innermost speaks."""
    if not shown():
        yield
        return
    started, over, said = time.monotonic(), threading.Event(), False

    def tell() -> None:
        nonlocal said
        while not over.wait(QUIET_S):
            now = time.monotonic()
            if _working[-1:] == [over] and now - _written >= QUIET_S:
                show(line(now - started))
                said = True

    teller = threading.Thread(target=tell, daemon=True)
    try:
        _working.append(over)
        teller.start()
        yield
    finally:
        over.set()
        if over in _working:
            _working.remove(over)
        if teller.ident is not None:
            teller.join()
        if said:
            show("")


def stand_still() -> None:
    """No line moves any more but of work that begins from here on: what failed is told now, while
    its traceback keeps it alive."""
    _working.clear()


def _write(text: str) -> None:
    global _written
    _written = time.monotonic()
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except BrokenPipeError:  # nobody reads on, which is no reason to stop the work
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns

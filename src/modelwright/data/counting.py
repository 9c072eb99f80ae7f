"""Long work on many rows, counted on a line that moves where there is a terminal."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from modelwright.core.progress import Beat, show, shown
from modelwright.core.units import format_seconds

T = TypeVar("T")
QUIET_S = 1.0  # seconds in which nothing is shown: most work is done by then


def counted(items: Iterable[T], what: str, of: int | None = None) -> Iterator[T]:
    """The items as they come, and how many have come; the line goes when all have.

    Args:
        what: is done with them, such as "data: rows of a.csv read".
        of: how many there will be, if that is known; then the time that is left is shown as well.
    """
    if not shown():
        yield from items
        return
    beat, started, said = Beat(), time.monotonic(), False
    for number, one in enumerate(items):
        if beat.due() and (spent := time.monotonic() - started) > QUIET_S:
            show(_line(what, number, of, spent))
            said = True
        yield one
    if said:
        show("")


def _line(what: str, number: int, of: int | None, spent: float) -> str:
    """
    >>> _line("rows read", 1000, None, 5.0), _line("rows read", 1000, 4000, 5.0)
    ('rows read: 1,000', 'rows read: 1,000 of 4,000, 15 s left')
    """
    if of is None or not number:
        return f"{what}: {number:,}"
    left = spent * max(of - number, 0) / number
    return f"{what}: {number:,} of {of:,}, {format_seconds(left)} left"

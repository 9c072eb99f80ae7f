"""The order of a table's rows in time, and how far they are apart."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from modelwright.core.errors import DataError

CLOCK_CHANGE = timedelta(hours=1)  # that summer time's end puts a clock back by
MOST_SAME = 0.01  # of the rows, with the time of the row before
LATE, FEW = 1.5, 0.05  # times the usual distance; where more rows come so late, it is a pattern
_REPAIR = (
    "sort it by time; put series that stand below each other into columns of their own, and a date "
    "and its hour into the first column"
)


def require_order(path: Path | str, times: Sequence[str], lines: Sequence[int]) -> None:
    """One row for each time, the oldest first. A clock put back by an hour once a year is no fault.

    Args:
        times: what stands in the first column; what is no time says nothing.
        lines: where each row begins.
    Raises: DataError, with the line, for rows that go back in time, or many of one time.
    """
    latest, before, same, said = None, None, 0, ""
    for text, line in zip(times, lines, strict=True):
        if (now := _time(text)) is None:
            continue
        same += now == before
        if latest is not None and now < latest - CLOCK_CHANGE:
            raise DataError(
                f"{path}, line {line}: the table runs backwards in time, from {said} to {text}",
                expected="the oldest row first",
                repair=_REPAIR,
            )
        before = now
        if latest is None or now > latest:
            latest, said = now, text
    if same > MOST_SAME * len(times):
        raise DataError(
            f"{path}: {same:,} of {len(times):,} rows have the time of the row before",
            expected="one row for each time",
            repair=_REPAIR,
        )


def remarks(times: Sequence[str], lines: Sequence[int]) -> list[str]:
    """What a person should know of a table whose rows count as evenly spaced: rows that are
    missing, as it seems, or times that cannot be read.

    >>> remarks(["1/2/24"], [2])
    ["the times ('1/2/24') are not written as ISO 8601 says: order and gaps are not checked"]
    """
    known = [
        (at, text, line)
        for text, line in zip(times, lines, strict=True)
        if (at := _time(text)) is not None
    ]
    if 2 * len(known) < len(times):
        return [
            f"the times ({times[0]!r}) are not written as ISO 8601 says: order and gaps are not "
            "checked"
        ]
    steps = sorted(later[0] - one[0] for one, later in pairwise(known))
    if not steps:
        return []
    usual = steps[len(steps) // 2]
    late = [
        (before, text, line)
        for (one, before, _), (at, text, line) in pairwise(known)
        if at - one > LATE * usual + CLOCK_CHANGE
    ]
    if not late or len(late) > FEW * len(steps):
        return []
    before, text, line = late[0]
    rows = "1 row comes" if len(late) == 1 else f"{len(late):,} rows come"
    return [
        f"{rows} later than usual after the one before, as in line {line} ({before}, then {text}): "
        "all count as evenly spaced"
    ]


def _time(text: str) -> datetime | None:
    """The point in time, without its zone, where it is written as ISO 8601 says."""
    try:
        if len(text) == len("2024-01") and text[4] == "-":  # a month, which datetime does not read
            text += "-01"
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return None

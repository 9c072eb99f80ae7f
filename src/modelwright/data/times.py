"""The order of a table's rows in time, and how far they are apart."""

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from modelwright.core.errors import DataError

CLOCK_CHANGE = 3600.0  # seconds that summer time's end puts a clock back by
MOST_SAME = 0.01  # of the rows, with the time of the row before
_EPOCH = datetime(1970, 1, 1)
LATE, FEW = 1.5, 0.05  # times the usual distance; where more rows come so late, it is a pattern
_CALLED = re.compile(  # a column of numbers that is hardly a series; "": an index, as pandas has it
    r"|unnamed: 0|index|year|date|epoch|ts|((unix|date)[ _-]?)?time([ _-]?stamp)?", re.IGNORECASE
)
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
    known, slack = _read(times)
    for now, text, line in zip(known, times, lines, strict=True):
        if now is None:
            continue
        same += now == before
        if latest is not None and now < latest - slack:
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


def count_rows(name: str, column: Sequence[str]) -> tuple[bool, str]:
    """Whether the numbers of a table's first column are no series but its time, and what a person
    should know of it: they go one way, by equal whole steps or under a name that says so.

    >>> count_rows("load", ["1", "2", "4"]), count_rows("year", ["1999", "2000", "2002"])[0]
    ((False, ''), True)
    """
    called = _CALLED.fullmatch(name.strip()) is not None
    try:
        values = [float(field) for field in column]
    except ValueError:  # one is missing
        return False, ""
    steps = [later - one for one, later in pairwise(values)]
    one_way = bool(steps) and (min(steps) > 0 or max(steps) < 0)
    even = one_way and min(steps) == max(steps) and values[0] % 1 == steps[0] % 1 == 0
    if even or (one_way and called):
        return True, (
            f"the first column, {name!r}, counts the rows: it is taken for the time and not "
            "forecast, unless data.channels names it"
        )
    return False, (
        f"the first column, {name!r}, does not grow from row to row: it is forecast as a series, "
        "and order and gaps are not checked"
    ) * called  # fmt: skip


def remarks(times: Sequence[str], lines: Sequence[int]) -> list[str]:
    """What a person should know of a table whose rows count as evenly spaced: rows that are
    missing, as it seems, or times that cannot be read.

    >>> remarks(["1/2/24"], [2])
    ["the times ('1/2/24') are not written as ISO 8601 says: order and gaps are not checked"]
    """
    read, slack = _read(times)
    known = [
        (at, text, line)
        for at, text, line in zip(read, times, lines, strict=True)
        if at is not None
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
        if at - one > LATE * usual + slack
    ]
    if not late or len(late) > FEW * len(steps):
        return []
    before, text, line = late[0]
    rows = "1 row comes" if len(late) == 1 else f"{len(late):,} rows come"
    return [
        f"{rows} later than usual after the one before, as in line {line} ({before}, then {text}): "
        "all count as evenly spaced"
    ]


def _read(times: Sequence[str]) -> tuple[list[float | None], float]:
    """Each time as a number that grows with it, and how far a clock may be put back: in seconds
    where times are written as ISO 8601 says, as they are where all are numbers and some no dates.
    """
    known = [_seconds(text) for text in times]
    if None in known:
        try:
            return [float(text) for text in times], 0.0
        except ValueError:
            pass
    return known, CLOCK_CHANGE


def _seconds(text: str) -> float | None:
    """Those since 1970, by the clock that it is written by, whatever its zone."""
    try:
        if len(text) == len("2024-01") and text[4] == "-":  # a month, which datetime does not read
            text += "-01"
        return (datetime.fromisoformat(text).replace(tzinfo=None) - _EPOCH).total_seconds()
    except ValueError:
        return None

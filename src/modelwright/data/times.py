"""The order of a table's rows in time."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from modelwright.core.errors import DataError

CLOCK_CHANGE = timedelta(hours=1)  # that summer time's end puts a clock back by
MOST_SAME = 0.01  # of the rows, with the time of the row before
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


def _time(text: str) -> datetime | None:
    """The point in time, without its zone, where it is written as ISO 8601 says."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return None

"""Lines and fields of a table over time: which are numbers, dates or nothing; which make a row."""

import csv
import math
import re
from collections.abc import Iterator, Sequence

from modelwright.core.errors import DataError
from modelwright.data import jsonl, parquet
from modelwright.data.opening import UNREADABLE, unpacked

MISSING = ("", "na", "nan", "null", "none", "?")
_NUMBER = "a number with a decimal point; nothing, NA, NaN or ? where there is none"
_DATE = re.compile(r"([a-z]*)[ .,-]*\d[\w\s/.:,+-]*", re.IGNORECASE)
_NAMES = {
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    "mon", "tue", "wed", "thu", "fri", "sat", "sun",
}  # fmt: skip
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")
_DATE_WORDS = {"t", "z", "q", "w", "am", "pm", "utc", "gmt"}


def is_row(fields: Sequence[str], timed: bool = False) -> bool:
    """Whether it looks like numbers, behind a number or a time.

    timed: whether it is known to be of some time; behind a date it is. Then a few columns may hold
        single words, as of a wind's direction.

    >>> [is_row(["2024-01-01", *rest]) for rest in (["1", "NW", "?"], ["1", "a text", "2"], ["NW"])]
    [True, False, False]
    """
    first, rest = fields[0], fields[1:] or fields
    if all(field.lower() in MISSING for field in rest):
        return False
    numbers = sum(map(is_number, rest))
    dated = is_date(first) and not is_number(first)
    mixed = (timed or dated) and not any(" " in field for field in rest)
    least = len(rest) // 2 + 1 if mixed else len(rest)
    return (is_number(first) or dated) and numbers >= least


def to_number(field: str, where: str, column: str) -> float:
    """NaN where it is missing.

    Raises: DataError for a text.
    """
    if field.lower() in MISSING:
        return math.nan
    try:
        return float(field)
    except ValueError:
        raise DataError(
            f"{where}: {field!r} in the column {column!r} is no number",
            expected=_NUMBER,
            repair="correct it, or name the columns to take with data.channels",
        ) from None


def is_number(field: str) -> bool:
    """Whether it is one, or says that one is missing."""
    try:
        return field.lower() in MISSING or not math.isnan(float(field))
    except ValueError:
        return False


def is_date(field: str) -> bool:
    """Whether it is a date or a time of day, in whatever order.

    >>> [is_date(text) for text in ("2016-07-01 00:00:00", "1 Jul 2016", "Q1", "2016-Q1", "T1")]
    [True, True, False, True, False]
    """
    found = _DATE.fullmatch(field)
    if found is None or (found[1] and found[1][:3].lower() not in _NAMES):
        return False
    words = re.findall("[a-z]+", field.lower())
    return all(word[:3] in _NAMES or word in _DATE_WORDS for word in words)


def lines(content: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of every row, as they are read, without blank lines at both ends.

    Args:
        content: of the file, gzip or not; name: what errors call it.
    Raises: DataError if it is empty or cannot be read.
    """
    begun, blank = False, list[int]()
    for line, fields in _divided(content, name):
        if fields in ([], [""]):
            blank.append(line)
            continue
        if begun:
            yield from ((one, [""]) for one in blank)
        blank.clear()
        begun = True
        yield line, fields
    if not begun:
        raise DataError(f"{name} is empty", expected="a table with a row for each point in time")


def _divided(content: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """The same, blank ones among them."""
    if content.startswith(parquet.MAGIC):
        yield from parquet.lines(content)
        return
    try:
        decoded = unpacked(content).decode("utf-8-sig")
        if decoded.lstrip().startswith("{"):
            yield from jsonl.lines(decoded, name)
            return
        first = re.search(r"[^\r\n]+", decoded)
        marks = [mark for mark in "\t;," if first is not None and mark in first[0]]
        each = (found[0] for found in _LINE.finditer(decoded))
        if marks:
            reader = csv.reader(each, delimiter=marks[0])
            for row in reader:
                yield reader.line_num, [field.strip() for field in row]
        else:
            yield from ((line, row.split()) for line, row in enumerate(each, 1))
    except (*UNREADABLE, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{name} cannot be read as a table: {error}",
            expected="whole UTF-8 text, plain or as .gz, with a row for each point in time",
            repair="save it again as CSV in UTF-8",
        ) from error

"""Tables of users and items: one row for each time that a user used an item, or rated it.

Reads CSV, TSV, DAT and JSON lines, plain or .gz, and Parquet; nothing here knows what a task makes
of the rows.
"""

import csv
import functools
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError, MissingExtra, did_you_mean
from modelwright.core.progress import counted, say
from modelwright.data import jsonl, parquet
from modelwright.data.opening import UNREADABLE, open_bytes, require_single, unpacked
from modelwright.data.tables import divided, mark

SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".data", ".inter", jsonl.SUFFIX, parquet.SUFFIX)
_USER = re.compile(r"user(_?id)?(:\w+)?", re.IGNORECASE)
_ITEM = re.compile(
    r"(item|movie|film|product|book|track|song|artist|article|news|business)(_?id)?(:\w+)?|asin",
    re.IGNORECASE,
)
_VALUE = {
    "time": re.compile(r"((unix_?|date)?time(_?stamp)?|date|ts)(:\w+)?", re.IGNORECASE),
    "rating": re.compile(r"(rating|score|stars)(:\w+)?", re.IGNORECASE),
}
_MARK = re.compile(r"[\t|;,]")
_REPAIR = "name the columns with data.interactions: {user: …, item: …, time: …, rating: …}"


class Use(NamedTuple):  # ten million of them are common, and a dataclass takes thrice the memory
    """One row: value is what was asked for, a time or a rating."""

    user: str
    item: str
    value: float


def is_here(path: Path) -> bool:
    """Whether a file is called like interactions, or its first line names users and items."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if not path.is_file() or suffix not in SUFFIXES:
        return False
    if suffix in (".dat", ".data", ".inter"):
        return True
    if suffix == parquet.SUFFIX:
        try:
            names = [one for one in next(parquet.rows(path), {}) if isinstance(one, str)]
        except (DataError, MissingExtra):
            return False  # whoever reads it says what is wrong
        return all(any(one.fullmatch(name) for name in names) for one in (_USER, _ITEM))
    try:
        with open_bytes(path) as file:
            line = file.readline(2**16)
    except UNREADABLE:
        return False
    text = line.decode(errors="replace").strip()
    try:
        fields = jsonl.lines(text, path.name)[0][1] if suffix == jsonl.SUFFIX else _MARK.split(text)
    except DataError:
        return False
    return all(any(one.fullmatch(field.strip()) for field in fields) for one in (_USER, _ITEM))


def uses(path: Path, own: recipe.Interactions, what: Literal["time", "rating"]) -> list[Use]:
    """Every row of the table, with its time or its rating; a first line without one is a header.

    Raises: ConfigError for a column that is not there; DataError, with the line, for a table that
        cannot be read.
    """
    rows = _lines(path)
    if (first := next(rows, None)) is None:
        raise DataError(f"{path} is empty", expected="a row for each use of an item by a user")
    value_of, expected = _VALUES[what]
    columns: Sequence[str | int] = (own.user, own.item, getattr(own, what))
    head = _head(path, first[1])
    given, columns = columns, _called(head, columns, ("user", "item", what))
    for kind, one in zip(("user", "item", what), columns, strict=True):
        if one not in given:
            say(f"data: {path.name}: the column {one!r} is taken for the {kind}")
    header = any(isinstance(one, str) for one in columns)
    require_single(str(path), head, columns)
    wanted = [_column_of(path, one, head) for one in columns]
    if not header and (header := value_of(first[1][wanted[2]]) is None):
        _require_called(path, head, wanted, what)
    found = []
    names: dict[str, str] = {}  # so that all rows of a user or an item share one text
    body = rows if header else itertools.chain([first], rows)
    for line, fields in counted(body, f"data: rows of {path.name} read"):
        if len(fields) <= max(wanted):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields",
                expected=f"at least {max(wanted) + 1}, up to the last of data.interactions",
            )
        user, item, text = (fields[place] for place in wanted)
        value = value_of(text)
        if value is None or not user or not item:
            fault = f"{text!r} is no {what}" if value is None else "no user or no item"
            raise DataError(
                f"{path}, line {line}: {fault}",
                expected=f"user, item and {what}; a {what} is {expected}",
                repair=_REPAIR,
            )
        found.append(Use(names.setdefault(user, user), names.setdefault(item, item), value))
    return found


def _called(
    head: Sequence[str], columns: Sequence[str | int], what: Sequence[str]
) -> list[str | int]:
    """The columns; those by default as the first line calls them, where it names users and items
    and puts them elsewhere."""
    kinds = {"user": _USER, "item": _ITEM, **_VALUE}
    names = {
        kind: [name for name in head if one.fullmatch(name.strip())] for kind, one in kinds.items()
    }
    if not (names["user"] and names["item"]):
        return list(columns)
    default = recipe.Interactions()
    found: list[str | int] = []
    for column, kind in zip(columns, what, strict=True):
        place = _place_of(column, head)
        sound = column != getattr(default, kind) or not names[kind]
        sound = sound or (place is not None and head[place] in names[kind])
        found.append(column if sound else names[kind][0])
    return found


def _require_called(
    path: Path, head: Sequence[str], wanted: Sequence[int], what: Literal["time", "rating"]
) -> None:
    """
    Raises: ConfigError where a header says that columns taken by their places are others.
    """
    kinds = {"user": _USER, "item": _ITEM, **_VALUE}
    said = [
        next((kind for kind, one in kinds.items() if one.fullmatch(head[place].strip())), None)
        for place in wanted
    ]
    for place, kind, own in zip(wanted, said, ("user", "item", what), strict=True):
        if kind not in (own, None):
            raise ConfigError(
                f"{path}: column {place} is taken for the {own}, and is called {head[place]!r}",
                expected="the columns named, where they stand in another order",
                repair=_REPAIR,
            )


def asked_about(path: Path, columns: Sequence[str | int]) -> Iterator[tuple[str, Use]]:
    """Place and row of a table that a model is asked about; its value is the time, or the line's
    number where the table has none.

    Args:
        columns: of user and item, as in the training; of the time if that counts.
    Raises: DataError for a column that is not there or, with the line, for a table that cannot be
        read.
    """
    rows = _lines(path)
    if (first := next(rows, None)) is None:
        raise DataError("it is empty", expected="a table with rows")
    head = _head(path, first[1])
    columns = _called(head, columns, ("user", "item", "time")[: len(columns)])
    require_single(str(path), head, columns)
    places = []
    for column in columns[:2]:
        if (place := _place_of(column, head)) is None:
            raise DataError(
                f"{path} has no column {column!r}",
                expected=did_you_mean(str(column), [*head, *map(str, range(len(head)))]),
                repair=f"the model was trained on {' and '.join(map(repr, columns[:2]))}: call the "
                "columns so",
            )
        places.append(place)
    user, item = places
    time = _place_of(columns[2], head) if len(columns) > 2 else None
    named = any(isinstance(one, str) for one in columns) or first[0] == 0
    called = _USER.fullmatch(head[user]) and _ITEM.fullmatch(head[item])
    for line, fields in rows if named or called else itertools.chain([first], rows):
        where = f"{path.name} line {line}"
        if len(fields) <= max(user, item, time or 0):
            raise DataError(f"{where}: {len(fields)} fields", expected=f"{len(head)}")
        value = line if time is None else _time(fields[time])
        if value is None:
            raise DataError(
                f"{where}: {fields[time or 0]!r} is no time", expected=_VALUES["time"][1]
            )
        yield where, Use(fields[user], fields[item], value)


def labels_of(items: Sequence[str], path: Path, own: recipe.Interactions) -> list[str]:
    """What each item is called: its title, if there are titles beside the table, and its id.

    Raises: ConfigError if the file of the titles is not there, or names none of the items.
    """
    titles = {} if own.names is None else _titles(path / own.names)
    if own.names is not None and titles.keys().isdisjoint(items):
        raise ConfigError(
            f"data.interactions.names: no line of {own.names} begins with an item of the table",
            expected="an item and its name, in this order, on each line",
            repair="write the table's items in its first column, or leave the key out",
        )
    return [f"{titles[item]} [{item}]" if item in titles else item for item in items]


def _head(path: Path, first: Sequence[str]) -> list[str]:
    """The first line, which may be names: those of .inter have a type behind them."""
    return [field.partition(":")[0] if path.suffix == ".inter" else field for field in first]


def _place_of(column: str | int, head: Sequence[str]) -> int | None:
    if isinstance(column, str):
        return head.index(column) if column in head else None
    return column if 0 <= column < len(head) else None


def _column_of(path: Path, column: str | int, head: Sequence[str]) -> int:
    if (place := _place_of(column, head)) is not None:
        return place
    raise ConfigError(
        f"{path} has no column {column!r}",
        expected=did_you_mean(str(column), [*head, *map(str, range(len(head)))]),
        repair=f"{_REPAIR}; numbers count from 0",
    )


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of each row, as they are read; JSON lines begin with "{"."""
    if path.suffix == parquet.SUFFIX:
        yield from parquet.lines(path)
        return
    try:
        content = unpacked(path.read_bytes())
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:  # as in MovieLens
            text = content.decode("latin-1")
        del content
        if re.match(r"\s*{", text):  # not lstrip, which would copy it
            yield from jsonl.lines(text, str(path))
            return
        for line, fields in divided(text, _mark(text, path)):
            yield line, [field.strip() for field in fields]
    except (*UNREADABLE, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read: {error}", expected="a table, or it as .gz"
        ) from error


def _mark(text: str, path: Path) -> str:
    """What divides the fields: of "::", tab, |, ; and , as tables.mark chooses; of a .csv rather ;
    or , than another."""
    csv_first = Path(path.name.removesuffix(".gz")).suffix.lower() == ".csv"
    return mark(text, (";", ",", "::", "\t", "|") if csv_first else ("::", "\t", "|", ";", ","))


def _titles(path: Path) -> dict[str, str]:
    """Title by item: the first two fields of each line."""
    if not path.is_file():
        raise ConfigError(
            f"data.interactions.names: {path} is not there",
            expected="a file beside the table, with an item and its name on each line",
        )
    return {row[0]: row[1] for _, row in _lines(path) if len(row) > 1 and row[1]}


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _time(text: str) -> float | None:
    """A point in time as a number that grows with it."""
    if (number := _number(text)) is not None:
        return number
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.replace(tzinfo=found.tzinfo or UTC).timestamp()


# what a row may be asked for -> its reading, and what it has to be
_VALUES: dict[str, tuple[Callable[[str], float | None], str]] = {
    "time": (_time, "a number or an ISO 8601 date"),
    "rating": (_number, "a number with a point, such as 3.5"),
}


def order(name: str) -> tuple[int, int, str, str]:
    """Numbers by their size, then words.

    >>> sorted(["b", "10", "9", "a", "09"], key=order)
    ['09', '9', '10', 'a', 'b']
    """
    number = name.isascii() and name.isdigit()
    digits = name.lstrip("0") if number else ""  # int() takes 4,300 of them at most
    return (0, len(digits), digits, name) if number else (1, 0, "", name)


def line_of(names: Iterable[str]) -> str:
    """Items as `read_input` takes them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


@functools.lru_cache(maxsize=4)
def items_of(content: bytes) -> tuple[list[str], dict[str, int]]:
    """The labels, and the place of each by label, by id and by title, in that order."""
    labels = json.loads(content)
    known = {label: place for place, label in enumerate(labels)}
    parts = [re.fullmatch(r"(.*) \[(.*)\]", label) for label in labels]
    for group in (2, 1):
        for place, found in enumerate(parts):
            if found is not None:
                known.setdefault(found[group], place)
    return labels, known

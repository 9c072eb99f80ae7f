"""Tables of series over time: read, divided in time order, cut into windows.

`read` gives the rows of a CSV, TSV, TXT or JSON lines table in three parts, train first; `prepare`
makes of them windows and the values that come next. Mean and spread come from train alone.
Source of the protocol: Zhou et al. 2020, arXiv:2012.07436 (errors on the scale of train); Qiu et
al. 2024, arXiv:2403.20150 (every window counts, also those of a last, short batch).
"""

import functools
import itertools
import math
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError, did_you_mean
from modelwright.core.progress import counted, say
from modelwright.data import jsonl, parquet
from modelwright.data.fields import MISSING, is_date, is_number, is_row, lines, to_number
from modelwright.data.opening import UNREADABLE, open_bytes
from modelwright.data.rows import LISTED, PARTS, Array, Column, Finding, Loaded, Prepared, Rows
from modelwright.data.shared import Windows
from modelwright.data.times import count_rows, remarks, require_order

SUFFIXES = (".csv", ".tsv", ".txt", ".gz", jsonl.SUFFIX, parquet.SUFFIX)
STARTER_HORIZON = 24  # steps that a starter recipe forecasts
WINDOW = 336  # steps that are looked back at, where the recipe does not say
PATCH = 16  # steps that a model sees as one place, as near as the window can be divided
_PEEK_BYTES, _PEEK_ROWS = 2**16, 20
_OVER_TIME = re.compile(r"year|date|((date|unix)[ _-]?)?time([ _-]?stamp)?", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """One row for each point in time, oldest first.

    values: (rows, channels) float32, NaN where one is missing
    times: the first column where it is a time (`timed`), else the row's number
    lines: the line of the file that each row ends on
    coarse: channels whose values are so large that 32 bits blur their steps
    remark: what a person should know of a first column of numbers
    """

    channels: list[str]
    values: Array
    times: list[str]
    lines: list[int]
    timed: bool
    coarse: list[str]
    remark: str

    def __len__(self) -> int:
        return len(self.lines)


def is_table(path: Path) -> bool:
    """Whether a file is named like a table, and most of its first rows are a time and numbers, with
    a word here and there where a column is called date, year or the like."""
    if not path.is_file() or Path(path.name.removesuffix(".gz")).suffix.lower() not in SUFFIXES:
        return False
    try:
        with open_bytes(path) as file:
            content = file.read(_PEEK_BYTES)
    except UNREADABLE:
        return True  # reading it says what is wrong
    if len(content) == _PEEK_BYTES:
        content = content.rpartition(b"\n")[0]
    try:
        if path.suffix == parquet.SUFFIX:
            rows = parquet.lines(path, _PEEK_ROWS)
        else:
            rows = list(itertools.islice(lines(content, path.name), _PEEK_ROWS + 1))
    except DataError:
        return False
    timed = bool(rows) and any(map(_OVER_TIME.fullmatch, rows[0][1]))
    return 2 * sum(is_row(fields, timed) for _, fields in rows) >= len(rows)


def read(path: Path, section: recipe.Data) -> Loaded:
    """The rows of a table in three parts, one input for each channel; windows come later.

    A value that is missing becomes a finding nan_values; the last value before it stands in for
    it, which counts only where the finding is waived, as the gate stops otherwise.

    Raises: ConfigError without data.horizon; DataError, with the line, for a table that cannot be
        read, runs backwards or is too short.
    """
    if section.horizon is None:
        raise ConfigError(
            "data.horizon is missing",
            expected="how many steps to forecast, such as 96",
            repair="add horizon below data, as in recipes/forecast.yaml",
        )
    table = read_table(path.read_bytes(), str(path), section.channels)
    require_order(path, table.times, table.lines)
    if table.remark:
        say(f"data: {table.remark}")
    for text in remarks(table.times, table.lines) if table.timed else ():
        say(f"data: {text}")
    if table.coarse:
        say(
            f"data: at the size of {', '.join(table.coarse)}, 32 bits hold a step to a hundredth "
            "of it at best: take differences, or subtract a constant"
        )
    counts = _counts(len(table), section)
    used = sum(counts.values())
    if used < len(table):
        say(f"data: {len(table) - used:,} rows behind the {used:,} of data.split_rows are not read")
    values = table.values[:used]
    findings = _missing(table, values)
    if findings:
        _require_begun(path, table.channels, values)
        values = _filled(values)
    parts: dict[str, Rows] = {}
    start = 0
    for part, number in counts.items():
        own = slice(start, start + number)
        inputs: dict[str, Column] = {
            name: values[own, place] for place, name in enumerate(table.channels)
        }
        parts[part] = Rows(inputs, np.zeros((number, 0), np.float32), table.times[own])
        start += number
    return parts, [], findings


def starter(path: Path) -> dict[str, Any]:
    """A horizon, a window where the usual one is long for so few rows, and where some columns hold
    words or begin with a gap, the others."""
    content = path.read_bytes()
    head, *body = (fields for _, fields in lines(content, str(path)))
    columns = [*zip(*body, strict=False)][1:]
    fit = [column[0].lower() not in MISSING and all(map(is_number, column)) for column in columns]
    some = any(fit) and not all(fit)
    channels = [name for name, one in zip(head[1:], fit, strict=False) if one] if some else None
    rows = len(read_table(content, str(path), channels))
    window = {"window": max(1, rows // 6)} if rows // 6 < WINDOW else {}
    found = {"horizon": max(1, min(STARTER_HORIZON, rows // 12)), **window}
    return {**found, "channels": channels} if some else found


def prepare(parts: dict[str, Rows], section: recipe.Data, answer: str) -> Prepared:
    """Each window of each part, and what comes next, less train's mean, in units of its spread.

    A part of n rows has n - horizon + 1 windows, as valid and test look back into the part before;
    train has n - window - horizon + 1. Windows are raw: the model scales each by itself.
    """
    horizon, window = section.horizon, section.window or WINDOW
    assert horizon is not None
    names = list(parts["train"].inputs)
    values = np.concatenate([_stacked(parts[part]) for part in PARTS])
    times = [time for part in PARTS for time in parts[part].origins]
    train = values[: len(parts["train"])].astype(np.float64)
    constant = (train == train[:1]).all(0)
    mean = np.where(constant, train[0], train.mean(0))
    std = np.where(constant, 1.0, train.std(0))
    scaled = ((values - mean) / std).astype(np.float32)
    made: dict[str, Rows] = {}
    end = 0
    for part in PARTS:
        begin = max(end - window, 0)
        end += len(parts[part])
        starts = np.arange(end - begin - window - horizon + 1)
        inputs: dict[str, Column] = {"window": Windows(values[begin:end], starts, window)}
        targets = Windows(scaled[begin:end], starts + window, horizon)
        made[part] = Rows(inputs, targets, [times[begin + window + start] for start in starts])
    described = {
        "kind": "series", "length": window, "patch": _patch(window), "channels": names,
        "std": std.tolist(), **({"filled": True} if "nan_values" in section.checks.waive else {}),
    }  # fmt: skip
    answers = {"horizon": horizon, "mean": mean.tolist(), "std": std.tolist()}
    return Prepared(made, described, answers, {})


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to a table before and inside the graph, for the manifest."""
    return {
        "length": inputs["length"], "channels": list(inputs["channels"]),
        "rows": "the last of the table, oldest first, on their own scale",
        "in_graph": "subtract each window's mean, divide by its spread, per channel",
    }  # fmt: skip


def read_input(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, npt.NDArray[Any]]:
    """The last rows of a table as a batch of one window, (1, length, channels) float32.

    A value that is missing is filled as in training where that was waived there, which is said.

    Raises: DataError if it is no such table, has another header, or too few rows, or if of those
        needed one has no value or an earlier time than one before.
    """
    table = _asked(content, tuple(inputs["channels"]))
    length = inputs["length"]
    if len(table) < length:
        raise DataError(
            f"the table has {len(table)} rows, and the model looks back at {length}",
            expected=f"at least {length} rows, the latest last",
        )
    require_order("the table", table.times[-length:], table.lines[-length:])
    window, filled = table.values[-length:], inputs.get("filled", False)
    if filled and (gaps := int(np.isnan(window).sum())):
        window = _filled(table.values)[-length:]
        say(
            f"the table: {_many(gaps, 'value')} missing in the last {length} rows: the one before "
            "in the same column stands in, as in training"
        )
    for row, channel in np.argwhere(np.isnan(window)):
        raise DataError(
            f"the table, line {table.lines[row - length]}: no value in the column "
            f"{table.channels[channel]!r}" + ", and none before" * filled,
            expected=f"a number in each of the last {length} rows",
            repair="fill it in"
            + "; a model that was trained with data.checks.waive: [nan_values] does so itself"
            * (not filled),
        )
    return {"window": np.ascontiguousarray(window)[None]}


def tokens(content: bytes, inputs: Mapping[str, Any], files: Any = None) -> list[str]:
    """The times of the rows that `read_input` looks at, if the table has times."""
    table = _asked(content, tuple(inputs["channels"]))
    return table.times[-inputs["length"] :] if table.timed else []


@functools.lru_cache(maxsize=1)  # one question is read twice
def _asked(content: bytes, channels: tuple[str, ...]) -> Table:
    return read_table(content, "the table", channels)


def read_table(content: bytes, name: str, wanted: Sequence[str] | None = None) -> Table:
    """The numbers in a file's bytes, gzip or not.

    Fields are divided by the first of tab, semicolon and comma that the first line has, else by
    blanks; JSON lines begin with "{". A header is there if the first row has a field that is
    neither number nor date; without one, the columns are called "column 0", "column 1", … The
    first column is time if it is no number, or if its numbers count the rows (`count_rows`).

    Args:
        name: what errors call the file.
        wanted: the columns to take, in that order; None takes all but time.
    Raises: DataError with the line of a row of another length or of a text among the numbers.
    """
    rows = lines(content, name)
    begin, head = next(rows)
    header = any(not is_number(field) and not is_date(field) for field in head)
    named = [(header and field) or f"column {place}" for place, field in enumerate(head)]
    taken = [place for place, one in enumerate(named) if place and one in (wanted or named)]
    body = rows if header else itertools.chain([(begin, head)], rows)
    firsts, numbers, found = list[str](), list[int](), array("d")
    for line, fields in counted(body, "data: rows made numbers"):
        if len(fields) != len(head):
            raise DataError(
                f"{name}, line {line}: {_many(len(fields), 'field')}",
                expected=f"{len(head)}, as in line {begin}",
                repair="correct that line",
            )
        firsts.append(fields[0])
        numbers.append(line)
        try:
            found.extend([float(fields[place]) for place in taken])
        except ValueError:
            del found[(len(numbers) - 1) * len(taken) :]
            where = f"{name}, line {line}"
            found.extend([to_number(fields[place], where, named[place]) for place in taken])
    if not numbers:
        raise DataError(f"{name} has a header and no row", expected="a row for each point in time")
    stamp = next((one for one in firsts if one.lower() not in MISSING), "")
    timed, remark = not is_number(stamp), ""
    if not timed and len(head) > 1 and named[0] not in (wanted or ()):
        timed, remark = count_rows(head[0] if header else named[0], firsts)
    places = _places(name, named[timed:], wanted, int(timed))
    behind = np.frombuffer(found).reshape(len(numbers), len(taken))
    values = np.empty((len(numbers), len(places)), np.float64)
    for own, (column, place) in enumerate(places.items()):
        if place:
            values[:, own] = behind[:, taken.index(place)]
        else:
            each = zip(firsts, numbers, strict=True)
            values[:, own] = [to_number(one, f"{name}, line {line}", column) for one, line in each]
    for row, channel in np.argwhere(np.abs(values) > np.finfo(np.float32).max):
        raise DataError(
            f"{name}, line {numbers[row]}: {values[row, channel]:g} in the column "
            f"{list(places)[channel]!r} is beyond what 32 bits hold",
            expected="numbers up to 3.4e38",
        )
    times = firsts if timed else [f"row {row}" for row in range(1, len(numbers) + 1)]
    narrow, known = values.astype(np.float32), np.nan_to_num(values)
    steps = np.median(np.abs(np.diff(known, axis=0)), axis=0) if len(numbers) > 1 else known[0] * 0
    apart = np.spacing(np.abs(known).max(0).astype(np.float32))
    blurred = (steps > 0) & (steps < 100 * apart)
    coarse = [name for name, one in zip(places, blurred, strict=True) if one]
    return Table(list(places), narrow, times, numbers, timed, coarse, remark)


def _places(
    name: str, names: Sequence[str], wanted: Sequence[str] | None, before: int
) -> dict[str, int]:
    """Where each column stands that is to be taken."""
    if not names:
        raise DataError(f"{name} has no column of numbers", expected="one for each series")
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise DataError(
            f"{name} has several columns {twice[0]!r}", expected="each name once in the header"
        )
    places = {own: place for place, own in enumerate(names, before)}
    for own in wanted or ():
        if own not in places:
            raise DataError(
                f"{name} has no column {own!r}",
                expected=did_you_mean(own, names),
                repair="name columns of its first line; without a header they are called "
                '"column 0", "column 1", …',
            )
    return places if wanted is None else {own: places[own] for own in wanted}


def _counts(rows: int, section: recipe.Data) -> dict[str, int]:
    """Rows of each part."""
    horizon, window = section.horizon or 0, section.window or WINDOW
    needed = {"train": window + horizon, "valid": horizon, "test": horizon}
    if section.split_rows is not None:
        counts = dict(zip(PARTS, section.split_rows, strict=True))
        if sum(counts.values()) > rows:
            raise DataError(
                f"data.split_rows asks for {sum(counts.values())} rows, and the table of "
                f"{section.source!r} has {rows}",
                expected=f"three counts whose sum is at most {rows}",
            )
        enough = ""
    else:
        shares = {
            "train": 1 - section.valid - section.test, "valid": section.valid, "test": section.test
        }  # fmt: skip
        test, valid = round(section.test * rows), round(section.valid * rows)
        counts = {"train": rows - valid - test, "valid": valid, "test": test}
        enough = ""
        if min(shares.values()) > 0:  # one more: both shares may be rounded up
            total = max(math.ceil((needed[part] + 1) / shares[part]) for part in PARTS)
            enough = f"; by the shares data.valid and data.test, {total} rows in all are enough"
    for part, number in counts.items():
        if number < needed[part]:
            steps = f"{window} of data.window and " if part == "train" else ""
            raise DataError(
                f"the table of {section.source!r} is too short: {max(number, 0)} of its {rows} "
                f"rows are the {part} part",
                expected=f"at least {needed[part]} rows there, {steps}{horizon} of data.horizon"
                + enough,
                repair="bring more rows, divide them with data.split_rows, or shorten data.window "
                "or data.horizon",
            )
    return counts


def _missing(table: Table, values: Array) -> list[Finding]:
    gaps = np.isnan(values)
    rows = np.flatnonzero(gaps.any(1))
    if not len(rows):
        return []
    listed = []
    for row in rows[:LISTED]:
        names = ", ".join(table.channels[place] for place in np.flatnonzero(gaps[row]).tolist())
        listed.append((f"row {row + 1} (line {table.lines[row]}): {names}",))
    text = f"{_many(int(gaps.sum()), 'value')} missing in {_many(len(rows), 'row')}"
    return [Finding("nan_values", len(rows), text, tuple(listed))]


def _require_begun(path: Path, channels: Sequence[str], values: Array) -> None:
    """Refuse a column that has nothing to fill its first rows with."""
    known = ~np.isnan(values)
    for channel in np.flatnonzero(~known[0]).tolist():
        rows = int(known[:, channel].argmax()) if known[:, channel].any() else len(values)
        raise DataError(
            f"{path}: the column {channels[channel]!r} has no value in its first "
            f"{_many(rows, 'row')}",
            expected="a number in the first row, as missing ones are filled with the one before",
            repair="cut these rows off, or leave the column out with data.channels",
        )


def _filled(values: Array) -> Array:
    """With the last value of the same channel where one is missing, never a later one; where there
    is none before, one stays missing."""
    last = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(last, axis=0), axis=0)


def _stacked(rows: Rows) -> Array:
    """(rows, channels)."""
    return np.stack([np.asarray(column) for column in rows.inputs.values()], axis=1)


def _patch(window: int) -> int:
    """The divisor of the window nearest PATCH, the smaller of two.

    >>> _patch(336), _patch(24), _patch(7)
    (16, 12, 7)
    """
    divisors = [size for size in range(1, window + 1) if window % size == 0]
    return min(divisors, key=lambda size: abs(size - PATCH))


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

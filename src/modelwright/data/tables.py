"""Tables on disk: the columns of CSV, TSV, TXT (tab-separated) and JSON lines, plain or .gz, and
of Parquet.

Reads files line by line, or by row groups; nothing here knows what the columns mean.
"""

import csv
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelwright.core.errors import DataError, did_you_mean
from modelwright.core.progress import say
from modelwright.data import parquet
from modelwright.data.opening import UNREADABLE, open_text, require_single, unreadable

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", parquet.SUFFIX)
MAX_TEXT_BYTES = 2**24  # of one text
MARKS = (",", ";", "\t")  # that may divide the fields of a .csv, those that decide first
_LINE, _UNTIL_NEWLINE = map(re.compile, (r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+", r"[^\n]*\n|[^\n]+"))
_PEEK, _PEEK_LINES = 2**16, 20  # characters and lines that show which does

# what others call a column that has our name by default; read, and said, where there is none of it
SPELLINGS = {
    "words": re.compile("tokens"),
    "tags": re.compile("ner_tags"),
    "file": re.compile("path|file_?name|audio"),
    "text": re.compile("sentence|transcript(ion)?"),
}


def table_suffix(path: Path) -> str:
    """The suffix without .gz, if it is one of TABLE_SUFFIXES."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix == parquet.SUFFIX and name.endswith(".gz"):
        return ""  # packed inside already
    return suffix if suffix in TABLE_SUFFIXES else ""


def lines_of(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, plain or .gz, as they are read: what newlines divide, so that
    joined by them they are the file again.

    Not what Python takes for the end of a line: a text may hold such characters.

    Raises: DataError if it cannot be read.
    """
    line = "\n"
    try:
        with open_text(file, "\n") as text:
            for line in text:
                yield line.removesuffix("\n")
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error
    if line.endswith("\n"):
        yield ""


NAMED = (
    "name the columns with data.columns, such as {text: …, label: …}; "
    "numbers count from 0 in files without a first line of names"
)


def records(
    file: Path, wanted: Sequence[str | int], repair: str = NAMED
) -> Iterator[tuple[str, ...]]:
    """Place and columns of each row, by name or by number.

    Args:
        repair: what to do where a column is not there.
    Raises: DataError naming file and line of what cannot be read.
    """
    own = None
    for line, row in rows_of(file, any(isinstance(name, str) for name in wanted), wanted):
        own = own or [_spelled(file, name, row) for name in wanted]
        values = []
        for name in own:
            value = row.get(name)
            if name in row and _is_missing(value):
                value = ""  # as an empty field of CSV
            if name in row and not isinstance(value, str | int | float):
                raise DataError(
                    f"{file}, line {line}: the column {name!r} holds {value!r:.40}",
                    expected="text or a number in every row",
                )
            if not isinstance(value, str | int | float):
                known = [str(key) for key in row if isinstance(key, type(name))]
                raise DataError(
                    f"{file}, line {line}: there is no column {name!r}",
                    expected=did_you_mean(str(name), known),
                    repair=repair,
                )
            values.append(encodable(str(value)))
        yield f"{file.name} line {line}", *values


def tagged_rows(
    file: Path, wanted: tuple[str | int, str | int]
) -> Iterator[tuple[list[str], list[str]]]:
    """Words and tags of each row: both as lists of texts, or in one text with blanks between.

    Raises: DataError naming file and line of a row without them, or with more of one of both.
    """
    repair = "name the columns with data.columns: {words: …, tags: …}"
    own = None
    for line, row in rows_of(file, any(isinstance(name, str) for name in wanted), wanted):
        own = own or [_spelled(file, name, row) for name in wanted]
        sides = [_words(f"{file}, line {line}", row, name, repair) for name in own]
        words, tags = sides
        if len(words) != len(tags):
            raise DataError(
                f"{file}, line {line}: {len(words)} words and {len(tags)} tags",
                expected="a tag for each word",
            )
        if broken := [word for word in words if len(word.split()) != 1]:
            raise DataError(
                f"{file}, line {line}: {broken[0]!r} is one word and has a blank, or nothing",
                expected="words without blanks",
                repair="join their parts by another character, such as New_York",
            )
        if words:
            yield words, tags


def rows_of_words(file: Path, column: str | int, repair: str) -> Iterator[tuple[str, list[str]]]:
    """Place and words of each row, without tags.

    Raises: DataError as `tagged_rows`.
    """
    own = None
    for line, row in rows_of(file, isinstance(column, str), (column,)):
        own = _spelled(file, column, row) if own is None else own
        yield f"{file.name} line {line}", _words(f"{file}, line {line}", row, own, repair)


def spelled(name: str | int, there: Collection[str | int]) -> str | int:
    """The name that a table has for a column: its own, or else the first that SPELLINGS knows.

    >>> spelled("words", ["tokens", "ner_tags"]), spelled("label", ["class"])
    ('tokens', 'label')
    """
    others = SPELLINGS.get(name) if isinstance(name, str) and name not in there else None
    known = (one for one in there if others and isinstance(one, str) and others.fullmatch(one))
    return next(known, name)


def _spelled(file: Path, name: str | int, row: Mapping[str | int, Any]) -> str | int:
    """The same, told where it is not the name itself."""
    if (own := spelled(name, row)) != name:
        say(f"data: {file.name} has no column {name!r}; {own!r} is read as data.columns.{name}")
    return own


def _words(where: str, row: Mapping[str | int, Any], name: str | int, repair: str) -> list[str]:
    value = row.get(name)
    parts = value.split() if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(one, str) for one in parts):
        known = [str(key) for key in row if isinstance(key, type(name))]
        held = f"holds {value!r:.40}" if name in row else "is not there"
        raise DataError(
            f"{where}: the column {name!r} {held}",
            expected="a list of texts, or one with blanks between them"
            if name in row
            else did_you_mean(str(name), known),
            repair=repair,
        )
    return [encodable(one) for one in parts]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def encodable(text: str) -> str:
    """With "?" for half of a character, which JSON can hold and no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def rows_of(
    file: Path, named: bool, wanted: Sequence[str | int] = ()
) -> Iterator[tuple[int, dict[str | int, Any]]]:
    """Line and fields of each row, by number, and by name where the first line has names.

    Args:
        wanted: columns that are enough, where a file keeps them apart; all if none.
    Raises: DataError naming file and line; MissingExtra without the library that it takes.
    """
    suffix = table_suffix(file)
    if suffix == parquet.SUFFIX:
        yield from enumerate(parquet.rows(file, wanted), 1)
        return
    try:
        with open_text(file) as text:
            if suffix == ".jsonl":
                yield from _json_lines(text, file)
                return
            csv.field_size_limit(MAX_TEXT_BYTES)
            reader = csv.reader(
                text, delimiter=_delimiter(file) if suffix == ".csv" else "\t",
                quoting=csv.QUOTE_MINIMAL if suffix == ".csv" else csv.QUOTE_NONE,
            )  # fmt: skip
            first: list[str] = []
            for fields in reader:
                if not fields:
                    continue
                if suffix != ".csv":
                    fields = [_unquoted(field) for field in fields]
                if first and len(fields) != len(first):
                    raise DataError(
                        f"{file}, line {reader.line_num}: {len(fields)} fields",
                        expected=f"{len(first)}, as in the first line",
                    )
                row: dict[str | int, Any] = dict(enumerate(fields))
                if named:
                    row |= dict(zip(first, fields, strict=False))
                if named and not first:
                    names = [spelled(one, fields) for one in wanted]
                    require_single(f"{file}, line {reader.line_num}", fields, names)
                if first or not named:
                    yield reader.line_num, row
                first = first or fields
    except (*UNREADABLE, csv.Error, ValueError) as error:
        raise unreadable(file, error) from error


def _delimiter(file: Path) -> str:
    with open_text(file) as text:
        return mark(text.read(_PEEK), MARKS)


def mark(text: str, marks: Sequence[str]) -> str:
    """What divides the fields of a table that begins so: of the marks that the first line has the
    first that the first lines have as often, else the first; a comma if there is none.

    >>> mark("text;label\\nhello, world;a", MARKS), mark("1::2::a, b", ("::", ","))
    (';', '::')
    """
    head = "\n".join(text.lstrip("\r\n")[:_PEEK].split("\n")[:_PEEK_LINES])
    there = [one for one in marks if one in head.partition("\n")[0]] or [","]
    even = [one for one in there if len({len(row) for _, row in divided(head, one)}) == 1]
    return (even or there)[0]


def divided(text: str, mark: str) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of each row; tabs and longer marks do not stand in quotes.

    Raises: csv.Error for a field beyond the limit.
    """
    if mark in (";", ","):
        # not io.StringIO, which takes four bytes for each character
        reader = csv.reader((found[0] for found in _LINE.finditer(text)), delimiter=mark)
        yield from ((reader.line_num, row) for row in reader if row)
        return
    # not splitlines: it ends a line at characters that a title may hold
    for number, found in enumerate(_UNTIL_NEWLINE.finditer(text), 1):
        if line := found[0].removesuffix("\n").removesuffix("\r"):
            yield number, line.split(mark)


def _unquoted(field: str) -> str:
    """Without the quotes that some programs put around a field where it holds one, which they then
    double; other quotes are the text's own.

    >>> [_unquoted(field) for field in ('"He said ""hi"" twice"', '"hi"', '"hi" and "hi"')]
    ['He said "hi" twice', '"hi"', '"hi" and "hi"']
    """
    inner = field[1:-1]
    around = len(field) > 1 and field[0] == field[-1] == '"' and '""' in inner
    return inner.replace('""', '"') if around and '"' not in inner.replace('""', "") else field


def _json_lines(text: Iterable[str], file: Path) -> Iterator[tuple[int, dict[str | int, Any]]]:
    for line, content in enumerate(text, 1):
        if not content.strip():
            continue
        try:
            row, what = json.loads(content), f"{content.strip():.40}"
        except json.JSONDecodeError as error:
            row, what = None, f"{error.msg}, at column {error.colno}"
        except (ValueError, RecursionError) as error:  # a number too long, lists too deep
            row, what = None, str(error)
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {line}: {what}", expected="a JSON object on each line")
        yield line, row

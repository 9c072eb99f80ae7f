"""What a person names to be answered: files, folders, tables, texts, the standard input.

Files are read as those that the model was trained on, which the manifest's `preprocess` says: a
table by its columns, tagged words sentence by sentence, a file of a folder of texts whole, and any
other text line by line. Gives one Asked for each answer, or for each thing that cannot be read.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.core.errors import DataError
from modelwright.data import text
from modelwright.data.kinds import KINDS, Kind
from modelwright.data.opening import UNREADABLE, unpacked, utf8
from modelwright.data.tables import records, rows_of_words
from modelwright.data.tags import SUFFIXES as TAGGED
from modelwright.data.tags import TAG, is_table

STANDARD_INPUT = "-"
_FEW_WORDS = 3  # a name of a file is hardly longer, where only its ending speaks for one


@dataclass(frozen=True)
class Asked:
    """One thing to answer.

    name: the file, or the text itself.
    problem: why there is no content.
    """

    name: str
    content: bytes = b""
    problem: DataError | None = None


@dataclass(frozen=True)
class Reader:
    """How one model's questions stand in files.

    columns: of a table, whose values are one text, or what `kind.questions` makes of them; none
        where no table is read.
    whole: whether a file is one text; else each of its lines is one.
    tags: what the model gives to words, if it does.
    endings: of the files that are taken from a folder.
    """

    kind: Kind
    columns: tuple[str | int, ...]
    whole: bool
    tags: frozenset[str] | None
    endings: tuple[str, ...]


def reader(manifest: Mapping[str, Any]) -> Reader:
    """How the model's manifest says that files are read; older ones say nothing of tables."""
    described, done = manifest["model"]["inputs"], manifest.get("preprocess") or {}
    kind = KINDS[described["kind"]]
    columns = tuple(done.get("columns") or ([kind.column] if kind.column else []))
    tagged = manifest["model"]["outputs"]["kind"] == "tags"
    endings = kind.suffixes + (kind.tables if columns else ()) + (TAGGED if tagged else ())
    if described["kind"] == "pairs":  # such as train.de
        endings += (f".{described['pair'][0]}",)
    return Reader(
        kind,
        columns,
        whole=not kind.lines or done.get("whole_files", False),
        tags=frozenset(map(str, manifest.get("labels") or [])) if tagged else None,
        endings=tuple(dict.fromkeys(endings)),
    )


def asked(inputs: Sequence[str | Path], how: Reader) -> Iterator[Asked]:
    """Everything that is named, in order; what cannot be read comes with its reason."""
    for one in inputs:
        name = os.fsencode(one).decode("utf-8", "replace")
        name = "standard input" if name == STANDARD_INPUT else name
        yield from _safely(name, _one(one, name, how))


def _safely(name: str, found: Iterator[Asked]) -> Iterator[Asked]:
    try:
        yield from found
    except DataError as error:
        yield Asked(name, problem=error)
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or f"it cannot be read: {error}"
        yield Asked(name, problem=DataError(reason, expected="a whole file that may be read"))


def _one(given: str | Path, name: str, how: Reader) -> Iterator[Asked]:
    path = Path(given)
    if str(given) == STANDARD_INPUT:
        yield from _content(_standard_input(), name, how)
    elif os.path.isdir(given):  # noqa: PTH112 - a text may be too long for a path
        found = [file for file in sorted(path.rglob("*")) if _ending(file, how.kind) in how.endings]
        if not found:
            raise DataError(f"{name} has no file to answer", expected=", ".join(how.endings))
        for file in found:
            yield from _safely(str(file), _file(file, how))
    elif os.path.exists(given):  # noqa: PTH110 - no is_file: a pipe is read as well
        yield from _file(path, how)
    elif not how.kind.texts:
        path.read_bytes()  # for the system's own reason
    elif _looks_like_a_file(str(given), how):
        raise DataError(
            "there is no such file",
            expected="a file, a folder, or a text",
            repair="correct the path; a text that looks like one is asked on the standard input: "
            "echo TEXT | modelwright predict MODEL -",
        )
    else:
        yield _filled(name, os.fsencode(given))


def _file(path: Path, how: Reader) -> Iterator[Asked]:
    name = os.fsencode(path).decode("utf-8", "replace")
    tabled = how.columns and _ending(path, how.kind) in how.kind.tables
    if tabled and (how.tags is None or is_table(path, how.columns)):
        if how.kind.questions is not None:
            for one, question in how.kind.questions(path, how.columns):
                yield Asked(one, question.encode())
            return
        repair = (
            f"the model was trained on {' and '.join(map(repr, how.columns))}: call the column so, "
            "or save the texts as .txt, one on each line"
        )
        if not path.stat().st_size:
            raise DataError("it is empty", expected="a table with rows")
        there = False
        if how.tags is not None:  # words stay divided as they came
            for where, words in rows_of_words(path, how.columns[0], repair):
                there = True
                yield (_divided(words) if words else (_filled(where, b"")))
        else:
            for where, *values in records(path, how.columns, repair):
                there = True
                yield _line(" ".join(values), where)
        if not there:
            raise DataError("the table has no row", expected="a row for each text")
        return
    yield from _content(path.read_bytes(), name, how, tagged=_ending(path, how.kind) in TAGGED)


def _content(content: bytes, name: str, how: Reader, tagged: bool = False) -> Iterator[Asked]:
    """What a file's bytes ask."""
    if not content:
        raise DataError("it is empty", expected="something to be answered")
    if not how.kind.texts:
        yield Asked(name, content)
        return
    whole = utf8(unpacked(content), "it").lstrip(text.JOINT)
    # not splitlines: a text may hold characters that it takes for a line's end
    lines = whole.replace("\r\n", "\n").rstrip().split("\n")
    if lines == [""]:
        raise DataError("it is empty", expected="something to be answered")
    sentences = _sentences(lines, how.tags, tagged) if how.tags is not None else []
    if sentences:
        for words in sentences:
            yield _divided(words)
    elif how.whole:
        yield Asked(name, whole.encode())
    else:
        for number, line in enumerate(lines, 1):
            yield _line(line, f"{name} line {number}")


def _divided(words: Sequence[str]) -> Asked:
    """Words that stay divided as they came, be it a single one."""
    return Asked(" ".join(words), text.JOINT.join(["", *words]).encode())


def _line(line: str, where: str) -> Asked:
    return _filled(line if line.strip() else where, line.encode())


def _filled(name: str, content: bytes) -> Asked:
    content = content.lstrip(text.JOINT.encode())  # only what `_divided` makes begins with it
    if content.strip():
        return Asked(name, content)
    return Asked(
        name or "(nothing)",
        problem=DataError("the text is empty", expected="something to be answered"),
    )


def _sentences(lines: Sequence[str], tags: frozenset[str], sure: bool) -> list[list[str]]:
    """The words of each sentence where lines are words, alone or with a tag behind; else none."""
    rows = [line.split() for line in lines]
    full = [row for row in rows if row]
    tagged = all(len(row) > 1 and (row[-1] in tags or TAG.fullmatch(row[-1])) for row in full)
    alone = len(full) < len(rows) and all(len(row) == 1 for row in full)
    if not (sure or tagged or alone):
        return []
    sentences: list[list[str]] = [[]]
    for row in rows:
        if row:
            sentences[-1].append(row[0])
        elif sentences[-1]:
            sentences.append([])
    return [words for words in sentences if words]


def _ending(path: Path, kind: Kind) -> str:
    """The suffix in lower case; of texts without .gz, which is unpacked."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz") if kind.texts else name).suffix or Path(name).suffix


def _looks_like_a_file(given: str, how: Reader) -> bool:
    """Whether what is no file was meant for one: it ends like one, or it is divided like a path."""
    words = given.split()
    if "\n" in given or "://" in given or not words:
        return False
    path = Path(given)
    ends = path.suffix.lower() == ".gz" or _ending(path, how.kind) in how.endings
    if os.sep not in given:
        return ends and len(words) <= _FEW_WORDS
    # items and numbers have no text around them: "AC/DC" is a name
    running = bool(how.columns) or not how.kind.lines
    rooted = given.startswith((os.sep, f".{os.sep}", f"..{os.sep}", f"~{os.sep}"))
    return ends or (running and (len(words) == 1 or rooted))


def _standard_input() -> bytes:
    return sys.stdin.buffer.read()

"""Running text on disk: files, folders of files and tables of texts, divided in order.

`read` gives the text of each part, one row a part; language.py makes tokens and windows of it.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError, MissingExtra
from modelwright.core.progress import counted, say
from modelwright.data import folder
from modelwright.data.clean import Record, cleaned, findings
from modelwright.data.opening import UNREADABLE, open_bytes
from modelwright.data.rows import PARTS, Loaded, Rows
from modelwright.data.tables import lines_of, records, rows_of, table_suffix
from modelwright.data.text import code_points, part_files, part_of

SUFFIXES = (".txt", ".txt.gz")
_PEEK_BYTES, _PEEK_LINES = 2**16, 50
_EXPECTED = "a *.txt file, a folder with train.txt and the like, or a folder of .txt files only"


def is_here(path: Path) -> bool:
    """Whether the path is running text: a file, a folder with one to train on or of such files
    alone, without folders, or a table with the column text and no label."""
    try:
        whole, files = _files(path, recipe.Data(source=str(path)))
        if whole and any(file.parent != path for file in files["train"]):
            return False  # texts in classes, unless data.format says otherwise
        file = files["train"][0]
        if table_suffix(file) not in ("", ".txt"):
            first = next(rows_of(file, named=True), (0, {}))[1]
            return "text" in first and "label" not in first
        if not file.name.lower().endswith(SUFFIXES):
            return False
        with open_bytes(file) as opened:
            content = opened.read(_PEEK_BYTES)
    except (DataError, MissingExtra):
        return False
    except UNREADABLE:
        return True  # reading it says what is wrong
    lines = [line for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
    lines = lines[:_PEEK_LINES]
    if 2 * sum("\t" in line for line in lines) >= max(len(lines), 1):
        return False
    fields = [len(line.split()) for line in lines]
    same = max((fields.count(number) for number in (2, 3, 4, 5)), default=0)
    return len(lines) < 5 or same < 0.9 * len(lines)


def read(path: Path, section: recipe.Data) -> Loaded:
    """The text of each part, one row a part, from UTF-8 files, plain or .gz, or tables of texts.

    A folder holds train.txt and the like, or .txt files of any names, below it too, which are
    joined in the order of their names. Of a table, data.columns.text is the text, a row a line.
    One text is divided in order: the last data.test of its characters, data.valid of them before,
    and the rest; or data.split_rows. So is the train file of a folder that lacks a part.
    Steps of data.clean take each row of a table, each file of a folder of any files, else each
    line; lines that are blank stay.

    Raises: ConfigError for a key that the files do not go with; DataError for a file that cannot
        be read, or a part of fewer than two characters.
    """
    whole, files = _files(path, section)
    _require_of_use(section, [file for own in files.values() for file in own], whole)
    if section.split_rows is not None and len(files) > 1:
        raise ConfigError(
            "data.split_rows divides one file, and the source has one for each part",
            expected="either of the two",
            repair="leave data.split_rows out, or name one file in data.source",
        )
    counts: dict[str, int] = {}
    texts = {}
    for part, own in files.items():
        rows = (row for file in own for row in _records(file, section, whole))
        written = io.StringIO()
        kept = cleaned(rows, section.clean, counts, keep_blank=True)
        for place, row in enumerate(counted(kept, f"data: lines of {part} read")):
            written.write(("\n" if place else "") + row[1])
        texts[part] = written.getvalue()
    texts = _divided(texts, section)
    for part, text in texts.items():
        if len(text) < 2:
            raise DataError(
                f"the {part} part of {section.source!r} has {len(text)} characters",
                expected="two at least: one, and what comes next",
                repair="bring more text, or divide it otherwise with data.valid and data.test",
            )
    parts = {
        part: Rows({"ids": code_points([texts[part]])}, np.zeros((1, 0), np.int64), [texts[part]])
        for part in PARTS
    }
    return parts, [], findings(counts)


def _files(path: Path, section: recipe.Data) -> tuple[bool, dict[str, list[Path]]]:
    """The files of each part, and whether each is a whole text, of a folder that has no parts.

    Raises: DataError for a folder without either.
    """
    if path.is_dir() and section.files is None:
        named = (part_of(one.name) == "train" for one in path.iterdir() if one.is_file())
        if not any(named):
            every = list(folder.files_below(path, path)) if folder.holds(path, SUFFIXES) else []
            if every and all(one.name.lower().endswith(SUFFIXES) for one in every):
                return True, _by_part(path, every)
            raise DataError(f"{path} has no file to train on", expected=_EXPECTED)
    return False, {part: [file] for part, file in part_files(path, section).items()}


def _by_part(path: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files below a folder by the folder that is named for a part; all to train on where no
    folder is, nor a file.

    Raises: DataError where some are for a part and others for none, or none is to train on.
    """
    found: dict[str, list[Path]] = {}
    for file in files:
        *folders, name = file.relative_to(path).parts
        own = [part for one in folders if (part := part_of(one))]
        alone = folder.PART_FOLDERS.get(name.partition(".")[0].lower(), "")
        found.setdefault(own[0] if own else alone, []).append(file)
    if found.keys() == {""}:
        return {"train": list(files)}
    if "" in found or "train" not in found:
        odd = f"{found[''][0].relative_to(path)} for no part" if "" in found else "none for train"
        raise DataError(
            f"{path} has texts for {' and '.join(filter(None, found))}, and {odd}",
            expected="each text in train, valid or test, or none of them so named",
            repair="move what is to be trained on into a folder train, or rename the others",
        )
    return found


def _require_of_use(section: recipe.Data, files: Sequence[Path], whole: bool) -> None:
    """Refuse keys that nothing would come of."""
    plain = [file for file in files if table_suffix(file) in ("", ".txt")]
    if plain and section.sets("columns.text"):
        raise ConfigError(
            f"data.columns.text: {plain[0].name} has no columns",
            expected="columns for a table only",
            repair="leave data.columns.text out",
        )
    if plain and not whole and any(step.strip == "mail_headers" for step in section.clean):
        raise ConfigError(
            f"data.clean: strip: mail_headers takes whole texts, and {plain[0].name} is cleaned "
            "line by line",
            expected="a folder with a file for each text, or a table",
        )


def _records(file: Path, section: recipe.Data, whole: bool) -> Iterator[Record]:
    """Place and text of each text that is cleaned by itself."""
    if table_suffix(file) not in ("", ".txt"):
        names = section.columns.text
        for where, *values in records(file, names if isinstance(names, tuple) else (names,)):
            yield where, " ".join(values), ""
    elif whole:
        yield file.name, "\n".join(lines_of(file)), ""
    else:
        for number, line in enumerate(lines_of(file), 1):
            yield f"{file.name} line {number}", line, ""


def _divided(texts: Mapping[str, str], section: recipe.Data) -> dict[str, str]:
    """With the parts that are missing cut off the end of train, test last."""
    train = texts["train"]
    if section.split_rows is not None:
        counts = section.split_rows
        if sum(counts) > len(train):
            raise DataError(
                f"data.split_rows asks for {sum(counts):,} characters, and {section.source!r} has "
                f"{len(train):,}",
                expected=f"three counts whose sum is at most {len(train)}",
            )
        if sum(counts) < len(train):
            left = len(train) - sum(counts)
            say(f"data: {left:,} characters behind those of data.split_rows are not read")
        first, second, end = (int(place) for place in np.cumsum(counts))
    else:
        end = len(train)
        test = 0.0 if "test" in texts else section.test
        valid = 0.0 if "valid" in texts else section.valid
        # rounded first: 1 - 0.1 - 0.1 is a little less than 0.8
        first = math.floor(round(end * (1 - test - valid), 6))
        second = math.floor(round(end * (1 - test), 6))
    cut = {
        "train": train[: max(first, 0)],
        "valid": train[max(first, 0) : second],
        "test": train[second:end],
    }
    return cut | {part: text for part, text in texts.items() if part != "train"}

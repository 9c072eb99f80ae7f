"""Folders with one folder of text files for each class; each file is one text.

Parts and labels are those of folder.read_classes, cleaning and empty texts those of tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modelwright.core import recipe
from modelwright.core.errors import DataError
from modelwright.data import folder
from modelwright.data.clean import Record, cleaned, findings
from modelwright.data.opening import UNREADABLE, unpacked
from modelwright.data.rows import Column, Loaded, Ragged, Rows
from modelwright.data.tables import MAX_TEXT_BYTES
from modelwright.data.text import code_points, labelled_rows

SUFFIXES = (".txt", ".txt.gz")


def is_here(path: Path) -> bool:
    """Whether a path is a folder whose first files are mostly texts, in folders of their own."""
    return path.is_dir() and folder.holds(path, SUFFIXES)


def read(root: Path, section: recipe.Data) -> Loaded:
    """Every readable text of a folder with one folder of .txt or .txt.gz files for each class.

    A file that is no UTF-8 becomes a finding broken_files, one without a text empty_texts.

    Raises: DataError as folder.read_classes does.
    """
    parts, labels, found = folder.read_classes(root, section, TEXTS)
    counts: dict[str, int] = {}
    raw = (
        (part, cleaned(_records(rows, labels), section.clean, counts))
        for part, rows in parts.items()
    )
    made, labels, more = labelled_rows(raw, labels)
    return made, labels, [*found, *more, *findings(counts)]


def _records(rows: Rows, labels: Sequence[str]) -> Iterator[Record]:
    texts = rows.inputs["ids"]
    assert isinstance(texts, Ragged)
    for row, origin in enumerate(rows.origins):
        yield origin, texts[row].tobytes().decode("utf-32-le"), labels[int(rows.classes[row])]


def decode(content: bytes) -> str:
    """The text of a file's bytes, gzip or not.

    Raises: DataError if it is no UTF-8 or too long.
    """
    try:
        content = unpacked(content, MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise DataError("the text is too long", expected=f"at most {MAX_TEXT_BYTES:,} bytes")
        return content.decode("utf-8-sig")
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise DataError(f"the text cannot be read: {error}", expected="UTF-8") from error


def _read(files: Sequence[Path], section: recipe.Data) -> tuple[dict[Path, str], dict[Path, str]]:
    return folder.read_each(files, decode)


def _join(found: Mapping[Path, str], chosen: Sequence[Path]) -> dict[str, Column]:
    return {"ids": code_points([found[file] for file in chosen])}


TEXTS = folder.Medium("text", "UTF-8 text", SUFFIXES, _read, _join)

"""Pictures with texts: JSON lines beside a folder of pictures, and what a model takes of both.

A row is one picture with one of its texts; its target is the number of the picture, so that rows
of one number belong together. A picture is kept once, however many texts it has (data/shared.py),
and parts are cut by picture. Pixels are read as data/image.py does, words as data/text.py.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import DataError
from modelwright.data import image, text
from modelwright.data.clean import Step, every_step, findings
from modelwright.data.folder import IMAGES
from modelwright.data.opening import UNREADABLE, inside, open_text, unreadable
from modelwright.data.rows import Column, Finding, Loaded, Prepared, Rows, ragged
from modelwright.data.shared import Shared
from modelwright.data.tables import encodable

SUFFIXES = (".jsonl", ".jsonl.gz")
PARTS = {name: part for part, names in text.PART_NAMES.items() for name in names}
MOST_TEXTS = 64  # of one question
VECTOR_DIM = 128  # of the space that pictures and texts share
PICTURE = ("image", "file_name", "image_path", "filename", "file", "path")  # the key that names it
TEXTS = ("captions", "caption", "texts", "text", "sentences", "sentence")  # one text, or a list
_LINE = '{"image": "a.jpg", "captions": ["a dog runs", …], "split": "train"} on each line'


def is_here(path: Path) -> bool:
    """Whether the path is a file of pictures and their texts, or a folder with one such file."""
    return _table(path) is not None


def _table(path: Path) -> Path | None:
    if path.is_dir():
        found = [file for file in sorted(path.iterdir()) if file.is_file() and _table(file)]
        return found[0] if len(found) == 1 else None
    if not path.is_file() or not path.name.endswith(SUFFIXES):
        return None
    try:
        _, first = next(_records(path))
    except (DataError, StopIteration):
        return None
    name = first.get(_key(first, PICTURE))
    pictured = "image" in first or str(name).lower().endswith(IMAGES.suffixes)
    return path if pictured and _key(first, TEXTS) else None


def _key(record: Mapping[str, Any], spellings: Sequence[str]) -> str:
    """The first of the spellings that a line has."""
    return next((one for one in spellings if one in record), "")


def read(path: Path, section: recipe.Data) -> Loaded:
    """A row for each picture and text of a JSON lines file, plain or .gz.

    Each line names a picture by its file, beside the table or in the folder images there, and its
    texts: captions, a list, or text, or other keys of PICTURE and TEXTS; the first of them that a
    line has. split says the part: train, valid (or val, dev) or test.
    A picture that cannot be read becomes a finding broken_files, an empty text one empty_texts;
    their rows are left out. The size of the pictures is chosen as for image folders.

    Raises: DataError, with the line, for a table that cannot be read or without a readable picture;
        MissingExtra without Pillow.
    """
    table = _table(path)
    if table is None:
        raise DataError(f"{path} has no table of pictures and their texts", expected=_LINE)
    counts: dict[str, int] = {}
    listed: dict[str, list[tuple[Path, str]]] = {}
    steps: dict[str, Step] = {}  # of each part its own: what was there in another is no duplicate
    missing, empty = {}, []
    for line, record in _records(table):
        file, texts, part = _record(table, line, record)
        if not file.is_file():
            missing[file] = "it is not there"
            continue
        if part not in steps:
            steps[part], listed[part] = every_step(section.clean, counts), []
        for one in map(steps[part], texts):
            if one is None:
                continue
            if one.strip():
                listed[part].append((file, one.strip()))
            else:
                empty.append(f"{table.name} line {line}")
    files = list(dict.fromkeys(file for rows in listed.values() for file, _ in rows))
    contents, broken = IMAGES.read(files, section)
    if not contents:
        raise DataError(f"{table}: none of its pictures can be read", expected=_LINE)
    number = {file: place for place, file in enumerate(contents)}
    images = IMAGES.join(contents, list(contents))["image"]
    assert isinstance(images, np.ndarray)
    parts = {}
    for part, rows in listed.items():
        kept = [(number[file], one) for file, one in rows if file in number]
        pictures = np.array([picture for picture, _ in kept], np.int64)
        texts = [one for _, one in kept]
        column = Shared(images, pictures).take(np.arange(len(kept)))
        inputs: dict[str, Column] = {"image": column, "ids": text.code_points(texts)}
        parts[part] = Rows(inputs, pictures, texts)
    parts.setdefault("train", next(iter(parts.values())).take(np.zeros(0, np.int64)))
    return parts, [], [*_findings({**missing, **broken}, empty), *findings(counts)]


def _record(table: Path, line: int, record: Mapping[str, Any]) -> tuple[Path, list[str], str]:
    """File, texts and part of one line."""
    name, texts = (record.get(_key(record, keys)) for keys in (PICTURE, TEXTS))
    texts = [texts] if isinstance(texts, str) else texts
    part = PARTS.get(str(record.get("split", "train")).lower())
    if (
        not (isinstance(name, str) and name and isinstance(texts, list) and part is not None)
        or not all(isinstance(one, str) for one in texts)
    ):  # fmt: skip
        raise DataError(f"{table}, line {line}: {str(dict(record))[:80]}", expected=_LINE)
    folder = table.parent.resolve()
    file = next((one for one in (folder / name, folder / "images" / name) if one.is_file()),
                folder / name)  # fmt: skip
    if not inside(file, folder):
        raise DataError(
            f"{table}, line {line}: {name!r} leaves the folder of the table",
            expected="pictures beside the table or below it",
        )
    return file, [encodable(one) for one in texts], part


def _records(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open_text(table) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{table}, line {number}: {error}", expected=_LINE) from error
                if not isinstance(found, dict):
                    raise DataError(f"{table}, line {number}: no JSON object", expected=_LINE)
                yield number, found
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise unreadable(table, error) from error


def _findings(broken: Mapping[Path, str], empty: Sequence[str]) -> list[Finding]:
    found = []
    if broken:
        names = sorted((file.name, reason) for file, reason in broken.items())
        are = "picture is" if len(names) == 1 else "pictures are"
        text = f"{len(names)} {are} not readable as {image.KNOWN}; {names[0][0]}: {names[0][1]}"
        found.append(Finding.of("broken_files", [name for name, _ in names], text))
    if empty:
        text = f"{len(empty)} texts are empty and were left out"
        found.append(Finding.of("empty_texts", empty, text))
    return found


def prepare(parts: dict[str, Rows], section: recipe.Data, answer: str) -> Prepared:
    """Pictures as they are, texts to ids; statistics and vocabulary come from train alone."""
    read_texts = {
        part: Rows({"ids": rows.inputs["ids"]}, rows.targets, rows.origins)
        for part, rows in parts.items()
    }
    made = text.prepare(read_texts, section, answer)
    column = parts["train"].inputs["image"]
    assert isinstance(column, Shared)
    mean, std = image.statistics(column.values)
    shape = column.values.shape[1:]
    inputs = {
        "kind": "image_text",
        "image": {"kind": "image", "shape": shape, "mean": mean, "std": std},
        "text": made.inputs,
        # what every kind says whose rows differ in length
        **{name: made.inputs[name] for name in ("vocab_size", "length", "max_length")},
    }
    pairs = {
        part: Rows(
            {"image": parts[part].inputs["image"], **rows.inputs}, rows.targets, rows.origins
        )
        for part, rows in made.parts.items()
    }
    return Prepared(pairs, inputs, {"dim": VECTOR_DIM}, made.files)


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to pictures and texts before the graph, for the manifest."""
    return {
        "image": image.preprocess(inputs["image"]), "text": text.preprocess(inputs["text"]),
    }  # fmt: skip


def ask(content: bytes, texts: Sequence[str]) -> bytes:
    """A picture's bytes and texts to choose from, as one question."""
    return json.dumps(
        {"picture": base64.b64encode(content).decode(), "texts": list(texts)}
    ).encode()


def _asked(content: bytes) -> tuple[bytes, list[str]]:
    try:
        question = json.loads(content)
        texts = [encodable(one).strip() for one in question["texts"] if one.strip()]
        picture = base64.b64decode(question["picture"], validate=True)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            "the question cannot be read",
            expected='JSON: {"picture": a picture in base64, "texts": [TEXT, …]}',
        ) from error
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise DataError(
            f"{len(texts)} texts to choose from", expected=f"1 to {MOST_TEXTS} texts, none empty"
        )
    return picture, list(dict.fromkeys(texts))


def read_input(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, npt.NDArray[Any]]:
    """A question of `ask` as a batch with a row for each of its texts.

    Raises: DataError if it is none, or its picture is no picture.
    """
    picture, texts = _asked(content)
    pixels = image.read_input(picture, inputs["image"], files)["image"]
    rows = [text.read_input(one.encode(), inputs["text"], files)["ids"][0] for one in texts]
    ids = ragged(rows).padded(np.arange(len(rows)))
    return {"image": np.repeat(pixels, len(rows), axis=0), "ids": ids}


def tokens(content: bytes, inputs: Mapping[str, Any], files: Any = None) -> list[str]:
    """The texts of a question, in the order of its rows."""
    return _asked(content)[1]

"""What every source turns into: rows of inputs with targets, in three parts, kept on disk.

Reads and writes `train.safetensors`, `valid.safetensors` and `test.safetensors` of a run's data
folder (docs/reference/run-folder.md). The test part is read only by who asks for "test".
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from modelwright.core.errors import ConfigError, DataError, IntegrityError, did_you_mean
from modelwright.core.files import sha256, write_bytes, write_json
from modelwright.core.signature import NO_TARGET, PAD_MULTIPLE, Signature
from modelwright.data.shared import Shared, Windows

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]
Targets = npt.NDArray[np.int64]

PARTS = ("train", "valid", "test")
LISTED = 100  # rows that a finding names
HASHES = "hashes.json"  # SHA-256 of each part's file


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    check: a name of recipe.BLOCKING_CHECKS or recipe.NOTED_CHECKS.
    count: the full number of cases; rows lists at most the first LISTED, each a tuple of row names.
    """

    check: str
    count: int
    text: str
    rows: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(
        cls, check: str, cases: Sequence[str | tuple[str, ...]], text: str, count: int | None = None
    ) -> "Finding":
        """Cases by the names of their rows; `count` where one case counts as several."""
        rows = tuple((case,) if isinstance(case, str) else case for case in cases[:LISTED])
        return cls(check, len(cases) if count is None else count, text, rows)


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length, one after the other.

    values: (all places, ...); offsets: int64 (rows + 1,), where each row begins and the last ends
    """

    values: Array
    offsets: Indices

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Array:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Indices:
        """int64 (rows,)."""
        return np.diff(self.offsets)

    def lengths_of(self, indices: Indices) -> Indices:
        """Of the rows at `indices` alone."""
        return self.offsets[indices + 1] - self.offsets[indices]

    def padded(self, indices: Indices, fill: float = 0, among: Indices | None = None) -> Array:
        """The rows at `indices`, (len(indices), time, ...), filled up behind their ends.

        Time is that of the longest of `among`, or else of them, rounded up to PAD_MULTIPLE.
        """
        lengths = self.lengths_of(indices)
        longest = lengths if among is None else self.lengths_of(among)
        time = max(1, -(-int(longest.max(initial=1)) // PAD_MULTIPLE)) * PAD_MULTIPLE
        places = np.arange(time)
        inside = places < lengths[:, None]
        out = np.full((len(indices), time, *self.values.shape[1:]), fill, self.values.dtype)
        out[inside] = self.values[(self.offsets[indices][:, None] + places)[inside]]
        return out

    def take(self, indices: Indices) -> "Ragged":
        """The rows at `indices`, in that order."""
        return ragged([self[int(row)] for row in indices], self.values)


def ragged(rows: Sequence[Array], like: Array | None = None) -> Ragged:
    """Put rows of unequal length together; `like` gives type and width where there may be none."""
    empty = like[:0] if like is not None else rows[0][:0] if len(rows) else np.zeros(0, np.int64)
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Ragged(np.concatenate([empty, *rows]), offsets)


Column = Array | Ragged | Windows | Shared


@dataclass(frozen=True)
class Rows:
    """Inputs and what should come out.

    inputs: a column for each tensor of the model's signature but "lengths", which is made from
        the unequal rows of the others
    targets: int64 (rows,) classes, or numbers of what rows belong to; Ragged int64, a label for
        each place; or float32 (rows, ...), Windows where they are what comes next in a table
    origins: what a person knows each row by: its file relative to the source, its text, or ""
    """

    inputs: dict[str, Column]
    targets: Column
    origins: list[str]

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def images(self) -> Images:
        """uint8 (rows, channels, height, width), of rows that are images."""
        column = self.inputs["image"]
        assert isinstance(column, np.ndarray)
        return column

    @property
    def classes(self) -> Targets:
        """int64 (rows,), where each row has one class."""
        assert isinstance(self.targets, np.ndarray)
        return self.targets

    @property
    def nbytes(self) -> int:
        """Memory of all columns."""
        return sum(value.nbytes for value in _tensors(self).values())

    @property
    def lengths(self) -> Indices | None:
        """Places of each row, those of all inputs together, int64 (rows,), where they differ."""
        found = [c.lengths for c in self.inputs.values() if isinstance(c, Ragged)]
        return np.sum(found, axis=0) if found else None

    def places(self, signature: Signature) -> Indices | None:
        """Places of each row's answers, int64 (rows,), where they differ and each has one."""
        judged = signature.outputs[0]
        followed = {size: one.name for one in signature.inputs for size in one.shape}
        column = self.inputs.get(followed.get(judged.follows, ""))
        return judged.places(column.lengths) if isinstance(column, Ragged) else None

    def take(self, indices: Indices) -> "Rows":
        """The rows at `indices`, in that order."""
        inputs = {name: _take(column, indices) for name, column in self.inputs.items()}
        return Rows(inputs, _take(self.targets, indices), [self.origins[i] for i in indices])

    def batch(self, indices: Indices, among: Indices | None = None) -> dict[str, Array]:
        """The inputs at `indices` as arrays, padded where rows differ in length."""
        return batch(self.inputs, indices, among)

    def batch_targets(self, indices: Indices, among: Indices | None = None) -> Array:
        """The targets at `indices`; NO_TARGET behind the end of shorter rows."""
        if isinstance(self.targets, Ragged):
            return _wide(self.targets.padded(indices, NO_TARGET, among))
        return _gather(self.targets, indices)

    def name(self, part: str, index: int) -> str:
        """A row's name for people: `train 12 (cats/a.png)`, or `train 12` where it has no file."""
        origin = self.origins[index]
        short = origin if len(origin) <= NAME_LENGTH else origin[: NAME_LENGTH - 1] + "…"
        return f"{part} {index} ({short})" if origin else f"{part} {index}"


NAME_LENGTH = 60
Inputs = Mapping[str, Column]


def batch(inputs: Inputs, indices: Indices, among: Indices | None = None) -> dict[str, Array]:
    """The rows at `indices` as the arrays of a signature, with "lengths" where a model takes them.

    They are as long as the longest of `among`, or else of them. Sound is padded with silence, which
    no mask could tell from a quiet recording.
    """
    arrays: dict[str, Array] = {}
    for name, column in inputs.items():
        if isinstance(column, Ragged):
            arrays[name] = _wide(column.padded(indices, among=among))
            if name == "samples":
                arrays[name] = arrays[name].astype(np.float32) / SOUND_SCALE
                arrays["lengths"] = column.lengths_of(indices)
        else:
            arrays[name] = _gather(column, indices)
    return arrays


def _gather(column: Array | Windows | Shared, indices: Indices) -> Array:
    if isinstance(column, Windows | Shared):
        return _wide(column.gather(indices))
    return np.ascontiguousarray(column[indices])


def _wide(values: Array) -> Array:
    """Ids as models take them; long streams are kept in half the bytes."""
    return values.astype(np.int64) if values.dtype == np.int32 else values


SOUND_SCALE = 32768  # recordings are kept as int16


def _take(column: Column, indices: Indices) -> Column:
    if isinstance(column, Windows):
        return replace(column, starts=column.starts[indices])
    return column.take(indices) if isinstance(column, Ragged | Shared) else column[indices]


def typical(rows: Rows, number: int) -> Indices:
    """That many rows of the median length, or the first ones where all are alike."""
    every = np.arange(len(rows))
    if rows.lengths is not None:
        every = np.argsort(np.abs(rows.lengths - np.median(rows.lengths)), kind="stable")
    return every[np.arange(number) % len(rows)]


def row_hashes(inputs: Inputs) -> list[bytes]:
    """One 16-byte hash of each row's inputs; equal exactly where the rows are equal."""
    number = len(next(iter(inputs.values())))
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(number)]
    for column in inputs.values():
        for row, digest in enumerate(hashes):
            digest.update(np.ascontiguousarray(column[row]).data)
    return [digest.digest() for digest in hashes]


def text_hashes(texts: Sequence[str]) -> list[bytes]:
    """One 16-byte hash of each text; equal exactly where the texts are equal."""
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    return [hashlib.blake2b(text, digest_size=16).digest() for text in encoded]


@dataclass(frozen=True)
class Dataset:
    """Three parts that share one description of their inputs; build it with `dataset`.

    inputs: the description that the embedding needs (models/embed.py), learned from train alone.
    outputs: the description that the head needs (models/heads.py).
    labels: names of the classes; empty where the answer is not one.
    files: what must travel with the model besides its weights, such as a tokenizer, by name.
    digest: hex SHA-256 over every part's inputs and targets, and the labels.
    findings: what was found while loading; the rows concerned are already left out.
    """

    parts: dict[str, Rows]
    labels: list[str]
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    files: dict[str, bytes]
    source: str
    digest: str
    findings: list[Finding]

    @property
    def kind(self) -> str:
        """Of the inputs: image, text, …"""
        return str(self.inputs["kind"])


# What a source gives: the parts it has (train at least), the labels, what it found. Rows that are
# not images are still raw: what a model takes is made once the parts are divided (`Prepared`).
Loaded = tuple[dict[str, Rows], list[str], list[Finding]]


@dataclass(frozen=True)
class Prepared:
    """Divided rows as a model takes them; whatever had to be learned comes from train alone.

    inputs: the description that the embedding needs; answers: what the head needs besides labels
    files: what must travel with the model, by name
    findings: what came up on the way; the rows concerned are already left out
    """

    parts: dict[str, Rows]
    inputs: dict[str, Any]
    answers: dict[str, Any]
    files: dict[str, bytes]
    findings: tuple[Finding, ...] = ()


def dataset(
    parts: Mapping[str, Rows], labels: Sequence[str], source: str, findings: Sequence[Finding],
    inputs: Mapping[str, Any], outputs: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> Dataset:  # fmt: skip
    """A Dataset with its digest computed from the rows given."""
    ordered = {part: parts[part] for part in PARTS}
    return Dataset(
        ordered, list(labels), dict(inputs), dict(outputs), dict(files or {}), source,
        _digest(ordered, labels), list(findings),
    )  # fmt: skip


def _digest(parts: Mapping[str, Rows], labels: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(list(labels)).encode())
    for part, rows in parts.items():
        for name, value in sorted(_tensors(rows).items()):
            digest.update(f"{part} {name} {value.dtype} {value.shape}".encode())
            digest.update(value.data)
    return digest.hexdigest()


# beside the values of a column: where rows of unequal length begin; where windows do, and their
# length; which value each row has, where they share them
OFFSETS, STARTS, INDEX = ".offsets", ".starts", ".index"
ORIGINS = ".origins"  # JSON; in the header, texts of a large set would be more than may stand there


def _tensors(rows: Rows) -> dict[str, Array]:
    """The columns under the names that they have in a file."""
    tensors: dict[str, Array] = {}
    for name, column in {**rows.inputs, "targets": rows.targets}.items():
        if isinstance(column, Ragged):
            tensors[name + OFFSETS] = column.offsets
            column = column.values
        elif isinstance(column, Windows):
            tensors[name + STARTS] = np.append(column.starts, column.length)
            column = column.values
        elif isinstance(column, Shared):
            tensors[name + INDEX] = column.index
            column = column.values
        tensors[name] = np.ascontiguousarray(column)
    return tensors


def save(data: Dataset, folder: Path) -> None:
    """Write each part as `<part>.safetensors`, each file whole or not at all, and their hashes.

    Raises: StorageError when the disk refuses.
    """
    hashes = {}
    for part, rows in data.parts.items():
        origins = json.dumps(rows.origins, ensure_ascii=False).encode("utf-8", "surrogatepass")
        tensors = {**_tensors(rows), ORIGINS: np.frombuffer(origins, np.uint8)}
        content = safetensors.numpy.save(tensors, {"inputs": json.dumps(list(rows.inputs))})
        write_bytes(folder / f"{part}.safetensors", content)
        hashes[part] = hashlib.sha256(content).hexdigest()
    for name, content in data.files.items():
        write_bytes(folder / name, content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    write_json(folder / HASHES, hashes)


def joined(first: Rows, second: Rows) -> Rows:
    """The rows of two parts of one dataset, one after the other."""
    inputs = {name: _join(first.inputs[name], second.inputs[name]) for name in first.inputs}
    targets = _join(first.targets, second.targets)
    return Rows(inputs, targets, first.origins + second.origins)


def _join(first: Column, second: Column) -> Column:
    if isinstance(first, Ragged) and isinstance(second, Windows):
        second = ragged([second[row] for row in range(len(second))], second.values)
    if isinstance(first, Ragged):
        assert isinstance(second, Ragged)
        ends = second.offsets[1:] + first.offsets[-1]
        return Ragged(
            np.concatenate([first.values, second.values]), np.concatenate([first.offsets, ends])
        )
    if isinstance(first, Windows):
        assert isinstance(second, Windows)
        starts = np.concatenate([first.starts, second.starts + len(first.values)])
        return Windows(np.concatenate([first.values, second.values]), starts, first.length)
    if isinstance(first, Shared):
        assert isinstance(second, Shared)
        return first.joined(second)
    assert isinstance(second, np.ndarray)
    return np.concatenate([first, second])


def load_files(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Files that `save` wrote beside the parts.

    Raises: IntegrityError if one is not what `save` wrote.
    """
    found = {}
    for name in names:
        try:
            found[name] = (folder / name).read_bytes()
            whole = sha256(folder / name) == json.loads((folder / HASHES).read_bytes())[name]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise _unsound(folder / name) from error
        if not whole:
            raise _unsound(folder / name)
    return found


def load_part(folder: Path, part: str) -> Rows:
    """Read one part that `save` wrote, and no other.

    Raises: ConfigError for an unknown part; DataError if the file is not there; IntegrityError if
        it is not what `save` writes.
    """
    if part not in PARTS:
        raise ConfigError(f"no part {part!r}", expected=did_you_mean(part, PARTS))
    path = folder / f"{part}.safetensors"
    if not path.is_file():
        raise DataError(
            f"{path} is missing", expected="the rows that the gate saved", repair="run it again"
        )
    try:
        if sha256(path) != json.loads((folder / HASHES).read_bytes())[part]:
            raise _unsound(path)
        with safetensors.safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names = json.loads((file.metadata() or {})["inputs"])
        origins = json.loads(tensors.pop(ORIGINS).tobytes().decode("utf-8", "surrogatepass"))
        columns = {name: _column(name, tensors) for name in names}  # in the signature's order
        targets = _column("targets", tensors)
        sound = bool(columns) and {len(origins)} == set(map(len, (*columns.values(), targets)))
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _unsound(path) from error
    if not sound:
        raise _unsound(path)
    return Rows(columns, targets, origins)


def _column(name: str, tensors: Mapping[str, Array]) -> Column:
    if name + OFFSETS in tensors:
        return Ragged(tensors[name], tensors[name + OFFSETS])
    if name + STARTS in tensors:
        *starts, length = tensors[name + STARTS].tolist()
        return Windows(tensors[name], np.array(starts, np.int64), length)
    if name + INDEX in tensors:
        return Shared(tensors[name], tensors[name + INDEX])
    return tensors[name]


def _unsound(path: Path) -> IntegrityError:
    return IntegrityError(
        f"{path} is not the file that was written",
        expected=f"the SHA-256 in {HASHES}, and inputs, targets and origins inside",
        repair="delete the run's data folder and run the same command again",
    )

"""What every source turns into: rows of images with targets, in three parts, kept on disk.

Reads and writes `train.safetensors`, `valid.safetensors` and `test.safetensors` of a run's data
folder (docs/reference/run-folder.md). The test part is read only by who asks for "test".
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from modelwright.core.errors import ConfigError, DataError, IntegrityError, did_you_mean
from modelwright.core.files import sha256, write_bytes, write_json

Images = npt.NDArray[np.uint8]
Targets = npt.NDArray[np.int64]

PARTS = ("train", "valid", "test")
HASHES = "hashes.json"  # SHA-256 of each part's file
# Of 255: keeps a channel that never changes from being divided by zero and amplified to noise.
SMALLEST_STD = 1.0


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    check: a name of recipe.BLOCKING_CHECKS or recipe.NOTED_CHECKS.
    count: the full number of cases; rows lists at most the first 100, each a tuple of row names.
    """

    check: str
    count: int
    text: str
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Rows:
    """Images and their classes.

    images: uint8 (rows, channels, height, width)
    targets: int64 (rows,)
    origins: one for each row: its file, relative to the source, or "".
    """

    images: Images
    targets: Targets
    origins: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: npt.NDArray[np.int64]) -> "Rows":
        """The rows at `indices`, in that order."""
        return Rows(self.images[indices], self.targets[indices], [self.origins[i] for i in indices])

    def name(self, part: str, index: int) -> str:
        """A row's name for people: `train 12 (cats/a.png)`, or `train 12` where it has no file."""
        origin = self.origins[index]
        return f"{part} {index} ({origin})" if origin else f"{part} {index}"


@dataclass(frozen=True)
class Dataset:
    """Three parts that share one shape and one list of labels; build it with `dataset`.

    mean, std: per channel, on the 0–255 scale, of the train part alone.
    digest: hex SHA-256 over every part's shapes, pixels and targets, and the labels.
    findings: what was found while loading; the rows concerned are already left out.
    """

    parts: dict[str, Rows]
    labels: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    digest: str
    findings: list[Finding]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        channels, height, width = self.parts["train"].images.shape[1:]
        return channels, height, width


# What a source gives: the parts it has (train at least), the labels, what it found.
Loaded = tuple[dict[str, Rows], list[str], list[Finding]]


def dataset(
    parts: Mapping[str, Rows], labels: Sequence[str], source: str, findings: Sequence[Finding]
) -> Dataset:
    """A Dataset with its statistics and digest computed from the rows given."""
    ordered = {part: parts[part] for part in PARTS}
    mean, std = statistics(ordered["train"].images)
    return Dataset(
        ordered, list(labels), mean, std, source, _digest(ordered, labels), list(findings)
    )


def statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, on the 0–255 scale, exact for any number of rows.

    images: uint8 (rows, channels, height, width)

    The standard deviation is at least SMALLEST_STD; no rows give 0 and 1.
    """
    channels = images.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), 4096):
        for channel in range(channels):
            pixels = images[start : start + 4096, channel].reshape(-1)
            counts[channel] += np.bincount(pixels, minlength=256)
    values = np.arange(256, dtype=np.float64)
    number = np.maximum(counts.sum(axis=1), 1)
    mean = counts @ values / number
    variance = np.maximum(counts @ values**2 / number - mean**2, 0)
    std = np.maximum(np.sqrt(variance), SMALLEST_STD)
    return tuple(mean.tolist()), tuple(std.tolist())


def image_hashes(images: Images) -> list[bytes]:
    """One 16-byte hash of each image's pixels; equal exactly where the pixels are equal."""
    flat = np.ascontiguousarray(images).reshape(len(images), math.prod(images.shape[1:]))
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in flat]


def _digest(parts: Mapping[str, Rows], labels: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(list(labels)).encode())
    for part, rows in parts.items():
        digest.update(f"{part} {rows.images.shape}".encode())
        digest.update(np.ascontiguousarray(rows.images).data)
        digest.update(np.ascontiguousarray(rows.targets).data)
    return digest.hexdigest()


def save(data: Dataset, folder: Path) -> None:
    """Write each part as `<part>.safetensors`, each file whole or not at all, and their hashes.

    Raises: StorageError when the disk refuses.
    """
    hashes = {}
    for part, rows in data.parts.items():
        tensors: dict[str, npt.NDArray[Any]] = {
            "images": np.ascontiguousarray(rows.images),
            "targets": np.ascontiguousarray(rows.targets),
        }
        content = safetensors.numpy.save(tensors, {"origins": json.dumps(rows.origins)})
        write_bytes(folder / f"{part}.safetensors", content)
        hashes[part] = hashlib.sha256(content).hexdigest()
    write_json(folder / HASHES, hashes)


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
        recorded = json.loads((folder / HASHES).read_bytes())[part]
        if sha256(path) != recorded:
            raise _unsound(path)
        with safetensors.safe_open(path, "np") as file:
            images, targets = file.get_tensor("images"), file.get_tensor("targets")
            origins = json.loads((file.metadata() or {})["origins"])
        sound = (
            images.dtype == np.uint8
            and images.ndim == 4
            and targets.dtype == np.int64
            and len(images) == len(targets) == len(origins)
        )
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _unsound(path) from error
    if not sound:
        raise _unsound(path)
    return Rows(images, targets, origins)


def _unsound(path: Path) -> IntegrityError:
    return IntegrityError(
        f"{path} is not the file that was written",
        expected=f"the SHA-256 in {HASHES}, and images, targets and origins inside",
        repair="delete the run's data folder and run the same command again",
    )

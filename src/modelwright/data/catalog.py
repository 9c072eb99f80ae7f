"""SOURCES: where rows come from, and how they are divided. To add one: write a file, add a row.

`load` gives a Dataset of three parts. A source gives the parts it has; what is missing is cut off:
test first, then valid from train, by class, by a seed, and never between two equal images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError
from modelwright.data import arrays, folder
from modelwright.data.rows import (
    PARTS,
    Dataset,
    Finding,
    Loaded,
    Rows,
    dataset,
    image_hashes,
    load_part,
    save,
)

__all__ = ["PARTS", "SOURCES", "Dataset", "Finding", "Rows", "Source", "load", "load_part", "save"]


@dataclass(frozen=True)
class Source:
    """One format of data.

    is_here: whether a path that exists looks like it; format: auto takes the first that says yes.
    read: the rows at a path.
    """

    is_here: Callable[[Path], bool]
    read: Callable[[Path, recipe.Data], Loaded]
    looks_like: str


SOURCES: dict[str, Source] = {
    "digits": Source(lambda path: False, arrays.read_digits, 'the word "digits"'),
    "npz": Source(
        lambda path: path.is_file() and path.suffix == ".npz", arrays.read_npz, "a file *.npz"
    ),
    "idx": Source(
        lambda path: path.is_dir() and arrays.has_idx(path),
        arrays.read_idx,
        "a folder with train-images-idx3-ubyte[.gz] and its companions",
    ),
    "folder": Source(
        lambda path: path.is_dir(),
        folder.read,
        "a folder with one folder of PNG or JPEG files for each class",
    ),
}
_EXPECTED = "; ".join(source.looks_like for source in SOURCES.values())


def load(section: recipe.Data) -> Dataset:
    """Read the rows of a recipe and divide them into train, valid and test.

    The same recipe and files give the same rows in the same order. Rows with a fault are left out
    and listed in `findings`; the gate (checks.py) decides what becomes of them.

    Raises: ConfigError for a source that is not there or no known format; DataError for one that
        cannot be read; MissingExtra for a library that the format needs.
    """
    name, path = _recognise(section)
    try:
        parts, labels, findings = SOURCES[name].read(path, section)
    except OSError as error:
        raise DataError(
            f"data.source: {section.source!r} cannot be read: {error}",
            expected="permission to read it",
        ) from error
    if not len(parts["train"]):
        raise DataError(
            f"data.source: {section.source!r} has no usable training row",
            expected="; ".join(finding.text for finding in findings) or "rows in the train part",
        )
    parts = dict(parts)
    if "test" not in parts:
        parts["train"], parts["test"] = cut(parts["train"], section.test, section.split_seed)
    if "valid" not in parts:
        parts["train"], parts["valid"] = cut(parts["train"], section.valid, section.split_seed)
    return dataset(parts, labels, section.source, findings)


def cut(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """The rows that stay and the rows cut off: `share` of each class, in their old order.

    Equal images stay together, so that no cut makes a leak; a class gives at least one image and
    keeps at least one, unless the share is 0 or 1.
    """
    images = image_hashes(rows.images)
    groups: dict[bytes, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image, []).append(index)
    by_class: dict[int, list[list[int]]] = {}
    for group in groups.values():  # a group of contradicting labels counts for its first row's
        by_class.setdefault(int(rows.targets[group[0]]), []).append(group)
    off = np.zeros(len(rows), np.bool_)
    for target in sorted(by_class):
        order = np.random.default_rng((seed, target)).permutation(len(by_class[target]))
        off[_take([by_class[target][i] for i in order], share)] = True
    indices = np.arange(len(rows))
    return rows.take(indices[~off]), rows.take(indices[off])


def _take(groups: Sequence[list[int]], share: float) -> npt.NDArray[np.int64]:
    """The first groups that together hold about `share` of all rows."""
    sizes = np.cumsum([len(group) for group in groups])
    number = int(np.searchsorted(sizes, share * sizes[-1] + 0.5, side="right"))
    if 0 < share < 1:
        number = min(max(number, 1), len(groups) - 1)
    return np.array([index for group in groups[:number] for index in group], np.int64)


def _recognise(section: recipe.Data) -> tuple[str, Path]:
    """The row of SOURCES and the path."""
    source, name = section.source, section.format
    if not source.strip():
        raise ConfigError("data.source is empty", expected='"digits", or a path to the data')
    if source == "digits" and name in ("auto", "digits"):
        return "digits", Path()
    if name == "digits":
        raise ConfigError(
            f"data.format is digits, but data.source is {source!r}", expected=_EXPECTED
        )
    path = Path(source).expanduser()
    if not path.exists():
        raise ConfigError(
            f"data.source: {source!r} is not there",
            expected=_EXPECTED,
            repair=f"correct the path; it is taken from {Path.cwd()}",
        )
    for known, row in SOURCES.items():
        if name == known or (name == "auto" and row.is_here(path)):
            return known, path
    raise ConfigError(
        f"data.source: {source!r} is of no kind that is known",
        expected=_EXPECTED,
        repair="set data.format where the name does not show it",
    )

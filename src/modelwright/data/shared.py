"""Columns whose rows share values: a picture with five captions is kept once, not five times; so is
a table of which rows are stretches that overlap."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shared:
    """Values, and which of them each row has.

    values: (distinct, ...); index: int64 (rows,)
    """

    values: Array
    index: Indices

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Array:
        return np.asarray(self.values[self.index[row]])

    def gather(self, indices: Indices) -> Array:
        """The values of the rows at `indices`, (len(indices), ...)."""
        return np.ascontiguousarray(self.values[self.index[indices]])

    def take(self, indices: Indices) -> "Shared":
        """The rows at `indices`, in that order, with the values that they need and no other."""
        used, index = np.unique(self.index[indices], return_inverse=True)
        values = self.values if len(used) == len(self.values) else self.values[used]
        return Shared(values, index.astype(np.int64))

    def firsts(self) -> Indices:
        """Of each value that a row has, the first row that has it."""
        return np.asarray(np.unique(self.index, return_index=True)[1], np.int64)

    def joined(self, other: "Shared") -> "Shared":
        """The rows of both, one after the other; nobody looks for values that both have."""
        return Shared(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.index, other.index + len(self.values)]),
        )


@dataclass(frozen=True)
class Windows:
    """Stretches of one long table, cut out only when they are asked for.

    values: (time, ...); starts: int64 (rows,), where each stretch begins
    """

    values: Array
    starts: Indices
    length: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> Array:
        return self.values[self.starts[row] : self.starts[row] + self.length]

    def gather(self, indices: Indices) -> Array:
        """The stretches at `indices`, (len(indices), length, ...)."""
        return np.asarray(self.values[self.starts[indices][:, None] + np.arange(self.length)])


def telling(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that make a row of one part a leak in another: a text to translate, whatever its
    translations; shared ones if any; else all.

    >>> list(telling({"image": Shared(np.zeros(1), np.zeros(2, np.int64)), "ids": np.zeros(2)}))
    ['image']
    >>> list(telling({"source": np.zeros(2), "target": np.zeros(2)}))
    ['source']
    """
    if "source" in inputs:
        return {"source": inputs["source"]}
    shared = {name: column for name, column in inputs.items() if isinstance(column, Shared)}
    return shared or dict(inputs)

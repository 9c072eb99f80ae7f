"""Rows to batches, without a state: the batch of a step depends on rows, seed and step alone.

Resuming is therefore exact with nothing to save but the number of the step.
Source of the idea: counter-based random numbers, Salmon et al. 2011 (Random123), here with a hash
of (seed, what for, counter) as the seed of each generator.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from modelwright.core.errors import DataError
from modelwright.core.recipe import Augment
from modelwright.data import augment as steps_of
from modelwright.data.rows import Rows

_ORDERS_KEPT = 2  # a batch mostly lies in one epoch's order or two


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    images: uint8 (batch, channels, height, width), or float32 after interpolating steps; either
        way on the 0–255 scale
    targets: int64 (batch,)
    targets_mixed: int64 (batch,) of the images mixed in, or None
    mix: share of `targets` in the loss; 1 - mix goes to targets_mixed
    """

    images: Tensor
    targets: Tensor
    targets_mixed: Tensor | None = None
    mix: float = 1.0


class Loader:
    """An endless stream of epochs, each every row once in a new order, cut into batches.

    A batch that an epoch's end would leave short is filled from the next epoch, so every batch is
    full and every row comes exactly once an epoch; a batch larger than the data wraps around.

    Args:
        augment: the recipe's steps, in order; data/augment.py.
        num_classes: every target must lie below it.
    Raises: DataError without rows or with a target that is no class; ConfigError for a step that
        would change nothing.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        batch_size: int,
        seed: int,
        augment: Sequence[Augment] = (),
        num_classes: int,
    ) -> None:
        if not len(rows):
            raise DataError("there are no rows to load", expected="at least one row")
        if rows.targets.min() < 0 or rows.targets.max() >= num_classes:
            raise DataError(
                f"targets go from {rows.targets.min()} to {rows.targets.max()}",
                expected=f"0 to {num_classes - 1}, for {num_classes} classes",
            )
        for step in augment:
            steps_of.key_and_value(step)
        self.batch_size, self.seed, self.augment = batch_size, seed, tuple(augment)
        self._images = torch.from_numpy(np.require(rows.images, requirements=("C", "W")))
        self._targets = torch.from_numpy(np.require(rows.targets, requirements=("C", "W")))
        self._orders: OrderedDict[int, Tensor] = OrderedDict()

    def __len__(self) -> int:
        """Rows, not batches."""
        return len(self._targets)

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every row has come once."""
        return math.ceil(len(self) / self.batch_size)

    def indices(self, step: int) -> Tensor:
        """Which rows the batch of `step` (from 0) holds, int64 (batch_size,)."""
        start, number = step * self.batch_size, len(self)
        pieces = []
        missing = self.batch_size
        while missing:
            epoch, place = divmod(start, number)
            piece = self._order(epoch)[place : place + missing]
            pieces.append(piece)
            start += len(piece)
            missing -= len(piece)
        return torch.cat(pieces)

    def batch(self, step: int) -> Batch:
        """The batch of `step` (from 0): the same whenever and in whatever order it is asked for."""
        chosen = self.indices(step)
        images = self._images.index_select(0, chosen)
        targets = self._targets.index_select(0, chosen)
        if not self.augment:
            return Batch(images, targets)
        mixed = steps_of.apply(images, self.augment, _generator(self.seed, "augment", step))
        if mixed.partner is None:
            return Batch(mixed.images, targets)
        return Batch(mixed.images, targets, targets[mixed.partner], mixed.share)

    def _order(self, epoch: int) -> Tensor:
        """The permutation of one epoch; kept for the next call, but a function of (seed, epoch)."""
        if epoch not in self._orders:
            self._orders[epoch] = torch.randperm(
                len(self), generator=_generator(self.seed, "order", epoch)
            )
            while len(self._orders) > _ORDERS_KEPT:
                self._orders.popitem(last=False)
        return self._orders[epoch]


def _generator(seed: int, purpose: str, counter: int) -> Generator:
    digest = hashlib.sha256(f"{seed}/{purpose}/{counter}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7]))

"""Rows to batches, without a state: the batch of a step depends on rows, seed and step alone.

Resuming is therefore exact with nothing to save but the number of the step.
Source of the idea: counter-based random numbers, Salmon et al. 2011 (Random123), here with a hash
of (seed, what for, counter) as the seed of each generator.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from modelwright.core.errors import DataError
from modelwright.core.recipe import Augment
from modelwright.data import augment as steps_of
from modelwright.data import augment_boxes, augment_rows, augment_sound
from modelwright.data.draw import Draw, rows_behind
from modelwright.data.rows import Ragged, Rows

_ORDERS_KEPT = 2  # a batch mostly lies in one epoch's order or two


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    inputs: by the signature's names, in its order; images are uint8, or float32 after
        interpolating steps, either way on the 0–255 scale
    targets: (batch, ...); NO_TARGET at places that are padding
    targets_mixed: int64 (batch,) of the images mixed in, or None
    mix: share of `targets` in the loss; 1 - mix goes to targets_mixed
    """

    inputs: dict[str, Tensor]
    targets: Tensor
    targets_mixed: Tensor | None = None
    mix: float = 1.0

    def cut(self, parts: int) -> "Batch":
        """Each row over time in so many of equal length, side by side, as rows of their own."""
        if parts == 1:
            return self
        return self._each(lambda one: one.reshape(len(one) * parts, -1, *one.shape[2:]))

    def split(self, size: int) -> "list[Batch]":
        """In pieces of at most `size` rows."""
        if size >= len(self.targets):
            return [self]
        targets = torch.split(self.targets, size)
        columns = [torch.split(value, size) for value in self.inputs.values()]
        mixed = self.targets_mixed
        others = [None] * len(targets) if mixed is None else torch.split(mixed, size)
        return [
            Batch(dict(zip(self.inputs, inputs, strict=True)), own, other, self.mix)
            for own, other, *inputs in zip(targets, others, *columns, strict=True)
        ]

    def take(self, rows: Tensor) -> "Batch":
        """The rows at those places."""
        return self._each(lambda one: one[rows])

    def to(self, device: torch.device) -> "Batch":
        """On a device; from pinned memory without waiting until it is there."""
        if device == self.targets.device:
            return self
        return self._each(lambda one: one.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """In memory that a GPU can read by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, act: Callable[[Tensor], Tensor]) -> "Batch":
        mixed = self.targets_mixed
        inputs = {name: act(value) for name, value in self.inputs.items()}
        return Batch(inputs, act(self.targets), None if mixed is None else act(mixed), self.mix)


class Loader:
    """An endless stream of epochs, each every row once in a new order, cut into batches.

    A batch that an epoch's end would leave short is filled from the next epoch, so every batch is
    full and every row comes exactly once an epoch; a batch larger than the data wraps around.
    Rows of unequal length are put together with others of about their own.

    Args:
        augment: the recipe's steps, in order; data/augment.py.
        num_classes: every target must lie below it, where targets are classes.
        rate: samples a second, where rows are recordings.
        batch_steps, window_steps: in which the number of rows, the length of windows grow:
            `parts_at`.
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
        num_classes: int | None = None,
        rate: int | None = None,
        batch_steps: int = 0,
        window_steps: int = 0,
    ) -> None:
        if not len(rows):
            raise DataError("there are no rows to load", expected="at least one row")
        targets = rows.targets
        targets = targets if isinstance(targets, np.ndarray) else targets.values
        whole = np.issubdtype(targets.dtype, np.integer)
        if (
            num_classes is not None
            and whole
            and (targets.min() < 0 or targets.max() >= num_classes)
        ):
            raise DataError(
                f"targets go from {targets.min()} to {targets.max()}",
                expected=f"0 to {num_classes - 1}, for {num_classes} classes",
            )
        # boxes: any number of things in a row, each of them a few numbers
        self._boxed = isinstance(rows.targets, Ragged) and targets.ndim == 2
        for step in augment:
            steps_of.key_and_value(step)
        if "image" in rows.inputs:
            (augment_boxes if self._boxed else steps_of).check(augment)
        self.batch_size, self.seed, self.augment = batch_size, seed, tuple(augment)
        self._rows, self._rate = rows, rate
        self._batch_steps, self._window_steps = batch_steps, window_steps
        dense = {
            name: torch.from_numpy(np.require(column, requirements=("C", "W")))
            for name, column in {**rows.inputs, "": rows.targets}.items()
            if isinstance(column, np.ndarray)
        }
        # all dense, all in memory: a batch is one gather, nothing passes through Python
        self._dense = dense if len(dense) == len(rows.inputs) + 1 else None
        self._orders: OrderedDict[int, Tensor] = OrderedDict()

    def __len__(self) -> int:
        """Rows, not batches."""
        return len(self._rows)

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every row has come once."""
        return math.ceil(len(self) / self.batch_size)

    def rows_before(self, step: int) -> int:
        """How many rows the steps before it took."""
        quarter, whole = self._batch_steps // 2, self._batch_steps
        of_half = max(0, min(step, whole) - quarter)
        quarters = min(step, quarter) + 2 * of_half + 4 * max(0, step - whole)
        return self.batch_size * quarters // 4

    def window_parts(self, step: int) -> int:
        """In how many rows of a batch each window lies."""
        return parts_at(step, self._window_steps)

    def indices(self, step: int) -> Tensor:
        """Which rows the batch of `step` (from 0) holds, int64 (rows,)."""
        start, number = self.rows_before(step), len(self)
        pieces = []
        missing = self.batch_size // parts_at(step, self._batch_steps)
        while missing:
            epoch, place = divmod(start, number)
            piece = self._order(epoch)[place : place + missing]
            pieces.append(piece)
            start += len(piece)
            missing -= len(piece)
        return torch.cat(pieces)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """The batch of `step` (from 0): the same whenever and in whatever order it is asked for.

        Args:
            part: which of so many equal parts of its rows to make; the others are not looked at,
                but where a step of augmentation mixes rows.
        """
        return self._part(step, part, parts).cut(self.window_parts(step))

    def _part(self, step: int, part: int, parts: int) -> Batch:
        every = self.indices(step)
        if parts == 1:
            return self._made(step, every)[0]
        size = len(every) // parts
        own = rows = torch.arange(part * size, (part + 1) * size)
        if self._mixes:  # what one row of them is made from says it of all
            rows = rows_behind(own, self._made(step, every, own[:1])[1])
        found, _ = self._made(step, every, rows)
        return found if len(rows) == size else found.take(torch.searchsorted(rows, own))

    @property
    def _mixes(self) -> bool:
        """Whether augmented rows show more than themselves."""
        mixing = (*steps_of.MIX_STEPS, *augment_boxes.MIX_STEPS)
        return any(one.key in mixing for one in self.augment)

    def _made(
        self, step: int, every: Tensor, rows: Tensor | None = None
    ) -> tuple[Batch, list[Tensor]]:
        """Rows of a batch after their steps, and what all its rows look at (data/draw.py).

        Args:
            every: the rows that the whole batch holds; rows: places among them, or all.
        """
        inputs, targets = self._gather(every if rows is None else every[rows], every)
        if not self.augment:
            return Batch(inputs, targets), []
        draw = Draw(_generator(self.seed, "augment", step), len(every), rows)
        return self._augmented(inputs, targets, every, draw), draw.looked_at

    def _augmented(
        self, inputs: dict[str, Tensor], targets: Tensor, every: Tensor, draw: Draw
    ) -> Batch:
        if self._boxed:
            images, targets = augment_boxes.apply(inputs["image"], targets, self.augment, draw)
            return Batch({"image": images}, targets)
        if "samples" in inputs:
            column = self._rows.inputs["samples"]
            assert self._rate is not None and isinstance(column, Ragged)
            lengths = torch.from_numpy(column.lengths_of(every.numpy()))
            sound = augment_sound.apply(inputs, lengths, self.augment, self._rate, draw)
            return Batch(sound, targets)
        if "image" not in inputs:
            return Batch(augment_rows.apply(inputs, self.augment, draw), targets)
        mixed = steps_of.apply(inputs["image"], self.augment, draw)
        if mixed.partner is None:
            return Batch({**inputs, "image": mixed.images}, targets)
        others = targets[mixed.partner]
        return Batch({**inputs, "image": mixed.images}, targets, others, mixed.share)

    def _gather(self, chosen: Tensor, every: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Rows as tensors, as long as `every` row of their batch needs it."""
        if self._dense is not None:
            found = {name: column.index_select(0, chosen) for name, column in self._dense.items()}
            return found, found.pop("")
        indices, among = chosen.numpy(), every.numpy()
        arrays = self._rows.batch(indices, among)
        inputs = {name: torch.from_numpy(value) for name, value in arrays.items()}
        return inputs, torch.from_numpy(self._rows.batch_targets(indices, among))

    def _order(self, epoch: int) -> Tensor:
        """The permutation of one epoch; kept for the next call, but a function of (seed, epoch)."""
        if epoch not in self._orders:
            draw = _generator(self.seed, "order", epoch)
            order = torch.randperm(len(self), generator=draw)
            lengths = self._rows.lengths
            if lengths is not None:  # the first rows end a batch that the epoch before began
                begun = (self.rows_before(self._batch_steps) - epoch * len(self)) % self.batch_size
                order = _bucketed(order, torch.from_numpy(lengths), self.batch_size, begun, draw)
            self._orders[epoch] = order
            while len(self._orders) > _ORDERS_KEPT:
                self._orders.popitem(last=False)
        return self._orders[epoch]


def _bucketed(order: Tensor, lengths: Tensor, size: int, begun: int, draw: Generator) -> Tensor:
    """The same rows, so that each batch holds similar lengths and batches come in any order.

    Pools of many batches are sorted by length and their batches shuffled; a last, short batch
    stays last, so that the others keep their places.

    Args:
        begun: rows that come before the first whole batch; they stay where they are.
    """
    pools = [order[:begun]]
    for pool in torch.split(order[begun:], POOL_BATCHES * size):
        batches = list(torch.split(pool[lengths[pool].argsort(stable=True)], size))
        last = [batches.pop()] if len(batches[-1]) < size else []
        mixed = [batches[i] for i in torch.randperm(len(batches), generator=draw).tolist()]
        pools += mixed + last
    return torch.cat(pools)


POOL_BATCHES = 32


def parts_at(step: int, growing: int) -> int:
    """In how many parts something comes that grows in its first steps: four, two, then one.

    Source: Li et al. 2021, arXiv:2108.06084 (lengths that grow); Smith et al. 2017,
    arXiv:1711.00489 (batches that grow). Three sizes only: each costs what a compiler or a
    pipeline prepares for one.

    >>> [parts_at(step, 6) for step in (0, 2, 3, 5, 6)], parts_at(0, 0)
    ([4, 4, 2, 2, 1], 1)
    """
    return 1 if step >= growing else 4 if step < growing // 2 else 2


def _generator(seed: int, purpose: str, counter: int) -> Generator:
    digest = hashlib.sha256(f"{seed}/{purpose}/{counter}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7]))

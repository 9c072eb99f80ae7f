"""The random numbers of a batch, of which a process may make some rows alone.

Numbers are drawn for every row, in the order that making all of them draws them, and those of the
rows that are not made are left out: so a row is the same whoever makes it, beside whatever others.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


class Draw:
    """
    Args:
        number: rows of the whole batch; as many as are made where it is 0.
        rows: int64, in rising order: those that are made; all where it is None.

    looked_at: whole tensors that `beside` was asked about, in order.
    """

    def __init__(self, generator: Generator, number: int = 0, rows: Tensor | None = None) -> None:
        self.generator, self._number, self._rows = generator, number, rows
        self.looked_at: list[Tensor] = []

    def uniform(self, made: int, *shape: int) -> Tensor:
        """float32 (made, *shape) in [0, 1), of as many rows as are made."""
        return self.own(torch.rand(self._all(made), *shape, generator=self.generator))

    def normal(self, made: int, *shape: int) -> Tensor:
        """The same, of mean 0 and spread 1."""
        return self.own(torch.randn(self._all(made), *shape, generator=self.generator))

    def integers(self, limit: int, made: int, *shape: int) -> Tensor:
        """int64 (made, *shape), below the limit."""
        shape = (self._all(made), *shape)
        return self.own(torch.randint(limit, shape, generator=self.generator))

    def order(self, made: int) -> Tensor:
        """A permutation of the whole batch, int64 (rows of it,)."""
        return torch.randperm(self._all(made), generator=self.generator)

    def others(self, made: int, each: int) -> Tensor:
        """So many rows of the whole batch for each of its rows, int64 (rows of it, each)."""
        number = self._all(made)
        return torch.randint(number, (number, each), generator=self.generator)

    def one(self, limit: int) -> int:
        """One number for the batch, below the limit."""
        return int(torch.randint(limit, (), generator=self.generator))

    def share(self) -> float:
        """One number for the batch, in [0, 1)."""
        return float(torch.rand((), generator=self.generator))

    @property
    def whole(self) -> "Draw":
        """The same numbers, of every row."""
        return Draw(self.generator, self._number)

    def own(self, whole: Tensor) -> Tensor:
        """Of a tensor with something for every row, what is of those that are made."""
        return whole if self._rows is None else whole[self._rows]

    def beside(self, whole: Tensor) -> Tensor:
        """Where the rows stand, among those that are made, that these look at.

        whole: rows of the batch that each of its rows looks at, (rows of it, ...); one that is not
            made stands anywhere: who needs it has `rows_behind` make it
        """
        self.looked_at.append(whole)
        if self._rows is None:
            return whole
        return torch.searchsorted(self._rows, self.own(whole)).clamp_max(len(self._rows) - 1)

    def _all(self, made: int) -> int:
        return self._number or made


def rows_behind(own: Tensor, looked_at: Sequence[Tensor]) -> Tensor:
    """The rows that some rows of a batch are made from, themselves too, in rising order.

    >>> rows_behind(torch.tensor([0, 1]), [torch.tensor([3, 1, 2, 0])]).tolist()
    [0, 1, 3]
    """
    for whole in reversed(looked_at):
        own = torch.cat([own, whole[own].flatten()])
    return torch.as_tensor(own.unique())  # type: ignore[no-untyped-call]

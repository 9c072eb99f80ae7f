"""What a model that reads from left to right keeps between two calls.

Without it every new token costs a look at all tokens before it. Attention keeps keys and values, a
convolution its last inputs, a recurrence its state; a fresh start is all zeros, or of length zero.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from modelwright.core.signature import PAST, TensorSpec

Look = Callable[[Tensor], Tensor]  # of one sequence at another; the same shape comes back


def unmoved(sequence: Tensor) -> Tensor:
    """No other sequence to look at."""
    return sequence


class Carried:
    """The state of a model's layers: each takes its past and leaves its present, in their order.

    past: as the model's signature lists it (`Signature.state`)
    present: what was left so far, in the same order
    """

    def __init__(self, past: Sequence[Tensor]) -> None:
        self._all, self._past = past, iter(past)
        self.present: list[Tensor] = []

    @property
    def places(self) -> int:
        """How many of them attention has seen so far: what keys are of, which have heads."""
        return next(one for one in self._all if one.ndim == 4).shape[2]

    def take(self) -> Tensor:
        """The next layer's past."""
        return next(self._past)

    def leave(self, value: Tensor) -> None:
        """The same layer's present."""
        self.present.append(value)


def fresh(state: Sequence[TensorSpec], number: int) -> dict[str, np.ndarray]:
    """The state of that many rows of which nothing was seen, by name."""
    free: dict[int | str, int | str] = {"batch": number, PAST: 0}
    return {
        one.name: np.zeros([int(free.get(size, size)) for size in one.shape], one.dtype)
        for one in state
    }

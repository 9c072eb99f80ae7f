"""Which channels of a model live and die together; what pruning may take out, family by family."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

MULTIPLE = 4  # kept channels are rounded down to this: kernels work on groups of channels


@dataclass(frozen=True)
class Place:
    """Where a channel axis lies: a tensor's dim, in `repeats` blocks of the group's size."""

    tensor: str
    dim: int
    repeats: int = 1
    offset: int = 0


@dataclass(frozen=True)
class Group:
    """Channels that live and die together."""

    size: int
    places: tuple[Place, ...]

    def left(self, ratio: float) -> int:
        """Channels that stay where that share of them goes.

        >>> Group(36, ()).left(0.5)
        16
        """
        rounded = int(self.size * (1 - ratio) + 1e-9) // MULTIPLE * MULTIPLE
        return min(self.size, max(MULTIPLE, rounded))

    def inside(self, module: str) -> "Group":
        """The same of a model that is a part of another, under that name."""
        moved = (replace(place, tensor=f"{module}.{place.tensor}") for place in self.places)
        return Group(self.size, tuple(moved))


# The groups of a model, and the builder arguments that give them other sizes.
Groups = tuple[list[Group], Callable[[list[int]], dict[str, Any]]]

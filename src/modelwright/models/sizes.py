"""What a ladder of sizes is, and how its rows are written down (ladders.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NAMES = ("tiny", "small", "base", "large")
# arguments of the families over sequences, as rows of a ladder give them
CONVOLUTIONS = "dim inner dropout"
RECURRENCE = "embed_dim hidden_dim num_layers dropout"
ATTENTION = "dim num_layers dropout"
SETTLES_IN, EPOCHS = 2000, 5.0
DECAY = 0.7  # of the schedule
# a try of torch.compile took 0:30 to 2:30 min of two cores, and where it paid, passes were 1.3 to 2
# times as fast. Of ten minutes a gain of 1.3 saves 2:20 min, one of 2 saves 5; a try in vain costs
# up to a quarter of them, of longer trainings less
COMPILE_FROM_S = 600.0


@dataclass(frozen=True)
class Ladder:
    """A family over one kind of input.

    Args:
        sizes: arguments of each size, from tiny to large.
        train: defaults of the recipe's train section; wide: those that differ from the size
            `wide_from` on.
        settles_in, epochs: steps, of all sizes or of each, and times through the data; with fewer
            of either a smaller size gets further (docs/experiments.md).
        compile_from_s: training left from which on torch.compile is worth a try.
    """

    sizes: dict[str, dict[str, Any]]
    train: dict[str, Any]
    settles_in: int | tuple[int, ...] = SETTLES_IN
    epochs: float = EPOCHS
    wide: dict[str, Any] = field(default_factory=dict)
    wide_from: str = "base"
    compile_from_s: float = COMPILE_FROM_S

    def steps_to_settle(self, size: str) -> int:
        """`settles_in` of that size."""
        one = self.settles_in
        return one if isinstance(one, int) else one[NAMES.index(size)]

    def training(self, size: str) -> dict[str, Any]:
        """Defaults of the recipe's train section for that size."""
        is_wide = NAMES.index(size) >= NAMES.index(self.wide_from)
        return self.train | (self.wide if is_wide else {})


def ladder(
    names: str, *sizes: Sequence[Any], every: Mapping[str, Any] | None = None,
    settles_in: int | tuple[int, ...] = SETTLES_IN, epochs: float = EPOCHS,
    wide: Mapping[str, Any] | None = None, wide_from: str = "base",
    compile_from_s: float = COMPILE_FROM_S, **train: Any,
) -> Ladder:  # fmt: skip
    """A ladder from one row of arguments a size, and those that `every` size has."""
    rows = [{**dict(zip(names.split(), size, strict=True)), **(every or {})} for size in sizes]
    named = dict(zip(NAMES, rows, strict=True))
    train = {"decay": DECAY, **train}
    return Ladder(named, train, settles_in, epochs, dict(wide or {}), wide_from, compile_from_s)


def towers(image: str, text: str, *sizes: tuple[Any, Any], **train: float) -> Ladder:
    """A ladder of pairs: the arguments of the pictures' tower, then of the texts', a size."""
    rows = [
        {
            "image": dict(zip(image.split(), one, strict=True)),
            "text": dict(zip(text.split(), other, strict=True)),
        }
        for one, other in sizes
    ]
    return Ladder(dict(zip(NAMES, rows, strict=True)), {"decay": DECAY, **train})

"""Names, dtypes and shapes of what goes into a model and what comes out.

A shape holds whole numbers for fixed sizes and names ("batch") for free ones. The spelling of a
dtype is NumPy's.
"""

from dataclasses import dataclass
from typing import Any

NO_TARGET = -100  # of a place that is padding; no loss and no metric counts it


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor: dtype as NumPy spells it, sizes or names of free sizes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "TensorSpec":
        return cls(value["name"], value["dtype"], tuple(value["shape"]))


PAST = "past"  # the free size of a state that grows with what was seen


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model, in order.

    Models that write token by token have more of both, which a session fills in by itself:

    memory: further outputs, what is kept of all inputs but the last; they do not change while the
        last input grows. A model that goes on from them needs no other input but the last.
    state: further inputs, each named "past.…", with as many outputs named "present.…": what a
        call leaves to the next. At first the sizes PAST are 0, and all values.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    memory: tuple[TensorSpec, ...] = ()
    state: tuple[TensorSpec, ...] = ()

    @property
    def present(self) -> tuple[str, ...]:
        """The names under which a call gives its state."""
        return tuple(spec.name.replace("past.", "present.", 1) for spec in self.state)

    def to_json(self) -> dict[str, Any]:
        sides = ("inputs", "outputs", *(one for one in ("memory", "state") if getattr(self, one)))
        return {side: [spec.to_json() for spec in getattr(self, side)] for side in sides}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Signature":
        sides = ("inputs", "outputs", "memory", "state")
        return cls(*(tuple(map(TensorSpec.from_json, value.get(side, ()))) for side in sides))

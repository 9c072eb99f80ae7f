"""Names, dtypes and shapes of what goes into a model and what comes out.

A shape holds whole numbers for fixed sizes and names ("batch") for free ones. An answer for every
stretch of n places, rather than for each, has the free size "time // n + 1". The spelling of a
dtype is NumPy's.
"""

import re
from dataclasses import dataclass
from typing import Any

_PLACES = re.compile(r"(\w*time)(?: // (\d+) \+ 1)?")
PAST = "past"  # the free size of a state that grows with what was seen
TARGET_TIME = "target_time"  # the free size of a text to be written, its beginning included

FRAMES_PER_S = 100  # of sound: a frame of 25 ms every 10 ms, whatever the rate
NEVER = -1e4  # a logit whose probability is zero in every precision
PAD_MULTIPLE = 8  # rows of unequal length are filled up to one of it, so that few shapes come up
NO_TARGET = -100  # of a place that is padding; no loss and no metric counts it


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor: dtype as NumPy spells it, sizes or names of free sizes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def over_time(self) -> bool:
        """Whether one of its sizes follows the places of the input."""
        return bool(self.follows)

    @property
    def follows(self) -> str:
        """The free size of an input, "time" or TARGET_TIME, that one of its sizes follows."""
        found = (_PLACES.fullmatch(str(size)) for size in self.shape)
        return next((match[1] for match in found if match), "")

    def places(self, time: Any) -> Any:
        """How many places it has where the input that it follows has `time`, a whole number or an
        array of them.

        None where its size does not follow the input's.

        >>> TensorSpec("logits", "float32", ("batch", "time // 160 + 1", 28)).places(16000)
        101
        """
        for size in map(str, self.shape):
            if found := _PLACES.fullmatch(size):
                return time if found[2] is None else time // int(found[2]) + 1
        return None

    def sizes(self, batch: int, time: int, past: int = 0) -> tuple[int, ...]:
        """Its shape where the input has `batch` rows of `time` places, behind `past` others.

        A text to be written has one place more: its beginning.
        """
        free = {"batch": batch, "time": time, TARGET_TIME: time + 1, PAST: past}
        return tuple(
            size if isinstance(size, int) else free[size] if size in free else self.places(time)
            for size in self.shape
        )

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "TensorSpec":
        return cls(value["name"], value["dtype"], tuple(value["shape"]))


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

"""Names, dtypes and shapes of what goes into a model and what comes out.

A shape holds whole numbers for fixed sizes and names ("batch") for free ones. An answer for every
stretch of n places, rather than for each, has the free size "time // n + 1". The spelling of a
dtype is NumPy's.
"""

import re
from dataclasses import dataclass
from typing import Any

_STRETCHES = re.compile(r"time // (\d+) \+ 1")

FRAMES_PER_S = 100  # of sound: a frame of 25 ms every 10 ms, whatever the rate
NEVER = -1e4  # a logit whose probability is zero in every precision
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
        return self.places(1) is not None

    def places(self, time: Any) -> Any:
        """How many places it has where the input has `time`, a whole number or an array of them.

        None where its size does not follow the input's.

        >>> TensorSpec("logits", "float32", ("batch", "time // 160 + 1", 28)).places(16000)
        101
        """
        for size in map(str, self.shape):
            if size == "time":
                return time
            if found := _STRETCHES.fullmatch(size):
                return time // int(found[1]) + 1
        return None

    def sizes(self, batch: int, time: int) -> tuple[int, ...]:
        """Its shape where the input has `batch` rows of `time` places."""
        free = {"batch": batch, "time": time}
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
    """Inputs and outputs of a model, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Signature":
        return cls(
            tuple(TensorSpec.from_json(spec) for spec in value["inputs"]),
            tuple(TensorSpec.from_json(spec) for spec in value["outputs"]),
        )

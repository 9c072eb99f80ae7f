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

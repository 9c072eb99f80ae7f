"""The recipe's section `compress`: the steps that make a trained model smaller.

One part of the page of knobs; recipe.py has the others and the reading.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from modelwright.core.recipe_data import Real, Section, Share, Whole, require_one


class Quantize(Section):
    """Static int8 with QDQ nodes."""

    calibration: Literal["auto", "minmax", "entropy", "percentile", "mse"] = "auto"
    calibration_rows: Whole = Field(512, ge=1)


class Prune(Section):
    """Structured removal of channels, with recovery training."""

    ratio: Real = Field(0.25, gt=0, lt=1, description="share of each group's channels to remove")
    recover: Share = Field(0.3, description="recovery training, as a share of the train budget")


class QuantizeWeights(Section):
    """Weights in int8 that are still float32, computed in float32."""


class Step(Section):
    """One compression step: exactly one method."""

    quantize: Quantize | None = None
    quantize_weights: QuantizeWeights | None = None
    prune: Prune | None = None

    @property
    def method(self) -> str:
        """The one key that is set."""
        return next(iter(self.model_fields_set))

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        if isinstance(value, dict):  # "prune:" with nothing behind it is the bare name too
            return {name: {} if own is None else own for name, own in value.items()}
        return {value: {}} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_method(self) -> "Step":
        require_one(self, "one method", "- quantize")
        return self


class Compress(Section):
    """ "auto" searches; "none" ships the trained model as it is; a list is done as written."""

    mode: Literal["auto", "none", "list"] = "auto"
    steps: tuple[Step, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"mode": value}
        if isinstance(value, list):
            return {"mode": "list", "steps": value}
        return value

    @model_validator(mode="after")
    def _steps_match(self) -> "Compress":
        if (self.mode == "list") != bool(self.steps):
            raise ValueError('steps go with mode "list", and only with it')
        methods = [step.method for step in self.steps if step.prune is None]
        if twice := next((one for one in methods if methods.count(one) > 1), None):
            raise ValueError(f"{twice} stands in the list twice: each begins with the same weights")
        return self

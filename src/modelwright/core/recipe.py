"""Every knob on one page: the recipe's sections, with their defaults and meanings.

`read` takes YAML and overrides and gives a frozen Recipe, or an error that names file, line, key
and the nearest valid name. Nothing else in the product reads recipe files (core/recipe_file.py
does the reading; this file is the page of knobs).
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from modelwright.core.errors import ConfigError, did_you_mean
from modelwright.core.units import parse_quantity


class Section(BaseModel):
    """A frozen part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _quantity(unit: str) -> BeforeValidator:
    def convert(value: Any) -> Any:
        if isinstance(value, str | int | float):
            try:
                return parse_quantity(value, unit)
            except ConfigError as error:
                raise ValueError(f"{error.what}; expected {error.expected}") from error
        return value

    return BeforeValidator(convert, json_schema_input_type=float | str)


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"should be a number, got {value!r}")
    return value


Whole = Annotated[int, Field(strict=True)]  # neither true nor "3" nor 3.0
Real = Annotated[float, BeforeValidator(_no_truth)]  # texts too: YAML reads 1e-3 as one
Minutes = Annotated[float, _quantity("min"), Field(gt=0)]
Gigabytes = Annotated[float, _quantity("gb"), Field(gt=0)]
Share = Annotated[float, _quantity("share"), Field(ge=0, le=1)]

# A finding of the data gate; the first group stops the run unless waived by name.
BLOCKING_CHECKS = (
    "broken_files",
    "empty_class",
    "label_out_of_range",
    "nan_values",
    "duplicates_across_splits",
    "too_few_rows",
)
NOTED_CHECKS = (
    "duplicates_within_split",
    "near_duplicates",
    "constant_images",
    "class_imbalance",
    "conflicting_labels",
)
CheckName = Literal[
    "broken_files",
    "empty_class",
    "label_out_of_range",
    "nan_values",
    "duplicates_across_splits",
    "too_few_rows",
]


class Checks(Section):
    """The data gate."""

    waive: tuple[CheckName, ...] = Field(
        (), description="blocking findings to accept; their rows are dropped where that is possible"
    )
    near_duplicate_similarity: Real = Field(
        0.995, gt=0.5, le=1, description="cosine of two shrunken images from which they are near"
    )


class Data(Section):
    """Where the rows come from and how they are divided."""

    source: str = Field(description='"digits", or a path to an image folder, IDX files or an NPZ')
    format: Literal["auto", "digits", "folder", "idx", "npz"] = "auto"
    valid: Share = Field(0.1, description="share of the train rows held out to choose by")
    test: Share = Field(0.2, description="share held out to judge by, where the source has no test")
    image_size: Whole | None = Field(
        None, ge=4, le=1024, description="side in pixels of resized images (folders only)"
    )
    split_seed: Whole = Field(0, ge=0)
    checks: Checks = Checks()


class Budget(Section):
    """What may be spent. Minutes or steps, not both; minutes cover race and training."""

    train_minutes: Minutes | None = None
    train_steps: Whole | None = Field(None, ge=1)
    memory_gb: Gigabytes | None = Field(None, description="peak memory of the training process")

    @model_validator(mode="before")
    @classmethod
    def _default(cls, value: Any) -> Any:
        if isinstance(value, dict) and not {"train_minutes", "train_steps"} & set(value):
            return {**value, "train_minutes": 5.0}
        return value

    @model_validator(mode="after")
    def _one_clock(self) -> "Budget":
        if (self.train_minutes is None) == (self.train_steps is None):
            raise ValueError("give either train_minutes or train_steps, not both")
        return self


class Target(Section):
    """Where the model will run; goals on latency and size hold there."""

    runtime: Literal["onnxruntime"] = "onnxruntime"
    device: Literal["cpu"] = "cpu"
    threads: Whole = Field(1, ge=1, le=256)
    batch_size: Whole = Field(1, ge=1, le=4096)


class Model(Section):
    """The architecture: chosen by measurement, or named."""

    family: Literal["auto", "cnn", "rnn", "transformer"] = "auto"
    size: Literal["auto", "tiny", "small", "base", "large"] = "auto"


class Augment(Section):
    """One augmentation step: exactly one key."""

    flip: Literal["horizontal", "vertical", "both"] | None = None
    crop: Whole | None = Field(
        None, ge=1, description="pad by this many pixels, cut back at random"
    )
    shift: Share | None = Field(None, description="largest move, as a share of the side")
    rotate: Real | None = Field(None, gt=0, le=180, description="largest angle, in degrees")
    shear: Real | None = Field(None, gt=0, lt=80, description="largest angle, in degrees")
    zoom: Real | None = Field(None, gt=0, lt=1, description="0.1 scales by 0.9 to 1.1")
    erase: Share | None = Field(None, description="side of the erased square, share of the image")
    mixup: Real | None = Field(None, gt=0, description="alpha of the Beta distribution")
    cutmix: Real | None = Field(None, gt=0, description="alpha of the Beta distribution")

    @model_validator(mode="after")
    def _one_key(self) -> "Augment":
        if len(self.model_fields_set) != 1:
            raise ValueError('each step has exactly one key, such as "flip: horizontal"')
        return self


class Train(Section):
    """How weights are found. None means: the default of the chosen family."""

    seed: Whole = Field(0, ge=0, lt=2**31)
    batch_size: Whole = Field(
        128, ge=1, description="examples per optimizer step, over all devices"
    )
    micro_batch_size: Whole | None = Field(None, ge=1, description="examples per forward pass")
    optimizer: Literal["adamw", "sgd"] | None = None
    learning_rate: Real | None = Field(None, gt=0)
    weight_decay: Real | None = Field(None, ge=0)
    warmup_steps: Whole | None = Field(
        None, ge=0, description="steps in which the rate rises; at most a tenth of a step budget"
    )
    decay: Share | None = Field(None, description="share of the budget in which it falls to zero")
    label_smoothing: Real = Field(0.1, ge=0, lt=1)
    ema: Real = Field(0.99, ge=0, lt=1, description="decay of the averaged weights; 0 is off")
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    augment: tuple[Augment, ...] = ()
    checkpoint_minutes: Minutes = 0.5
    checkpoint_steps: Whole | None = Field(None, ge=1, description="instead of checkpoint_minutes")

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> "Train":
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError("micro_batch_size must divide batch_size")
        return self


class Quantize(Section):
    """Static int8 with QDQ nodes."""

    calibration: Literal["auto", "minmax", "entropy", "percentile", "mse"] = "auto"
    calibration_rows: Whole = Field(512, ge=1)


class Prune(Section):
    """Structured removal of channels, with recovery training."""

    ratio: Real = Field(0.25, gt=0, lt=1, description="share of each group's channels to remove")
    recover: Share = Field(0.3, description="recovery training, as a share of the train budget")


class Step(Section):
    """One compression step: exactly one method."""

    quantize: Quantize | None = None
    prune: Prune | None = None

    @property
    def method(self) -> str:
        """The one key that is set."""
        return next(iter(self.model_fields_set))

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {value: {}} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_method(self) -> "Step":
        if len(self.model_fields_set) != 1:
            raise ValueError('each step names exactly one method, such as "quantize"')
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
        return self


@dataclass(frozen=True)
class Metric:
    """What a goal can be about."""

    name: str
    unit: str
    higher_is_better: bool

    @property
    def op(self) -> str:
        """The side that a bound on it holds."""
        return ">=" if self.higher_is_better else "<="


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "share", True),
        Metric("latency_p50_ms", "ms", False),
        Metric("latency_p95_ms", "ms", False),
        Metric("latency_p99_ms", "ms", False),
        Metric("size_mb", "mb", False),
    )
}


@dataclass(frozen=True)
class Goal:
    """One bound on one metric.

    `name` is the metric's, or "accuracy_drop": points lost against the uncompressed model.
    Shares are kept as shares (0.005, not 0.5 pt).
    """

    name: str
    op: Literal[">=", "<="]
    bound: float

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.op == ">=" else value <= self.bound

    @property
    def text(self) -> str:
        """
        >>> Goal("accuracy_drop", "<=", 0.005).text
        '<= 0.005'
        """
        return f"{self.op} {self.bound:g}"


_GOAL = re.compile(r"^\s*(drop)?\s*(>=|<=)\s*(.+)$")


def parse_goal(metric_name: str, text: str) -> Goal:
    """
    >>> parse_goal("accuracy", "drop <= 0.5 pt")
    Goal(name='accuracy_drop', op='<=', bound=0.005)
    >>> parse_goal("latency_p99_ms", "<= 2 ms").bound
    2.0
    """
    if metric_name not in METRICS:
        raise ValueError(f"no goal {metric_name!r}; {did_you_mean(str(metric_name), METRICS)}")
    metric = METRICS[metric_name]
    match = _GOAL.match(text) if isinstance(text, str) else None
    if match is None:
        number = isinstance(text, int | float) and not isinstance(text, bool)
        shown = str(text) if number else "0.97" if metric.higher_is_better else "2"
        raise ValueError(f'{text!r} is no bound; write "{metric.op} {shown}"')
    drop, op, quantity = match[1], match[2], match[3]
    try:
        bound = parse_quantity(quantity, metric.unit)
    except ConfigError as error:
        raise ValueError(f"{error.what}; expected {error.expected}") from error
    if drop and metric_name != "accuracy":
        raise ValueError('"drop" goes with accuracy only')
    wanted = "<=" if drop else metric.op
    if op != wanted:
        raise ValueError(f"{metric_name}{' drop' if drop else ''} is bounded with {wanted}")
    if not math.isfinite(bound):
        raise ValueError(f"{quantity.strip()!r} is no finite bound")
    if metric.unit == "share" and not 0 <= bound <= 1:
        raise ValueError(f"{bound:g} is no share; write 0.97 or 97 %")
    if not metric.higher_is_better and bound <= 0:
        raise ValueError(f"{bound:g} can't be reached; write a bound above zero")
    return Goal("accuracy_drop" if drop else metric_name, "<=" if op == "<=" else ">=", bound)


def _goals(value: Any) -> Any:
    """Every measure's bounds as a list, each of which can be parsed."""
    if not isinstance(value, dict):
        return value
    goals = {name: one if isinstance(one, list | tuple) else [one] for name, one in value.items()}
    seen: set[str] = set()
    for name, texts in goals.items():
        for text in texts:
            try:
                goal = parse_goal(name, text)
            except ValueError as error:  # the reader finds the line by the name
                raise ValueError(f"{name}: {error}") from error
            if goal.name in seen:
                raise ValueError(f"{name}: two bounds on {goal.name}")
            seen.add(goal.name)
    return goals


class Recipe(Section):
    """The whole recipe."""

    name: str = Field("", pattern=r"^[A-Za-z0-9._-]*$", description="of the run's folder")
    task: Literal["image-classification"]
    data: Data
    budget: Budget = Field(default_factory=lambda: Budget(train_minutes=5.0))
    goals: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_goals)] = Field(
        default_factory=dict, description=f"bounds on: {', '.join(METRICS)}"
    )
    target: Target = Target()
    model: Annotated[Model, BeforeValidator(lambda value: {} if value == "auto" else value)] = (
        Model()
    )
    train: Train = Train()
    compress: Compress = Compress()

    @property
    def bounds(self) -> tuple[Goal, ...]:
        """The goals, parsed, in the order written."""
        return tuple(parse_goal(name, text) for name, texts in self.goals.items() for text in texts)

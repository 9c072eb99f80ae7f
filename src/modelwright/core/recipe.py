"""Every knob on one page: the recipe's sections, with their defaults and meanings.

`read` takes YAML and overrides and gives a frozen Recipe, or an error that names file, line, key
and the nearest valid name. Nothing else in the product reads recipe files (core/recipe_file.py
does the reading; this file is the page of knobs).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from modelwright.core.errors import ConfigError
from modelwright.core.goals import METRICS, Goal, parse_goal
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
    "empty_texts",
    "cleaned",
    "duplicates_within_split",
    "near_duplicates",
    "constant_images",
    "constant_recordings",
    "constant_series",
    "class_imbalance",
    "conflicting_labels",
    "repeated_uses",
    "short_histories",
    "rare_items",
)
CheckName = Literal[
    "broken_files",
    "empty_class",
    "label_out_of_range",
    "nan_values",
    "duplicates_across_splits",
    "too_few_rows",
]

RATES = (1_000, 192_000)  # samples a second, of the recordings that are read


class Checks(Section):
    """The data gate."""

    waive: tuple[CheckName, ...] = Field(
        (), description="blocking findings to accept; their rows are dropped where that is possible"
    )
    near_duplicate_similarity: Real = Field(
        0.995, gt=0.5, le=1, description="cosine of two shrunken images from which they are near"
    )


class Columns(Section):
    """Which columns of a table to read: by name, or by number from 0 where there are no names."""

    text: str | Whole | tuple[str | Whole, ...] = Field(
        "text", description="the text; of several columns, joined by blanks"
    )
    label: str | Whole = Field("label", description="the class")
    source: str | Whole = Field("source", description="the text to translate")
    target: str | Whole = Field("target", description="its translation")


class Files(Section):
    """Which file of a folder is which part, where the names do not say."""

    train: str
    valid: str | None = None
    test: str | None = None


class Clean(Section):
    """One cleaning step for rows of text: exactly one key."""

    normalize: Literal["NFC", "NFKC"] | None = Field(None, description="Unicode normalisation")
    strip: Literal["mail_headers", "html"] | None = None
    shortest: Whole | None = Field(None, ge=1, description="characters; shorter rows are left out")
    longest: Whole | None = Field(None, ge=1, description="characters; longer rows are left out")
    script: Literal["latin", "cjk", "cyrillic", "greek", "arabic", "hebrew", "hangul"] | None = (
        Field(None, description="of most letters; other rows are left out")
    )
    drop: Literal["duplicates"] | None = Field(None, description="equal texts within a part")

    @property
    def key(self) -> str:
        """The one key that is set."""
        return next(iter(self.model_fields_set))

    @property
    def value(self) -> str | int:
        return getattr(self, self.key)  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        return f"{self.key}: {self.value}"

    @model_validator(mode="after")
    def _one_key(self) -> "Clean":
        if len(self.model_fields_set) != 1:
            raise ValueError('each step has exactly one key, such as "normalize: NFKC"')
        return self


class Tokens(Section):
    """How texts are cut; the vocabulary is learned from train."""

    unit: Literal["auto", "words", "characters", "given", "bytes", "bpe"] = Field(
        "auto", description='"given": blanks divide tokens already; "bpe": common runs of bytes'
    )
    features: tuple[
        Literal["token", "pair", "next_pair", "start", "end", "ending", "shape"], ...
    ] = Field((), description="of each token; empty takes the task's own")
    vocab_size: Whole | None = Field(
        None, ge=10, description="at most, of each kind of feature; None: the task's own"
    )
    joint: bool = Field(True, description="of pairs of texts, one vocabulary for both sides")
    max_length: Whole = Field(256, ge=1, le=100_000, description="tokens of a text that are read")


class Interactions(Section):
    """Columns of a table of interactions: by number from 0, or by the first line's names."""

    user: str | Whole = 0
    item: str | Whole = 1
    time: str | Whole = Field(3, description="orders a user's items; a number or an ISO 8601 date")
    names: str | None = Field(None, description="file beside the table: item and name on each line")
    max_length: Whole = Field(50, ge=1, le=100_000, description="latest items that are read")


class Data(Section):
    """Where the rows come from and how they are divided."""

    source: str = Field(description='"digits", or a path to an image folder, IDX files or an NPZ')
    format: Literal[
        "auto", "digits", "folder", "idx", "npz", "text_table", "tagged_words", "text_stream",
        "audio_folder", "table", "interactions", "parallel_text",
    ] = "auto"  # fmt: skip
    valid: Share = Field(0.1, description="share of the train rows held out to choose by")
    test: Share = Field(0.2, description="share held out to judge by, where the source has no test")
    image_size: Whole | None = Field(
        None, ge=4, le=1024, description="side in pixels of resized images (folders only)"
    )
    rate: Whole | None = Field(
        None, ge=RATES[0], le=RATES[1], description="samples a second of recordings"
    )
    split_seed: Whole = Field(0, ge=0)
    pair: tuple[str, str] | None = Field(
        None, description="languages of parallel files, the source first, such as [de, en]"
    )
    files: Files | None = None
    columns: Columns = Columns()
    clean: tuple[Clean, ...] = Field((), description="steps for rows of text, in order")
    tokens: Tokens = Tokens()
    horizon: Whole | None = Field(
        None, ge=1, description="steps of a table to forecast, such as 96; forecasting needs it"
    )
    window: Whole | None = Field(
        None, ge=1, description="steps of a table, or tokens, that are looked back at"
    )
    split_rows: tuple[Annotated[Whole, Field(ge=1)], ...] | None = Field(
        None, description="rows of a table, or characters, of train, valid and test, in order"
    )
    channels: tuple[str, ...] | None = Field(None, description="columns of a table to take")
    interactions: Interactions | None = None
    checks: Checks = Checks()

    @field_validator("split_rows")
    @classmethod
    def _three_parts(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(value) != 3:
            raise ValueError(f"three counts of rows, [train, valid, test]; here are {len(value)}")
        return value

    @field_validator("channels")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) != max(len(value), 1):
            raise ValueError("at least one name, and each once")
        return value


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
    label_smoothing: Real | None = Field(None, ge=0, lt=1, description="None: the task's own")
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


# what a task's quality is measured by; tasks/catalog.py says how
QUALITY_OF = {
    "image-classification": "accuracy",
    "text-classification": "accuracy",
    "audio-classification": "accuracy",
    "tagging": "f1",
    "forecasting": "mse",
    "recommendation": "ndcg_at_10",
    "language-modeling": "nats_per_char",
    "translation": "bleu",
}

# keys of `data` that few tasks read
IN_ORDER = ("forecasting", "language-modeling")
TASKS_OF_KEY = {
    "horizon": ("forecasting",), "channels": ("forecasting",), "window": IN_ORDER,
    "split_rows": IN_ORDER, "interactions": ("recommendation",), "pair": ("translation",),
}  # fmt: skip
UNITS_OF_TEXTS, UNITS_OF_STREAMS = ("words", "given"), ("bytes", "bpe")


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
    task: Literal[
        "image-classification", "text-classification", "audio-classification", "tagging",
        "forecasting", "language-modeling", "recommendation", "translation",
    ]  # fmt: skip
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

    @model_validator(mode="after")
    def _goals_fit_the_task(self) -> "Recipe":
        own = QUALITY_OF[self.task]
        for name in self.goals:
            if METRICS[name].quality and name != own:
                raise ValueError(f"goals.{name}: {self.task} is measured by {own}")
        return self

    @model_validator(mode="after")
    def _data_fits_the_task(self) -> "Recipe":
        for name, tasks in TASKS_OF_KEY.items():
            if self.task not in tasks and getattr(self.data, name) is not None:
                only = " and ".join(tasks) + (" does" if len(tasks) == 1 else " do")
                raise ValueError(f"data.{name}: {self.task} does not read it, only {only}")
        stream = self.task in ("language-modeling", "translation")
        if self.data.tokens.unit in (UNITS_OF_TEXTS if stream else UNITS_OF_STREAMS):
            fit = ("characters", *(UNITS_OF_STREAMS if stream else UNITS_OF_TEXTS))
            raise ValueError(f"data.tokens.unit: {self.task} takes {', '.join(fit)}")
        if self.task == "forecasting" and self.data.horizon is None:
            raise ValueError("data.horizon: forecasting needs it: the number of steps to forecast")
        return self

    @property
    def bounds(self) -> tuple[Goal, ...]:
        """The goals, parsed, in the order written."""
        return tuple(parse_goal(name, text) for name, texts in self.goals.items() for text in texts)

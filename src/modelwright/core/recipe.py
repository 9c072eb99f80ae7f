"""Every knob on one page: the recipe's sections, with their defaults and meanings.

`read` takes YAML and overrides and gives a frozen Recipe, or an error that names file, line, key
and the nearest valid name. Nothing else in the product reads recipe files (core/recipe_file.py
does the reading; recipe_data.py has the section `data`, recipe_compress.py `compress`, decode.py
`decode`, this file all others; recipe_tasks.py says which task reads which key).
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from modelwright.core import decode
from modelwright.core.decode import Decode
from modelwright.core.goals import METRICS, Goal, parse_goal
from modelwright.core.recipe_compress import Compress, Prune, Quantize, QuantizeWeights, Step
from modelwright.core.recipe_data import (
    BLOCKING_CHECKS,
    NOTED_CHECKS,
    RATES,
    Checks,
    Clean,
    Columns,
    Data,
    Files,
    Gigabytes,
    Interactions,
    Minutes,
    Real,
    Section,
    Share,
    Tokens,
    Whole,
    require_one,
)
from modelwright.core.recipe_tasks import (
    NEEDS_HORIZON,
    NO_LONGEST,
    QUALITY_OF,
    SOUND_STEPS,
    STEPS_OF_BOXES,
    STEPS_OF_TASK,
    TASKS_OF_KEY,
    UNITS_OF_TASK,
    WHOLE_BATCHES,
    WRITES,
    TaskName,
    unread_keys,
)

__all__ = [
    "BLOCKING_CHECKS", "NOTED_CHECKS", "QUALITY_OF", "RATES", "SOUND_STEPS", "STEPS_OF_BOXES",
    "STEPS_OF_TASK", "TASKS_OF_KEY", "WHOLE_BATCHES", "WRITES", "Augment", "Budget", "Checks",
    "Clean", "Columns", "Compress", "Data", "Decode", "Files", "Interactions", "Model", "Prune",
    "Quantize", "QuantizeWeights", "Recipe", "Section", "Step", "Target", "Tokens", "Train",
]  # fmt: skip

OptimizerName = Literal["adamw", "sgd", "adafactor", "muon"]
ScheduleName = Literal["wsd", "cosine", "inverse_sqrt", "constant"]
Precision = Literal["32-true", "bf16-mixed", "bf16-true", "16-mixed", "fp8-mixed"]
Recompute = Literal["none", "selective", "full"]


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


# options beyond the size, and which families read them
FAMILIES_OF_KEY = {
    "norm": ("rnn", "transformer"), "convolution": ("cnn",), "activation": ("transformer",),
    "num_kv_heads": ("transformer",), "positions": ("transformer",),
    "dropout": ("auto", "cnn", "rnn", "transformer"),
    "mirror": ("auto", "cnn", "rnn", "transformer"),
}  # fmt: skip


class Model(Section):
    """The architecture: chosen by measurement, or named."""

    family: Literal["auto", "cnn", "rnn", "transformer"] = "auto"
    size: Literal["auto", "tiny", "small", "base", "large"] = "auto"
    norm: Literal["layer", "rms"] | None = Field(
        None,
        description="layer behind each recurrent layer, of the family rnn, None: none; of a "
        "transformer's blocks, None: layer",
    )
    convolution: Literal["full", "separable"] | None = Field(
        None, description="of the family cnn; None: full, and separable where only that could fit"
    )
    activation: Literal["gelu", "relu2", "swiglu"] | None = Field(
        None, description="of a transformer's feed-forward nets; None: the size's own"
    )
    num_kv_heads: Whole | None = Field(
        None, ge=1, description="of a transformer: heads of keys and values, fewer than of queries"
    )
    positions: Literal["sinusoidal", "learned", "rotary"] | None = Field(
        None, description="of a transformer; None: learned over pictures, else rotary"
    )
    dropout: Share | None = Field(
        None, lt=1, description="share of values hidden while training; None: the size's own"
    )
    mirror: bool | None = Field(
        None, description="of pictures: answer with the mean over each and its mirror image"
    )

    @property
    def options(self) -> dict[str, Any]:
        """What is asked of a family beyond its size."""
        return {name: own for name in FAMILIES_OF_KEY if (own := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _options_fit_the_family(self) -> "Model":
        for name in self.options:
            if self.family not in (own := FAMILIES_OF_KEY[name]):
                raise ValueError(
                    f"{name}: only the family {' or '.join(own)} reads it, so name "
                    f"{'that one' if len(own) == 1 else 'one of them'}"
                )
        if (self.family, self.norm) == ("rnn", "rms"):
            raise ValueError("norm: the family rnn takes layer")
        return self


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
    mosaic: Share | None = Field(
        None, description="share of pictures put together from four; detection only"
    )
    erase: Share | None = Field(None, description="side of the erased square, share of the image")
    mixup: Real | None = Field(None, gt=0, description="alpha of the Beta distribution")
    cutmix: Real | None = Field(None, gt=0, description="alpha of the Beta distribution")
    mask_time: Share | None = Field(None, description="of a recording: longest silence put over it")
    mask_frequency: Share | None = Field(
        None, description="of a recording's mel scale: widest band taken out"
    )
    speed: Real | None = Field(None, gt=0, lt=1, description="0.1 plays at 0.9 to 1.1 times")
    drop_tokens: Share | None = Field(None, description="of a text: share made unknown")
    jitter: Real | None = Field(
        None, gt=0, le=1, description="noise on a window, as a share of each series' spread"
    )

    @property
    def key(self) -> str:
        """The one key that is set."""
        return next(iter(self.model_fields_set))

    @model_validator(mode="after")
    def _one_key(self) -> "Augment":
        require_one(self, "one key", "flip: horizontal")
        return self


class Layout(Section):
    """How a training is spread over processes: degrees, whose product is the number of them, and
    how many stretches of blocks each process of a pipeline has."""

    data: Whole = Field(1, ge=1, description="whole models, each with some of the rows")
    sharded: Whole = Field(1, ge=1, description="the same, parameters and moments cut in pieces")
    tensor: Whole = Field(1, ge=1, description="each block's matrices cut by heads and units")
    pipeline: Whole = Field(1, ge=1, description="blocks in turn, rows follow each other through")
    context: Whole = Field(1, ge=1, description="places of each sequence; all see one another")
    virtual_pipeline: Whole = Field(
        1, ge=1, description="stretches of blocks in each process of a pipeline, interleaved"
    )

    @property
    def degrees(self) -> dict[str, int]:
        """All of them, by name."""
        named = self.model_dump(exclude={"virtual_pipeline"})
        return {name: int(value) for name, value in named.items()}

    @property
    def processes(self) -> int:
        """How many it takes."""
        return math.prod(self.degrees.values())

    @property
    def readers(self) -> int:
        """How many parts a batch is cut into."""
        return self.data * self.sharded

    @property
    def name(self) -> str:
        """What is more than one, in words."""
        given = {**self.degrees, "virtual_pipeline": self.virtual_pipeline}
        return " × ".join(f"{axis} {degree}" for axis, degree in given.items() if degree > 1)

    @model_validator(mode="after")
    def _virtual_of_a_pipeline(self) -> "Layout":
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            raise ValueError("virtual_pipeline: only processes of a pipeline have stretches")
        return self


class Train(Section):
    """How weights are found. None means: the default of the chosen family."""

    seed: Whole = Field(0, ge=0, lt=2**31)
    batch_size: Whole | None = Field(
        None, ge=1, le=2**20, description="examples per optimizer step, over all devices"
    )
    micro_batch_size: Whole | None = Field(None, ge=1, description="examples per forward pass")
    optimizer: OptimizerName | None = None
    schedule: ScheduleName | None = Field(
        None, description="how the rate goes on after the warmup; None: wsd"
    )
    learning_rate: Real | None = Field(None, gt=0)
    weight_decay: Real | None = Field(None, ge=0)
    weight_decay_end: Real | None = Field(
        None, ge=0, description="what it becomes by the budget's end, in a straight line; None: as "
        "it is"
    )  # fmt: skip
    warmup_steps: Whole | None = Field(
        None, ge=0, description="steps in which the rate rises; None: at most a tenth of the budget"
    )
    batch_warmup_steps: Whole = Field(
        0, ge=0, description="steps with fewer rows: a quarter of the batch, then half"
    )
    window_warmup_steps: Whole = Field(
        0, ge=0, description="steps with shorter windows, as many tokens: a quarter, then half"
    )
    decay: Share | None = Field(
        None, description="of wsd: share of the budget in which it falls to zero"
    )
    clip_norm: Real | None = Field(
        None, ge=0, description="longest gradient, longer ones are scaled down; 0 is off"
    )
    cautious: bool | None = Field(
        None, description="weights decay only where the step shrinks them too; None: false"
    )
    label_smoothing: Real | None = Field(None, ge=0, lt=1, description="None: the task's own")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: each class counts alike, however few rows it has"
    )
    ema: Real = Field(0.99, ge=0, lt=1, description="decay of the averaged weights; 0 is off")
    keep: Literal["best", "last"] = Field(
        "best", description="weights that ship: the last, or earlier ones that were clearly better"
    )
    precision: Literal["auto", Precision] = Field(
        "auto", description="auto: 32-true or bf16-mixed, whichever is faster"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU if there is one"
    )
    compile: Literal["auto"] | bool = Field(
        "auto", description="torch.compile; auto: in long trainings, if measured to be faster"
    )
    activation_checkpointing: Recompute = Field(
        "none",
        description="full: blocks keep what comes in, and compute the rest twice; "
        "selective: they keep their products too",
    )
    augment: tuple[Augment, ...] = ()
    algorithm: Literal["auto", "dqn", "ppo"] | None = Field(
        None, description="how to learn from acting; auto if none"
    )
    discount: Real | None = Field(
        None, gt=0, lt=1, description="what a reward one step later counts; 0.99 if none"
    )
    stop_at: Real | None = Field(
        None, description="training ends once valid reaches that, whatever chance explains"
    )
    layout: Annotated[Layout | None, BeforeValidator(lambda v: None if v == "auto" else v)] = Field(
        None, description="auto, which is data parallel over all processes, or degrees"
    )
    checkpoint_minutes: Minutes = 0.5
    checkpoint_steps: Whole | None = Field(None, ge=1, description="instead of checkpoint_minutes")
    keep_checkpoints: Whole = Field(2, ge=1, description="the newest ones, and the best on valid")
    grace_seconds: Real = Field(30.0, gt=0, description="to save after a signal, then it stops")
    on_nan: Literal["stop", "skip"] = Field(
        "stop", description="skip: back to earlier weights, past the batches since then"
    )
    on_spike: Literal["ignore", "stop", "skip"] = Field(
        "ignore", description="what a loss far above the last ones does; skip as for on_nan"
    )
    stuck_minutes: Minutes = Field(
        10.0, le=24 * 60, description="after which a rank that waits gives up; at most a day"
    )
    loggers: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        (), description="where curves go besides metrics.jsonl"
    )
    mlflow_uri: str | None = Field(
        None, pattern=r"^(https?|sqlite|postgresql|mysql|mssql)[+\w]*://.",
        description="of the tracking server or database; None: mlflow.db beside the runs",
    )  # fmt: skip

    @model_validator(mode="after")
    def _decay_is_read(self) -> "Train":
        if self.decay is not None and self.schedule not in (None, "wsd"):
            raise ValueError(f"decay: the schedule {self.schedule} does not read it, only wsd does")
        return self

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> "Train":
        if self.micro_batch_size and self.batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError("micro_batch_size must divide batch_size")
        return self

    @model_validator(mode="after")
    def _one_rhythm_of_checkpoints(self) -> "Train":
        if self.checkpoint_steps is not None and self.sets("checkpoint_minutes"):
            raise ValueError("give either checkpoint_minutes or checkpoint_steps, not both")
        return self


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
    task: TaskName
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
    decode: Decode = Decode()

    @model_validator(mode="after")
    def _goals_fit_the_task(self) -> "Recipe":
        own = QUALITY_OF[self.task]
        for name in self.goals:
            if METRICS[name].quality and name not in own:
                raise ValueError(f"goals.{name}: {self.task} is measured by {' or '.join(own)}")
        return self

    @model_validator(mode="after")
    def _data_fits_the_task(self) -> "Recipe":
        if (unread := next(unread_keys(self.task, self), None)) is not None:
            raise PydanticCustomError("unread_key", "{text}", {"key": unread[0], "text": unread[1]})
        units = UNITS_OF_TASK.get(self.task, ())
        if self.data.tokens.unit not in ("auto", *units):
            raise ValueError(f"data.tokens.unit: {self.task} takes {', '.join(units)}")
        if self.data.tokens.unit == "bytes" and self.data.tokens.vocab_size is not None:
            raise ValueError("data.tokens.vocab_size: bytes are as many as there are, 256")
        if self.data.split_rows is not None:
            for key in ("valid", "test"):
                if self.data.sets(key):
                    raise ValueError(f"data.{key}: data.split_rows says already how long parts are")
        if self.task in NEEDS_HORIZON and self.data.horizon is None:
            raise ValueError("data.horizon: forecasting needs it: the number of steps to forecast")
        if self.task in NO_LONGEST and self.model.positions == "learned":
            raise ValueError(
                f"model.positions: a row of {self.task} may be longer than any of train, and "
                "learned positions end there; take sinusoidal or rotary"
            )
        return self

    @model_validator(mode="after")
    def _augmentation_fits_the_task(self) -> "Recipe":
        fit = STEPS_OF_TASK.get(self.task, ())
        for step in self.train.augment:
            if step.key not in fit:
                only = f"only {', '.join(fit)}" if fit else "nor any other step"
                raise ValueError(f"train.augment: {self.task} does not take {step.key}, {only}")
        return self

    @model_validator(mode="after")
    def _decoding_counts(self) -> "Recipe":
        given = self.decode.given
        if given and (unused := decode.idle(WRITES[self.task], given)):
            name, where = next(iter(unused.items()))
            raise ValueError(f"decode.{name}: nothing reads it where {where}")
        return self

    @model_validator(mode="after")
    def _guards_fit_the_task(self) -> "Recipe":
        if self.task == "control":  # a policy's loss jumps; its state is more than weights
            for name, only in (("on_nan", "stop"), ("on_spike", "ignore")):
                if getattr(self.train, name) != only:
                    raise ValueError(f"train.{name}: {self.task} takes only {only}")
            if self.train.precision not in ("auto", "32-true", "bf16-mixed"):
                raise ValueError(f"train.precision: {self.task} takes 32-true or bf16-mixed")
            if self.train.compile is True:
                raise ValueError(f"train.compile: {self.task} takes only auto or false")
        if self.train.mlflow_uri is not None and "mlflow" not in self.train.loggers:
            raise ValueError("train.mlflow_uri: nothing reads it without mlflow in train.loggers")
        return self

    @property
    def measures(self) -> tuple[str, ...]:
        """What goals bound of a model's quality, or the task's own; the first decides."""
        named = tuple(name for name in self.goals if METRICS[name].quality)
        return named or QUALITY_OF[self.task][:1]

    @property
    def bounds(self) -> tuple[Goal, ...]:
        """The goals, parsed, in the order written."""
        return tuple(parse_goal(name, text) for name, texts in self.goals.items() for text in texts)

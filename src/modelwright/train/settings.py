"""What a training is done with: the recipe's train section with every default filled in."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import (
    Augment,
    OptimizerName,
    Precision,
    Recipe,
    Recompute,
    ScheduleName,
    Train,
)
from modelwright.data.loader import parts_at
from modelwright.models.catalog import ModelSpec
from modelwright.train import device as devices
from modelwright.train.precision import require
from modelwright.train.schedules import learning_rate_factor, weight_decay_factor

# a training may go on with others: they only say where it runs, and how it is saved
MAY_CHANGE = (
    "checkpoint_seconds", "checkpoint_steps", "keep_checkpoints", "grace_seconds", "device",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The train section with every default filled in."""

    seed: int
    batch_size: int
    micro_batch_size: int
    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    decay: float
    label_smoothing: float | None  # None is the task's own
    ema: float
    keep: Literal["best", "last"]
    precision: Precision
    activation_checkpointing: Recompute
    augment: tuple[Augment, ...]
    checkpoint_seconds: float
    checkpoint_steps: int | None
    class_weights: Literal["none", "balanced"] = "none"
    on_nan: Literal["stop", "skip"] = "stop"
    on_spike: Literal["ignore", "stop", "skip"] = "ignore"
    algorithm: str = "auto"  # these three are of tasks that act
    discount: float = 0.99
    stop_at: float | None = None
    schedule: ScheduleName = "wsd"
    clip_norm: float = 0.0  # 0 is off
    cautious: bool = False
    weight_decay_end: float | None = None  # None: as at the beginning
    batch_warmup_steps: int = 0
    window_warmup_steps: int = 0
    warmup_share: float | None = None  # most that the warmup takes of a budget of time
    keep_checkpoints: int = 2
    grace_seconds: float = 30.0
    device: devices.Kind = "cpu"
    compile: Literal["auto"] | bool = "auto"

    def plain(self) -> dict[str, Any]:
        """What the weights depend on, as plain JSON."""
        value = {key: one for key, one in asdict(self).items() if key not in MAY_CHANGE}
        value["augment"] = [step.model_dump(exclude_none=True) for step in self.augment]
        return dict(json.loads(json.dumps(value)))

    def require_same(self, other: dict[str, Any], folder: Path) -> None:
        """
        Raises: ConfigError if a checkpoint in `folder` was made with other settings.
        """
        own = self.plain()
        if differ := [key for key in own | other if own.get(key) != other.get(key)]:
            told = "; ".join(f"{key} {other.get(key)}, now {own.get(key)}" for key in differ)
            raise ConfigError(
                f"{folder} holds a checkpoint of other settings than the recipe's: {told}",
                expected="the settings that the training was started with",
                repair="start a new run, or go back to the old recipe",
            )

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of a step."""
        return self.learning_rate * learning_rate_factor(
            step, progress, warmup_steps=self.warmup_steps, decay=self.decay,
            schedule=self.schedule, warmup_share=self.warmup_share,
        )  # fmt: skip

    def decay_share(self, progress: float) -> float:
        """Of the weight decay, in a step at that share of the budget."""
        return weight_decay_factor(progress, self.weight_decay, self.weight_decay_end)

    @property
    def first_parts(self) -> int:
        """Of a whole batch, one of which the first step has."""
        return parts_at(0, self.batch_warmup_steps)

    @property
    def goes_back(self) -> bool:
        """Whether a copy of the weights is kept to go back to; train/guards.py."""
        return "skip" in (self.on_nan, self.on_spike)


# of a budget; where steps take long, a warmup counted in steps would never end
WARMUP_SHARE = 0.1
# of learning by acting; docs/experiments.md
OF_ALGORITHM: dict[str, dict[str, Any]] = {"dqn": {"learning_rate": 3e-4}}
# where neither the recipe nor the family says
DEFAULTS: dict[str, Any] = {
    "batch_size": 128, "optimizer": "adamw", "schedule": "wsd", "clip_norm": 0.0, "cautious": False,
}  # fmt: skip
# for any family, whose own are AdamW's and Muon's
OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.1, "weight_decay": 5e-4},
    "adafactor": {"learning_rate": 0.05},  # of a matrix's own size
}


@dataclass(frozen=True)
class Budget:
    """What a training may spend: steps or seconds, exactly one of them."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ConfigError("a budget is either steps or seconds")

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the budget spent."""
        return step / self.steps if self.steps is not None else elapsed / (self.seconds or 1.0)

    def spent(self, step: int, elapsed: float) -> float:
        """What counts of both, steps or seconds."""
        return float(step if self.steps is not None else elapsed)

    def part(self, share: float, least_steps: int = 1) -> "Budget":
        """A share of it."""
        if self.steps is not None:
            return Budget(steps=max(least_steps, round(share * self.steps)))
        return Budget(seconds=share * (self.seconds or 0.0))

    def seconds_left(self, step: int, elapsed: float, pace_s: float) -> float:
        """Until it is spent, at so many seconds a step."""
        if self.steps is not None:
            return (self.steps - step) * pace_s
        return (self.seconds or 0.0) - elapsed


def training_budget(recipe: Recipe) -> Budget:
    """The recipe's budget in steps or seconds."""
    minutes = recipe.budget.train_minutes
    return Budget(
        steps=recipe.budget.train_steps, seconds=None if minutes is None else 60 * minutes
    )


def fill_in(section: Train, spec: ModelSpec, precision: Precision, budget: Budget) -> Settings:
    """The recipe's train section with the family's defaults where it says nothing.

    Raises: ConfigError if the micro batch does not divide the family's batch, weights are to
        decay in some way and not at all, or what is to grow has no quarter; for a device that is
        not there, or can't compute so.
    """
    wide = spec.ladder.wide
    of_size = spec.training
    if section.optimizer is not None and wide:  # whose rate is of its optimizer, whatever the size
        of_size = spec.ladder.train | (wide if section.optimizer == wide["optimizer"] else {})
    defaults = {
        **DEFAULTS, **of_size, **OF_ALGORITHM.get(section.algorithm or "", {}),
        **OWN_DEFAULTS.get(section.optimizer or "", {}),
    }  # fmt: skip
    if budget.steps is not None:
        defaults["warmup_steps"] = min(defaults["warmup_steps"], int(WARMUP_SHARE * budget.steps))
    chosen = {
        name: default if (own := getattr(section, name)) is None else own
        for name, default in defaults.items()
    }
    asked = {"cautious": chosen["cautious"], "weight_decay_end": section.weight_decay_end}
    for key, value in asked.items():
        # 0.0 is a value that is asked for, and equals False
        if value is not None and value is not False and not chosen["weight_decay"]:
            raise ConfigError(
                f"train.{key} is about weight decay, and that of {spec.family} is 0 here",
                expected="a train.weight_decay above 0",
                repair=f"set it, or leave train.{key} out",
            )
    whole = {"batch": chosen["batch_size"], "window": spec.inputs.get("length", 0)}
    for what, size in whole.items():
        if getattr(section, f"{what}_warmup_steps") and size % 4:
            raise ConfigError(
                f"train.{what}_warmup_steps: it begins with a quarter of the {what}, and {size} "
                "has none",
                expected="a multiple of 4",
                repair=f"set {'train.batch_size' if what == 'batch' else 'data.window'}, or leave "
                f"train.{what}_warmup_steps out",
            )
    acting = spec.outputs["kind"] == "actions"
    device = devices.resolved(section.device, acting=acting)
    require(precision, device)
    micro_batch_size = section.micro_batch_size or chosen["batch_size"]
    if chosen["batch_size"] % micro_batch_size:
        raise ConfigError(
            f"train.micro_batch_size: {micro_batch_size} does not divide the batch of "
            f"{chosen['batch_size']}, the default of {spec.family}",
            expected="a divisor of it",
            repair="set train.batch_size too",
        )
    return Settings(
        seed=section.seed,
        micro_batch_size=micro_batch_size,
        label_smoothing=section.label_smoothing,
        class_weights=section.class_weights,
        ema=section.ema,
        keep=section.keep,
        precision=precision,
        activation_checkpointing=section.activation_checkpointing,
        augment=section.augment,
        checkpoint_seconds=60 * section.checkpoint_minutes,
        checkpoint_steps=section.checkpoint_steps,
        keep_checkpoints=section.keep_checkpoints,
        grace_seconds=section.grace_seconds,
        on_nan=section.on_nan,
        on_spike=section.on_spike,
        algorithm=section.algorithm or Settings.algorithm,
        discount=section.discount or Settings.discount,
        stop_at=section.stop_at,
        weight_decay_end=section.weight_decay_end,
        batch_warmup_steps=section.batch_warmup_steps,
        window_warmup_steps=section.window_warmup_steps,
        # the root of a schedule that falls with it counts from the warmup's steps
        warmup_share=None
        if budget.steps is not None
        or section.warmup_steps is not None
        or chosen["schedule"] == "inverse_sqrt"
        else WARMUP_SHARE,
        device=device,
        compile=False if acting else section.compile,
        **chosen,
    )

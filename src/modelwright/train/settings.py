"""What a training is done with: the recipe's train section with every default filled in."""

from dataclasses import dataclass
from typing import Literal

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Augment, Train
from modelwright.models.catalog import ModelSpec
from modelwright.train.optimizers import OptimizerName
from modelwright.train.precision import Precision

BATCH_SIZE = 128  # where neither the recipe nor the family says


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
    augment: tuple[Augment, ...]
    checkpoint_seconds: float
    checkpoint_steps: int | None
    on_nan: Literal["stop", "skip"] = "stop"
    on_spike: Literal["ignore", "stop", "skip"] = "ignore"
    algorithm: str = "auto"  # these three are of tasks that act
    discount: float = 0.99
    stop_at: float | None = None

    @property
    def goes_back(self) -> bool:
        """Whether a copy of the weights is kept to go back to; train/guards.py."""
        return "skip" in (self.on_nan, self.on_spike)


SGD_LEARNING_RATE, SGD_WEIGHT_DECAY = 0.1, 5e-4  # for any family; AdamW's are far too small


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


def fill_in(section: Train, spec: ModelSpec, precision: Precision, budget: Budget) -> Settings:
    """The recipe's train section with the family's defaults where it says nothing.

    Raises: ConfigError if the micro batch does not divide the family's batch.
    """
    defaults = {"batch_size": BATCH_SIZE, "optimizer": "adamw", **spec.ladder.train}
    if section.optimizer == "sgd":
        defaults |= {"learning_rate": SGD_LEARNING_RATE, "weight_decay": SGD_WEIGHT_DECAY}
    if budget.steps is not None:
        defaults["warmup_steps"] = min(defaults["warmup_steps"], budget.steps // 10)
    chosen = {
        name: default if (own := getattr(section, name)) is None else own
        for name, default in defaults.items()
    }
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
        ema=section.ema,
        keep=section.keep,
        precision=precision,
        augment=section.augment,
        checkpoint_seconds=60 * section.checkpoint_minutes,
        checkpoint_steps=section.checkpoint_steps,
        on_nan=section.on_nan,
        on_spike=section.on_spike,
        algorithm=section.algorithm or Settings.algorithm,
        discount=section.discount or Settings.discount,
        stop_at=section.stop_at,
        **chosen,
    )

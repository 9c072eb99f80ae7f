"""Small rows that can be learned, and trainers of tiny models over them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from modelwright.core.recipe import Augment, Layout, Train
from modelwright.data.rows import Rows
from modelwright.models.catalog import ModelSpec
from modelwright.tasks.catalog import TASKS
from modelwright.train.journal import Record
from modelwright.train.launch import Place
from modelwright.train.loop import Trainer
from modelwright.train.parallel import ALONE, World
from modelwright.train.settings import Budget, Settings, fill_in
from modelwright.train.weights import first_model

FAMILIES = ("cnn", "rnn", "transformer")
SHAPE, NUM_CLASSES = (1, 8, 8), 4
INPUTS = {"kind": "image", "shape": list(SHAPE), "mean": [90.0], "std": [60.0]}
OUTPUTS = {"kind": "classes", "num_classes": NUM_CLASSES}
# every kind of randomness that resuming has to bring back
AUGMENT = (Augment(shift=0.2), Augment(rotate=10), Augment(mixup=0.4))

torch.set_num_threads(1)


def rows(number: int, seed: int = 0) -> Rows:
    """Noise with a bright stripe where the class says."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 160, (number, *SHAPE), np.uint8)
    targets = np.arange(number) % NUM_CLASSES
    for image, target in zip(images, targets, strict=True):
        image[:, 2 * target : 2 * target + 2] += 90
    return Rows({"image": images}, targets, [""] * number)


def spec_of(family: str, **args: Any) -> ModelSpec:
    return ModelSpec(family, "tiny", INPUTS, OUTPUTS, args)


def settings_of(family: str = "cnn", *, budget: Budget | None = None, **keys: Any) -> Settings:
    section = Train.model_validate({"batch_size": 16, "checkpoint_steps": 10_000, **keys})
    return fill_in(
        section,
        spec_of(family),
        "32-true" if section.precision == "auto" else section.precision,
        budget or Budget(steps=60),
    )


def trainer_of(
    folder: Path,
    family: str = "cnn",
    *,
    budget: Budget | None = None,
    metrics: Path | None = None,
    record: Record | None = None,
    settings: Settings | None = None,
    args: dict[str, Any] | None = None,
    world: World = ALONE,
    **keys: Any,
) -> Trainer:
    """A trainer as the pipeline makes it; it resumes what lies in `folder`."""
    budget = budget or Budget(steps=60)
    settings = settings or settings_of(family, budget=budget, **keys)
    folder.mkdir(parents=True, exist_ok=True)
    spec = spec_of(family, **(args or {}))
    return Trainer(
        first_model(spec, settings.seed, world), spec, TASKS["image-classification"], rows(72),
        rows(24, 1), settings, budget, folder, metrics=metrics, record=record,
        world=world,
    )  # fmt: skip


def world_of(rank: int, **degrees: int) -> World:
    """A rank's world, in a process that has joined a gloo group (processes.py)."""
    layout = Layout(**degrees)
    world = World(Place(rank, rank, layout.processes))
    world.patient = dist.new_group(backend="gloo")
    world.arrange(layout)
    return world


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything that a step reads or writes, by name."""
    found = {f"model.{k}": v.clone() for k, v in trainer.model.state_dict().items()}
    found |= {f"average.{k}": v.clone() for k, v in trainer.averaged.state_dict().items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{k}": v.clone() for k, v in state.items() if v is not None}
    return found


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not bitwise equal, or are missing on one side."""
    return sorted(one.keys() ^ other.keys()) + [
        name for name in one.keys() & other.keys() if not torch.equal(one[name], other[name])
    ]

"""Candidates whose times and sizes are given, not measured."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from modelwright.core import hardware
from modelwright.core.recipe import Recipe
from modelwright.data.rows import Rows
from modelwright.models.catalog import MODELS
from modelwright.models.sizes import EPOCHS, SETTLES_IN
from modelwright.plan import time as plan_time
from modelwright.plan.time import Deployed

SHAPE, NUM_CLASSES = (1, 8, 8), 4
INPUTS = {"kind": "image", "shape": list(SHAPE), "mean": [90.0], "std": [60.0]}
OUTPUTS = {"kind": "classes", "num_classes": NUM_CLASSES}
SIZES = {"tiny": 1, "small": 2, "base": 4, "large": 8}

torch.set_num_threads(1)


def recipe_of(**keys: Any) -> Recipe:
    values = {
        "name": "made", "task": "image-classification", "data": {"source": "made"},
        "budget": {"train_minutes": 1.0}, "train": {"batch_size": 16, "precision": "32-true"},
    }  # fmt: skip
    return Recipe.model_validate({**values, **keys})


def data_of(train: int = 1600, valid: int = 160) -> dict[str, Any]:
    """What choose reads of the gate's data.json."""
    return {
        "inputs": INPUTS, "outputs": OUTPUTS, "labels": [str(n) for n in range(NUM_CLASSES)],
        "rows": {"train": train, "valid": valid, "test": 10}, "bytes": 72 * (train + valid),
    }  # fmt: skip


def rows(number: int, seed: int = 0) -> Rows:
    random = np.random.default_rng(seed)
    images = random.integers(0, 160, (number, *SHAPE), np.uint8)
    targets = np.arange(number) % NUM_CLASSES
    return Rows({"image": images}, targets, [""] * number)


class Machine:
    """What calibration finds: a step of k ms, a file of k times 100 kB, an answer in k/10 ms,
    with k = 1, 2, 4, 8 from tiny to large, and a quarter of the latter two
    where convolutions are separable; bf16 takes `bf16` times as long as float32."""

    def __init__(self) -> None:
        self.step_s = {(family, size): k / 1e3 for size, k in SIZES.items()
                       for family in ("cnn", "rnn", "transformer")}  # fmt: skip
        self.bf16 = 1.0
        self.asked: list[tuple[str, str]] = []

    def step_seconds(self, spec: Any, task: str, settings: Any) -> float:
        self.asked.append((spec.name, settings.precision))
        share = self.bf16 if settings.precision == "bf16-mixed" else 1.0
        return share * self.step_s[spec.family, spec.size]

    def deployed(self, spec: Any, target: Any) -> Deployed:
        share = 0.25 if spec.separable else 1.0
        return Deployed(share * SIZES[spec.size] * 1e5, share * SIZES[spec.size] / 10)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(plan_time, "step_seconds", machine.step_seconds)
    monkeypatch.setattr(plan_time, "deployed", machine.deployed)
    monkeypatch.setattr(hardware.Machine, "lacks_bf16", False)
    image = MODELS["cnn"].ladders["image"]  # one rule for all families: what is tested is the rule
    alike = replace(image, settles_in=SETTLES_IN, epochs=EPOCHS)
    monkeypatch.setitem(MODELS["cnn"].ladders, "image", alike)
    return machine

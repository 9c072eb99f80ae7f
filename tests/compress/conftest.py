"""A tiny convolution net that has learned something, and its graph; models with dead channels."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from modelwright.core.recipe import Train
from modelwright.data.rows import Rows
from modelwright.export.onnx import export_onnx
from modelwright.models.catalog import Model, ModelSpec, build, fresh_model
from modelwright.tasks.catalog import TASKS
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget, fill_in

SHAPE, NUM_CLASSES = (1, 8, 8), 4
INPUTS = {"kind": "image", "shape": list(SHAPE), "mean": [90.0], "std": [60.0]}
OUTPUTS = {"kind": "classes", "num_classes": NUM_CLASSES}
SPEC = ModelSpec("cnn", "tiny", INPUTS, OUTPUTS)

torch.set_num_threads(1)


def rows(number: int, seed: int = 0) -> Rows:
    """Noise with a bright stripe where the class says."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 120, (number, *SHAPE), np.uint8)
    targets = np.arange(number) % NUM_CLASSES
    for image, target in zip(images, targets, strict=True):
        image[:, 2 * target : 2 * target + 2] += 90
    return Rows({"image": images}, targets, [""] * number)


def randomised(spec: ModelSpec) -> Model:
    """A model without zeros, ones and identities: every weight matters."""
    torch.manual_seed(0)
    model = build(spec)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.uniform_(parameter, -0.5, 0.5)
        elif not parameter.any():  # the last layer of a block over sequences starts at zero
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


class Trained:
    """A trained model, its graph in memory and on disk, and rows that it has not seen."""

    def __init__(self, folder: Path) -> None:
        settings = fill_in(
            Train(batch_size=32, checkpoint_steps=10_000), SPEC, "32-true", Budget(steps=150)
        )
        (folder / "checkpoints").mkdir()
        trainer = Trainer(
            fresh_model(SPEC, 0), SPEC, TASKS["image-classification"], rows(256), rows(64, 1),
            settings, Budget(steps=150), folder / "checkpoints",
        )  # fmt: skip
        trainer.run()
        self.model = trainer.averaged.eval()
        self.path = folder / "model.onnx"
        self.signature = export_onnx(self.model, self.path, SPEC)
        self.graph = onnx.load(self.path)
        self.unseen = rows(400, 7)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))

"""Tiny exported models, and graphs to tamper with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from modelwright.data.rows import Rows
from modelwright.export import locate
from modelwright.export import onnx as exporter
from modelwright.export.parity import Locate
from modelwright.models.catalog import ModelSpec, build
from modelwright.runtime.onnx_session import OnnxSession
from modelwright.runtime.torch_session import TorchSession

SHAPE = (1, 8, 8)
NUM_CLASSES = 10


def spec_of(family: str = "cnn", num_classes: int = NUM_CLASSES, **args: Any) -> ModelSpec:
    image = {"kind": "image", "shape": list(SHAPE), "mean": [77.0], "std": [95.0]}
    return ModelSpec(family, "tiny", image, {"kind": "classes", "num_classes": num_classes}, args)


torch.set_num_threads(1)


class Traced:
    """A model and its graph on disk; a search for a fault goes by the trace that gave the graph,
    which is what takes time (test_the_same_weights_give_the_same_bytes: another is the same)."""

    def __init__(self, model: nn.Module, path: Path, spec: ModelSpec) -> None:
        self.model, self.path, self.spec = model, path, spec
        self.program = exporter.traced(model, spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporter, "traced", lambda model, spec: self.program)
            self.signature = exporter.export_onnx(model, path, spec)

    def against(self, path: Path) -> Locate:
        """What finds the node of another graph that differs from the model."""
        search = locate.against_model(self.model, path, self.spec)

        def find(inputs: locate.Inputs) -> locate.Located:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(locate, "traced", lambda model, spec: self.program)
                return search(inputs)

        return find


class Exported(Traced):
    """With rows to judge by, whose targets are the model's answers."""

    def __init__(self, model: nn.Module, path: Path, spec: ModelSpec) -> None:
        super().__init__(model, path, spec)
        rng = np.random.default_rng(1)
        self.images = rng.integers(0, 256, (70, *SHAPE), np.uint8)
        self.before = TorchSession(model, spec, 1)
        answers = self.before({"image": self.images})["logits"].argmax(1)
        self.rows = Rows({"image": self.images}, answers, [""] * len(self.images))

    def after(self, path: Path | None = None) -> OnnxSession:
        return OnnxSession(path or self.path, self.signature, 1)

    def tampered(self, folder: Path, change: Callable[[Any], None]) -> Path:
        """A copy of the graph file after `change` of its onnx.GraphProto."""
        proto = onnx.load(self.path)
        change(proto.graph)
        path = folder / "tampered.onnx"
        onnx.save(proto, path)
        return path


def make_model(family: str, **args: Any) -> nn.Module:
    """A random tiny model whose batch norms are not the identity."""
    torch.manual_seed(0)
    model = build(spec_of(family, **args))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """family, arguments of the model -> Exported, each exported once a session."""
    made: dict[str, Exported] = {}

    def get(family: str, **args: Any) -> Exported:
        name = "-".join([family, *args])
        if name not in made:
            model = make_model(family, **args)
            path = tmp_path_factory.mktemp(name) / "model.onnx"
            made[name] = Exported(model, path, spec_of(family, **args))
        return made[name]

    return get


@pytest.fixture(scope="session")
def cnn(exports: Callable[..., Exported]) -> Exported:
    return exports("cnn")

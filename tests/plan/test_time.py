"""Calibration: measured once for a machine, and true to what it stands for."""

import math

import pytest
import torch

from modelwright.core.recipe import Target
from modelwright.models.catalog import ModelSpec, fresh_model
from modelwright.plan import time
from modelwright.tasks.catalog import TASKS
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget

from .conftest import INPUTS, OUTPUTS, recipe_of


def spec_of(size="tiny", mean=90.0):
    return ModelSpec("transformer", size, {**INPUTS, "mean": [mean]}, OUTPUTS)


def settings_of(precision="32-true"):
    from modelwright.train.settings import fill_in, training_budget

    recipe = recipe_of()
    return fill_in(recipe.train, spec_of(), precision, training_budget(recipe))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELWRIGHT_CACHE", str(tmp_path))


def test_steps_are_measured_once(own_cache, monkeypatch):
    """A second plan on the same machine reads what the first one measured, whatever the data's
    mean; another batch size is measured anew."""
    measured = []
    once = time.measured_once
    monkeypatch.setattr(
        time, "measured_once",
        lambda what, measure: once(
            what, lambda: {**(measured.append(what) or measure()), "spread": 1.0}
        ),
    )  # fmt: skip
    first = time.step_seconds(spec_of(), "image-classification", settings_of())
    second = time.step_seconds(spec_of(mean=10.0), "image-classification", settings_of())
    time.step_seconds(spec_of("small"), "image-classification", settings_of())

    assert 0 < first == second
    assert 2 == len(measured)


def test_steps_are_timed_at_full_size(own_cache, monkeypatch):
    """Where batch and window grow, what is timed is the size that most steps have."""
    from modelwright.core.recipe import Train
    from modelwright.train.settings import fill_in

    sizes = []

    def timed(trainer):
        loader, step = trainer.loader, trainer.step
        sizes.append((len(loader.indices(step)), loader.window_parts(step)))
        return [1.0, 1.0]

    monkeypatch.setattr(time, "_timed_steps", timed)
    stream = {"kind": "stream", "vocab_size": 20, "features": 1, "length": 16}
    spec = ModelSpec("transformer", "tiny", stream, {"kind": "next", "num_classes": 20})
    section = Train(batch_size=16, batch_warmup_steps=100, window_warmup_steps=100)
    time.step_seconds(
        spec, "language-modeling", fill_in(section, spec, "32-true", Budget(steps=1000))
    )

    assert [(16, 1)] == sizes


def test_deployed_is_the_exported_graph(tmp_path):
    """The size is that of the file which the exporter writes for the model once it is trained."""
    from modelwright.export.onnx import export_onnx
    from modelwright.models.catalog import fresh_model

    found = time.deployed(spec_of(), Target())
    path, model = tmp_path / "model.onnx", fresh_model(spec_of(), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
        model(images).square().sum().backward()
        optimizer.step()
    export_onnx(model, path, spec_of())

    assert path.stat().st_size == found.size_bytes
    assert 0 < found.latency_ms < 1000


KINDS = {
    "text-classification": (
        {"kind": "text", "vocab_size": 60, "features": 2, "length": 16, "max_length": 40},
        {"kind": "classes", "num_classes": 5},
    ),
    "tagging": (
        {"kind": "text", "vocab_size": 60, "features": 2, "length": 16, "max_length": 40},
        {"kind": "tags", "num_classes": 3, "labels": ["O", "B-A", "I-A"]},
    ),
    "audio-classification": (
        {"kind": "audio", "rate": 8000, "num_mels": 20, "length": 2000},
        {"kind": "classes", "num_classes": 5},
    ),
    "recommendation": (
        {"kind": "items", "vocab_size": 60, "features": 1, "length": 16, "max_length": 40},
        {"kind": "ranking", "num_classes": 58},
    ),
    "forecasting": (
        {"kind": "series", "length": 24, "patch": 8, "channels": ["a", "b"], "std": [1.0, 2.0]},
        {"kind": "horizon", "horizon": 6, "mean": [0.0, 1.0], "std": [1.0, 2.0]},
    ),
}


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("family", ["cnn", "rnn", "transformer"])
def test_made_up_rows_can_be_trained_on(tmp_path, family, task):
    """Calibration makes rows of any kind of data: batches, loss, steps and metrics work on them."""
    spec = ModelSpec(family, "tiny", *KINDS[task])
    rows = time.made_up(spec, 32)
    trainer = Trainer(
        fresh_model(spec, 0), spec, TASKS[task], rows, rows, settings_of(), Budget(steps=3),
        tmp_path,
    )  # fmt: skip
    losses = [trainer.train_step() for _ in range(3)]
    found = trainer.evaluate()

    assert all(math.isfinite(value) for value in (*losses, *found.values.values()))
    assert TASKS[task].metric == next(iter(found.values))


def test_another_size_by_the_same_name_is_measured_anew(monkeypatch):
    """What a name stands for may change with the product; what was measured is of the old one."""
    spec = spec_of()
    before, ladder = time._what("train step", spec), spec.ladder
    monkeypatch.setitem(ladder.sizes, "tiny", {**ladder.sizes["tiny"], "num_layers": 2})

    assert before != time._what("train step", spec)

"""Each precision trains as float32 does, keeps what it promises to keep, and resumes exactly."""

import json
import math
import sys

import pytest
import torch
from tests.train.conftest import differing, rows, settings_of, spec_of, trainer_of, weights_of
from tests.train.processes import run_ranks
from torch import nn

from modelwright.core.errors import ConfigError, TrainingFailed
from modelwright.core.recipe import Layout, Recipe
from modelwright.models.catalog import fresh_model
from modelwright.tasks.catalog import TASKS
from modelwright.train import precision
from modelwright.train.launch import Place
from modelwright.train.loop import Trainer
from modelwright.train.parallel import World
from modelwright.train.rounding import Rounding
from modelwright.train.settings import Budget

STEPS = 12


@pytest.mark.parametrize(
    ("family", "name"),
    [("cnn", "bf16-true"), ("rnn", "bf16-true"), ("transformer", "bf16-true"),
     ("cnn", "16-mixed"), ("transformer", "16-mixed")],
)  # fmt: skip
def test_a_precision_trains_as_float32_does(tmp_path, family, name):
    """The same losses within a rounding, and what comes out is float32."""
    losses = []
    for kind in ("32-true", name):
        trainer = trainer_of(tmp_path / kind, family, precision=kind)
        losses.append([trainer.train_step() for _ in range(STEPS)])
    trainer.weights.gather()

    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]
    assert {torch.float32} == {value.dtype for value in trainer.result.parameters()}
    lowered = {one.dtype for one in trainer.model.parameters() if one.ndim > 1}
    assert {torch.bfloat16 if name == "bf16-true" else torch.float32} == lowered


@pytest.mark.parametrize("name", ["bf16-true", "16-mixed"])
def test_a_precision_resumes_exactly(tmp_path, name, monkeypatch):
    """Rounding by chance and the loss scale go on where they were; overflows come before and after
    the stop."""
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**40)
    whole, first = (
        trainer_of(tmp_path / one, "transformer", precision=name, ema=0) for one in ("a", "b")
    )
    for _ in range(2 * STEPS):
        whole.train_step()
    for _ in range(STEPS):
        first.train_step()
    first.save()
    second = trainer_of(tmp_path / "b", "transformer", precision=name, ema=0)
    torch.rand(3)
    for _ in range(STEPS):
        second.train_step()

    assert second.resumed
    assert [] == differing(weights_of(whole), weights_of(second))
    assert whole.scale.position() == second.scale.position()
    assert (whole.scale.skipped > STEPS) == (name == "16-mixed")


def test_small_steps_of_bfloat16_weights_are_not_lost():
    """Steps of a 4000th each, of which rounding to the nearest would lose all."""
    model = nn.Linear(500, 4, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    optimizer = Rounding(torch.optim.SGD(model.parameters(), lr=2**-12), model, seed=0)
    for step in range(64):
        optimizer.param_groups[0]["at_step"] = step
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()

    assert model.weight.float().mean().item() == pytest.approx(1 - 64 * 2**-12, abs=3e-4)
    assert torch.equal(torch.tensor(1.0).bfloat16() - 2**-12, torch.tensor(1.0).bfloat16())


def test_an_overflow_skips_the_step_and_halves_the_scale(tmp_path, monkeypatch):
    """Weights, moments and averages stay, and the guards, which would stop here, are not asked."""
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**60)
    trainer = trainer_of(tmp_path, "transformer", precision="16-mixed", on_nan="stop")
    before = weights_of(trainer)
    loss = trainer.train_step()

    assert math.isfinite(loss) and not math.isfinite(trainer.steps.last.grad_norm)
    assert [] == differing(before, weights_of(trainer))
    assert {"loss_scale": 2.0**59, "skipped_steps": 1} == trainer.scale.observed()
    assert trainer._observed().keys() >= {"loss_scale", "skipped_steps"}


def test_a_step_that_overflows_leaves_its_loss_in_the_curves(tmp_path, monkeypatch):
    """And not its norm, which is no number and would be no JSON."""
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**60)
    metrics = tmp_path / "metrics.jsonl"
    trainer = trainer_of(tmp_path / "c", "transformer", precision="16-mixed", metrics=metrics)
    trainer.run(Budget(steps=2))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in metrics.open()]

    assert [1, 2] == [line["step"] for line in lines]
    assert all("loss" in line and "grad_norm" not in line for line in lines)


def test_the_scale_grows_after_good_steps(monkeypatch):
    monkeypatch.setattr(precision, "GROWS_AFTER", 3)
    scale = precision.LossScale(True)
    judged = [scale.overflowed(1.0, norm) for norm in (2.0, math.inf, 2.0, 2.0, 2.0)]

    assert [False, True, False, False, False] == judged
    assert precision.FIRST_SCALE == scale.factor
    assert not precision.LossScale(False).overflowed(1.0, math.nan)  # the guards' business


def test_what_no_scale_can_help_is_left_to_the_guards(tmp_path, monkeypatch):
    """A gradient that is no number although the loss is not scaled at all."""
    monkeypatch.setattr(precision, "FIRST_SCALE", precision.LEAST_SCALE)
    trainer = trainer_of(tmp_path, "cnn", precision="16-mixed")
    plain = trainer._gradient

    def broken(batch):
        loss = plain(batch)
        next(trainer.model.parameters()).grad.fill_(math.nan)
        return loss

    trainer._gradient = broken

    with pytest.raises(TrainingFailed, match="nan"):
        trainer.train_step()


def _trained(rank, folder, name, scale):
    precision.FIRST_SCALE = scale
    world = World(Place(rank, rank, 2))
    world.arrange(Layout(sharded=2))
    spec, settings = spec_of("transformer"), settings_of("transformer", precision=name, ema=0)
    trainer = Trainer(
        fresh_model(spec, 0), spec, TASKS["image-classification"], rows(72), rows(24, 1),
        settings, Budget(steps=60), folder, world=world,
    )  # fmt: skip
    losses = [trainer.train_step() for _ in range(STEPS)]
    values = dict(world.each_whole(trainer.model.state_dict())).values()
    return losses, trainer.scale.position(), sum(float(one.float().sum()) for one in values)


@pytest.mark.parametrize(("name", "scale"), [("bf16-true", 1.0), ("16-mixed", 2.0**40)])
def test_shards_decide_and_round_alike(tmp_path, name, scale, monkeypatch):
    """Over shards every process skips the same steps, and trains as one alone does."""
    one, other = run_ranks(tmp_path, 2, _trained, tmp_path / "shards", name, scale)
    monkeypatch.setattr(precision, "FIRST_SCALE", scale)
    alone = trainer_of(tmp_path / "alone", "transformer", precision=name, ema=0)
    losses = [alone.train_step() for _ in range(STEPS)]

    assert one == other
    assert losses == pytest.approx(one[0], rel=0.01)
    assert alone.scale.position() == one[1]
    assert (one[1][2] > 0) == (name == "16-mixed")


def test_float8_needs_a_gpu_for_it(tmp_path):
    with pytest.raises(ConfigError, match="fp8-mixed needs a GPU that multiplies float8") as found:
        trainer_of(tmp_path, "transformer", precision="fp8-mixed")

    assert "bf16-mixed" in str(found.value)


def test_float8_without_its_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(ConfigError, match=r"modelwright\[fp8\]"):
        precision.to_fp8(nn.Linear(16, 16))


def test_float8_products_stay_near(monkeypatch):
    """Emulated, as there is no GPU: near the float32 layers, the same names and types of weights;
    sides that are no multiples of 16 are left alone."""
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.Linear(32, 10))
    inputs, names = torch.randn(8, 32), list(model.state_dict())
    wanted = model(inputs).detach()

    assert 2 == precision.to_fp8(model, emulated=True)
    with precision.autocast("fp8-mixed"):
        found = model(inputs)
    found.float().sum().backward()
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.1
    assert names == list(model.state_dict())
    assert {torch.float32} == {one.grad.dtype for one in model.parameters()}
    assert type(model[3]) is nn.Linear


def test_float8_without_a_layer_for_it_is_refused():
    pytest.importorskip("torchao")
    with pytest.raises(ConfigError, match="no linear layer that could use it"):
        precision.to_fp8(nn.Sequential(nn.Linear(10, 10), nn.Conv2d(16, 16, 3)))


def test_recurrent_layers_in_float16_are_refused_on_a_cpu(tmp_path):
    with pytest.raises(ConfigError, match="few CPUs compute recurrent layers in float16"):
        trainer_of(tmp_path, "rnn", precision="16-mixed")


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent_layers_of_two_types_are_refused_on_a_gpu(layer):
    """cuDNN takes weights of one type; the CPU's own layers take matrices and vectors apart."""
    model = nn.Sequential(layer(4, 4))
    with pytest.raises(ConfigError, match="take weights of one type") as caught:
        precision.require_fit("bf16-true", model, "cuda")

    assert "bf16-mixed" in caught.value.repair
    precision.require_fit("bf16-true", model, "cpu")
    precision.require_fit("bf16-true", nn.Linear(4, 4), "cuda")
    for name in ("32-true", "bf16-mixed", "16-mixed"):
        precision.require_fit(name, model, "cuda")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("precision", "bf16-true", "takes 32-true or bf16-mixed"), ("compile", True, "auto or false")],
)
def test_a_task_that_acts_takes_neither(key, value, said):
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate(
            {"task": "control", "data": {"source": "gymnasium:CartPole-v1"}, "train": {key: value}}
        )

"""The schedule ends at zero, and weight decay takes hold of matrices only."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from modelwright.core.errors import ConfigError
from modelwright.models.catalog import build
from modelwright.train.optimizers import hidden_matrices, make_optimizer
from modelwright.train.schedules import learning_rate_factor
from modelwright.train.settings import Budget

from .conftest import FAMILIES, differing, spec_of, trainer_of, weights_of

shares = st.floats(0, 1, allow_nan=False)


@given(step=st.integers(0, 10**6), warmup=st.integers(0, 1000), decay=st.floats(0.01, 1))
def test_zero_when_the_budget_is_spent(step, warmup, decay):
    """At progress 1 the rate is exactly zero, whatever the step, the warmup and the decay."""
    assert 0.0 == learning_rate_factor(step, 1.0, warmup_steps=warmup, decay=decay)


@given(step=st.integers(0, 10**6), progress=shares, warmup=st.integers(0, 1000), decay=shares)
def test_factor_is_a_share(step, progress, warmup, decay):
    """No step uses less than nothing or more than the full rate."""
    assert 0 <= learning_rate_factor(step, progress, warmup_steps=warmup, decay=decay) <= 1


@given(first=shares, second=shares, decay=st.floats(0.01, 1))
def test_rate_never_rises_after_warmup(first, second, decay):
    """Once warm, more progress never means a higher rate."""
    early, late = sorted((first, second))
    factors = [
        learning_rate_factor(1000, progress, warmup_steps=10, decay=decay)
        for progress in (early, late)
    ]

    assert factors[0] >= factors[1]


def test_stable_in_the_middle():
    """Between warmup and decay the rate is the full one, and the fall is a straight line."""
    factors = [
        learning_rate_factor(100, progress, warmup_steps=10, decay=0.4)
        for progress in (0.1, 0.6, 0.8, 0.9)
    ]

    assert pytest.approx([1.0, 1.0, 0.5, 0.25]) == factors


def test_no_decay_stays_up():
    """With decay 0 the rate stays until the end."""
    assert 1.0 == learning_rate_factor(100, 0.999, warmup_steps=0, decay=0.0)


def test_warmup_rises_by_equal_parts():
    """The first step already learns; the last of the warmup has the full rate."""
    factors = [learning_rate_factor(s, 0.0, warmup_steps=4, decay=0.5) for s in range(5)]

    assert [0.25, 0.5, 0.75, 1.0, 1.0] == factors


def test_a_training_follows_the_schedule(tmp_path):
    """The rate that the optimizer had in the last step is the last one above zero."""
    trainer = trainer_of(tmp_path, learning_rate=0.01, decay=0.5, warmup_steps=2)
    trainer.run()

    assert pytest.approx(0.01 * (1 / 60) / 0.5) == trainer.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_every_parameter_is_in_one_group(family, name):
    """No weight is left out of the optimizer, and none is there twice."""
    model = build(spec_of(family))
    optimizer = make_optimizer(model, name, learning_rate=0.1, weight_decay=0.1)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]

    assert sorted(id(p) for p in model.parameters()) == sorted(grouped)


@pytest.mark.parametrize("family", FAMILIES)
def test_decay_spares_norms_and_biases(family):
    """Weight decay holds matrices and kernels; norms, biases and positions are spared."""
    model = build(spec_of(family))
    decayed, spared = make_optimizer(
        model, "adamw", learning_rate=0.1, weight_decay=0.1
    ).param_groups
    norms = (nn.BatchNorm2d, nn.LayerNorm)
    of_norms = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters()}
    wanted = {
        name
        for name, parameter in model.named_parameters()
        if id(parameter) in of_norms or "bias" in name or "positions" in name
    }
    ids = {id(p) for p in spared["params"]}

    assert (0.1, 0.0) == (decayed["weight_decay"], spared["weight_decay"])
    assert wanted == {name for name, p in model.named_parameters() if id(p) in ids}


def test_spared_weights_do_not_shrink():
    """Without a gradient, a step shrinks a matrix and leaves a bias as it is."""
    model = nn.Linear(4, 4)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    optimizer = make_optimizer(model, "adamw", learning_rate=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    assert pytest.approx(0.95) == model.weight[0, 0].item()
    assert 1.0 == model.bias[0].item()


def test_muon_moves_the_matrices_of_the_body():
    """Muon and AdamW share one model; together they step as each would alone."""
    torch.manual_seed(0)
    model = build(spec_of("transformer"))
    alone = copy.deepcopy(model)
    both = make_optimizer(model, "muon", learning_rate=0.01, weight_decay=0.1)
    matrices, rest = hidden_matrices(alone), []
    known = {id(one) for one in matrices}
    rest = [one for one in alone.parameters() if id(one) not in known]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0} for p in rest],
        lr=0.01, betas=(0.9, 0.99),
    )  # fmt: skip
    for parameter, other in zip(model.parameters(), alone.parameters(), strict=True):
        parameter.grad = torch.randn_like(parameter)
        other.grad = parameter.grad.clone()
    for optimizer in (both, muon, adamw):
        optimizer.step()

    assert matrices
    moved = dict(alone.named_parameters())
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] not in ("positions", "token"):  # spared by weight decay
            torch.testing.assert_close(parameter, moved[name], rtol=1e-5, atol=1e-6)


def test_muon_says_so_where_there_is_nothing_to_move():
    """A convolution net has no matrices between its ends."""
    with pytest.raises(ConfigError, match="has none"):
        make_optimizer(build(spec_of("cnn")), "muon", learning_rate=0.01, weight_decay=0)


def test_muon_resumes_to_the_bit(tmp_path):
    """Both optimizers' state comes back from a checkpoint."""
    budget = {"budget": Budget(steps=6), "optimizer": "muon"}
    whole = trainer_of(tmp_path / "whole", "transformer", **budget)
    whole.run()
    half = trainer_of(tmp_path / "half", "transformer", **budget)
    half.run(Budget(steps=3))
    half.save()
    again = trainer_of(tmp_path / "half", "transformer", **budget)
    resumed_at = again.step
    again.run()

    assert 3 == resumed_at
    assert any("momentum_buffer" in name for name in weights_of(again))
    assert [] == differing(weights_of(whole), weights_of(again))

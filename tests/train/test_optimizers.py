"""Weight decay takes hold of matrices only; each optimizer moves what is its own."""

import copy
import json
import math
from typing import get_args

import pytest
import torch
from torch import nn

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import OptimizerName, Train
from modelwright.models.catalog import ModelSpec, build
from modelwright.train.adafactor import Adafactor
from modelwright.train.muon import Muon, orthogonalize
from modelwright.train.optimizers import (
    OPTIMIZERS,
    clip_,
    hidden_matrices,
    make_optimizer,
)
from modelwright.train.settings import Budget, fill_in

from .conftest import (
    FAMILIES,
    INPUTS,
    OUTPUTS,
    differing,
    settings_of,
    spec_of,
    trainer_of,
    weights_of,
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
def test_every_parameter_is_in_one_group(family, name):
    """No weight is left out of the optimizer, and none is there twice."""
    model = build(spec_of(family))
    optimizer = make_optimizer(model, name, learning_rate=0.1, weight_decay=0.1)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]

    assert sorted(id(p) for p in model.parameters()) == sorted(grouped)


WORDS = {"kind": "pairs", "vocab_size": 9, "source_vocab_size": 8, "max_length": 6, "length": 5,
         "target_length": 5}  # fmt: skip
KINDS = {  # of inputs and of what is made of them
    "pictures": (INPUTS, OUTPUTS),
    "texts": ({"kind": "stream", "vocab_size": 9, "features": 1, "length": 8},
              {"kind": "next", "num_classes": 9}),
    "translation": (WORDS, {"kind": "sequence", "num_classes": 9}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_muon_moves_what_lies_between_embedding_and_head(family, kind):
    """All matrices and filters of body and decoder but the first over pixels, and nothing else:
    positions are none, and short convolutions, which take each feature by itself."""
    model = build(ModelSpec(family, "tiny", *KINDS[kind]))
    moved = {id(parameter) for parameter in hidden_matrices(model)}
    others = ("embed.", "head.", "source_words.", "body.positions", "body.stem.")
    wanted = {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and not name.startswith(others)
        if not name.endswith(("body.conv.weight", "attention_conv.weight", "mlp_conv.weight"))
    }

    assert wanted == {name for name, one in model.named_parameters() if id(one) in moved}
    if kind == "translation":
        parts = {name.split(".")[1] for name in wanted if name.startswith("decoder.")}
        assert {"layers", "looks"} == parts


def test_adafactor_steps_as_torchs_does():
    """Over matrices, kernels and vectors; torch's own takes no parameters in shards."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((5, 7), (3, 4, 2, 2), (6,), (1, 9))]
    theirs = copy.deepcopy(ours)
    optimizers = [Adafactor(ours, 0.05, 0.1), torch.optim.Adafactor(theirs, 0.05, weight_decay=0.1)]
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()

    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


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
    """A bag of words has no matrices between its ends."""
    texts = {"kind": "text", "vocab_size": 9, "features": 1, "length": 8}
    model = build(ModelSpec("cnn", "base", texts, OUTPUTS))
    with pytest.raises(ConfigError, match="has none"):
        make_optimizer(model, "muon", learning_rate=0.01, weight_decay=0)


def test_filters_move_as_the_rows_of_a_matrix():
    """A step of a convolution's weights is that of the same values as a matrix."""
    torch.manual_seed(0)
    filters = torch.nn.Parameter(torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(filters.detach().flatten(1).clone())
    optimizers = [Muon([one], 0.02, 0.1, products=torch.float32) for one in (filters, matrix)]
    for _ in range(3):
        filters.grad = torch.randn(6, 4, 3, 3)
        matrix.grad = filters.grad.flatten(1)
        for optimizer in optimizers:
            optimizer.step()

    torch.testing.assert_close(filters.flatten(1), matrix)


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


def gradients(model, seed=0):
    """Noise in place of a backward pass."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw)


def test_muon_is_torchs_in_one_process():
    """Tall, wide and square, step after step, to the bit."""
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape)) for shape in ((24, 8), (8, 24), (8, 8))]
    others = copy.deepcopy(matrices)
    ours = Muon(matrices, 0.02, 0.1)
    theirs = torch.optim.Muon(others, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for one, other in zip(matrices, others, strict=True):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(step))
            other.grad = one.grad.clone()
        ours.step()
        theirs.step()

    for one, other in zip(matrices, others, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("precision", "own"),
    [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float32)],
)
def test_muon_computes_as_its_model_does(tmp_path, precision, own):
    """In float32 unless it has bfloat16, which takes thirty times as long where there is none."""
    keys = {"optimizer": "muon", "precision": precision}
    trainer = trainer_of(tmp_path, "transformer", **keys)
    (muon,) = (one for one in trainer.optimizer.parts if isinstance(one, Muon))

    assert own == muon.products


def test_muon_is_nearer_to_exact_in_float32():
    """The type that is given is the one of the rounds."""
    torch.manual_seed(0)
    matrix = torch.randn(24, 8)
    exact = orthogonalize(matrix, torch.float64)
    apart = {
        own: ((orthogonalize(matrix, own) - exact).norm() / exact.norm()).item()
        for own in (torch.float32, torch.bfloat16)
    }

    assert apart[torch.float32] < 1e-5 < 1e-3 < apart[torch.bfloat16]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cautious_decay_takes_hold_where_the_step_agrees(name):
    """Beyond the step without decay, rate * decay * x goes where x and the step have one sign:
    arXiv:2510.12402, whatever the optimizer."""
    rate, share = 0.1, 0.5
    models = [build(spec_of("transformer")) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    before = copy.deepcopy(models[0])
    for model, keys in zip(models, ({}, {"cautious": True}), strict=True):
        decay = share if keys else 0.0
        optimizer = make_optimizer(model, name, learning_rate=rate, weight_decay=decay, **keys)
        gradients(model)
        optimizer.step()
    agreed = 0
    for (key, old), plain, ours in zip(
        before.named_parameters(), models[0].parameters(), models[1].parameters(), strict=True
    ):
        spared = old.ndim < 2 or key.rpartition(".")[2] in ("positions", "token")
        agrees = ((old - plain) * old > 0) & (not spared)
        agreed += int(agrees.sum())
        torch.testing.assert_close(plain - rate * share * old * agrees, ours)

    assert agreed


def test_without_caution_nothing_is_hooked():
    """A fused step is as it was."""
    optimizer = make_optimizer(nn.Linear(2, 2), "adamw", learning_rate=0.1, weight_decay=0.1)

    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_a_long_gradient_is_scaled_to_the_norm():
    """Its direction stays; what comes back is the length that it had."""
    model = nn.Linear(3, 4)
    gradients(model)
    before = [parameter.grad.clone() for parameter in model.parameters()]
    length = torch.cat([one.flatten() for one in before]).norm().item()
    found = clip_(model.parameters(), 0.5)
    after = [parameter.grad for parameter in model.parameters()]

    assert pytest.approx(length) == found
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one * 0.5 / length, other)


@pytest.mark.parametrize("max_norm", [0.0, 1e6])
def test_a_short_gradient_stays(max_norm):
    """So does any where the norm is only measured."""
    model = nn.Linear(3, 4)
    gradients(model)
    before = model.weight.grad.clone()
    clip_(model.parameters(), max_norm)

    assert torch.equal(before, model.weight.grad)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_gradient_is_seen_and_not_spread(broken):
    """One NaN or infinity comes back as the length; the other values stay to be looked at."""
    model = nn.Linear(3, 4)
    gradients(model)
    model.weight.grad[0, 0] = broken
    before = model.bias.grad.clone()
    found = clip_(model.parameters(), 0.5)

    assert not math.isfinite(found)
    assert torch.equal(before, model.bias.grad)


def test_nothing_learned_has_no_length():
    """Parameters without a gradient count for nothing."""
    assert 0.0 == clip_(nn.Linear(2, 2).parameters(), 1.0)


def test_a_training_clips_and_shows_the_norm(tmp_path):
    """With SGD's first step no weight goes farther than rate * norm; the curves hold the length."""
    keys = {"optimizer": "sgd", "learning_rate": 1.0, "weight_decay": 0, "warmup_steps": 0}
    trainer = trainer_of(
        tmp_path / "run", metrics=tmp_path / "curves.jsonl", budget=Budget(steps=1),
        clip_norm=1e-3, ema=0, schedule="constant", **keys,
    )  # fmt: skip
    before = [one.detach().clone() for one in trainer.model.parameters()]
    trainer.run()
    moved = torch.cat(
        [(new - old).flatten() for old, new in zip(before, trainer.model.parameters(), strict=True)]
    )
    curves = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]

    assert pytest.approx(1.9e-3, rel=1e-2) == moved.norm().item()  # Nesterov: 1 + 0.9
    norm = trainer.steps.last.grad_norm
    assert [norm] == [line["grad_norm"] for line in curves if "grad_norm" in line]
    assert 1e-3 < norm


def test_policies_are_clipped_unless_the_recipe_says_otherwise():
    """The default of what learns by acting is 0.5, everybody else's is off."""
    inputs = {"kind": "observation", "length": 1}
    spec = ModelSpec("cnn", "tiny", inputs, {"kind": "actions", "num_classes": 2})
    budget = Budget(steps=10)
    found = [
        fill_in(Train(clip_norm=own), one, "32-true", budget).clip_norm
        for one in (spec, spec_of("cnn"))
        for own in (None, 0, 2)
    ]

    assert [0.5, 0, 2, 0, 0, 2] == found


def test_a_recipe_can_name_every_optimizer():
    """The recipe's choices are the table's rows."""
    assert set(OPTIMIZERS) == set(get_args(OptimizerName))


def test_caution_about_nothing_is_refused():
    """Without weight decay the key would have no effect."""
    with pytest.raises(ConfigError, match="set it, or leave"):
        settings_of("cnn", cautious=True, weight_decay=0)

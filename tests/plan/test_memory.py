"""Predicted memory: its parts add up and move the right way (benchmarks hold it to measurement)."""

import dataclasses
import math

import pytest
import torch

from modelwright.models.catalog import ModelSpec, build
from modelwright.plan import memory
from modelwright.train.optimizers import OPTIMIZERS, make_optimizer

from .conftest import INPUTS, OUTPUTS

FAMILIES = ("cnn", "rnn", "transformer")
OPTIMIZED = [(family, name) for family in FAMILIES for name in OPTIMIZERS]


def predict(family="cnn", size="tiny", batch=16, precision="32-true", optimizer="adamw", ema=True):
    spec = ModelSpec(family, size, INPUTS, OUTPUTS)
    return memory.predict(
        spec, micro_batch_size=batch, precision=precision, optimizer=optimizer, copies=int(ema),
        data_bytes=1000, process_bytes=5000,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_total_is_the_sum_of_the_parts(family):
    """No byte is counted twice or forgotten between the parts and the total."""
    plan = predict(family)

    assert plan.total == sum(dataclasses.asdict(plan).values())
    assert (5000, 1000) == (plan.process, plan.data)


def test_a_copy_to_go_back_to_is_counted():
    """With a snapshot, weights, averages and moments are there once more, and in a checkpoint."""
    spec = ModelSpec("transformer", "tiny", INPUTS, OUTPUTS)
    keys = {"micro_batch_size": 16, "precision": "32-true", "optimizer": "adamw",
            "data_bytes": 0, "process_bytes": 0}  # fmt: skip
    plain = memory.predict(spec, copies=2, **keys)
    back = memory.predict(spec, copies=4, moment_copies=2, **keys)

    assert pytest.approx(8 * plain.weights, rel=1e-3) == back.total - plain.total
    assert "activations" in memory.in_words(dataclasses.asdict(back))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_of_the_model(family):
    """Weights, gradients and the average are each the size of the state."""
    plan = predict(family)
    model = build(ModelSpec(family, "tiny", INPUTS, OUTPUTS))
    size = sum(value.nbytes for value in model.state_dict().values())

    assert (size, size, size) == (plan.weights, plan.gradients, plan.copies)


@pytest.mark.parametrize(("family", "optimizer"), OPTIMIZED)
def test_the_optimizer_keeps_what_was_predicted(family, optimizer):
    """To the byte, after a step over every parameter."""
    model = build(ModelSpec(family, "tiny", INPUTS, OUTPUTS))
    made = make_optimizer(model, optimizer, learning_rate=0.01, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    kept = sum(one.nbytes for state in made.state.values() for one in state.values())

    assert kept == predict(family, optimizer=optimizer).optimizer


def test_adafactor_keeps_rows_and_columns():
    """Of a transformer's matrices, less than a twentieth of what AdamW keeps."""
    lean, full = (
        predict("transformer", "base", optimizer=name).optimizer for name in ("adafactor", "adamw")
    )

    assert 20 * lean < full


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_grows_with_the_batch(family):
    """Activations grow in proportion to the micro-batch; what the weights take does not."""
    small, large = predict(family, batch=16), predict(family, batch=64)

    assert pytest.approx(4 * small.activations, rel=0.05) == large.activations
    assert small.total < large.total
    assert small.weights == large.weights


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_grows_with_the_model(family):
    """From tiny to large, every size takes more."""
    totals = [predict(family, size).total for size in ("tiny", "small", "base", "large")]

    assert totals == sorted(set(totals))


def test_sgd_and_no_average_take_less():
    """SGD keeps one moment instead of two; without averaged weights that copy is gone."""
    full, lean = predict(), predict(optimizer="sgd", ema=False)

    assert lean.optimizer < full.optimizer / 2
    assert (full.weights, 0) == (full.copies, lean.copies)


def test_bf16_keeps_less_for_backward():
    """In mixed precision the products' inputs are kept in half the bytes."""
    assert predict("transformer", "base").activations > (
        predict("transformer", "base", precision="bf16-mixed").activations
    )


def test_activations_hold_at_least_each_layer_output():
    """What backward needs is more than the outputs of the convolutions alone."""
    plan = predict("cnn", batch=8)
    stem = 4 * 8 * 8 * math.prod((8, 8))  # float32, rows, channels, pixels

    assert plan.activations > 2 * stem


def test_resident_memory_is_that_of_a_process():
    """The process itself takes more than an empty interpreter and less than the machine has."""
    assert 20e6 < memory.resident_bytes() < 64e9


TEXT = {"kind": "text", "vocab_size": 60, "features": 2, "length": 16, "max_length": 40}


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_of_texts_grows_with_their_length(family):
    """Activations are those of the longest texts: twice the places take about twice the bytes, a
    recurrence's gates included."""
    plans = []
    for longest in (64, 128):
        spec = ModelSpec(family, "small", {**TEXT, "max_length": longest}, OUTPUTS)
        plans.append(
            memory.predict(
                spec,
                micro_batch_size=16,
                precision="32-true",
                optimizer="adamw",
                copies=1,
                data_bytes=0,
                process_bytes=0,
            )
        )
    floats = 4 * 16 * 64 * {"cnn": 128, "rnn": 2 * 6 * 64, "transformer": 96}[family]

    assert 1.9 * plans[0].activations <= plans[1].activations <= 4 * plans[0].activations
    assert floats <= plans[0].activations
    assert plans[0].weights == plans[1].weights


def test_blocks_that_are_computed_twice_keep_less():
    """Of a deep stack only what comes into each block is kept, and one block at a time; with
    their products, something in between."""
    spec = ModelSpec("transformer", "tiny", INPUTS, OUTPUTS, {"num_layers": 8})
    plain, selective, spared = (
        memory.predict(
            spec, micro_batch_size=16, precision="32-true", optimizer="adamw", copies=0,
            data_bytes=0, process_bytes=0, recompute=recompute,
        ).activations
        for recompute in ("none", "selective", "full")
    )  # fmt: skip

    assert spared < plain / 3
    assert spared < selective < 0.9 * plain

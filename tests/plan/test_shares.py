"""What a layout leaves to one process, and what it does not take, is known beforehand."""

from dataclasses import replace

import pytest

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Layout
from modelwright.models.catalog import ModelSpec
from modelwright.plan import choose, memory
from modelwright.plan.shares import Share, shares_of
from modelwright.train import dqn
from modelwright.train.parallel import ALONE, imagined
from modelwright.train.settings import fill_in, training_budget

from ..train.processes import run_ranks
from .conftest import INPUTS, OUTPUTS, data_of, recipe_of

SPEC = ModelSpec("transformer", "tiny", INPUTS, OUTPUTS, {"dim": 64, "num_layers": 4})


def imagine(rank, recipe, degrees, act):
    """What `act` gives in a layout that nobody has started."""
    with imagined(Layout(**degrees)) as world:
        return act(recipe, world)


def share(recipe, world):
    ((_, found),) = shares_of([SPEC], recipe, world)
    return found


def candidates(recipe, world):
    """Each by name, or the words of the error."""
    try:
        found = choose.predict(recipe, data_of(), world)
    except ConfigError as error:
        return error.what
    return {one.spec.name: (one.status, one.binds, one.reason, one.predicted) for one in found}


@pytest.fixture
def share_of(tmp_path):
    """In a process of its own: torch keeps what it has found of a mesh, and other tests' forks
    would find themselves at this one's place in it."""
    recipe = recipe_of(train={"batch_size": 64})
    return lambda **degrees: run_ranks(tmp_path, 1, imagine, recipe, degrees, share)[0]


def test_the_rows_of_a_pass_divide_the_share():
    """The most that fit under the recipe's, found at once however large the share is."""
    recipe = recipe_of(train={"batch_size": 64})
    settings = fill_in(recipe.train, SPEC, "32-true", training_budget(recipe))
    found = [Share(rows, rows).alone(replace(settings, micro_batch_size=most))
             for rows, most in ((64, 48), (7, 9), (2**60, 2**60))]  # fmt: skip

    assert [32, 7, 2**60] == [one.micro_batch_size for one in found]


def predicted(share, **keys):
    return memory.predict(
        SPEC, micro_batch_size=64, precision="32-true", optimizer="adamw", copies=1,
        data_bytes=0, process_bytes=0, share=share, **keys,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("degrees", "rows", "pass_rows", "weights"),
    [({}, 64, 64, 1), ({"data": 4}, 16, 16, 1), ({"sharded": 4}, 16, 16, 1 / 4),
     ({"data": 2, "sharded": 2}, 16, 16, 1 / 2), ({"tensor": 2}, 64, 64, 1 / 2),
     ({"pipeline": 2}, 64, 16, 1 / 2), ({"sharded": 2, "tensor": 2}, 32, 32, 1 / 4)],
)  # fmt: skip
def test_what_one_process_has(share_of, degrees, rows, pass_rows, weights):
    """Its rows, and its part of the weights: what lies around the blocks may be whole."""
    found = share_of(**degrees)

    assert (rows, pass_rows) == (found.rows, found.pass_rows)
    assert weights <= found.weights <= weights + 0.05


def test_what_travels(share_of):
    """Around a ring gradients go twice, less the part that stays; of shards weights go too."""
    whole = predicted(share_of()).weights

    assert 0 == share_of().sent_bytes == share_of(tensor=2).sent_bytes
    assert pytest.approx(2 * 3 / 4 * whole) == share_of(data=4).sent_bytes
    assert pytest.approx(3 * 3 / 4 * whole, rel=0.01) == share_of(sharded=4).sent_bytes


def test_memory_of_a_share(share_of):
    """Shards cut weights, gradients and moments; beside them is a whole model, to be judged."""
    alone, data, sharded = (predicted(share_of(**one)) for one in ({}, {"data": 2}, {"sharded": 2}))

    assert alone.weights == data.weights == data.copies - alone.copies
    for name in ("weights", "gradients", "optimizer"):
        assert pytest.approx(getattr(alone, name) / 2, rel=0.02) == getattr(sharded, name)
    best = predicted(share_of(sharded=2), best=True)  # which are whole
    assert alone.weights == best.copies - sharded.copies == best.checkpoint - sharded.checkpoint
    assert data.activations < alone.activations * 0.55
    assert 0 == alone.buffers < data.buffers == data.gradients


@pytest.mark.parametrize(("algorithm", "played"), [("dqn", dqn.kept_bytes((16, 8))), ("ppo", 0)])
def test_what_was_played_is_in_the_plan(algorithm, played):
    """A full replay buffer, and once more while a checkpoint is written."""
    seen = {"kind": "observation", "length": 16, "features": 8, "mean": [0.0] * 8, "std": [1.0] * 8}
    spec = ModelSpec("cnn", "tiny", seen, {"kind": "actions", "num_classes": 2})
    recipe = recipe_of(task="control", train={"algorithm": algorithm})
    ((_, found),) = shares_of([spec], recipe, ALONE)
    plain, full = predicted(Share(64, 64)), predicted(replace(found, pass_rows=64))

    assert played == found.played == full.data == full.checkpoint - plain.checkpoint
    assert 2 * played == full.total - plain.total
    assert 0 == predicted(found, device="cuda").data


def test_what_a_layout_does_not_take_is_dropped(machine, tmp_path):
    """Before anything is timed; where nothing is left, an error says why."""
    words, found = (
        run_ranks(
            tmp_path, 1, imagine, recipe_of(train={"batch_size": 16}, model={"size": size}),
            {"data": 2, "tensor": 2}, candidates,
        )[0]
        for size in ("tiny", "small")
    )  # fmt: skip
    status, binds, reason, predictions = found["cnn-small"]

    assert "tensor 2: the model has no transformer blocks" in words
    assert "tensor 2: it does not divide 1 heads" in words
    assert "fits" == found["transformer-small"][0]
    assert ("dropped", "train.layout", {}) == (status, binds, predictions)
    assert "no transformer blocks" in reason

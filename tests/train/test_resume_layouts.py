"""Stopped and taken up again by several processes: as they were, bit by bit; otherwise, as near as
float32 is. Samples; `scripts/check --all` takes all of them."""

import random
import shutil

import numpy as np
import pytest
import torch.distributed as dist

from modelwright.core.errors import IntegrityError
from modelwright.core.recipe import Layout
from modelwright.train.parallel import ALONE
from modelwright.train.settings import Budget

from .conftest import trainer_of, world_of
from .processes import run_ranks
from .test_resume import DROPOUT, EVERYTHING

FURTHER, LATEST = 50, 100  # steps compared, and from where on at the latest, with all of them
SAMPLED = 12  # both, of a sample, which stops in its second epoch or later
FEW = 10  # steps in which rounding to bfloat16 does not drive them apart yet
SMALL = {"cnn": {}, "rnn": {}, "transformer": {"dim": 64, "num_layers": 2, "dropout": 0.0}}


def training(rank, layout, folder, family, args, **keys):
    world = world_of(rank, **layout.degrees) if layout.processes > 1 else ALONE
    return trainer_of(
        folder,
        family,
        world=world,
        args=args,
        budget=Budget(steps=300),
        keep_checkpoints=1000,
        **keys,
    )


def steps_of(trainer, number):
    """Losses, lengths of gradients and rows of the next steps."""
    found = []
    for _ in range(number):
        indices = trainer.loader.indices(trainer.step).tolist()
        found.append((trainer.train_step(), trainer.steps.last.grad_norm, indices))
    return found


def go_on(rank, layout, folder, stops, further, given):
    """Train on from each of some checkpoints of a training; gives the steps of each."""
    found, (family, args, keys) = [], given
    for stop in stops:
        own = folder.with_name(f"{rank if layout.processes == 1 else 'all'}-{layout.name}-{stop}")
        if rank == 0:
            (kept,) = folder.glob(f"step-{stop:08d}*")
            shutil.copytree(kept, own / kept.name)
        if layout.processes > 1:
            dist.barrier()
        trainer = training(rank, layout, own, family, args, **keys)
        assert (stop, True) == (trainer.step, trainer.resumed)
        found.append(steps_of(trainer, further))
    return found


def train_through(rank, layout, folder, stops, further, given):
    """Train without a stop, with a checkpoint at some steps; gives what came behind each."""
    family, args, keys = given
    trainer, found = training(rank, layout, folder, family, args, **keys), []
    for step in range(max(stops) + further):
        if step in stops:
            trainer.save()
        found += steps_of(trainer, 1)
    return [found[stop : stop + further] for stop in stops]


def stops_of(number, *what):
    """Where a training stops, and how many steps beyond are compared."""
    steps, further = (range(6, SAMPLED), SAMPLED) if number == 1 else (range(1, LATEST), FURTHER)
    return sorted(random.Random(str(what)).sample(steps, number)), further


BITWISE = [
    *((family, axis, {}) for family in SMALL for axis in ("data", "sharded")),
    *(("transformer", axis, DROPOUT) for axis in ("tensor", "pipeline", "context")),
]


@pytest.mark.parametrize(
    ("family", "axis", "args", "number"),
    [("rnn", "data", {}, 1), ("transformer", "sharded", DROPOUT, 1),
     *(pytest.param(*one, 20, marks=pytest.mark.slow) for one in BITWISE)],
)  # fmt: skip
def test_two_processes_go_on_bit_by_bit(tmp_path, family, axis, args, number):
    """Stopped at random steps, mid-epoch, with accumulation, bf16, averaged weights and every
    augmentation, two processes have the losses, gradients and rows of the next steps that two have
    that went through."""
    given = (family, args, {**EVERYTHING, "precision": "bf16-mixed"})
    if axis in ("tensor", "context"):
        given[2].pop("augment")
    layout = Layout(**{axis: 2})
    work = (layout, tmp_path / "kept", *stops_of(number, family, axis), given)

    assert run_ranks(tmp_path, 2, train_through, *work) == run_ranks(tmp_path, 2, go_on, *work)


CUTS = {
    "whole to cut": (Layout(), Layout(sharded=2)),
    "cut to whole": (Layout(sharded=2), Layout()),
}


@pytest.mark.parametrize(
    "move", ["cut to whole", pytest.param("whole to cut", marks=pytest.mark.slow)]
)
def test_bf16_true_goes_on_in_another_cut(tmp_path, move):
    """Vectors that one of them keeps in float32 and the other in bfloat16: the losses that come
    are the same within a rounding."""
    before, after = CUTS[move]
    given = ("transformer", SMALL["transformer"], {"precision": "bf16-true", "ema": 0.9})
    work = (tmp_path / "kept", [12], FEW, given)
    ((wanted,), *_) = run_ranks(tmp_path, before.processes, train_through, before, *work)
    for (found,) in run_ranks(tmp_path, after.processes, go_on, after, *work):
        losses = [[step[0] for step in side] for side in (wanted, found)]
        np.testing.assert_allclose(*losses, rtol=0.01)


MOVES = {
    "2 to 1": (Layout(data=2), Layout()),
    "1 to 2": (Layout(), Layout(data=2)),
    "sharded to data": (Layout(sharded=2), Layout(data=2)),
    "sharded to tensor": (Layout(sharded=2), Layout(tensor=2)),
}


@pytest.mark.parametrize(
    ("family", "move", "number"),
    [("cnn", "2 to 1", 1), ("transformer", "sharded to tensor", 1), *(
        pytest.param(family, move, 5, marks=pytest.mark.slow)
        for family in SMALL for move in MOVES if "tensor" not in move or family == "transformer"
    )],
)  # fmt: skip
def test_another_layout_goes_on_alike(tmp_path, family, move, number):
    """Taken up by another number of processes, or by another way to divide the model, the next
    losses are those that would have come, within a millionth; the rows are the same. How many
    rows one process had at once is no setting of the training."""
    before, after = MOVES[move]
    given = (family, SMALL[family], {"optimizer": "adamw", "ema": 0.9})
    work = (tmp_path / "kept", *stops_of(number, family, move), given)
    wanted = run_ranks(tmp_path, before.processes, train_through, before, *work)[0]
    for found in run_ranks(tmp_path, after.processes, go_on, after, *work):
        for one, other in zip(wanted, found, strict=True):
            assert [rows for *_, rows in one] == [rows for *_, rows in other]
            losses = np.array([[step[0] for step in side] for side in (one, other)])
            np.testing.assert_allclose(*losses, rtol=1e-6)


def see(rank, folder, shown):
    """Go on from a folder of one's own; gives what is said of that."""
    try:
        training(rank, Layout(data=2), folder / shown[rank], "cnn", {})
    except IntegrityError as error:
        return str(error)
    return "went on"


@pytest.mark.parametrize("shown", [("both", "old"), ("old", "both"), ("both", "none")])
def test_processes_that_see_different_checkpoints_stop(tmp_path, shown):
    """As they do where a shared file system has not caught up: they would train on with different
    weights, and nobody would know."""
    trainer = training(0, Layout(), tmp_path / "both", "cnn", {})
    for _ in range(2):
        trainer.train_step()
        trainer.save()
    shutil.copytree(tmp_path / "both/step-00000001", tmp_path / "old/step-00000001")

    for said in run_ranks(tmp_path / "ranks", 2, see, tmp_path, shown):
        assert "the processes see different newest checkpoints" in said
        assert "step-00000001" in said or "none" in said

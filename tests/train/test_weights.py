"""What a process holds of a model that it has a part of alone, from the first value on."""

import pytest
import torch
from tests.train.conftest import spec_of
from tests.train.held import Held
from tests.train.processes import run_ranks
from tests.train.test_layouts import SPECS, trainer_in

from modelwright.core.recipe import Layout
from modelwright.models.catalog import fresh_model
from modelwright.models.later import Later
from modelwright.train.launch import Place
from modelwright.train.parallel import ALONE, World
from modelwright.train.weights import first_model

LAYOUTS = [
    Layout(sharded=2),
    *(
        pytest.param(layout, marks=pytest.mark.slow)
        for layout in (
            Layout(tensor=2), Layout(pipeline=2), Layout(pipeline=2, virtual_pipeline=2),
            Layout(sharded=2, tensor=2), Layout(data=2, sharded=2), Layout(sharded=2, pipeline=2),
        )
    ),
]  # fmt: skip
each_layout = pytest.mark.parametrize(
    "layout", LAYOUTS, ids=lambda layout: layout.name.replace(" × ", ", ")
)


def first_values(rank, layout, task, folder):
    """The weights before the first step, put together; of both kinds that are kept."""
    trainer = trainer_in(layout, task, folder, rank)
    trainer.weights.gather()
    result = trainer.result.state_dict() if rank == 0 else {}
    model = dict(trainer.world.each_whole(trainer.model.state_dict()))
    return [{name: value.numpy() for name, value in one.items()} for one in (result, model)]


@each_layout
@pytest.mark.parametrize("task", ["language-modeling", "translation"])
def test_parts_begin_as_the_whole_does(tmp_path, layout, task):
    """Put together, learning and averaged weights are those of one process, to the bit."""
    wanted = {name: one.detach() for name, one in fresh_model(SPECS[task], 0).state_dict().items()}
    for result, model in run_ranks(
        tmp_path, layout.processes, first_values, layout, task, tmp_path / "kept"
    ):
        for found in (result or model, model):
            assert wanted.keys() == found.keys()
            for name, value in wanted.items():
                assert torch.equal(value, torch.from_numpy(found[name])), name


def held_at_first(rank, layout, folder, resume):
    """Bytes that are held of the weights, and the most that there were on the way."""
    trainer = trainer_in(layout, "language-modeling", folder, rank)
    if resume:
        trainer.train_step()
        trainer.save()
    del trainer
    with Held() as held:
        trainer = trainer_in(layout, "language-modeling", folder, rank)
    assert resume == trainer.resumed
    parameters = [*trainer.model.parameters(), *trainer.averaged.parameters()]
    own = sum(
        one.to_local().nbytes if hasattr(one, "to_local") else one.nbytes for one in parameters
    )
    return held.now, held.most, own


@pytest.mark.parametrize("resume", [False, True], ids=["first", "resumed"])
def test_no_process_ever_holds_the_whole(tmp_path, monkeypatch, resume):
    """Of 4 MB in eight blocks, each of two processes holds its half of both kinds and, on the way,
    one block more; a resumed one its half of the moments too."""
    spec = SPECS["language-modeling"]
    monkeypatch.setitem(spec.args, "dim", 128)
    monkeypatch.setitem(spec.args, "num_layers", 8)
    model = fresh_model(spec, 0)
    whole = sum(one.nbytes for one in model.parameters())
    block = sum(one.nbytes for one in model.body.blocks[0].parameters())
    layout = Layout(sharded=2)
    for now, most, own in run_ranks(tmp_path, 2, held_at_first, layout, tmp_path / "kept", resume):
        assert own == pytest.approx(whole, rel=0.02)  # two halves
        moments = own if resume else 0
        assert now < own + moments + 0.1 * block
        assert most < own + moments + 1.5 * block

    assert whole > 7 * block


def test_one_process_builds_at_once():
    """And so do several that hold the whole model each."""
    several = World(Place(0, 0, 2))
    several.layout = Layout(data=2)

    assert not isinstance(first_model(spec_of("cnn"), 0, ALONE), Later)
    assert not isinstance(first_model(spec_of("cnn"), 0, several), Later)

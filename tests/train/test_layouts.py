"""Layouts, as forks of the test's own process: what each rank has; nothing changes by it."""

import numpy as np
import pytest
import torch
from tests.train.conftest import settings_of
from tests.train.processes import run_ranks

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Layout
from modelwright.data.rows import Rows, ragged
from modelwright.models.catalog import ModelSpec, build
from modelwright.tasks.catalog import TASKS
from modelwright.train.launch import Place
from modelwright.train.loop import Trainer
from modelwright.train.parallel import World
from modelwright.train.pipes import pieces_of
from modelwright.train.places import Places, deal_places
from modelwright.train.settings import Budget
from modelwright.train.weights import first_model

STEPS, TIME = 3, 9  # places that nothing divides
STREAM = {"kind": "stream", "vocab_size": 20, "features": 1, "length": TIME}
TEXT = {"kind": "text", "vocab_size": 20, "max_length": 16, "features": 1}
PICTURE = {"kind": "image", "shape": [1, 7, 7], "mean": [90.0], "std": [60.0]}
PAIRS = {"kind": "pairs", "vocab_size": 20, "source_vocab_size": 20, "max_length": 16,
         "length": TIME, "target_length": TIME}  # fmt: skip
SIZE = {"dim": 64, "num_layers": 4, "dropout": 0.0}
SPECS = {
    "language-modeling": ModelSpec(
        "transformer", "tiny", STREAM, {"kind": "next", "num_classes": 20}, SIZE
    ),
    "tagging": ModelSpec("transformer", "tiny", TEXT, {"kind": "tags", "num_classes": 20}, SIZE),
    "image-classification": ModelSpec(
        "transformer", "tiny", PICTURE, {"kind": "classes", "num_classes": 20}, SIZE
    ),
    "translation": ModelSpec(
        "transformer", "tiny", PAIRS, {"kind": "sequence", "num_classes": 20},
        {**SIZE, "num_layers": 1},
    ),
}  # fmt: skip


def rows_of(task):
    """Of the tagged texts all are of one word but two: some ranks have none of it."""
    random = np.random.default_rng(0)
    if task == "image-classification":
        images = random.integers(0, 255, (16, 1, 7, 7), np.uint8)
        return Rows({"image": images}, random.integers(0, 20, 16), [""] * 16)
    ids = random.integers(1, 20, (16, TIME + 1))
    inputs, targets = ids[:, :-1, None].copy(), ids[:, 1:].copy()
    if task == "language-modeling":
        return Rows({"ids": inputs}, targets, [""] * 16)
    if task == "translation":
        return Rows({"source": ids[:, 1:], "target": ids[:, :-1]}, targets, [""] * 16)
    lengths = [1] * 7 + [8] + [1] * 7 + [8]
    short, tags = (
        ragged([row[:length] for row, length in zip(side, lengths, strict=True)])
        for side in (inputs, targets)
    )
    return Rows({"ids": short}, tags, [""] * 16)


def trainer_in(layout, task, folder, rank=0, **keys):
    """On one rank of a layout, or in one process alone."""
    world, spec, rows = World(Place(rank, rank, layout.processes)), SPECS[task], rows_of(task)
    world.arrange(layout)
    budget = Budget(steps=60)
    settings = settings_of("transformer", budget=budget, batch_size=8, **keys)
    return Trainer(
        first_model(spec, 0, world), spec, TASKS[task], rows, rows, settings, budget, folder,
        world=world,
    )  # fmt: skip


def losses_of(trainer, number=STEPS):
    return [(trainer.train_step(), trainer.steps.last.grad_norm) for _ in range(number)]


def train_on(rank, layout, task, folder, keys):
    """Losses and gradients, the weights put together in the first process, and how many places a
    block sees."""
    trainer, seen = trainer_in(layout, task, folder, rank, **keys), []
    for block in getattr(trainer.model.body, "blocks", ()):
        if hasattr(block, "mlp_norm"):
            block.mlp_norm.register_forward_hook(lambda one, came, out: seen.append(out.shape[1]))
    found = losses_of(trainer)
    trainer.weights.gather()
    weights = trainer.result.state_dict() if trainer.world.first else {}
    return found, {k: v.numpy() for k, v in weights.items()}, set(seen)


def same_as_alone(folder, layout, task="language-modeling", **keys):
    """Train both ways; gives the places that each rank's blocks saw."""
    alone, weights, _ = train_on(0, Layout(), task, folder / "alone", keys)
    found = run_ranks(folder, layout.processes, train_on, layout, task, folder / "many", keys)
    for losses, *_ in found:
        np.testing.assert_allclose(losses, alone, rtol=1e-5)
    for name, value in weights.items():
        np.testing.assert_allclose(found[0][1][name], value, atol=2e-3, err_msg=name)
    return [seen for *_, seen in found]


@pytest.mark.parametrize(
    "layout",
    [Layout(data=2), pytest.param(Layout(sharded=2, pipeline=2), marks=pytest.mark.slow)],
    ids=lambda layout: layout.name.replace(" × ", ", "),
)
@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_rows_are_augmented_as_in_one_process(tmp_path, monkeypatch, layout, mixing):
    """Each process makes its rows alone, and those that are mixed into them."""
    steps = [{"flip": "horizontal"}, {"rotate": 10}, {mixing: 0.4}]

    assert layout.processes == len(
        same_as_alone(tmp_path, layout, "image-classification", augment=steps)
    )


@pytest.mark.parametrize("axis", ["data", "sharded"])
def test_plain_blocks_train_alike(tmp_path, monkeypatch, axis):
    """Their scales stand still, and norms count the rows of every process."""
    shape = {"block": "plain", "widths": (8, 16)}
    outputs = {"kind": "classes", "num_classes": 20}
    monkeypatch.setitem(
        SPECS, "image-classification", ModelSpec("cnn", "tiny", PICTURE, outputs, shape)
    )

    assert 2 == len(same_as_alone(tmp_path, Layout(**{axis: 2}), "image-classification"))


@pytest.mark.parametrize("axis", ["data", "sharded"])
def test_a_process_makes_its_rows_alone(tmp_path, axis):
    """Half the batch each, together all of it."""
    first, second = run_ranks(
        tmp_path, 2, rows_made, Layout(**{axis: 2}), tmp_path / "kept"
    )  # fmt: skip

    assert [4] * STEPS == [len(step) for step in first] == [len(step) for step in second]
    loader = trainer_in(Layout(), "language-modeling", tmp_path / "alone").loader
    for step in range(STEPS):
        assert loader.indices(step).tolist() == first[step] + second[step]


def rows_made(rank, layout, folder):
    """Which rows the columns were asked for, step by step."""
    trainer = trainer_in(layout, "language-modeling", folder, rank)
    asked, dense = [], trainer.loader._dense

    class Column:
        def index_select(self, dim, chosen):
            asked.append(chosen.tolist())
            return dense["ids"].index_select(dim, chosen)

    trainer.loader._dense = {**dense, "ids": Column()}
    losses_of(trainer)
    return asked


def test_each_process_of_a_context_has_half_the_places(tmp_path):
    """Of nine places, made twelve: three from either end; losses, gradients, weights are those of
    one process."""
    assert [{6}, {6}] == same_as_alone(tmp_path, Layout(context=2))


def test_a_process_can_have_padding_alone(tmp_path):
    """The places in the middle of texts of one word: no mean over them, and no gradient."""
    assert [{4}, {4}] == same_as_alone(tmp_path, Layout(context=2), "tagging", micro_batch_size=2)


def test_a_head_that_pools_gets_all_places(tmp_path):
    assert [{26}, {26}] == same_as_alone(tmp_path, Layout(context=2), "image-classification")


def test_blocks_compute_again_what_they_saw_of_all_places(tmp_path):
    """What looks at the source sees it as long as all have a piece of it, the second time too."""
    keys = {"activation_checkpointing": "full"}
    assert [{6}, {6}] == same_as_alone(tmp_path, Layout(context=2), "translation", **keys)


def test_norms_see_the_places_of_their_process(tmp_path):
    """Sequence parallel: between matrices that are cut, places are dealt out, nine as ten."""
    assert [{5}, {5}] == same_as_alone(tmp_path, Layout(tensor=2))


def test_sgd_moves_shards(tmp_path):
    """Which torch's fused step of it can not."""
    assert [{TIME}, {TIME}] == same_as_alone(tmp_path, Layout(sharded=2), optimizer="sgd")


def test_a_process_of_a_pipeline_can_have_two_stretches(tmp_path):
    assert [{TIME}, {TIME}] == same_as_alone(tmp_path, Layout(pipeline=2, virtual_pipeline=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [Layout(data=2, context=2), Layout(sharded=2, context=2), Layout(tensor=2, context=2),
     Layout(pipeline=2, context=2), Layout(pipeline=2, sharded=2), Layout(pipeline=2, tensor=2),
     Layout(pipeline=2, sharded=2, virtual_pipeline=2), Layout(data=2, pipeline=2, tensor=2),
     Layout(data=2, pipeline=2, sharded=2)],
    ids=lambda layout: layout.name.replace(" × ", ", "),
)  # fmt: skip
@pytest.mark.parametrize("task", ["language-modeling", "image-classification"])
def test_products_of_layouts_train_as_one_process_does(tmp_path, task, layout):
    seen = same_as_alone(tmp_path, layout, task)

    assert layout.processes == len(seen)


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["tensor", "context"])
def test_what_blocks_see_of_the_embedding_is_learned_alike(tmp_path, monkeypatch, axis):
    """The gradient of its shares, of which each process has only its places' part."""
    monkeypatch.setitem(SPECS["language-modeling"].args, "embed_skip", True)

    assert 2 == len(same_as_alone(tmp_path, Layout(**{axis: 2})))


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["tensor", "context", "pipeline"])
@pytest.mark.parametrize(
    ("task", "positions"), [("tagging", "learned"), ("translation", "sinusoidal")]
)
def test_places_are_counted_alike_in_every_layout(tmp_path, monkeypatch, axis, task, positions):
    """Whichever of them a process has, each place has its own position, and teaches it."""
    monkeypatch.setitem(SPECS[task].args, "positions", positions)

    assert 2 == len(same_as_alone(tmp_path, Layout(**{axis: 2}), task))


def resume_on(rank, layout, folder):
    """Losses behind a checkpoint: as it went on, and taken up again."""
    keys = {"activation_checkpointing": "full"}
    trainer = trainer_in(layout, "language-modeling", folder, rank, **keys)
    losses_of(trainer, 2)
    trainer.save()
    went_on = losses_of(trainer)
    again = trainer_in(layout, "language-modeling", folder, rank, **keys)
    return went_on, losses_of(again), again.resumed


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [Layout(tensor=2, context=2), Layout(sharded=2, pipeline=2, virtual_pipeline=2)],
    ids=lambda layout: layout.name.replace(" × ", ", "),
)
def test_resume_is_exact_with_dropout(tmp_path, monkeypatch, layout):
    """Bitwise, with blocks computed twice: every rank draws the same masks for its places again."""
    spec = SPECS["language-modeling"]
    monkeypatch.setitem(spec.args, "dropout", 0.2)

    for went_on, again, resumed in run_ranks(
        tmp_path, layout.processes, resume_on, layout, tmp_path / "kept"
    ):
        assert resumed and went_on == again


class Mesh:
    """An axis with so many processes, and one's place there."""

    def __init__(self, size, rank):
        self.size, self.get_local_rank = lambda: size, lambda: rank


@pytest.mark.parametrize(
    ("context", "tensor", "length"), [(2, 1, 12), (3, 1, 12), (2, 3, 12), (1, 4, 12)]
)
def test_places_are_dealt_out_once(context, tensor, length):
    """From both ends, so that each process has as much to look back at; -1 is behind the end."""
    sequence = torch.arange(2 * TIME).view(2, TIME)
    own = [
        Places(Mesh(context, rank), Mesh(tensor, 0)).own(sequence, -1) for rank in range(context)
    ]

    assert {(2, length // context)} == {tuple(one.shape) for one in own}
    together = torch.cat(own, 1)[0].sort().values
    assert [-1] * (length - TIME) + list(range(TIME)) == together.tolist()
    if context > 1:
        work = {int(one[0].where(one[0] >= 0, TIME).sum()) for one in own}
        assert max(work) - min(work) <= length - TIME  # but for what is behind the end


def test_a_context_needs_attention():
    model = build(ModelSpec("rnn", "tiny", STREAM, {"kind": "next", "num_classes": 20}))

    with pytest.raises(ConfigError, match="only attention can look at places that another process"):
        deal_places(model, Mesh(2, 0), Mesh(1, 0))


@pytest.mark.parametrize(
    ("rows", "most", "virtual", "pieces"),
    [(16, 16, 1, 4), (16, 2, 1, 8), (3, 16, 1, 3), (5, 5, 2, 1), (12, 16, 2, 4), (6, 2, 2, 6)],
)
def test_pieces_keep_a_pipeline_busy(rows, most, virtual, pieces):
    assert pieces == pieces_of(rows, most, Layout(pipeline=2, virtual_pipeline=virtual))


def test_rounds_that_do_not_come_out_even_are_refused():
    with pytest.raises(ConfigError, match="5 rows of a pipeline make no equal rounds of 2"):
        pieces_of(5, 1, Layout(pipeline=2, virtual_pipeline=2))

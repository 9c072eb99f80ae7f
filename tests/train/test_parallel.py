"""Several processes train as one does; who is who, and what does not fit is said."""

import datetime
import functools
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from pydantic import ValidationError
from tests.conformance.makers import MAKERS
from tests.train.conftest import differing, trainer_of, weights_of
from tests.train.processes import run_ranks, start_command

from modelwright import stages, which_run
from modelwright.cli import call
from modelwright.core import recipe_file
from modelwright.core.errors import ConfigError, TrainingFailed
from modelwright.core.recipe import Layout
from modelwright.models.catalog import ModelSpec, build
from modelwright.models.stretch import chain_of, keep_blocks
from modelwright.train import launch, parallel
from modelwright.train.equivalence import LAYOUTS, compare
from modelwright.train.launch import Left, Place, break_off, first_node, place_of
from modelwright.train.parallel import resolved
from modelwright.train.settings import Budget

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
SLURM = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8"}


def recipe_of(task, folder, **train):
    maker = MAKERS[task]
    source, _ = maker.write(folder)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"task": task, "data": {"source": str(source), **maker.data}}))
    return recipe_file.read(path, {f"train.{name}": value for name, value in train.items()})


def compared(task, family, folder, layouts, **train):
    recipe = recipe_of(task, folder, **train)
    data = stages.load(recipe)
    return list(
        compare(recipe, data, ModelSpec(family, "tiny", data.inputs, data.outputs), layouts)
    )


@pytest.mark.parametrize(
    ("environment", "place"),
    [({}, Place(0, 0, 1)), (TORCHRUN, Place(3, 1, 4)), (SLURM, Place(5, 1, 8)),
     ({**SLURM, **TORCHRUN}, Place(3, 1, 4)), ({"RANK": "1"}, Place(0, 0, 1))],
)  # fmt: skip
def test_launchers_say_who_is_who(environment, place):
    assert place == place_of(environment)


@pytest.mark.parametrize(
    "wrong", [{"RANK": "first"}, {"WORLD_SIZE": "0"}, {"RANK": "4"}, {"LOCAL_RANK": "-1"}]
)
def test_a_rank_that_is_no_number_of_its_own_is_refused(wrong):
    with pytest.raises(
        ConfigError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}.* are"
    ):
        place_of({**TORCHRUN, **wrong})


@pytest.mark.parametrize("port", ["abc", "0", "99999", "-1"])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigError, match=f"MASTER_PORT={port} is no port"):
        launch.meet({"MASTER_PORT": port}, Place(0, 0, 2), "gloo", parallel.WAIT)


def test_a_port_that_is_taken_or_that_nobody_answers_is_said(monkeypatch):
    """With address, port and the keys to turn, and not after a day."""
    monkeypatch.setattr(launch, "MEETING", datetime.timedelta(seconds=1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and answers nobody
        port = taken.getsockname()[1]
        for rank in (0, 1):
            said = f"process {rank} of 2 found no others at 127.0.0.1, port {port}: .*MASTER_PORT"
            with pytest.raises(ConfigError, match=f"(?s){said}"):
                launch.meet({"MASTER_PORT": str(port)}, Place(rank, rank, 2), "gloo", parallel.WAIT)


def test_what_a_launcher_starts_again_goes_on(tmp_path, monkeypatch):
    """Though it gives --new each time."""
    recipe_of("text-classification", tmp_path)
    again = functools.partial(
        which_run.run_for, tmp_path / "recipe.yaml", None, tmp_path / "runs", True, 1
    )
    first, second = again(), again()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")

    assert first.folder != second.folder
    assert second.folder == again().folder


@pytest.mark.parametrize(
    ("nodes", "first"), [("n1,n2", "n1"), ("gpu[3-5]", "gpu3"), ("gpu[08,10]-ib", "gpu08-ib")]
)
def test_the_first_node_of_a_job(nodes, first):
    assert first == first_node(nodes)


def test_a_layout_is_as_large_as_its_processes():
    assert Layout(data=4) == resolved(None, 4)
    assert 4 == resolved(Layout(data=2, tensor=2), 4).processes
    with pytest.raises(ConfigError, match="data 2 makes 2 processes, and there are 4"):
        resolved(Layout(data=2), 4)
    with pytest.raises(ConfigError, match="pipeline 2 x context 2 makes 4 processes, and there"):
        resolved(Layout(pipeline=2, context=2, virtual_pipeline=2), 8)
    with pytest.raises(ValidationError, match="only processes of a pipeline have stretches"):
        Layout(data=2, virtual_pipeline=2)


def test_a_layout_needs_a_launcher(tmp_path, capsys):
    recipe_of("text-classification", tmp_path)
    found = call(["train", str(tmp_path / "recipe.yaml"), "train.layout.data=2",
                  "--out", str(tmp_path / "runs")])  # fmt: skip

    assert 2 == found
    assert "torchrun --nproc-per-node 2 -m modelwright" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_one_of_several_speaks(tmp_path, monkeypatch):
    """The first that fails tells the launcher; what the others see of it is not said again, nor
    by one that leaves because the first process did, and is here before it."""
    store, path = dist.HashStore(), tmp_path / "error.json"
    errors = [Left(2), TrainingFailed("memory ended", expected="room"),
              TrainingFailed("a rank is gone")]  # fmt: skip
    monkeypatch.setattr(launch, "LEAVING_S", 0.01)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    for rank, error in zip((2, 1, 0), errors, strict=True):
        break_off(store, rank, error)
    told = json.loads(path.read_text())["message"]

    assert [True, False, True] == [error.said for error in errors]
    assert "memory ended\n  expected: room" == told["message"]
    assert "py_callstack" not in told["extraInfo"] and int(told["extraInfo"]["timestamp"])
    assert (2, True) == (Left(2).exit_code, Left(2).said)


def test_where_the_first_fails_before_training_the_others_end_as_it_does(tmp_path):
    """A launcher on another machine must not take them for done."""
    recipe_of("text-classification", tmp_path)
    missing = ("train", tmp_path / "recipe.yaml", f"data.source={tmp_path / 'nothing'}")
    ended = start_command(tmp_path, 2, *missing, "--out", tmp_path / "runs").ends_with()

    assert [2, 2] == ended
    assert "nothing" in (tmp_path / "said-0.txt").read_text()
    assert "" == (tmp_path / "said-1.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "words"),
    [(["train.learning_rat=1"], "unknown key 'train.learning_rat'"),
     (["train.batch_size=15"], "15 rows can't be dealt out evenly to 2 processes"),
     (["model.family=rnn", "train.layout.tensor=2"], "tensor 2: the model has no transformer"),
     (["train.learning_rate=1e30"], "train: the loss became")],
)  # fmt: skip
def test_an_error_under_torchrun_is_said_once(keys, words, tmp_path):
    """And once more where torchrun ends with its table, so that nobody has to look above it."""
    recipe_of("text-classification", tmp_path)
    found = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "modelwright", "run", str(tmp_path / "recipe.yaml"), "model.size=tiny",
         "model.family=transformer", "budget.train_steps=30", *keys,
         "--out", str(tmp_path / "runs")],
        capture_output=True, text=True,
    )  # fmt: skip
    before, _, table = found.stderr.partition("FAILED")

    assert 1 == found.returncode
    assert 1 == before.count(words) == table.partition("Root Cause")[2].count(words)


def test_what_can_not_be_shared_is_refused():
    with pytest.raises(ConfigError, match="15 rows can't be dealt out evenly to 2"):
        parallel.require_fit(Layout(data=2), "tagging", 15)
    with pytest.raises(ConfigError, match=r"the quarter of 12 rows .*batch_warmup_steps") as caught:
        parallel.require_fit(Layout(data=2), "tagging", 12, parts=4)
    assert "a multiple of 8" == caught.value.expected
    with pytest.raises(ConfigError, match="learns from a batch as a whole"):
        parallel.require_fit(Layout(tensor=2), "image-text-matching", None)


def test_one_process_talks_to_itself():
    world = parallel.ALONE

    assert (3.0, "so", 2.5, 15) == (
        world.told(3.0), world.told_text("so"), world.total(2.5), world.largest(15)
    )  # fmt: skip
    assert "done" == world.first_does(lambda: "done")


@pytest.mark.parametrize("task", ["text-classification", "translation", "language-modeling"])
def test_blocks_are_dealt_out_whole(task, tmp_path):
    """Every parameter of a block lies in one stretch; what surrounds blocks lies in all."""
    data = stages.load(recipe_of(task, tmp_path))
    spec = ModelSpec("transformer", "tiny", data.inputs, data.outputs, {"num_layers": 2, "dim": 64})
    whole = build(spec)
    number = len(chain_of(whole))
    parts = [build(spec) for _ in range(2)]
    keep_blocks(parts[0], range(number // 2))
    keep_blocks(parts[1], range(number // 2, number))
    one, other = ({name for name, _ in part.named_parameters()} for part in parts)

    assert {name for name, _ in whole.named_parameters()} == one | other
    assert not any(".blocks." in name or "decoder.l" in name for name in one & other)


def test_processes_of_their_own_train_as_one_does(tmp_path):
    """Each loads torch and this package anew; more layouts, as forks: test_layouts.py."""
    rows = compared(
        "language-modeling", "transformer", tmp_path, [Layout(sharded=2)], optimizer="adamw"
    )

    assert ["accumulation", "sharded 2"] == [row.name for row in rows]
    assert all(row.agrees and row.loss is not None for row in rows), rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "family"),
    [("image-classification", "cnn"), ("forecasting", "rnn"), ("translation", "rnn"),
     ("text-classification", "transformer"), ("translation", "transformer"),
     ("language-modeling", "transformer"), ("tagging", "cnn")],
)  # fmt: skip
def test_every_layout_trains_as_one_process_does(task, family, tmp_path):
    rows = compared(task, family, tmp_path, LAYOUTS, optimizer="adamw")

    assert all(row.agrees for row in rows), rows
    assert (16 if family == "transformer" else 3) <= sum(row.loss is not None for row in rows) + (
        family == "cnn" and task == "image-classification"
    )


@pytest.mark.slow
def test_layouts_agree_while_batch_and_window_grow(tmp_path):
    """Twenty steps pass through all three sizes of either."""
    layouts = [Layout(data=2), Layout(sharded=2), Layout(pipeline=2), Layout(context=2)]
    rows = compared(
        "language-modeling", "transformer", tmp_path, layouts,
        optimizer="adamw", batch_warmup_steps=12, window_warmup_steps=16,
    )  # fmt: skip

    assert all(row.agrees and row.loss is not None for row in rows), rows


@pytest.mark.slow
def test_adafactor_means_go_over_every_cut(tmp_path):
    """Of matrices cut by rows, by columns and by both."""
    layouts = [Layout(tensor=2), Layout(sharded=2, tensor=2)]
    rows = compared(
        "text-classification", "transformer", tmp_path, layouts,
        optimizer="adafactor", learning_rate=0.01,
    )  # fmt: skip

    assert all(row.agrees and row.loss is not None for row in rows), rows


def test_blocks_computed_twice_change_nothing(tmp_path):
    """Activation checkpointing: bitwise the same training, dropout included."""
    found = []
    for name, value in (("plain", "none"), ("twice", "full")):
        trainer = trainer_of(
            tmp_path / name, "transformer", activation_checkpointing=value, args={"dropout": 0.1}
        )
        trainer.run(Budget(steps=6))
        found.append(weights_of(trainer))

    assert [] == differing(*found)


def test_batch_norms_are_not_computed_twice(tmp_path):
    with pytest.raises(ConfigError, match="batch norms would count every row twice"):
        trainer_of(tmp_path, "cnn", activation_checkpointing="full")


@pytest.mark.slow
def test_two_processes_do_a_run_as_one_does(tmp_path):
    """Under torchrun, unedited: the road's other stages are the first process's."""
    recipe_of("text-classification", tmp_path)
    keys = ["model.family=transformer", "model.size=tiny", "budget.train_steps=30"]
    command = ["-m", "modelwright", "run", str(tmp_path / "recipe.yaml"), *keys, "--json", "--out"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    found = []
    for name, launcher in (("one", []), ("two", torchrun)):
        done = subprocess.run(
            [sys.executable, *launcher, *command, str(tmp_path / name)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert 0 == done.returncode, done.stderr
        run = Path(json.loads(done.stdout.splitlines()[-1])["run"])
        lines = (run / "train/metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)])

    assert found[0] == pytest.approx(found[1], rel=1e-4)


def draw_of(rank, layout):
    world = parallel.World(Place(rank, rank, layout.processes))
    world.arrange(layout)
    return world.draw


@pytest.mark.parametrize("layout", [Layout(pipeline=2), Layout(pipeline=2, data=2),
                                    Layout(context=2, tensor=2)])  # fmt: skip
def test_dropout_draws_anew_for_other_rows_places_and_blocks(tmp_path, layout):
    """Processes that share all of these, which cut matrices, have the same masks."""
    found = run_ranks(tmp_path, layout.processes, draw_of, layout)

    assert layout.processes // layout.tensor == len(set(found))

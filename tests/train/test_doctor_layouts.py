"""`modelwright doctor --layouts` finds a layout that trains otherwise, whatever is wrong in it."""

import functools
import json
import os

import pytest
from tests.conformance.makers import MAKERS

from modelwright.cli import call
from modelwright.core import recipe_file
from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Layout
from modelwright.models.catalog import ModelSpec
from modelwright.stages import load
from modelwright.train import buckets, equivalence, spread
from modelwright.train.equivalence import Compared, compare
from modelwright.train.parallel import World

from .processes import Job, free_port


def write(task, folder):
    maker = MAKERS[task]
    source, _ = maker.write(folder)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"task": task, "data": {"source": str(source), **maker.data}}))
    return path


def work(rank, folder, number, port):
    who = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "MASTER_PORT": port}
    environment = {name: str(value) for name, value in who.items()}
    equivalence._work(folder, {**environment, "MASTER_ADDR": "127.0.0.1"})


def as_forks(folder, number):
    """In place of processes that load everything anew: these have this one's faults."""
    Job(folder, number, work, folder, number, free_port(), group=False).ends_with()
    return [""]


def all_but_one(gradients, every=buckets.buckets):
    return list(every(gradients))[1:]


def twice_in_pieces(world):
    return 2.0 * world.shares if world.cut else world.shares / world.copies


FAULTS = {
    "a bucket of gradients is added up nowhere": (
        "data 2", (buckets, "buckets", all_but_one), (buckets, "BUCKET_BYTES", 20_000)),
    "a shard is scaled twice": (
        "sharded 2", (World, "scale", property(twice_in_pieces))),
    "all ranks take the first one's rows": ("data 2", (World, "reader", 0)),
    "batch norms see their own rows alone": (
        "data 2", (spread, "synchronize_batch_norms", lambda *_: None)),
    "a length is that of a rank's own blocks": (
        "pipeline 2", (World, "total_of_blocks", lambda world, model, squared: squared)),
}  # fmt: skip
OF = {
    "batch norms see their own rows alone": ("image-classification", "cnn"),
    "a length is that of a rank's own blocks": ("text-classification", "transformer"),
}
QUICK = ("a bucket of gradients is added up nowhere", "a shard is scaled twice")


@pytest.fixture(scope="module")
def without_fault():
    """What ended a command that has no fault, by what was compared; each once."""
    return {}


@pytest.mark.xdist_group("doctor")
@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=[] if f in QUICK else pytest.mark.slow) for f in FAULTS]
)
def test_a_fault_in_a_layout_is_found(tmp_path, monkeypatch, capsys, without_fault, fault):
    """What a rank computes wrongly ends the command with exit code 4 and the layout's name; the
    same layouts without the fault agree."""
    name, *changes = FAULTS[fault]
    task, family = OF.get(fault, ("text-classification", "rnn"))
    axis = name.split()[0]
    layouts = [Layout(**{one: 2}) for one in dict.fromkeys(("data", "sharded", axis))]
    monkeypatch.setattr(equivalence, "_start", as_forks)
    monkeypatch.setattr(equivalence, "compare", functools.partial(compare, layouts=layouts))
    command = ["doctor", "--layouts", str(write(task, tmp_path)), f"model.family={family}",
               "train.optimizer=adamw"]  # fmt: skip
    with monkeypatch.context() as planted:
        for change in changes:
            planted.setattr(*change)
        found = call(command)
    rows = capsys.readouterr().out.splitlines()

    assert 4 == found, rows
    assert any(f"  {name} " in row and "DIFFERS" in row for row in rows), rows
    assert any("accumulation" in row and "DIFFERS" not in row for row in rows)
    compared = task, family, *(layout.name for layout in layouts)
    if compared not in without_fault:
        without_fault[compared] = call(command)
    assert 0 == without_fault[compared], capsys.readouterr().out


FAULT = """\
from modelwright.train.parallel import World
own = World.scale.fget
World.scale = property(lambda world: own(world) * (1 + world.cut))
"""


@pytest.mark.slow
def test_a_fault_is_found_in_processes_of_their_own(tmp_path, monkeypatch, capsys):
    """As the command starts them, nothing of it replaced; only what has pieces differs."""
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = ["doctor", "--layouts", str(write("text-classification", tmp_path)),
               "model.family=rnn", "train.optimizer=adamw", "--json"]  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", path)

    assert 4 == call(command)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert ["sharded 2", "data 2 × sharded 2"] == [row["name"] for row in rows if not row["agrees"]]


def test_a_difference_is_one_from_a_hundred_thousandth_on():
    """Of a loss, and of a gradient's length."""
    assert [True, True, False, False] == [
        Compared("data 2", 2, *apart).agrees
        for apart in ((1e-5, 0.0), (0.0, 1e-5), (1.1e-5, 0.0), (0.0, 1.1e-5))
    ]


@pytest.mark.parametrize(
    ("task", "why"),
    [("control", "learns from acting"), ("image-text-matching", "compares all rows of a batch")],
)
def test_no_layouts_are_compared_of_what_one_process_trains(tmp_path, capsys, task, why):
    """Before its data is looked at."""
    (tmp_path / "recipe.yaml").write_text(f"task: {task}\ndata: {{source: nowhere}}\n")
    found = call(["doctor", "--layouts", str(tmp_path / "recipe.yaml")])

    assert 2 == found
    assert f"doctor --layouts: {task} {why}, which one process does" in capsys.readouterr().err


def test_a_high_rate_is_no_alarm(tmp_path):
    """Ratings learn at 0.01, where steps enlarge what rounding begins beyond the tolerance."""
    recipe = recipe_file.read(write("rating-prediction", tmp_path), {})
    data = load(recipe)
    spec = ModelSpec.asked("transformer", "tiny", data.inputs, data.outputs, {})
    (found,) = compare(recipe, data, spec, ())

    assert 0.01 == spec.training["learning_rate"] and found.agrees


@pytest.mark.parametrize("refused", [("cnn",), ("cnn", "rnn", "transformer")])
def test_a_family_that_the_recipe_does_not_train_is_a_row(tmp_path, monkeypatch, capsys, refused):
    """Where the model is open the others are compared; with nothing compared it is an error."""

    def compared(recipe, data, spec):
        if spec.family in refused:
            raise ConfigError(f"{spec.family} has no blocks")
        yield Compared("data 2", 2, 0.0, 0.0)

    monkeypatch.setattr(equivalence, "compare", compared)
    recipe = str(write("text-classification", tmp_path))
    code = call(["doctor", "--layouts", recipe, "--json"])

    said = capsys.readouterr()
    assert (2 if len(refused) == 3 else 0) == code
    assert "has no blocks" in said.out + said.err
    if not code:
        rows = json.loads(said.out)["rows"]
        assert ["one process", "data 2", "data 2"] == [row["name"] for row in rows]

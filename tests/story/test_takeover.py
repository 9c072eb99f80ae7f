"""Another run with the model that one has trained: nothing is trained, all behind it is done."""

import json
import shlex

import pytest

from modelwright import cli, pipeline, stages, takeover
from modelwright.core import recipe_file
from modelwright.core.artifact import open_artifact
from modelwright.core.errors import ConfigError
from modelwright.core.run import Run
from modelwright.stages import read

from .conftest import flip

pytestmark = pytest.mark.xdist_group("story")


@pytest.fixture
def trains_none(monkeypatch):
    """A stage of training that fails."""

    def fail(*asked, **known):
        raise AssertionError("trained again")

    for stage in ("gate", "plan", "train"):
        monkeypatch.setitem(stages.STEPS, stage, fail)


@pytest.mark.usefixtures("trains_none")
def test_other_goals_are_judged_without_training(run_copy, command):
    """Another run stands beside, certified by its own goals, on its own target, with the model that
    was trained; that the test part was seen before stands on its certificate."""
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    said = command("run", run_copy, "goals={accuracy: '>= 0.2'}", "target.threads=2",
                   "compress=none")  # fmt: skip
    other = run_copy.with_name("easy-002")
    certificate = json.loads((other / "deploy/certificate.json").read_bytes())
    manifest = json.loads((other / "deploy/manifest.json").read_bytes())
    weights = "train/model/model.safetensors"

    assert 0 == said.code
    assert ["accuracy"] == list(certificate["goals"])
    assert ["easy-001"] == certificate["judged_before"]
    assert "The same test rows judged easy-001 before" in certificate["text"]
    assert 2 == manifest["target"]["threads"]
    assert (run_copy / weights).read_bytes() == (other / weights).read_bytes()
    assert f"are those of {run_copy}" in said.err
    assert before == {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    assert 0 == command("verify", other).code


@pytest.mark.usefixtures("trains_none")
def test_a_chain_of_runs_names_each_that_judged(run_copy, command):
    """Whoever begins with a model that began with another's says so of both, and its report has the
    curves and figures of the training."""
    command("run", run_copy, "goals={}", "compress=none")
    command("run", run_copy.with_name("easy-002"), "goals.accuracy=>= 0.1")
    last = run_copy.with_name("easy-003")
    first, then = (Run(one) for one in (run_copy, last))
    figures = [
        [(one["name"], one["number"]) for one in run.events("train", "figure")]
        for run in (first, then)
    ]

    assert ["easy-001", "easy-002"] == then.began["judged_before"]
    assert figures[0] == figures[1] != []
    assert "best valid accuracy" in (last / "report.html").read_text()


@pytest.mark.usefixtures("trains_none")
@pytest.mark.parametrize("cut", ["nothing", "plan", "train/model", "train/done.json"])
def test_a_kill_while_it_is_taken_over_costs_nothing(run_copy, command, monkeypatch, cut):
    """The same command goes on in the same folder, and every figure stands in the ledger once."""

    class Killed(BaseException):
        """What no handler expects."""

    def dies(*asked, **known):
        raise Killed

    where = {"nothing": "_copy", "plan": "write", "train/model": "read"}
    with monkeypatch.context() as context, pytest.raises(Killed):
        if cut in where:
            context.setattr(takeover, where[cut], dies)
        else:
            context.setattr(Run, "mark_done", dies)
        cli.call(["train", str(run_copy), "goals.accuracy=>= 0.2"])
    said = command("train", run_copy, "goals.accuracy=>= 0.2")
    (other,) = (one for one in run_copy.parent.iterdir() if one != run_copy)
    events = [json.dumps(one) for one in Run(other).events("train")]

    assert 0 == said.code
    assert len(events) == len(set(events)) > 0
    assert (
        open_artifact(run_copy / "train/model").digest == read(other / "train/done.json")["digest"]
    )
    assert all(Run(other).done(stage) for stage in takeover.TAKEN)


def test_what_is_not_trained_lends_nothing(run_copy, command):
    """Overrides of goals are refused, with what a run takes."""
    (run_copy / "train/done.json").unlink()
    said = command("run", run_copy, "goals.accuracy=>= 0.2")

    assert 2 == said.code
    assert "once it is trained, of goals, target, compress, decode" in said.err
    assert [run_copy] == list(run_copy.parent.iterdir())


def test_a_changed_model_is_not_taken_over(run_copy, command):
    """One byte of it is enough to be refused, by name."""
    flip(run_copy / "train/model/model.safetensors")
    said = command("run", run_copy, "goals.accuracy=>= 0.2")

    assert 4 == said.code
    assert "model.safetensors" in said.err


def test_a_run_whose_origin_is_gone_says_so(run_copy, command, monkeypatch):
    """It can't begin, and another run is the repair."""
    with monkeypatch.context() as context:
        context.setattr(takeover, "take_over", lambda run, recipe: None)
        context.setitem(stages.STEPS, "gate", lambda run, recipe: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.call(["run", str(run_copy), "goals.accuracy=>= 0.2"])
    (run_copy / "train/done.json").unlink()
    with pytest.raises(ConfigError, match="is not there any more"):
        pipeline.go(Run(run_copy.with_name("easy-002")))


def test_a_recipe_with_other_goals_is_told_of_the_model_that_is_there(run_copy, command, recipe):
    """The command to begin with it is one that can be run as it stands."""
    said = command("train", recipe, "goals={accuracy: '>= 0.25'}", "--out", run_copy.parent)
    (line,) = (one for one in said.err.splitlines() if "has trained this model already" in one)

    assert line.endswith("""'goals={"accuracy": [">= 0.25"]}'""")
    assert f"modelwright run {run_copy}" in line


def test_a_run_that_cannot_be_read_any_more_stops_no_other(run_copy, recipe):
    """Of another version, say: it is passed over, and a new run begins."""
    with open(run_copy / "recipe.yaml", "a") as file:
        file.write("of_another_version: true\n")
    other = recipe_file.read(recipe, {"goals": {}})

    assert "easy-002" == pipeline.start(other, run_copy.parent).folder.name


def test_a_dry_run_says_with_what_another_run_would_begin(run_copy, command):
    """Nothing is made."""
    said = command("run", run_copy, "goals.accuracy=>= 0.2", "--dry-run", "--json")

    assert {
        "run": None, "begins_with": str(run_copy), "done": ["gate", "plan", "train"],
        "to_do": ["compress", "export", "certify"],
    } == said.json  # fmt: skip
    assert [run_copy] == list(run_copy.parent.iterdir())


def test_an_infeasible_run_names_the_command_that_relaxes_its_goal(recipe, tmp_path, command):
    """And that command ends certified, without training."""
    out = tmp_path / "runs"
    said = command("run", recipe, "compress=none", "goals.accuracy=['>= 0.999', 'drop <= 5 pt']",
                   "--out", out, "--json")  # fmt: skip
    words = said.json["next"]

    assert 3 == said.code and said.json["binding_goal"] == "accuracy"
    assert words.startswith(f"modelwright run {out}/easy-001 'goals.accuracy=[")
    assert "drop <= 0.05" in words
    assert 0 == command(*shlex.split(words)[1:]).code

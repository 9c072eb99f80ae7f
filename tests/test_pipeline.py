"""Which run a command goes on with, and what of its recipe it brings along."""

import json

import pytest

from modelwright import pipeline, verbs
from modelwright.core import recipe_file
from modelwright.core.errors import ConfigError

# other values of all that may change
OTHERS = {
    "layout": {"tensor": 2}, "device": "cpu", "checkpoint_minutes": 3, "checkpoint_steps": 7,
    "keep_checkpoints": 5, "grace_seconds": 9, "stuck_minutes": 2,
    "loggers": ["mlflow"], "mlflow_uri": "https://example.org",
}  # fmt: skip


@pytest.fixture
def recipe_of(tmp_path):
    """The recipe with these keys of its section train."""
    path = tmp_path / "digits.yaml"
    path.write_text(json.dumps({"task": "image-classification", "data": {"source": "digits"}}))
    return lambda **train: recipe_file.read(path, {f"train.{k}": v for k, v in train.items()})


def test_a_run_goes_on_in_another_layout(tmp_path, recipe_of, capsys):
    """With the command's layout and ways to save, watch and log, which the run keeps, and says so
    once."""
    first = pipeline.start(recipe_of(layout={"data": 2}), tmp_path / "runs")
    for _ in range(2):
        again = pipeline.start(recipe_of(**OTHERS), tmp_path / "runs")
    (told,) = again.events("run", "decision")
    kept = recipe_file.read(again.folder / "recipe.yaml")

    assert first.folder == again.folder and set(OTHERS) == set(recipe_file.MAY_CHANGE)
    assert recipe_of(**OTHERS) == kept
    assert "train.layout is tensor 2 now, it was data 2; train.device is cpu now" in told["text"]
    assert "train.loggers is mlflow now, it was none" in told["text"]
    assert 1 == capsys.readouterr().err.count(f"run: {told['text']}\n")


def test_other_training_is_another_run(tmp_path, recipe_of):
    first, other = (pipeline.start(recipe_of(seed=seed), tmp_path / "runs") for seed in (0, 1))

    assert ("digits-001", "digits-002") == (first.folder.name, other.folder.name)


def test_what_was_predicted_of_another_layout_is_said_to_stay(tmp_path, recipe_of):
    run = pipeline.start(recipe_of(), tmp_path / "runs")
    (run.folder / "plan").mkdir()
    (run.folder / "plan/predictions.json").write_text("{}")
    pipeline.go_on_with(run, recipe_of(layout={"data": 2}))

    assert ["train.layout is data 2 now, it was auto; what was predicted stays"] == [
        event["text"] for event in run.events("run", "decision")
    ]


def test_a_finished_run_keeps_its_recipe(tmp_path, recipe_of):
    run = pipeline.start(recipe_of(), tmp_path / "runs")
    run.write("run", "finished", verdict="certified")
    pipeline.go_on_with(run, recipe_of(keep_checkpoints=5))

    assert recipe_of() == recipe_file.read(run.folder / "recipe.yaml")


def test_a_folder_takes_overrides_of_what_may_change(tmp_path, recipe_of):
    """All others are refused, with the keys that are not."""
    run = pipeline.start(recipe_of(), tmp_path / "runs")
    again = verbs._run_for(run.folder, {"train.keep_checkpoints": 5}, tmp_path / "runs", False)

    assert run == again
    assert recipe_of(keep_checkpoints=5) == recipe_file.read(run.folder / "recipe.yaml")
    with pytest.raises(ConfigError, match="overrides have no effect") as caught:
        verbs._run_for(run.folder, {"train.seed": 1}, tmp_path / "runs", False)
    assert "layout" in caught.value.expected
    with pytest.raises(ConfigError, match="which goes on where it is"):
        verbs._run_for(run.folder, {}, tmp_path / "elsewhere", False)


def test_a_dry_run_of_a_folder_says_what_the_command_would_do(tmp_path, recipe_of):
    """Up to the stage that is asked for; overrides are refused as there."""
    run = pipeline.start(recipe_of(), tmp_path / "runs")

    assert ["gate", "plan", "train"] == verbs.stages(run.folder, until="train")["to_do"]
    with pytest.raises(ConfigError, match="overrides have no effect"):
        verbs.stages(run.folder, {"train.seed": 1})
    run.write("run", "finished", verdict="infeasible")
    assert [] == verbs.stages(run.folder)["to_do"]


def test_a_run_that_goes_on_says_whose_rows_it_has(tmp_path, recipe_of, capsys):
    """Files that were mended since are not read."""
    recipe = recipe_of()
    run = pipeline.start(recipe, tmp_path / "runs")
    pipeline.start(recipe, tmp_path / "runs")
    assert "read in the beginning" not in capsys.readouterr().err
    run.stage_folder("gate").mkdir()
    (run.stage_folder("gate") / "done.json").write_text("{}")
    pipeline.start(recipe, tmp_path / "runs")

    assert "its rows are those that it read in the beginning" in capsys.readouterr().err

"""Which run a command goes on with, and what of its recipe it brings along."""

import errno
import json
import os
from types import SimpleNamespace

import pytest

from modelwright import pipeline, stages, verbs, which_run
from modelwright.core import recipe_file
from modelwright.core.errors import ConfigError, Infeasible, IntegrityError, StorageError

# other values of all that may change; checkpoint_steps stands in for checkpoint_minutes
OTHERS = {
    "layout": {"tensor": 2}, "device": "cpu", "checkpoint_steps": 7,
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

    assert {"checkpoint_minutes", *OTHERS} == set(recipe_file.MAY_CHANGE)
    assert first.folder == again.folder
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


def test_sizes_that_an_option_rules_out_stand_in_the_ledger(tmp_path, recipe_of, monkeypatch):
    """What is told while the plan is made is kept: which sizes it did not look at, and why."""
    run = pipeline.start(recipe_of(), tmp_path / "runs")
    options = {"model.family": "transformer", "model.num_kv_heads": 2}
    inputs = {"kind": "image", "shape": [1, 8, 8], "mean": [0.0], "std": [1.0]}
    data = {"inputs": inputs, "outputs": {"kind": "classes", "num_classes": 3}}
    run.stage_folder("gate").mkdir()
    (run.stage_folder("gate") / "data.json").write_text(json.dumps(data))
    monkeypatch.setattr(stages.choose, "_calibrated", lambda *asked: [])
    monkeypatch.setattr(stages, "load_part", lambda folder, part: None)
    with pytest.raises(Infeasible):
        stages.plan(run, recipe_file.read(tmp_path / "digits.yaml", options))
    told = [event["text"].partition(":")[2] for event in run.events("plan", "fallback")]

    assert [
        " transformer-tiny: 2 heads of keys cannot be dealt out to 1 of queries; that size is "
        "left out",
        " transformer-small has no more heads than that; that size is left out",
    ] == told


def test_a_finished_run_keeps_its_recipe(tmp_path, recipe_of):
    run = pipeline.start(recipe_of(), tmp_path / "runs")
    run.write("run", "finished", verdict="certified")
    pipeline.go_on_with(run, recipe_of(keep_checkpoints=5))

    assert recipe_of() == recipe_file.read(run.folder / "recipe.yaml")


def test_a_folder_takes_overrides_of_what_may_change(tmp_path, recipe_of):
    """All others are refused, with the keys that are not."""
    run = pipeline.start(recipe_of(), tmp_path / "runs")
    again = which_run.run_for(run.folder, {"train.keep_checkpoints": 5}, tmp_path / "runs", False)

    assert run == again
    assert recipe_of(keep_checkpoints=5) == recipe_file.read(run.folder / "recipe.yaml")
    with pytest.raises(ConfigError, match="overrides have no effect") as caught:
        which_run.run_for(run.folder, {"train.seed": 1}, tmp_path / "runs", False)
    assert "layout" in caught.value.expected
    with pytest.raises(ConfigError, match="which goes on where it is"):
        which_run.run_for(run.folder, {}, tmp_path / "elsewhere", False)


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


@pytest.fixture
def run(tmp_path, recipe_of):
    """A run whose stages have nothing to do, with nothing done yet."""
    return pipeline.start(recipe_of(), tmp_path / "runs")


@pytest.fixture
def quick(monkeypatch):
    """Stages that do nothing, but for one that refuses while it is in the set given."""
    refusing = set()

    def stage_of(name):
        def do(run, recipe, **known):
            if name in refusing:
                raise IntegrityError(f"{name} refuses")
            return {}

        return do

    for name in pipeline.STEPS:
        monkeypatch.setitem(pipeline.STEPS, name, stage_of(name))
    monkeypatch.setattr(pipeline, "write_report", lambda run: None)
    return refusing


def test_a_recipe_that_was_edited_in_the_run_is_refused(run):
    """Whoever reads it; --new starts another run with it, and what may change may."""
    path = run.folder / "recipe.yaml"
    text = path.read_text()
    path.write_text(text.replace("keep_checkpoints: 2", "keep_checkpoints: 7"))
    assert 7 == pipeline.recipe_of(run).train.keep_checkpoints
    path.write_text(text.replace("seed: 0", "seed: 1"))
    reading = (
        lambda: pipeline.go(run), lambda: verbs.stages(run.folder),
        lambda: which_run.run_for(run.folder, {}, which_run.RUNS, False),
    )  # fmt: skip
    for read in reading:
        with pytest.raises(IntegrityError, match="not the recipe that the run was started") as one:
            read()
    assert "--new" in one.value.repair
    assert which_run.asked_for(run.folder, {}, True)[0] is None


def test_going_on_is_told_once_the_run_is_ours(run, quick):
    """A run is resumed by who holds it, however it was named; the first start is no resume."""
    pipeline.go(run, until="plan")
    assert [] == list(run.events("run", "resumed"))
    with pipeline._locked(run), pytest.raises(ConfigError, match="another process"):
        pipeline.go(run)
    assert [] == list(run.events("run", "resumed"))
    pipeline.go(run, until="train")

    assert 1 == len(list(run.events("run", "resumed")))


def test_a_refusal_of_a_later_stage_is_not_that_of_an_earlier_one(run, quick):
    """Up to train there is nothing that refuses; the stage that does is refused again."""
    quick.add("export")
    for _ in range(2):
        with pytest.raises(IntegrityError, match="export refuses"):
            pipeline.go(run)
        assert "refused" == pipeline.result(run)["verdict"]
    assert "unfinished" == pipeline.go(run, until="train")["verdict"]


def test_a_report_that_fails_does_not_hide_what_stopped_the_stage(run, quick, monkeypatch, capsys):
    """The stage's refusal is what is raised; of the report a line tells."""

    def fail(run):
        raise ZeroDivisionError("no rows")

    monkeypatch.setattr(pipeline, "write_report", fail)
    quick.add("gate")
    with pytest.raises(IntegrityError, match="gate refuses"):
        pipeline.go(run)

    assert "report: not written: no rows" in capsys.readouterr().err


@pytest.mark.parametrize("error", [IntegrityError("no"), KeyboardInterrupt(), ValueError()])
def test_time_until_a_stage_was_stopped_is_kept(run, quick, monkeypatch, error):
    """Whatever stopped it: the report counts that time as spent."""

    def stop(run, recipe):
        raise error

    monkeypatch.setitem(pipeline.STEPS, "gate", stop)
    with pytest.raises(type(error)):
        pipeline.go(run)
    (told,) = run.events("gate", "stage_stopped")

    assert 0 <= told["seconds"] < 60


def test_a_mistyped_path_in_a_run_is_not_the_run(run):
    """With the nearest name of what is there; deploy is what a run has at its end only."""
    (run.folder / "train").mkdir()
    with pytest.raises(ConfigError, match="is not there, though the run") as caught:
        pipeline.run_of(run.folder / "trian")

    assert "did you mean 'train'?" in caught.value.expected
    assert run == pipeline.run_of(run.folder / "deploy")


def test_a_certificate_whose_stage_was_cut_short_is_no_result(run, quick):
    """Its model was not written yet; the stage will judge again."""
    run.stage_folder("certify").mkdir()
    (run.stage_folder("certify") / "certificate.json").write_text('{"verdict": "certified"}')

    assert "unfinished" == pipeline.go(run, until="train")["verdict"]


def test_a_line_that_a_crash_cut_is_dropped_by_who_goes_on(run, quick):
    """Or the next event would stand on the same line."""
    with open(run.ledger, "ab") as file:
        file.write(b'{"time": "20')
    pipeline.go(run, until="gate")

    assert ["started", "stage_started", "stage_finished"] == [one["event"] for one in run.events()]


def test_a_folder_without_locks_is_told_as_that(run, monkeypatch):
    """Only a lock that is held means another process."""

    def refuse(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(pipeline.fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="No locks available") as caught:
        pipeline.go(run)

    assert "--out" in caught.value.repair


def test_sessions_of_a_proof_are_closed(recipe_of, monkeypatch):
    """Each form of the model is loaded once, and let go."""
    opened = []

    def open_session(artifact, threads):
        opened.append(SimpleNamespace(close=lambda: closed.append(artifact)))
        return opened[-1]

    def nothing(*given, **keys):
        return {}

    closed = []
    monkeypatch.setattr(stages, "open_session", open_session)
    monkeypatch.setattr(stages, "load_model", nothing)
    monkeypatch.setattr(stages.ModelSpec, "from_json", nothing)
    for module, names in (
        (stages.locate, ("against_model", "against_graph")),
        (stages.parity, ("check_hop", "check_kernels")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, nothing)
    forms = [SimpleNamespace(manifest={"model": {}, "files": {"model.onnx": n}}, file=str)
             for n in range(3)]  # fmt: skip
    stages.prove(*forms, [], recipe_of())

    assert (3, 3) == (len(opened), len(closed))


def test_a_file_that_a_stage_left_and_that_is_gone(run):
    """It is one plain error, with the file's name."""
    with pytest.raises(IntegrityError, match=r"compress\.json is not the file that a stage left"):
        stages.read(run.stage_folder("compress") / "compress.json")


@pytest.mark.parametrize(
    "verb", [verbs.stages, verbs.plan, verbs.evaluate, verbs.verify, verbs.report, verbs.init],
    ids=lambda verb: verb.__name__,
)  # fmt: skip
def test_a_path_that_the_system_refuses_is_no_bug(tmp_path, monkeypatch, verb):
    """Whoever is given it says the system's reason."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="File name too long"):
        verb("a" * 300)


def test_one_text_is_not_its_letters():
    """In Python as on the command line one is enough."""
    assert ("a great film",) == verbs._each("a great film")
    assert ["a", "b"] == verbs._each(["a", "b"])
    with pytest.raises(ConfigError, match="runs/x is no run"):
        verbs.report("runs/x")


def test_init_looks_at_nothing_if_its_file_is_there(tmp_path, monkeypatch):
    """Large data would be read for nothing; a name that no recipe can hold is refused as early."""
    (tmp_path / "mine.yaml").write_text("mine")
    monkeypatch.setattr("modelwright.starting.data_catalog", None)
    with pytest.raises(ConfigError, match="is there already"):
        verbs.init("digits", tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match="cannot stand in a recipe"):
        verbs.init(os.fsdecode(b"caf\xe9"))

"""Run folders as values: the verdict, the stages, predicted beside measured."""

import pytest

from modelwright.core.goals import METRICS
from modelwright.report.collect import Pair, _look, collect, collect_runs


def event(stage, event, clock=0, **fields):
    return {"time": f"2026-03-01T10:00:{clock:02d}.000+00:00", "stage": stage, "event": event,
            **fields}  # fmt: skip


def pairs(life):
    return {(pair.subject, pair.name): pair for pair in life.pairs}


def test_certified_needs_every_goal_met(make_run, certified):
    """A certificate that claims more than its goals show is not believed."""
    certified["certify/certificate.json"]["goals"]["size_mb"]["met"] = False
    life = collect(make_run(certified))

    assert life.verdict == "refused"
    assert any("not met: size_mb" in notice for notice in life.notices)


def test_certified_needs_every_goal_of_the_recipe_judged(make_run, certified):
    """A certificate that is silent about a goal of the recipe proves nothing."""
    del certified["certify/certificate.json"]["goals"]["latency_p99_ms"]
    life = collect(make_run(certified))

    assert life.verdict == "refused"
    assert any("not met: latency_p99_ms" in notice for notice in life.notices)


@pytest.mark.parametrize(("name", "content", "verdict", "words"), [
    ("certify/done.json", None, "unfinished", "“certify” did not reach its end"),
    ("deploy/manifest.json", None, "refused", "the model in deploy/ is not there"),
    ("deploy/manifest.json", {"files": {"model.onnx": {"sha256": "00" * 32}}}, "refused",
     "is not the one that was judged"),
])  # fmt: skip
def test_certified_needs_the_model_that_was_judged(
    make_run, certified, name, content, verdict, words
):
    """A certificate alone ships nothing: its stage is done, and deploy/ holds its graph."""
    certified[name] = content
    if content is None:
        del certified[name]
    life = collect(make_run(certified))

    assert verdict == life.verdict
    assert words in life.reason


def test_a_whole_run_has_no_notices(make_run, certified):
    """What follows the contract is read without complaint."""
    life = collect(make_run(certified))

    assert (life.verdict, life.notices) == ("certified", ())
    assert life.recipe is not None and life.recipe.name == "digits"
    assert [stage.state for stage in life.stages] == ["done"] * 6
    assert life.seconds == pytest.approx(0.4 + 41.2 + 171 + 38 + 6 + 9)


def test_a_refusal_at_the_end_is_the_verdict(make_run, certified):
    """The text of the refusal is what the report says."""
    files = {k: v for k, v in certified.items() if k.split("/")[0] in ("recipe.yaml", "data")}
    del files["data/done.json"]
    files["run.jsonl"] = [event("run", "started"), event("gate", "stage_started", 1),
        event("run", "refused", 2, text="3 broken files", final=True)]  # fmt: skip

    life = collect(make_run(files))

    assert (life.verdict, life.reason) == ("refused", "3 broken files")
    assert life.stages[0].state == "stopped"


def test_a_refused_candidate_is_not_a_refused_run(make_run, certified):
    """A refusal that the run went on from is a note, not the verdict."""
    certified["run.jsonl"].insert(3, event("plan", "refused", text="one candidate"))

    assert collect(make_run(certified)).verdict == "certified"


def test_a_crashed_and_resumed_stage_has_both_tries(make_run, certified):
    """Time before the crash counts, up to the last thing that was recorded."""
    files = {"recipe.yaml": certified["recipe.yaml"], "train/done.json": {"finished": 1}}
    files["run.jsonl"] = [
        event("run", "started"), event("train", "stage_started", 1),
        event("train", "decision", 6, text="go"), event("run", "resumed", 20),
        event("train", "stage_started", 21), event("train", "stage_finished", 31, seconds=10.0),
    ]  # fmt: skip
    train = collect(make_run(files)).stages[2]

    assert (train.state, train.seconds) == ("done", 15.0)
    assert train.spans == ((1.0, 5.0), (21.0, 10.0))


def test_a_try_that_was_stopped_counts(make_run, certified):
    """Up to the moment in which the stage wrote that it was stopped."""
    files = {"recipe.yaml": certified["recipe.yaml"]}
    files["run.jsonl"] = [
        event("run", "started"), event("train", "stage_started", 1),
        event("train", "stage_stopped", 8, seconds=7.0), event("run", "resumed", 20),
        event("train", "stage_started", 21), event("train", "stage_stopped", 24, seconds=3.0),
    ]  # fmt: skip
    life = collect(make_run(files))

    assert ("stopped", 10.0, 10.0) == (life.stages[2].state, life.stages[2].seconds, life.seconds)
    assert ((1.0, 7.0), (21.0, 3.0)) == life.stages[2].spans


def test_predictions_find_their_measurements(make_run, certified):
    """The winner's plan meets figures from training, certificate and ledger."""
    found = pairs(collect(make_run(certified)))

    assert (
        found["run", "num_params"].predicted, found["run", "num_params"].measured,
    ) == (77850, 77850)  # fmt: skip
    assert found["run", "memory_bytes"].measured == 143_000_000
    assert found["run", "size_bytes"].measured == 318_000
    assert found["run", "latency_ms"].measured == 0.104
    assert found["run", "train_s"].error == pytest.approx(7 / 164)
    assert found["run", "forward_flops"].error is None


def test_the_ledger_overrides_the_plan(make_run, certified):
    """A figure recorded about the winner, with its method, replaces the plan's."""
    number = {"value": 2.5, "unit": "s", "kind": "measured", "how": "timed"}
    number |= {"low": 2.4, "high": 2.6}
    certified["run.jsonl"] += [
        event("train", "figure", subject="cnn-small", name="epoch_s", number=number),
        event("train", "figure", subject="cnn-tiny", name="epoch_s", number=number),
        event("train", "figure", subject="run", name="odd", number={"value": None}),
    ]
    found = pairs(collect(make_run(certified)))

    assert Pair("run", "epoch_s", "s", 1.9, 2.5, 2.4, 2.6, "timed") == found["run", "epoch_s"]
    assert found["cnn-tiny", "epoch_s"].measured == 2.5
    assert ("run", "odd") not in found


@pytest.mark.parametrize(("predicted", "measured", "error"), [
    (9, 10, -0.1), (12, 10, 0.2), (None, 10, None), (10, None, None), (10, 0, None),
])  # fmt: skip
def test_error_is_a_share_of_what_was_measured(predicted, measured, error):
    """Too low is negative; without both, or against nothing, there is no error."""
    assert error == Pair("run", "x", "s", predicted, measured).error


def test_several_runs_make_one_table(make_run, certified, impossible, tmp_path):
    """One row a run; a folder that is no run keeps its row and says so."""
    folders = [make_run(certified).folder, make_run(impossible).folder, tmp_path / "else"]
    rows = collect_runs(folders)

    assert [row["verdict"] for row in rows] == ["certified", "infeasible", "no run"]
    assert {key: rows[0][key] for key in ("metric", "accuracy", "size_mb", "latency_p99_ms")} == {
        "metric": "accuracy",
        "accuracy": 0.9825,
        "size_mb": 0.1,
        "latency_p99_ms": 0.0582,
    }
    assert rows[0]["minutes"] == pytest.approx(265.6 / 60)
    assert (rows[2]["metric"], rows[1]["run"]) == (None, "digits-002")


@pytest.mark.parametrize("lost", [(), ("recipe.yaml",), ("recipe.yaml", "train/model/manifest.json",
                                  "deploy/manifest.json")])  # fmt: skip
def test_the_metric_is_known_from_any_file_that_says_it(make_run, other_task, lost):
    """Recipe, manifests and certificate each name it; its unit and direction come along."""
    expected = other_task["certify/certificate.json"]["metric"]
    for name in lost:
        del other_task[name]
    life = collect(make_run(other_task))

    assert (expected, expected == "f1") == (life.metric.name, life.metric.higher_is_better)
    assert len(life.evaluations) == 15


def test_runs_of_several_tasks_each_have_their_own_metric(make_run, certified, other_task):
    """A row says what its run was measured by, and has the value under that name."""
    first, second = collect_runs([make_run(certified).folder, make_run(other_task).folder])
    metric = second["metric"]

    assert (first["accuracy"], metric in first) == (0.9825, False)
    assert second[metric] == other_task["certify/certificate.json"][metric]


def test_a_run_that_was_stopped_behind_a_refused_candidate_is_unfinished(make_run, certified):
    """What was refused is a form of the model; the run was interrupted."""
    files = {k: v for k, v in certified.items() if k.split("/")[0] in ("recipe.yaml", "data")}
    files["run.jsonl"] = [event("run", "started"), event("compress", "stage_started", 1),
        event("compress", "refused", 2, text="int8-minmax is another model")]  # fmt: skip

    assert "unfinished" == collect(make_run(files)).verdict


@pytest.mark.parametrize(("raced", "looked"), [("f1_macro", "f1_macro"), (None, "accuracy")])
def test_a_race_is_told_in_what_it_was_judged_by(raced, looked):
    """Of a model taken over for goals on another measure, the race's values stay what they are;
    curves have both."""
    plan = {"candidates": [{"rounds": [{"metric": raced, "value": 0.5}] if raced else []}]}
    curves = [{"step": 9, "valid_f1_macro": 0.5, "valid_accuracy": 0.9}]

    assert METRICS[looked] == _look(METRICS["accuracy"], plan, curves)

"""The whole road, from a recipe to a model that answers; and the roads that end earlier."""

import json
import shutil

import numpy as np
import pytest
from tests.conformance.makers import MAKERS

from modelwright import stages, verbs
from modelwright.core import recipe_file
from modelwright.core.artifact import open_artifact
from modelwright.core.run import create
from modelwright.data.image import encode_png
from modelwright.data.rows import load_part
from modelwright.runtime.catalog import open_session

from .conftest import STAGES, undo

pytestmark = pytest.mark.xdist_group("story")
RESULT_KEYS = {"verdict", "run", "artifact", "report", "goals", "predicted", "measured"}


def events_of(run, event):
    lines = [json.loads(line) for line in (run / "run.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def test_an_easy_recipe_is_certified(finished):
    """Every goal is measured, met and bounded; the artifact and the report are where it says."""
    result = finished.result

    assert "certified" == result["verdict"]
    assert RESULT_KEYS == set(result)
    assert {"accuracy", "accuracy_drop", "size_mb", "latency_p99_ms"} == set(result["goals"])
    assert all(goal["met"] for goal in result["goals"].values())
    assert str(finished.folder / "deploy") == result["artifact"]
    assert {"epoch_s", "memory_bytes", "size_bytes", "latency_ms"} <= set(result["predicted"])
    assert {"epoch_s", "memory_bytes", "accuracy", "size_mb"} <= set(result["measured"])


def test_the_command_prints_the_same_object(run_copy, command):
    """`run RUN --json` on a finished run does nothing again, prints the result, and exits 0."""
    before = {path: path.stat().st_mtime_ns for path in run_copy.glob("*/done.json")}
    said = command("run", run_copy, "--json")

    assert (0, "certified", RESULT_KEYS) == (said.code, said.json["verdict"], set(said.json))
    assert before == {path: path.stat().st_mtime_ns for path in run_copy.glob("*/done.json")}


def test_the_table_names_the_goals(run_copy, command):
    """Without --json, people read a table of goals, the verdict and the next command."""
    said = command("run", run_copy)

    assert 0 == said.code
    for word in ("accuracy", "size_mb", "latency_p99_ms", "certified", "modelwright serve"):
        assert word in said.out


def test_the_ledger_holds_every_stage(finished):
    """Each stage started and finished once, in order; the run finished certified."""
    assert list(STAGES) == [line["stage"] for line in events_of(finished.folder, "stage_started")]
    assert list(STAGES) == [line["stage"] for line in events_of(finished.folder, "stage_finished")]
    assert ["certified"] == [line["verdict"] for line in events_of(finished.folder, "finished")]


def test_the_ledger_holds_what_the_gate_found(tmp_path):
    """Each finding is an event with its count, and so is what each step of cleaning did."""
    source, _ = MAKERS["text-classification"].write(tmp_path)
    (tmp_path / "texts.yaml").write_text(
        f"task: text-classification\n"
        f"data: {{source: {source}, clean: [{{shortest: 9}}, {{normalize: NFC}}]}}"
    )
    run = create(tmp_path, "texts", "", "", version="")
    stages.gate(run, recipe_file.read(tmp_path / "texts.yaml"))
    report = json.loads((run.folder / "data/data.json").read_bytes())
    found = events_of(run.folder, "finding")

    assert [(one["check"], one["count"]) for one in report["findings"]] == [
        (one["check"], one["count"]) for one in found
    ]
    assert ["shortest: 9: 10", "normalize: NFC: 0"] == [
        one["text"].partition(" rows")[0] for one in found if one["check"] == "cleaned"
    ]


def test_predicted_stands_beside_measured(finished):
    """The ledger has a measured figure for each predicted one of the winner."""
    figures = events_of(finished.folder, "figure")
    kinds = {
        kind: {(f["subject"], f["name"]) for f in figures if f["number"]["kind"] == kind}
        for kind in ("predicted", "measured")
    }

    assert kinds["predicted"] and kinds["predicted"] <= kinds["measured"]


def test_only_certify_opens_the_test_part(finished):
    """No stage before the verdict reads a test row; certify reads them once."""
    assert ["certify"] == [stage for stage, part in finished.opened if part == "test"]
    assert {("train", "train"), ("train", "valid"), ("export", "valid")} <= set(finished.opened)


def test_the_deployed_model_is_the_chosen_one(finished):
    """deploy/ opens as an artifact, its graph is the chosen candidate's byte for byte, and its
    chain leads back to the trained model."""
    run = finished.folder
    deploy = open_artifact(run / "deploy", kinds=("deploy",))
    table = json.loads((run / "compress/compress.json").read_bytes())
    chosen = open_artifact(run / "compress/candidates" / table["chosen"])
    certificate = json.loads((run / "deploy/certificate.json").read_bytes())

    assert chosen.digest == deploy.manifest["parent"]
    assert chosen.file("model.onnx").read_bytes() == deploy.file("model.onnx").read_bytes()
    assert certificate["digests"]["model"] == deploy.manifest["files"]["model.onnx"]["sha256"]
    assert certificate["digests"]["trained"] == open_artifact(run / "train/model").digest
    assert {"model.onnx", "certificate.json", "samples.json"} == set(deploy.manifest["files"])
    assert certificate["latency"]["measurements"] in (1, 2, 3)


def test_predict_answers_as_the_session(finished, tmp_path, command):
    """A PNG of a test row gets from the command what the deployed session answers."""
    part = load_part(finished.folder / "data", "test")
    (tmp_path / "row.png").write_bytes(encode_png(part.images[3]))
    session = open_session(open_artifact(finished.folder / "deploy"))
    wanted = session({"image": part.images[3:4]})["probabilities"][0]
    said = command("predict", finished.folder, tmp_path / "row.png", "--json")
    (answer,) = said.json["answers"]

    assert (0, str(int(wanted.argmax()))) == (said.code, answer["answer"])
    found = {entry["label"]: entry["probability"] for entry in answer["probabilities"]}
    np.testing.assert_allclose([found[str(n)] for n in range(10)], wanted, atol=1e-7)


def test_predict_answers_every_good_file(finished, tmp_path, command):
    """A bad file is named with its reason, on stderr and in the JSON, and costs no other answer."""
    part = load_part(finished.folder / "data", "test")
    for name in ("a", "c"):
        (tmp_path / f"{name}.png").write_bytes(encode_png(part.images[3]))
    (tmp_path / "b.png").write_text("just words")
    said = command("predict", finished.folder, tmp_path, tmp_path / "d.png", "--json")
    bad = [
        {"file": str(tmp_path / "b.png"),
         "reason": "the image cannot be read: it is no PNG, JPEG, WebP, BMP or GIF",
         "expected": "a whole PNG, JPEG, WebP, BMP or GIF file"},
        {"file": str(tmp_path / "d.png"), "reason": "No such file or directory",
         "expected": "a whole file that may be read"},
    ]  # fmt: skip

    assert 2 == said.code
    good = [str(tmp_path / "a.png"), str(tmp_path / "c.png")]
    assert good == [answer["file"] for answer in said.json["answers"]]
    assert bad == said.json["failed"]
    for one in bad:
        lines = [f"{one['file']}: {one['reason']}", f"  expected: {one['expected']}"]

        assert "\n".join(lines) in said.err


def test_evaluate_agrees_with_the_certificate(finished):
    """The accuracy of deploy/ on the test part is the certified one, interval included."""
    certificate = json.loads((finished.folder / "certify/certificate.json").read_bytes())
    found = verbs.evaluate(finished.folder / "deploy", part="test")

    assert certificate["goals"]["accuracy"]["measured"] == found["accuracy"]
    assert (certificate["accuracy_low"], certificate["accuracy_high"]) == (
        found["low"], found["high"],
    )  # fmt: skip
    assert certificate["confusion"] == found["confusion"]


def test_runs_of_one_name_are_told_apart(finished, tmp_path, command):
    """A run is called by its name in the table, with as many parents as tell it from the others."""
    runs = [tmp_path / name for name in ("a/easy-001", "b/easy-001", "a/easy-002")]
    for run in runs:
        shutil.copytree(finished.folder, run)
    rows = command("report", *runs, "--json").json["runs"]

    assert ["a/easy-001", "b/easy-001", "easy-002"] == [row["run"] for row in rows]
    assert [str(run) for run in runs] == [row["folder"] for row in rows]


def test_verify_proves_it_again(finished, command):
    """`verify RUN` checks every hop from the trained model to what is deployed."""
    said = command("verify", finished.folder, "--json")

    assert 0 == said.code
    assert said.json["passed"]
    assert all(1000 <= hop["rows"] for hop in said.json["hops"])
    assert "trained → onnx" == said.json["hops"][0]["name"]


def test_report_is_one_file(finished):
    """The report is there, tells the verdict, and loads nothing from elsewhere."""
    page = (finished.folder / "report.html").read_text()

    assert "certified" in page.lower()
    assert 'src="http' not in page and "@import" not in page


def test_finished_stages_are_skipped(run_copy, command, no_training):
    """With certify's mark removed, the same command judges again and trains nothing."""
    undo(run_copy, "certify")
    count = len(events_of(run_copy, "stage_started"))
    said = command("run", run_copy, "--json")

    assert (0, "certified") == (said.code, said.json["verdict"])
    assert ["certify"] == [e["stage"] for e in events_of(run_copy, "stage_started")[count:]]


def test_a_finished_recipe_starts_a_new_run(finished, recipe, tmp_path, command, no_training):
    """Runs are never overwritten: the same recipe again makes the next folder."""
    said = command("run", recipe, "--dry-run", "--json")

    assert (0, True) == (said.code, said.json["fits"])
    assert not (tmp_path / "runs").exists()


def test_infeasible_before_training(recipe, tmp_path, command, no_training):
    """A size that no candidate can reach ends before a step is trained: exit 3, the nearest
    misses, the goal that binds, no deploy folder, and a report that says so."""
    said = command(
        "run", recipe, "goals.accuracy=>= 0.999", "goals.size_mb=<= 0.005",
        "--out", tmp_path / "runs", "--json",
    )  # fmt: skip
    run = tmp_path / "runs/easy-001"

    assert (3, "infeasible", None) == (said.code, said.json["verdict"], said.json["artifact"])
    assert "size_mb" == said.json["binding_goal"]
    assert ["size_mb"] == list(said.json["nearest_misses"][0]["missed"])
    assert "size_mb binds" in said.json["relax"] and "nothing was trained" in said.err
    assert not (run / "deploy").exists() and not (run / "train").exists()
    candidates = json.loads((run / "plan/plan.json").read_bytes())["candidates"]
    assert {one["name"]: one["reason"] for one in candidates} == {
        one["subject"]: one["text"] for one in events_of(run, "lost")
    }
    page = (run / "report.html").read_text()
    assert "infeasible" in page.lower() and "size_mb" in page


def test_infeasible_after_training(recipe, tmp_path, command):
    """An accuracy that ten steps do not reach: exit 3 with the value that was reached."""
    said = command(
        "run", recipe, "goals.accuracy=>= 0.9999", "budget.train_steps=10", "compress=none",
        "--out", tmp_path / "runs", "--json",
    )  # fmt: skip
    run = tmp_path / "runs/easy-001"
    missed = said.json["nearest_misses"][0]["missed"]

    assert (3, "infeasible", None) == (said.code, said.json["verdict"], said.json["artifact"])
    assert ("accuracy", ["accuracy"]) == (said.json["binding_goal"], list(missed))
    assert 0 <= missed["accuracy"]["measured"] < 0.9999
    assert f"{missed['accuracy']['measured']:.4g}" in said.json["relax"]
    assert not (run / "deploy").exists()
    assert "infeasible" in (run / "report.html").read_text().lower()


def test_memory_that_binds_is_named(recipe, tmp_path, command, no_training):
    """Where the memory budget rules everything out, that key is named as what binds."""
    said = command(
        "run", recipe, "budget.memory_gb=0.001", "--out", tmp_path / "runs", "--json",
    )  # fmt: skip

    assert (3, "budget.memory_gb") == (said.code, said.json["binding_goal"])
    assert "budget.memory_gb" in said.json["relax"]
    assert "next" not in said.json  # nothing is trained, and no goal would help


def test_a_second_verdict_replaces_the_first(run_copy, command, monkeypatch):
    """A run that is judged again and misses its goals ships nothing, also not what it shipped
    before."""
    from modelwright.compress import certify

    judge = certify.certify

    def missed(*arguments):
        found = judge(*arguments)
        found["verdict"] = "infeasible"
        found["goals"]["accuracy"] |= {"met": False, "measured": 0.1}
        return found

    monkeypatch.setattr(certify, "certify", missed)
    undo(run_copy, "certify")
    said = command("run", run_copy, "--json")

    assert (3, "infeasible") == (said.code, said.json["verdict"])
    assert ("accuracy", None) == (said.json["binding_goal"], said.json["artifact"])
    assert not (run_copy / "deploy").exists()


@pytest.mark.slow
def test_auto_prunes_where_int8_is_too_large(recipe, tmp_path, command):
    """A size between int8 and pruned int8 is reached by pruning, and every candidate is told."""
    said = command(
        "run", recipe, "compress=auto", "model.family=transformer", "budget.train_steps=300",
        "goals.size_mb=<= 0.0262", "--out", tmp_path / "runs", "--json",
    )  # fmt: skip
    table = json.loads((tmp_path / "runs/easy-001/compress/compress.json").read_bytes())

    assert {"fp32", "int8-minmax", "prune-0.25"} <= {row["name"] for row in table["candidates"]}
    assert all(row["reason"] for row in table["candidates"] if row["status"] != "pareto")
    assert said.code == (0 if table["chosen"] else 3)

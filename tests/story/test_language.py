"""The whole road of a language model, on made-up text: from a file to a model that writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from modelwright import cli, stages, verbs
from modelwright.core.artifact import open_artifact
from modelwright.core.errors import ConfigError
from modelwright.core.run import Run

pytestmark = pytest.mark.xdist_group("story")
RECIPE = """\
task: language-modeling
data: {source: SOURCE, valid: 0.2, test: 0.2, window: 16}
budget: {train_steps: 40}
goals: {nats_per_char: ["<= 2.5", "drop <= 0.1"], bits_per_byte: "<= 3.6", size_mb: "<= 1"}
model: {family: FAMILY, size: tiny}
train: {batch_size: 32, precision: 32-true, learning_rate: 0.02}
compress: [quantize]
decode: {max_new: 20, top_k: 3}
"""
WORDS = ["to be", "or not", "that is", "the question,", "whether", "it is\n"]
TEXT = " ".join(np.random.default_rng(0).choice(WORDS, 900))


@pytest.fixture(scope="module", params=[
    "cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rnn", "transformer")),
])  # fmt: skip
def result(request, tmp_path_factory):
    """What a run gave; read only."""
    folder = tmp_path_factory.mktemp("language")
    (folder / "plays.txt").write_text(TEXT)
    recipe = RECIPE.replace("SOURCE", str(folder / "plays.txt")).replace("FAMILY", request.param)
    if request.param == "rnn":  # for which there is no static int8
        recipe = recipe.replace("[quantize]", "none")
    (folder / "language.yaml").write_text(recipe)
    return verbs.run(folder / "language.yaml", out=folder / "runs")


def test_the_road_ends_certified(result):
    """The goal is met on the test part; every form on the way is the same model."""
    certificate = json.loads(
        (open_artifact(Path(result["artifact"])).file("certificate.json")).read_bytes()
    )

    assert "certified" == result["verdict"]
    quality = ("nats_per_char", "nats_per_char_drop", "bits_per_byte")
    assert {*quality, "size_mb"} == set(result["goals"])
    for name in quality[::2]:  # each with its own interval
        goal = result["goals"][name]
        assert goal["low"] < goal["measured"] == certificate[name] < goal["high"]
    assert {"nats_per_char", "bits_per_byte", "nats_per_token"} <= set(certificate)
    assert verbs.verify(result["run"])["passed"]
    assert "nats per character" in Path(result["report"]).read_text()


def test_proof_takes_no_more_places_than_memory_holds(result, monkeypatch):
    """Rows of the proof are few where each has many places, and each place many scores."""
    run = Run(Path(result["run"]))
    vocabulary = stages.read(run.stage_folder("gate") / "data.json")["outputs"]["num_classes"]
    monkeypatch.setattr(stages, "PARITY_PLACES", 20 * 16)
    few = stages.parity_rows(run)
    monkeypatch.setattr(stages, "PARITY_SCORES", 7 * 16 * vocabulary)
    fewer = stages.parity_rows(run)

    assert (20, 7) == (len(few), len(fewer))


def test_it_writes_on(result):
    """A text and a file are continued; what was drawn hangs on the seed alone."""
    folder = result["artifact"]
    how = {"max_new": 30, "temperature": 0.7, "seed": 3}
    one, two = (verbs.predict(folder, ["to be ", "x" * 5000], **how) for _ in range(2))

    assert [] == one["failed"]
    assert one == two
    assert [30, 30] == [len(answer["answer"]) for answer in one["answers"]]
    assert set("".join(answer["answer"] for answer in one["answers"])) <= set(TEXT)


def test_the_command_prints_text_behind_its_beginning(result, tmp_path, capsys):
    """A whole file is one beginning."""
    (tmp_path / "begin.txt").write_text("whether\nit is ")
    words = ["predict", result["artifact"], str(tmp_path / "begin.txt"), "--max-new", "5",
             "--temperature", "0"]  # fmt: skip
    code = cli.call(words)
    said = capsys.readouterr().out

    assert 0 == code
    assert said.startswith("whether\nit is ")
    assert len("whether\nit is ") + 5 + 1 == len(said)


def test_evaluate_gives_the_measure_and_its_interval(result):
    """On valid, with the interval around it."""
    found = verbs.evaluate(result["run"])

    assert "nats_per_char" == found["metric"]
    assert found["low"] <= found["nats_per_char"] <= found["high"]
    assert found["nats_per_char"] == pytest.approx(found["bits_per_byte"] * np.log(2))


def test_other_models_do_not_write(finished):
    """The options of a language model are refused, with their names."""
    with pytest.raises(ConfigError, match="max_new is of no use to image-classification"):
        verbs.predict(finished.folder / "deploy", ["x.png"], max_new=3)


def test_it_writes_as_the_recipe_says(result):
    """What the recipe says of writing is shipped, and done unless a flag says otherwise; pieces are
    told as they come."""
    folder, told = result["artifact"], []
    (shipped,) = verbs.predict(folder, ["to be "], told=told.append)["answers"]
    (again,) = verbs.predict(folder, ["to be "], max_new=6, top_k=1)["answers"]
    (greedy,) = verbs.predict(folder, ["to be "], max_new=6, temperature=0)["answers"]

    assert {"max_new": 20, "top_k": 3} == open_artifact(Path(folder)).manifest["decode"]
    assert 20 == len(shipped["answer"])
    assert greedy == again
    assert ["to be " + shipped["answer"], "\n"] == ["".join(told[:-1]), told[-1]]
    with pytest.raises(ConfigError, match="seed: nothing reads it where no token is drawn"):
        verbs.predict(folder, ["to be "], temperature=0, seed=1)

"""Classes of very different sizes: goals and training that count them alike."""

import json
from pathlib import Path

import numpy as np
import pytest

from modelwright import verbs

pytestmark = pytest.mark.xdist_group("story")
SIZES = {"train": (300, 60, 12), "test": (100, 20, 10)}
RECIPE = """\
task: image-classification
data: {source: SOURCE, valid: 0.3}
budget: {train_steps: 60}
goals: {f1_macro: [">= 0.6", "drop <= 5 pt"], balanced_accuracy: ">= 0.99", accuracy: ">= 0.5"}
model: {family: cnn, size: tiny}
train: {batch_size: 32, precision: 32-true, learning_rate: 0.01, class_weights: balanced}
compress: [quantize]
"""


def drawn(part):
    """Noise with a bright stripe where the class says, so faint that some are taken for others."""
    draw = np.random.default_rng(len(part))
    targets = np.repeat(np.arange(3), SIZES[part])
    images = draw.integers(0, 160, (len(targets), 8, 8), np.uint8)
    for image, target in zip(images, targets, strict=True):
        image[2 * target : 2 * target + 2] += 60
    return images, targets


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What a run gave that misses one of its goals; read only."""
    folder = tmp_path_factory.mktemp("uneven")
    (x_train, y_train), (x_test, y_test) = drawn("train"), drawn("test")
    np.savez(folder / "stripes.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    (folder / "uneven.yaml").write_text(RECIPE.replace("SOURCE", str(folder / "stripes.npz")))
    return verbs.run(folder / "uneven.yaml", out=folder / "runs")


def test_several_measures_are_judged(result):
    """Each goal by its own measure, interval and all; the one that can't be met is named."""
    goals = result["goals"]
    missed = [name for name, goal in goals.items() if not goal["met"]]

    assert ["balanced_accuracy"] == missed == [result["binding_goal"]]
    for name in ("f1_macro", "balanced_accuracy", "accuracy"):
        assert goals[name]["low"] <= goals[name]["measured"] <= goals[name]["high"]


def test_the_first_measure_decides(result):
    """In the certificate and for `evaluate`; proofs go by accuracy, which no single answer of a
    rare class moves far; the ledger says of each measure that rows told it."""
    folder = Path(result["run"])
    certificate = json.loads((folder / "certify/certificate.json").read_bytes())
    hops = json.loads((folder / "export/parity.json").read_bytes())["hops"]
    events = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    told = {one["name"]: one["number"]["how"] for one in events
            if one["stage"] == "certify" and one["event"] == "figure"}  # fmt: skip

    assert "f1_macro" == certificate["metric"]
    assert "f1_macro" == verbs.evaluate(folder / "train/model")["metric"]
    assert {"accuracy"} == {hop["metric"] for hop in hops}
    assert {"130 test rows"} == {told[name] for name in ("f1_macro", "f1_macro_drop", "accuracy")}
    assert "F1, mean of classes" in Path(result["report"]).read_text()


def test_another_first_measure_is_another_run(result):
    """Goals in another order let another one decide: no run goes on as if they were the same; the
    new one says by what its model was chosen."""
    folder = Path(result["run"])
    again = verbs.run(folder, {"goals": {"accuracy": ">= 0.5", "f1_macro": ">= 0.1"}})
    events = (Path(again["run"]) / "run.jsonl").read_text()

    assert ("certified", True) == (again["verdict"], again["run"] != result["run"])
    assert "f1_macro decided in its race and for the weights that were kept" in events

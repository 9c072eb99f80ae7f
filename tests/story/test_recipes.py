"""The recipes that we ship, each as it stands but for its size: from data laid out as it says down
to a trained model. The whole road of each task is walked in tests/conformance."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conformance.makers import MAKERS

from modelwright import verbs
from modelwright.core import recipe_file
from modelwright.core.artifact import open_artifact

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
STEPS = 3
TINY = {
    "budget.train_minutes": None, "budget.train_steps": STEPS, "goals": {}, "train.batch_size": 8,
    "model": {"family": "cnn", "size": "tiny"},
}  # fmt: skip


def _news(folder: Path) -> Path:
    """Two packed tables whose names do not begin with their parts', and another column's name."""
    source, _ = MAKERS["text-classification"].write(folder)
    rows = [line.split(",") for line in source.read_text().splitlines()[1:]]
    for name, own in (("train_subset", rows[:90]), ("test", rows[90:])):
        lines = ["label\tdescription", *(f"{label}\t{text} {name}" for text, label in own)]
        (folder / f"{name}.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


def _movielens(folder: Path, *tables: str) -> Path:
    """MovieLens' columns: user, item, rating, time; and the titles beside them."""
    draw, lines = np.random.default_rng(0), []
    for user in range(40):
        for step, item in enumerate(draw.permutation(20)[: 6 + user % 8]):
            lines.append(f"{user}\t{item}\t{1 + (item + user) % 5}\t{1000 + step}")
    for name, own in zip(tables, np.array_split(lines, len(tables)), strict=True):
        (folder / name).write_text("\n".join(own))
    titles = "\n".join(f"{item}|Amélie {item}|1995" for item in range(20))
    (folder / "u.item").write_text(titles, encoding="latin-1")
    return folder


def _hours(folder: Path) -> Path:
    draw, lines = np.random.default_rng(0), ["date,load,heat"]
    for hour, (load, heat) in enumerate(draw.normal(0, 1, (760, 2)).round(4)):
        lines.append(f"2024-{1 + hour // 672:02}-{1 + hour // 24 % 28:02} {hour % 24:02}:00,"
                     f"{load},{heat}")  # fmt: skip
    (folder / "ETTh1.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder / "ETTh1.csv.gz"


def _made(task: str) -> Callable[[Path], Path]:
    return lambda folder: MAKERS[task].write(folder)[0]


# data as each recipe says that it lies, and keys that only its size or its time makes needed
LAID_OUT: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "digits": (lambda folder: Path("digits"), {}),
    "fashion_mnist": (_made("image-classification"), {}),
    "news": (_news, {}),
    "chunks": (_made("tagging"), {}),
    "shakespeare": (_made("language-modeling"), {}),
    "translation": (_made("translation"), {}),
    "spoken_digits": (_made("audio-classification"), {}),
    "spoken_words": (_made("transcription"), {}),
    "forecast": (_hours, {"data.split_rows": [520, 120, 120]}),
    "movies": (lambda folder: _movielens(folder, "u.data") / "u.data", {}),
    "film_ratings": (lambda folder: _movielens(folder, "u1.base", "u1.test"), {}),
    "blood_cells": (_made("detection"), {"data.image_size": 32}),
    "captions": (_made("image-text-matching"), {}),
}  # fmt: skip
ELSEWHERE = {"cartpole", "acrobot"}  # tests/story/test_control.py
# walked by default: those with keys that no other test has; all together take a minute
QUICK = {"news", "forecast", "movies", "film_ratings"}


def test_each_recipe_is_run():
    """A new file in recipes/ says here how its data lies."""
    assert {path.stem for path in RECIPES} == set(LAID_OUT) | ELSEWHERE


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else pytest.mark.slow)
        for path in RECIPES
        if path.stem not in ELSEWHERE
    ],
)
def test_a_recipe_runs_at_a_tiny_size(path, tmp_path):
    """Its keys fit the data that it asks for, and a few steps of it leave a model of its task."""
    for module in MAKERS[recipe_file.read(path).task].needs:
        pytest.importorskip(module)
    write, keys = LAID_OUT[path.stem]
    keys = {**TINY, "data.source": str(write(tmp_path)), **keys}
    found = verbs.train(path, keys, out=tmp_path / "runs")
    done = json.loads((Path(found["run"]) / "train/done.json").read_bytes())
    model = open_artifact(Path(found["run"]) / "train/model", kinds=("trained",))

    assert STEPS == done["steps"]
    assert recipe_file.read(path).task == model.manifest["task"]

"""Labels that are probably wrong: planted ones are found, in pictures, texts and recordings."""

import numpy as np
import pytest

from modelwright.core import recipe_file
from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Data
from modelwright.data import catalog, checks
from modelwright.data.label_noise import confident_errors, suspects
from modelwright.data.rows import Rows, ragged


def flipped(labels: np.ndarray, share: float, classes: int) -> tuple[np.ndarray, set[int]]:
    """Labels of which that share was replaced by another class, and where."""
    draw = np.random.default_rng(1)
    wrong = draw.permutation(len(labels))[: round(share * len(labels))]
    found = labels.copy()
    found[wrong] = (found[wrong] + draw.integers(1, classes, len(wrong))) % classes
    return found, set(wrong.tolist())


def judged(rows: Rows, wrong: set[int], classes: int) -> tuple[float, float]:
    """Precision and recall of the suspects."""
    found = set(suspects([rows], classes).rows.tolist())
    return len(found & wrong) / len(found), len(found & wrong) / len(wrong)


def test_flipped_labels_of_digits_are_found():
    """Of 5 % planted faults three in four are listed, and most of what is listed is one."""
    pytest.importorskip("sklearn")
    data = catalog.load(Data(source="digits"))
    train = data.parts["train"]
    labels, wrong = flipped(train.classes, 0.05, 10)
    precision, recall = judged(Rows(train.inputs, labels, train.origins), wrong, 10)

    assert recall >= 0.7
    assert precision >= 0.7


def test_flipped_labels_of_texts_are_found():
    """By the ids of their tokens."""
    draw = np.random.default_rng(0)
    labels = np.arange(400) % 2
    ids = [np.append(2 + draw.integers(0, 40, 12), 50 + 20 * label + draw.integers(0, 20, 3))
           for label in labels]  # fmt: skip
    given, wrong = flipped(labels, 0.05, 2)
    rows = Rows({"ids": ragged([one[:, None] for one in ids])}, given, [""] * 400)
    precision, recall = judged(rows, wrong, 2)

    assert recall >= 0.6
    assert precision >= 0.9


def test_words_that_most_texts_have_count_for_little():
    """Long texts of common words: what only a class has decides, though it is rare."""
    draw = np.random.default_rng(0)
    labels = np.arange(900) % 3
    ids = [np.concatenate([2 + draw.zipf(1.3, 40) % 300, 400 + 200 * label
                           + draw.integers(0, 60, 2)]) for label in labels]  # fmt: skip
    given, wrong = flipped(labels, 0.05, 3)
    rows = Rows({"ids": ragged([one[:, None] for one in ids])}, given, [""] * 900)
    precision, recall = judged(rows, wrong, 3)

    assert recall >= 0.6
    assert precision >= 0.8


def test_a_text_without_a_known_token_is_looked_at():
    """Its weights are none, and no number goes wrong."""
    ids = [np.array([[0]]) if row % 10 == 0 else np.array([[2 + row % 2]]) for row in range(60)]
    rows = Rows({"ids": ragged(ids)}, np.arange(60) % 2, [""] * 60)

    assert 60 == suspects([rows], 2).looked_at


def test_flipped_labels_of_recordings_are_found():
    """By a coarse spectrogram; recordings differ in length."""
    draw = np.random.default_rng(0)
    labels = np.arange(200) % 2
    sounds = []
    for number, label in enumerate(labels):
        time = np.arange(300 + 9 * number)
        tone = 8000 * np.sin(time * (0.3, 1.2)[label])
        sounds.append(tone + draw.normal(0, 900, len(time)))
    given, wrong = flipped(labels, 0.05, 2)
    rows = Rows({"samples": ragged([one.astype(np.int16) for one in sounds])}, given, [""] * 200)
    precision, recall = judged(rows, wrong, 2)

    assert recall >= 0.9
    assert precision >= 0.9


def test_thresholds_are_of_each_class():
    """A class of which the model is never sure still gets rows, as the paper counts them."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.45, 0.55], [0.7, 0.3], [0.6, 0.4]])
    labels = np.array([0, 0, 0, 1, 1])
    rows, likely = confident_errors(probabilities, labels)

    # thresholds 0.717 and 0.35: row 2 reaches the second alone, rows 3 and 4 not the first
    assert ([2], [1]) == (rows.tolist(), likely.tolist())


def test_the_gate_lists_them_when_asked(tmp_path):
    """With the label and what the row looks like, the surest first; else nothing is looked for."""
    kinds = (("cold dark", "bad"), ("warm bright", "good"))
    lines = ["text,label"]
    for number in range(120):
        words, label = kinds[number % 2]
        lines.append(f"{words} day {number % 7},{label}")
    lines.append("warm bright bright warm day,bad")
    (tmp_path / "texts.csv").write_text("\n".join(lines))
    asked = Data(source=str(tmp_path / "texts.csv"), checks={"label_noise": True})
    data = catalog.load(asked, "text", "classes")
    _, report = checks.check(data, asked)
    _, quiet = checks.check(data, Data(source=asked.source))
    (found,) = (one for one in report["findings"] if one["check"] == "label_noise")

    assert "label_noise" not in quiet["checked"]
    assert 1 == found["count"] and not found["blocking"]
    assert "warm bright bright" in found["rows"][0][0]
    assert "labelled bad, looks like good" == found["rows"][0][1]
    assert "0.8% of 121 rows" in found["text"]


def test_tasks_without_labels_refuse_it(tmp_path):
    """No key without effect."""
    path = tmp_path / "r.yaml"
    path.write_text(
        "task: forecasting\ndata: {source: x.csv, horizon: 4, checks: {label_noise: true}}\n"
    )

    with pytest.raises(ConfigError, match="label_noise: forecasting does not read it"):
        recipe_file.read(path)

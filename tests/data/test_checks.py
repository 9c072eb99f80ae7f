"""The gate: each fault planted once and found."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from modelwright.core import recipe
from modelwright.core.errors import DataError
from modelwright.data import similarity
from modelwright.data.catalog import load
from modelwright.data.checks import CHECKS, check, refuse
from modelwright.data.rows import Rows

from .conftest import noise, of, rows, section, sound, write_folder

SHARED = Path(__file__).parents[3] / "shared" / "data"


def found(report: dict) -> dict:
    return {finding["check"]: finding for finding in report["findings"]}


def test_every_check_of_the_recipe_is_made():
    """The gate's table holds exactly the checks that the recipe names."""
    assert [*recipe.BLOCKING_CHECKS, *recipe.NOTED_CHECKS] == list(CHECKS)


def test_sound_data_pass():
    """Data without a fault give a report without a finding, ready for data.json."""
    data, report = check(of(sound()), section())

    refuse(report)
    assert [] == report["findings"]
    assert {"train": 12, "valid": 4, "test": 6} == report["rows"]
    assert {"train": [6, 6], "valid": [2, 2], "test": [3, 3]} == report["class_counts"]
    assert data.digest == json.loads(json.dumps(report, allow_nan=False))["digest"]


def test_broken_files_are_named(images):
    """A cut, an empty and a foreign file stop the run by name; waived, they are left out."""
    whole = (images / "cats" / "00.png").read_bytes()
    (images / "cats" / "00.png").write_bytes(whole[:-20])
    (images / "dogs" / "03.png").write_bytes(b"")
    (images / "dogs" / "notes.txt").write_text("hello")
    data, report = check(load(section(images)), section(images))

    with pytest.raises(DataError, match=r"broken_files: 3 files.*cats/00.png"):
        refuse(report)
    assert [
        ["cats/00.png"],
        ["dogs/03.png"],
        ["dogs/notes.txt"],
    ] == found(report)["broken_files"]["rows"]
    waived = section(images, checks={"waive": ["broken_files"]})
    data, report = check(load(waived), waived)
    refuse(report)
    assert found(report)["broken_files"]["waived"]
    assert 18 == sum(len(part) for part in data.parts.values())


def test_empty_class_is_named(images):
    """A class folder with nothing readable stops the run; waived, it is no class."""
    (images / "birds").mkdir()
    data, report = check(load(section(images)), section(images))

    with pytest.raises(DataError, match=r"empty_class.*birds(.|\n)*waive: \[empty_class\]"):
        refuse(report)
    assert ["cats", "dogs"] == data.labels


def test_empty_part_folder_is_told(tmp_path):
    """A valid folder without a class is an empty part, not a reason to cut one from train."""
    write_folder(tmp_path, [f"train/{c}/{n}.png" for c in "ab" for n in range(4)])
    (tmp_path / "valid").mkdir()
    _, report = check(load(section(tmp_path)), section(tmp_path))

    assert "the valid part is empty" == found(report)["too_few_rows"]["text"]


def test_nan_is_named(tmp_path):
    """A NaN in an array stops the run and names its row, which is left out."""
    x = noise(20, (4, 4)) / 255
    x[3, 1, 1], x[7, 0, 0] = np.nan, np.inf
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(20) % 2)
    data, report = check(load(section(tmp_path / "a.npz")), section())

    with pytest.raises(DataError, match=r"nan_values: 2 rows"):
        refuse(report)
    assert [["x 3"], ["x 7"]] == found(report)["nan_values"]["rows"]
    assert 18 == sum(len(part) for part in data.parts.values())


@pytest.mark.parametrize("label", [-1, 255])
def test_label_out_of_range_is_named(tmp_path, label):
    """A label that is no class stops the run and names its row, which is left out."""
    y = np.arange(20) % 2
    y[5] = label
    np.savez(tmp_path / "a.npz", x=noise(20), y=y)
    data, report = check(load(section(tmp_path / "a.npz")), section())

    with pytest.raises(DataError, match="label_out_of_range: 1 row has a label outside 0 to 1"):
        refuse(report)
    assert [["y 5"]] == found(report)["label_out_of_range"]["rows"]
    assert ["0", "1"] == data.labels


def test_test_label_unknown_in_train_is_out_of_range(tmp_path):
    """A class that only the test part has cannot be learned."""
    np.savez(
        tmp_path / "a.npz", x_train=noise(20), y_train=np.arange(20) % 2,
        x_test=noise(3, seed=1), y_test=np.array([0, 1, 2]),
    )  # fmt: skip
    _, report = check(load(section(tmp_path / "a.npz")), section())

    assert [["y_test 2"]] == found(report)["label_out_of_range"]["rows"]


def leaking() -> dict[str, Rows]:
    parts = sound()
    parts["train"].images[2] = parts["test"].images[4]
    parts["valid"].images[1] = parts["test"].images[3]
    return parts


def test_leak_is_named():
    """A test image in train or valid stops the run and names both rows."""
    _, report = check(of(leaking()), section())

    with pytest.raises(DataError, match="duplicates_across_splits: 2 images"):
        refuse(report)
    assert [
        ["valid 1", "test 3"],
        ["train 2", "test 4"],
    ] == found(report)["duplicates_across_splits"]["rows"]


@pytest.mark.parametrize(
    ("train", "test", "leaks"),
    [
        ("Ok lar", "ok lar", []),  # one text to a model that reads lower case
        ("hi Anna", "hi Zora", []),  # and to one that knows neither name
        ("Ok lar", "Ok lar", [["train 10 (Ok lar)", "test 2 (Ok lar)"]]),
    ],
)
def test_texts_leak_as_they_are_written(tmp_path, train, test, leaks):
    """Texts that a model takes for one are no copies; equal ones are."""
    rows_of = {"train": [f"hi {n}" for n in range(10)] + [train], "valid": ["yes", "no"],
               "test": ["one", "two", test]}  # fmt: skip
    for part, texts in rows_of.items():
        lines = [f"{text},{'ab'[place % 2]}" for place, text in enumerate(texts)]
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,label", *lines]))
    data = load(section(tmp_path), "text")
    _, report = check(data, section(tmp_path))

    assert leaks == found(report).get("duplicates_across_splits", {"rows": []})["rows"]


def test_waived_leak_leaves_train_not_test():
    """Waived copies leave train and valid; the test part, by which all is judged, stays."""
    parts = leaking()
    before = of(parts)
    data, report = check(before, section(checks={"waive": ["duplicates_across_splits"]}))

    refuse(report)
    assert {"train": 11, "valid": 3, "test": 6} == report["rows"]
    assert np.array_equal(parts["test"].images, data.parts["test"].images)
    left = np.delete(parts["train"].images, 2, axis=0)
    assert left.mean() == pytest.approx(data.inputs["mean"][0])
    assert report["digest"] == data.digest != before.digest


def test_too_few_rows_are_told():
    """A class with one training row and an empty part are told together."""
    parts = sound()
    parts["train"] = parts["train"].take(np.array([0, 1, 2]))
    parts["valid"] = parts["valid"].take(np.array([], np.int64))
    _, report = check(of(parts), section())
    finding = found(report)["too_few_rows"]

    assert 2 == finding["count"]
    assert "the valid part is empty; 1 class has fewer than 2 training rows: b" == finding["text"]


def test_copies_within_a_part_are_noted():
    """A repeated image and its other label are noted, and nothing is stopped."""
    parts = sound()
    parts["train"].images[5] = parts["train"].images[2]
    _, report = check(of(parts), section())

    refuse(report)
    assert [["train 2", "train 5"]] == found(report)["duplicates_within_split"]["rows"]
    assert [["train 2", "train 5"]] == found(report)["conflicting_labels"]["rows"]
    assert "near_duplicates" not in found(report)


def test_near_copies_are_noted():
    """A brighter copy with a changed pixel is near; pairs across parts come first."""
    parts = sound()
    parts["train"].images[:] //= 2
    parts["train"].images[5] = parts["train"].images[2] + 1
    parts["test"].images[0] = parts["train"].images[7] + 9
    parts["test"].images[0, 0, 0, 0] += 3
    _, report = check(of(parts), section())
    finding = found(report)["near_duplicates"]

    assert 2 == finding["count"]
    assert [["train 7", "test 0"], ["train 2", "train 5"]] == finding["rows"]
    assert "2 pairs of images are nearly equal" in finding["text"]
    assert finding["text"].endswith("1 across parts")


@pytest.mark.parametrize("threshold", [0.6, 0.9, 0.999])
def test_near_pairs_are_all_of_them(threshold, monkeypatch):
    """Comparing neighbours along one direction finds what comparing everything finds."""
    monkeypatch.setattr(similarity, "_LEFT", 4)
    monkeypatch.setattr(similarity, "_RIGHT", 8)
    base = noise(40, (3, 14, 14))
    mixed = (base.astype(float) * 0.6 + base[::-1] * 0.4).astype(np.uint8)
    parts = [(base, np.arange(40)), (mixed, np.arange(0, 40, 2))]
    vectors = np.concatenate([similarity._features(i, c).numpy() for i, c in parts])
    expected = np.argwhere(np.triu(vectors @ vectors.T >= threshold - 1e-6, 1))
    found_pairs = similarity.near_pairs(parts, threshold)

    assert len(expected) == found_pairs.across + found_pairs.within
    assert {tuple(pair) for pair in expected.tolist()} >= set(found_pairs.pairs)
    assert min(len(expected), 100) == len(found_pairs.pairs)


def test_a_sample_is_said(monkeypatch):
    """When not every image was compared, the finding says so even without a pair."""
    monkeypatch.setattr(similarity, "LARGEST_ROWS", 8)
    _, report = check(of(sound()), section())

    assert "a sample of 8 of 22 images" in found(report)["near_duplicates"]["text"]


def test_constant_images_are_noted():
    """An image of one colour is noted; it is near to nothing."""
    parts = sound()
    parts["valid"].images[[1, 2]] = np.array([9, 70], np.uint8)[:, None, None, None]
    _, report = check(of(parts), section())

    assert [["valid 1"], ["valid 2"]] == found(report)["constant_images"]["rows"]
    assert ["constant_images"] == list(found(report))


def test_imbalance_is_noted():
    """Eleven rows to one is noted with both classes; ten to one is not."""
    for large, expected in ((33, ["class_imbalance"]), (30, [])):
        parts = sound()
        train = rows(large + 3, seed=9)
        parts["train"] = Rows(train.inputs, np.array([0] * large + [1] * 3), train.origins)
        _, report = check(of(parts), section())

        assert expected == list(found(report))
        for entry in report["findings"]:  # and what can be done
            assert "goals.f1_macro" in entry["text"]
            assert "train.class_weights: balanced" in entry["text"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_fashion_mnist_passes_in_time():
    """The gate takes seconds on 70,000 images, and finds no exact duplicate to refuse."""
    data = load(section(SHARED / "fashion_mnist"))
    started = time.process_time()
    _, report = check(data, section())

    refuse(report)
    assert ["near_duplicates"] == list(found(report))
    assert time.process_time() - started < 40

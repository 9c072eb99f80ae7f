"""Where the files of boxes may lie: what data.yaml says, folders by year, XML beside pictures."""

import shutil
from pathlib import Path

import pytest

from modelwright.core import recipe
from modelwright.core.errors import ConfigError
from modelwright.data import catalog
from modelwright.data.catalog import SOURCES

from .test_boxes import load, picture, voc

BOX = "0 0.5 0.5 0.5 0.5\n"


def yolo(root: Path, places: dict[str, range], yaml: str = "") -> Path:
    """Pictures with a box each in folders such as images/train, and data.yaml with two names."""
    root.mkdir(parents=True, exist_ok=True)
    for place, rows in places.items():
        marks = root / place.replace("images", "labels")
        marks.mkdir(parents=True, exist_ok=True)
        (root / place).mkdir(parents=True, exist_ok=True)
        for row in rows:
            (root / place / f"{row}.png").write_bytes(picture(row))
            (marks / f"{row}.txt").write_text(BOX)
    (root / "data.yaml").write_text(f"names: [cat, dog]\n{yaml}")
    return root


def counts(source: Path) -> dict[str, int]:
    data, _ = load(source, valid=0.25, test=0.25)
    return {part: len(rows) for part, rows in data.parts.items()}


@pytest.mark.parametrize(
    ("places", "yaml", "wanted"),
    [
        (["images/train2017", "images/val2017"], "", [9, 4, 3]),
        (["images/small", "images/other"], "train: images/small\nval: [images/other]\n", [9, 4, 3]),
        (["a/images", "b/images"], "path: .\ntrain: [a/images, b/images]\n", [9, 3, 4]),
        (["train/images", "valid/images"],
         "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n", [9, 4, 3]),
        (["images/first", "images/last"],
         "path: ../datasets/mine\ntrain: images/first\nval: images/last\n", [9, 4, 3]),
    ],
)  # fmt: skip
def test_yolo_is_where_data_yaml_says(tmp_path, places, yaml, wanted):
    """Or in folders of a year; the folder is named, or the file."""
    root = yolo(tmp_path, dict(zip(places, (range(12), range(12, 16)), strict=True)), yaml)

    assert wanted == list(counts(root).values())
    assert SOURCES["yolo"] is catalog.recognise(recipe.Data(source=str(root)))
    if yaml:
        assert wanted == list(counts(root / "data.yaml").values())


def test_pictures_of_train_are_no_valid_part(tmp_path, capsys):
    """COCO128 names the same folder twice: it would be judged by what it was trained on."""
    said = "train: images/train2017\nval: images/train2017\ntest: images/none\n"
    root = yolo(tmp_path, {"images/train2017": range(12)}, said)

    assert {"train": 7, "test": 3, "valid": 2} == counts(root)
    told = capsys.readouterr().err
    assert "a part of train is cut off instead" in told
    assert "has no folder test: images/none" in told


def test_data_yaml_leads_nowhere_else(tmp_path):
    """A folder outside is not read, whatever the file says of it."""
    yolo(tmp_path / "secret", {"images/train": range(4)})
    root = yolo(tmp_path / "mine", {}, f"path: {tmp_path}/secret\ntrain: images/train\n")

    for source in (root, root / "data.yaml"):
        with pytest.raises(ConfigError, match="of no kind that is known"):
            load(source)


def test_xml_may_lie_beside_its_picture(tmp_path):
    """In one folder, or in one for each part; the boxes are the same."""
    first, _ = load(voc(tmp_path / "voc", [("dog", (0, 12, 32, 48))]))
    flat, parts = tmp_path / "flat", tmp_path / "parts"
    for root in (flat, *(parts / part for part in ("train", "valid", "test"))):
        root.mkdir(parents=True)
    for row in range(12):
        part = "train" if row < 8 else "valid" if row < 10 else "test"
        for to in (flat, parts / part):
            shutil.copy(tmp_path / f"voc/Annotations/{row}.xml", to)
            shutil.copy(tmp_path / f"voc/JPEGImages/{row}.png", to)
    data, _ = load(parts)

    assert 12 == sum(counts(flat).values())
    assert first.labels == data.labels
    for part, rows in first.parts.items():
        assert rows.targets.values.tolist() == data.parts[part].targets.values.tolist()
    assert SOURCES["voc"] is catalog.recognise(recipe.Data(source=str(flat)))


def test_folders_of_xml_and_pictures_have_other_names_too(tmp_path):
    """As annotations and images, which COCO has as well, with JSON in the first."""
    root = voc(tmp_path, [("dog", (0, 12, 32, 48))])
    (root / "Annotations").rename(root / "annotations")
    (root / "JPEGImages").rename(root / "images")

    assert {"train": 8, "valid": 2, "test": 2} == counts(root)

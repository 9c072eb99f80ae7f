"""Folders of text files: one folder for each class, divided or not, plain or packed."""

import gzip
from pathlib import Path

import pytest

from modelwright import verbs
from modelwright.core.errors import DataError
from modelwright.core.recipe import Clean, Data
from modelwright.data import catalog, checks, text_folder
from modelwright.data.text_folder import decode


def fill(root: Path, number: int = 10) -> Path:
    for label, word in (("good", "warm"), ("bad", "cold")):
        (root / label).mkdir(parents=True)
        for count in range(number):
            file = root / label / f"{count}.txt"
            if count % 2:
                file.with_suffix(".txt.gz").write_bytes(gzip.compress(f"{word} {count}".encode()))
            else:
                file.write_text(f"{word} {count}\n", encoding="utf-8")
    return root


def load(root: Path, **keys):
    return catalog.load(Data(source=str(root), **keys), "text", "classes")


def texts(data, part: str) -> dict[str, str]:
    rows = data.parts[part]
    return {
        text: data.labels[int(one)] for text, one in zip(rows.origins, rows.classes, strict=True)
    }


def test_every_file_is_a_text_of_its_folders_class(tmp_path):
    """Plain and packed ones; the recipe cuts what is not divided."""
    data = load(fill(tmp_path))
    every = {text: label for part in data.parts for text, label in texts(data, part).items()}

    assert ["bad", "good"] == data.labels
    assert 20 == len(every)
    assert all(
        label == ("good" if text.startswith("warm") else "bad") for text, label in every.items()
    )
    assert "warm 3" in every


def test_part_folders_are_kept(tmp_path):
    """train, val and test as they are."""
    for part, number in (("train", 6), ("val", 2), ("test", 3)):
        fill(tmp_path / part, number)
    data = load(tmp_path)

    assert {"train": 12, "valid": 4, "test": 6} == {
        part: len(rows) for part, rows in data.parts.items()
    }


def test_what_cannot_be_read_is_a_finding(tmp_path):
    """Bytes that are no UTF-8, other files, empty texts; the rest is read."""
    fill(tmp_path)
    (tmp_path / "good/0.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "good/1.txt.gz").write_bytes(b"\x1f\x8bnot packed")
    (tmp_path / "bad/2.txt").write_text(" \n")
    (tmp_path / "bad/notes.docx").write_bytes(b"PK")
    section = Data(source=str(tmp_path), checks={"waive": ["broken_files"]})
    _, report = checks.check(catalog.load(section, "text", "classes"), section)
    found = {one["check"]: one for one in report["findings"]}

    assert {"bad/notes.docx", "good/0.txt", "good/1.txt.gz"} == {
        row[0] for row in found["broken_files"]["rows"]
    }
    assert [["bad/2.txt"]] == found["empty_texts"]["rows"]
    assert 17 == sum(report["rows"].values())


def test_cleaning_steps_pass_over_files_too(tmp_path):
    """As over rows of a table, counted in the ledger."""
    fill(tmp_path)
    (tmp_path / "good/0.txt").write_text("<b>warm &amp; bright</b>")
    data = load(tmp_path, clean=(Clean(strip="html"), Clean(shortest=7)))
    every = {text for part in data.parts for text in texts(data, part)}

    assert "warm & bright" in {text.strip() for text in every}
    assert "warm 3" not in every
    assert "cleaned" in {finding.check for finding in data.findings}


def test_a_folder_of_other_files_is_no_folder_of_texts(tmp_path):
    """Pictures stay pictures; a folder without class folders says what it should have."""
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/a.png").write_bytes(b"")

    assert not text_folder.is_here(tmp_path)
    with pytest.raises(DataError, match="no class folders"):
        load(tmp_path / "cats", format="text_folder")


def test_a_packed_text_beyond_all_bounds_is_refused():
    """Before it fills the memory."""
    with pytest.raises(DataError, match="too long"):
        decode(gzip.compress(bytes(2**24 + 1)))


def test_init_sees_texts_in_classes(tmp_path):
    """A folder of texts starts a recipe for text-classification."""
    root = fill(tmp_path / "reviews", 12)
    found = verbs.init(str(root), tmp_path / "reviews.yaml")

    assert "task: text-classification" in (tmp_path / "reviews.yaml").read_text()
    assert ["bad", "good"] == found["labels"]

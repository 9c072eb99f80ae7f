"""Recordings with texts: tables, LibriSpeech's folders, letters, what cannot be learned from."""

import sys
from pathlib import Path

import numpy as np
import pytest

from modelwright.core.errors import DataError, MissingExtra
from modelwright.data.catalog import SOURCES, load, recognise
from modelwright.data.checks import check, refuse
from modelwright.data.rows import Dataset, Ragged

from .conftest import section
from .test_audio import archive, hiss, prepare_script, wav

pytest.importorskip("rapidfuzz")
SPEAKERS = ("ann", "bo")


def write(root: Path, texts: list[str], table: str = "said.csv", samples: int = 4000) -> Path:
    """A recording for each text, and the table of them."""
    root.mkdir(parents=True, exist_ok=True)
    stem = table.partition(".")[0]
    between = "," if table.endswith(".csv") else "\t"
    lines = [between.join(("file", "text"))]
    for number, text in enumerate(texts):
        (root / f"{stem}{number}.wav").write_bytes(
            wav(hiss(samples + number, sum(map(ord, stem)) + number))
        )
        lines.append(between.join((f"{stem}{number}.wav", text)))
    (root / table).write_text("\n".join(lines))
    return root / table


def loaded(source: Path, **keys: object) -> Dataset:
    return load(section(source, **keys), "audio", "letters")


def texts_of(data: Dataset, part: str) -> list[str]:
    targets, labels = data.parts[part].targets, data.outputs["labels"]
    assert isinstance(targets, Ragged)
    return ["".join(labels[one] for one in targets[row]) for row in range(len(targets))]


def test_a_table_is_recordings_with_letters(tmp_path):
    """Letters are those of train; a place of an answer is two frames of 10 ms."""
    source = write(tmp_path, ["ab  ba ", "a b"] * 10)
    data = loaded(source)

    assert ["", "\ufffd", " ", "a", "b"] == data.outputs["labels"]
    assert "time // 160 + 1" == data.outputs["places"]
    assert {"ab ba", "a b"} == {text for part in data.parts for text in texts_of(data, part)}
    assert 20 == sum(len(rows) for rows in data.parts.values())
    assert "transcripts" == next(name for name, row in SOURCES.items() if row is recognise(
        section(source)))  # fmt: skip


def test_tables_of_a_folder_are_its_parts(tmp_path):
    """train.tsv, dev.tsv and test.tsv; a letter of test that train lacks is one id."""
    for name, texts in (("train.tsv", ["ab", "ba"]), ("dev.tsv", ["aa"]), ("test.tsv", ["abz"])):
        write(tmp_path, texts, name)
    data = loaded(tmp_path)

    assert [2, 1, 1] == [len(rows) for rows in data.parts.values()]
    assert ["ab\ufffd"] == texts_of(data, "test")


def test_columns_may_have_other_names(tmp_path):
    """data.columns names the file's and the text's."""
    source = write(tmp_path, ["ab"] * 20)
    source.write_text(source.read_text().replace("file,text", "path,sentence"))
    data = loaded(source, columns={"file": "path", "text": "sentence"})

    assert 20 == sum(len(rows) for rows in data.parts.values())


def test_folders_of_librispeech_are_read(tmp_path):
    """Each line of *.trans.txt is a file's name and its text; folders' names are the parts."""
    for part, texts in (("train-clean-100", ["A B", "BA"]), ("dev-clean", ["AB"]),
                        ("test-clean", ["B"])):  # fmt: skip
        folder = tmp_path / part / "19/198"
        write(folder, texts, "x.csv")
        (folder / "x.csv").unlink()
        lines = [f"x{number} {text}" for number, text in enumerate(texts)]
        (folder / "19-198.trans.txt").write_text("\n".join(lines) + "\n")
    data = loaded(tmp_path)

    assert {"train": 2, "valid": 1, "test": 1} == {
        part: len(rows) for part, rows in data.parts.items()
    }
    assert ["A B", "BA"] == texts_of(data, "train")


def test_what_is_too_short_for_its_text_is_left_out_of_train(tmp_path):
    """400 samples are 3 places: "aab" needs four of them, "ab" two."""
    for name, texts in (("train.csv", ["ab", "aab", "ba"]), ("valid.csv", ["aab"]),
                        ("test.csv", ["aab"])):  # fmt: skip
        write(tmp_path, texts, name, samples=400)
    data = loaded(tmp_path)
    _, report = check(data, section(tmp_path))

    assert [2, 1, 1] == [len(rows) for rows in data.parts.values()]  # judged all the same
    (found,) = [one for one in report["findings"] if one["check"] == "short_recordings"]
    assert "train 1 (train1.wav)" in found["rows"][0][0]
    refuse(report)


def test_texts_of_other_recordings_are_refused(tmp_path):
    """If no recording has room for its text, they hardly belong together."""
    with pytest.raises(DataError, match="too short for its text"):
        loaded(write(tmp_path, ["abababababab"] * 9, samples=300))


def test_rows_without_a_text_or_a_recording_are_findings(tmp_path):
    """An empty text is left out and noted, a missing or broken file stops the run."""
    source = write(tmp_path, ["ab"] * 19 + [" "])
    (tmp_path / "said3.wav").unlink()
    (tmp_path / "said5.wav").write_bytes(b"RIFF")
    data = loaded(source)
    _, report = check(data, section(source))

    assert 17 == sum(len(rows) for rows in data.parts.values())
    assert {"empty_texts": 1, "broken_files": 2} == {
        one["check"]: one["count"] for one in report["findings"]
    }
    with pytest.raises(DataError, match="broken_files"):
        refuse(report)


def test_files_beside_the_folder_are_not_read(tmp_path):
    """A table names files of its folder, not those of others."""
    source = write(tmp_path / "in", ["ab"] * 9)
    source.write_text(source.read_text() + "\n../out.wav,ab")
    (tmp_path / "out.wav").write_bytes(wav(hiss(4000)))

    with pytest.raises(DataError, match=r"names '\.\./out\.wav'"):
        loaded(source)


def test_two_texts_of_one_recording_are_refused(tmp_path):
    """Which of them is said, no one can tell."""
    source = write(tmp_path, ["ab"] * 9)
    source.write_text(source.read_text() + "\nsaid3.wav,ba")

    with pytest.raises(DataError, match=r"line 11 names 'said3\.wav', which an earlier line does"):
        loaded(source)


def test_a_missing_column_is_named(tmp_path):
    """The error says which column is missing, where, and how to name another."""
    source = write(tmp_path, ["ab"] * 9)
    source.write_text(source.read_text().replace("file,", "clip,"))

    with pytest.raises(DataError, match="there is no column 'file'"):
        loaded(source, format="transcripts")


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    """Counting errors needs rapidfuzz; the message says how to get it, before any training."""
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)

    with pytest.raises(MissingExtra, match="rapidfuzz"):
        loaded(write(tmp_path, ["ab"] * 9))


@pytest.mark.parametrize("unit", ["characters", "bytes"])
def test_letters_may_be_bytes(tmp_path, unit):
    """data.tokens.unit cuts texts as it does for language models."""
    data = loaded(write(tmp_path, ["aä"] * 9), tokens={"unit": unit})

    assert {"characters": 4, "bytes": 258}[unit] == data.outputs["num_classes"]


def test_joined_digits_keep_parts_apart(tmp_path):
    """Utterances of one part use recordings of that part alone, and are the same each time."""
    names = [f"{digit}_{who}_{n}.wav" for digit in range(3) for who in SPEAKERS
             for n in (0, 4, 5, 7, 8, 20)]  # fmt: skip
    source = archive(tmp_path / "a.tar.gz", *names)
    script = prepare_script()
    script.JOINED = {"train": 8, "valid": 4, "test": 4}
    for out in ("one", "two"):
        assert script.JOINED == script.fsdd_words(source, tmp_path / out)
    data = loaded(tmp_path / "one")

    assert [8, 4, 4] == [len(rows) for rows in data.parts.values()]
    assert all(2 <= len(text.split()) <= 6 for text in texts_of(data, "train"))
    assert {"zero", "one", "two"} >= set(" ".join(texts_of(data, "test")).split())
    for file in sorted((tmp_path / "one").rglob("*.*")):
        again = tmp_path / "two" / file.relative_to(tmp_path / "one")
        assert file.read_bytes() == again.read_bytes()
    assert 0 < np.abs(data.parts["test"].inputs["samples"][0]).max()


def test_a_part_without_a_readable_recording_is_said_by_the_gate(tmp_path):
    """It knows what is wrong with the files; their length is not."""
    write(tmp_path, ["ab"] * 9, "train.csv")
    write(tmp_path, ["ab"] * 3, "test.csv")
    for path in tmp_path.glob("test*.wav"):
        path.unlink()

    _, report = check(loaded(tmp_path), section(tmp_path))

    with pytest.raises(DataError, match=r"has no rows in: test \(.*cannot be read as WAV"):
        refuse(report)

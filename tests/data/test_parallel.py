"""Parallel text: two files line by line or a table, ids of both sides, and what is refused."""

import gzip

import numpy as np
import pytest

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError
from modelwright.data import catalog, checks, parallel
from modelwright.data.rows import PARTS
from modelwright.tasks.translate import text_of

pytest.importorskip("tokenizers")
DE = ["ein Hund läuft", "zwei Kinder spielen", "der Mann schläft", "eine Frau singt"] * 10
EN = ["a dog runs", "two children play", "the man sleeps", "a woman sings"] * 10


def numbered(lines):
    return [f"{line} {number}." for number, line in enumerate(lines)]


@pytest.fixture
def folder(tmp_path):
    """Train and test in two languages, one file packed."""
    (tmp_path / "train.de").write_text("\n".join(numbered(DE)) + "\n")
    (tmp_path / "train.en.gz").write_bytes(gzip.compress("\n".join(numbered(EN)).encode()))
    (tmp_path / "test_2016.de").write_text("ein Hund singt\n")
    (tmp_path / "test_2016.en").write_text("a dog sings\n")
    return tmp_path


def load(source, **keys):
    keys = {"pair": ["de", "en"], "tokens": {"vocab_size": 300}, **keys}
    return catalog.load(recipe.Data(source=str(source), **keys), "pairs", "sequence")


def test_lines_become_pairs_of_ids(folder):
    """A source with its end, a target behind its beginning, and what comes next at each place."""
    data = load(folder)
    test, end = data.parts["test"], data.outputs["end"]
    labels = data.outputs["labels"]

    assert [36, 4, 1] == [len(data.parts[part]) for part in PARTS]
    assert "ein Hund singt" == text_of(test.inputs["source"][0], labels)
    assert end == test.inputs["source"][0][-1] == test.inputs["target"][0][0]
    assert test.inputs["target"][0][1:].tolist() == test.targets[0][:-1].tolist()
    assert "a dog sings" == text_of(test.targets[0], labels)
    assert end == test.targets[0][-1] == data.inputs["vocab_size"] - 1
    assert ["ein Hund singt"] == test.origins


def test_the_other_way_round(folder):
    """data.pair says what becomes what."""
    assert ["a dog sings"] == load(folder, pair=["en", "de"]).parts["test"].origins


def test_batches_hold_rows_of_like_length(folder):
    """By both sides together."""
    rows = load(folder).parts["train"]
    both = rows.inputs["source"].lengths + rows.inputs["target"].lengths

    assert both.tolist() == rows.lengths.tolist()


def test_a_table_has_columns(tmp_path):
    """By the names source and target, or those that data.columns gives."""
    lines = [
        "from\tto",
        *("\t".join(pair) for pair in zip(numbered(DE), numbered(EN), strict=True)),
    ]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    found = load(
        tmp_path / "pairs.tsv", pair=None, format="parallel_text",
        columns={"source": "from", "target": "to"},
    )  # fmt: skip

    assert 40 == sum(len(rows) for rows in found.parts.values())


def test_a_table_is_known_by_its_columns(tmp_path):
    """And not taken for texts with labels."""
    (tmp_path / "pairs.csv").write_text("source,target\nein,a\nzwei,two\n")

    assert parallel.is_here(tmp_path / "pairs.csv")
    assert "pairs" == catalog.recognise(recipe.Data(source=str(tmp_path / "pairs.csv"))).kind


def test_files_of_any_name_are_named_without_their_language(tmp_path):
    """By data.files, whatever they are called; else the error says so."""
    (tmp_path / "corpus.de").write_text("\n".join(numbered(DE)))
    (tmp_path / "corpus.en").write_text("\n".join(numbered(EN)))

    found = load(tmp_path, files={"train": "corpus"})
    assert 40 == sum(len(rows) for rows in found.parts.values())
    with pytest.raises(ConfigError, match="no texts in two languages to train on") as caught:
        load(tmp_path)
    assert "write data.files: {train: corpus}" == caught.value.repair


def test_a_table_without_the_columns_says_which_keys_name_them(tmp_path):
    """Those of this task."""
    (tmp_path / "pairs.csv").write_text("de,en\nein Hund,a dog\nein Haus,a house\n")

    with pytest.raises(DataError, match="no column 'source'") as caught:
        load(tmp_path / "pairs.csv", pair=None)
    assert "data.columns: {source: …, target: …}" in caught.value.repair


def test_sides_can_have_their_own_tokens(folder):
    """The source's travel with the model too, and read what a person writes."""
    data = load(folder, tokens={"vocab_size": 280, "joint": False})
    given = parallel.read_input(b"ein  Hund\n", data.inputs, data.files)
    tokens = parallel.tokens_of({parallel.TOKENS: data.files[parallel.SOURCE_TOKENS]})

    assert " ein Hund" == tokens.decode(given["source"][0][:-1])
    assert [[data.outputs["end"]]] == given["target"].tolist()
    assert {parallel.TOKENS, parallel.SOURCE_TOKENS} == set(data.files)


def test_tokens_are_learned_from_train(folder):
    """A letter that only test has is no token of its own."""
    (folder / "test_2016.en").write_text("zebra zebra zebra zebra\n")
    labels = load(folder).outputs["labels"]

    assert not any("zebra" in label for label in labels)


def test_long_pairs_of_train_are_left_out(folder, capsys):
    """Those of test are judged as they are."""
    (folder / "test_2016.en").write_text("the man sleeps and " * 30 + "\n")
    data = load(folder, tokens={"vocab_size": 258, "max_length": 20})

    assert len(data.parts["train"]) < 36
    assert "pairs of train have more than 20 tokens" in capsys.readouterr().err
    assert 100 < len(data.parts["test"].targets[0])


@pytest.mark.parametrize(("spoil", "keys", "error", "words"), [
    (lambda f: (f / "train.de").write_text("ein Hund\n"), {}, DataError,
     r"train.de has 1 lines and train.en.gz has 40"),
    (lambda f: (f / "test_2016.en").unlink(), {}, DataError, "no file test_2016.en"),
    (lambda f: (f / "test_2017.de").write_text("x"), {}, DataError, "several texts for the part"),
    (lambda f: (f / "train.de").write_bytes(b"\xff"), {}, DataError, "cannot be read"),
    (lambda f: None, {"pair": None}, ConfigError, "data.pair is missing"),
    (lambda f: None, {"pair": ["de", "fr"]}, ConfigError, "no text to train on in 'fr'"),
    (lambda f: None, {"tokens": {"max_length": 2}}, DataError, "every one of the 36 pairs"),
    (lambda f: None, {"tokens": {"vocab_size": 100}}, ConfigError, "vocab_size is 100"),
])  # fmt: skip
def test_what_cannot_be_read_is_refused(folder, spoil, keys, error, words):
    """With what was found, and how to mend it."""
    spoil(folder)
    with pytest.raises(error, match=words):
        load(folder, **keys)


def test_cleaning_takes_both_sides(folder):
    """A step that leaves one text out leaves the pair out; what was done is counted."""
    lines = numbered(DE)
    lines[3] = "<b>eine</b> Frau 3."
    lines[5] = "zu"
    (folder / "train.de").write_text("\n".join(lines) + "\n")
    data = load(folder, clean=[{"strip": "html"}, {"shortest": 3}])
    counts = {one.text.partition(":")[0]: one.count for one in data.findings}

    assert {"strip": 1, "shortest": 1} == counts
    assert 40 == sum(len(data.parts[part]) for part in PARTS)
    assert not any("<b>" in text for text in data.parts["train"].origins)


def test_an_empty_question_is_refused(folder):
    """There is nothing to translate."""
    data = load(folder)
    with pytest.raises(DataError, match="the text is empty"):
        parallel.read_input(b"  \n", data.inputs, data.files)
    assert np.int64 == parallel.read_input(b"x", data.inputs, data.files)["source"].dtype


def test_blanks_of_every_kind_are_read_as_they_are_asked(tmp_path):
    """A no-break space or two blanks give the ids that the same text gives when it is asked."""
    odd = ["Bonjour\u00a0! Ça  va", "Oui\u3000non"]
    (tmp_path / "train.fr").write_text("\n".join(numbered(odd * 10)) + "\n")
    (tmp_path / "train.en").write_text("\n".join(numbered(["Hello!", "Yes no"] * 10)) + "\n")
    data = load(tmp_path, pair=["fr", "en"])
    rows = data.parts["train"]

    for row, origin in enumerate(rows.origins):
        asked = parallel.read_input(origin.encode(), data.inputs, data.files)["source"][0]
        assert asked.tolist() == rows.inputs["source"][row].tolist()
    assert any("Ça va" in one for one in rows.origins)


@pytest.mark.parametrize(("unit", "told"), [("characters", True), ("bpe", False)])
def test_translations_that_would_be_cut_are_said(tmp_path, capsys, unit, told):
    """One by characters from Chinese is several times as long as its source."""
    (tmp_path / "train.zh").write_text("\n".join(numbered(["人工智能与机器学习"] * 30)))
    (tmp_path / "train.en").write_text(
        "\n".join(numbered(["artificial intelligence and machine learning"] * 30))
    )
    load(tmp_path, pair=["zh", "en"], tokens={"unit": unit})

    said = capsys.readouterr().err
    assert told == ("translations of train are longer than twice their source" in said)


def several(folder, number=30):
    """A table of sources with three translations each."""
    lines = [f"Satz {row},sentence {row} {how}" for row in range(number) for how in "abc"]
    (folder / "t.csv").write_text("\n".join(["source,target", *lines]))
    return folder / "t.csv"


def test_translations_of_one_text_stay_in_one_part(tmp_path):
    """Else what is judged has been learned, in other words."""
    data = load(several(tmp_path), pair=None)
    sources = [set(data.parts[part].origins) for part in PARTS]

    assert 30 == sum(map(len, sources)) == len(set.union(*sources))
    assert [66, 6, 18] == [len(data.parts[part]) for part in PARTS]


def test_a_source_in_two_parts_stops_the_gate(tmp_path):
    """Whatever its translation there; waived, the copies leave train."""
    train = several(tmp_path).rename(tmp_path / "train.csv")
    (tmp_path / "test.csv").write_text("source,target\nSatz 7,the seventh\nSatz x,the last\n")
    waived = {"waive": ["duplicates_across_splits"]}
    section = recipe.Data(source=str(train.parent), checks=waived, tokens={"vocab_size": 300})
    loaded = catalog.load(section, "pairs", "sequence")
    data, report = checks.check(loaded, section)
    (found,) = [one for one in report["findings"] if one["blocking"]]

    assert ("duplicates_across_splits", 3) == (found["check"], found["count"])
    assert "Satz 7" not in {*data.parts["train"].origins, *data.parts["valid"].origins}
    assert ["Satz 7", "Satz x"] == data.parts["test"].origins

"""What a starter recipe takes a dataset for, and where it says that a person has to write one."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from modelwright import starting
from modelwright.core import recipe_file
from modelwright.core.errors import ConfigError
from modelwright.data import catalog
from modelwright.data.catalog import SOURCES, recognise

from .conftest import section, write_folder
from .test_audio import wav

SENTENCES = [(["Anna", "saw", "Rome"], ["B-PER", "O", "B-LOC"]), (["He", "ran"], ["O", "O"])] * 15
WORDS = "\n".join("".join(f"{w} {t}\n" for w, t in zip(*one, strict=True)) for one in SENTENCES)
BLANKS = [(" ".join(words), " ".join(own)) for words, own in SENTENCES]
PAIRS = [(f"ein Hund {n} rennt", f"a dog {n} runs") for n in range(40)]


def lines_of(records: list[dict]) -> str:
    return "\n".join(map(json.dumps, records))


def put(root: Path, name: str, content: str) -> Path:
    """A file, packed where its name says so, or in a folder of its own."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def started(source: Path) -> tuple[str, dict]:
    """The task of a starter recipe, and what it says of the data beside the source."""
    to = source.parent / "starter.yaml"
    starting.init(str(source), to)
    found = recipe_file.read(to)
    return found.task, found.data.model_dump(exclude_defaults=True, exclude={"source"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", WORDS),
        ("a.txt.gz", WORDS),
        ("a.tsv", WORDS.replace(" ", "\t")),
        ("a.conll", f"-DOCSTART- -X- O\n\n{WORDS}"),
        ("a.iob2", WORDS),
        ("folder/train.txt.gz", WORDS),
        ("folder/train.bio", WORDS),
        ("a.csv", "words,tags\n" + "\n".join(map(",".join, BLANKS))),
        ("a.tsv", "words\ttags\n" + "\n".join(map("\t".join, BLANKS))),
        ("a.jsonl", lines_of([{"words": words, "tags": own} for words, own in SENTENCES])),
        ("a.jsonl", lines_of([{"id": 7, "tokens": a, "ner_tags": b} for a, b in SENTENCES])),
    ],
)
def test_tagged_words_are_recognised(tmp_path, name, content):
    """One a line or a sentence a row, and never taken for texts with a class each."""
    path = put(tmp_path, name, content)
    source = path if path.parent == tmp_path else path.parent

    assert ("tagging", {}) == started(source)


@pytest.mark.parametrize(
    ("name", "content", "format_"),
    [
        ("a.tsv", "text\tlabel\n" + "good film\tB\nbad film\tO\n" * 6, "text_table"),
        ("a.csv", "text,label\n" + "one,B-A\ntwo,O\n" * 6, "text_table"),  # of one word each
        ("a.txt", "It is a word O\nand a line.\n" * 9, "text_stream"),
    ],
)
def test_other_texts_are_not_taken_for_tagged_words(tmp_path, name, content, format_):
    """A label that looks like a tag is none where it stands for a whole text."""
    assert SOURCES[format_] is recognise(section(put(tmp_path, name, content)))


@pytest.mark.parametrize(
    ("name", "content", "task", "keys"),
    [
        ("a.csv", "de,en\n" + "\n".join(map(",".join, PAIRS)), "translation",
         {"columns": {"source": "de", "target": "en"}}),
        ("a.jsonl", lines_of([{"id": n, "en-GB": b, "fr": a} for n, (a, b) in enumerate(PAIRS)]),
         "translation", {"columns": {"source": "en-GB", "target": "fr"}}),
        ("a.csv", "text;label\n" + "good, really;a\nbad;b\n" * 20, "text-classification", {}),
        ("a.csv", "user_id,item_id,timestamp\n"
         + "".join(f"{n % 9},{n % 7},{n}\n" for n in range(90)), "recommendation", {}),
    ],
)  # fmt: skip
def test_tables_are_taken_for_what_their_columns_say(tmp_path, name, content, task, keys):
    """Languages, users and items, whatever divides the fields."""
    assert (task, keys) == started(put(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "content", "what", "repair"),
    [
        ("a.tsv", "\n".join(f"{b}\t{a}\tby {n}" for n, (a, b) in enumerate(PAIRS)),
         "values in 39 rows", "translation, {source: …, target: …}"),
        ("a.csv", "text,label\n" + "".join(f"a text {n},same\n" for n in range(30)),
         "'label' has 1 values in 30 rows", "task: text-classification"),
        ("a.csv", "code;kind\n" + "".join(f"{n}-00/{n};{n % 4}/7\n" for n in range(1, 30)),
         "'code' holds '1-00/1'", "forecasting, of numbers with a point"),
        ("a.csv", "file,label\n" + "".join(f"p/{n}.png,{'ab'[n % 2]}\n" for n in range(30)),
         "'file' holds 'p/0.png'", "task: "),
        ("a.jsonl", lines_of([{"satz": words, "art": own} for words, own in SENTENCES]),
         "looks like tagged words", "task: tagging, and data.columns: {words: satz, tags: art}"),
    ],
)  # fmt: skip
def test_no_silly_recipe_is_written(tmp_path, name, content, what, repair):
    """A class for each row, a single class, texts without words: the keys are named instead."""
    path = put(tmp_path, name, content)
    with pytest.raises(ConfigError, match=what) as caught:
        started(path)

    assert repair in caught.value.repair
    assert not (tmp_path / "starter.yaml").exists()


def test_a_long_table_is_doubted_as_a_short_one(tmp_path, monkeypatch):
    """An id for a label is seen in the first rows of any number; a single class among them is none
    where a table may be sorted by class."""
    monkeypatch.setattr(catalog, "LOOKED_AT", 20)
    ids = put(tmp_path, "ids.csv", "text,label\n" + "".join(f"a text,{n}\n" for n in range(60)))
    by_class = "".join(f"text {'abcdefgh'[n % 8]} {n},{'ab'[n // 30]}\n" for n in range(60))

    with pytest.raises(ConfigError, match="'label' has 20 values in 20 rows"):
        started(ids)
    assert (
        "text-classification" == started(put(tmp_path, "sorted.csv", "text,label\n" + by_class))[0]
    )


def test_a_folder_whose_table_says_more_is_no_folder_of_a_class(tmp_path):
    """The table that would not be read is named, and for recordings the command that reads it."""
    pictures, sounds = tmp_path / "pictures", tmp_path / "sounds"
    write_folder(pictures, [f"images/{n}.png" for n in range(8)])
    put(pictures, "labels.csv", "file,label\nimages/0.png,a\n")
    for number in range(12):
        put(sounds, f"clips/{number}.wav", "")
        (sounds / f"clips/{number}.wav").write_bytes(wav(np.full(4000, number)))
    rows = "".join(f"clips/{n}.wav,say {n % 3}\n" for n in range(12))
    table = put(sounds, "data.csv", "path,sentence\n" + rows)

    with pytest.raises(ConfigError, match=r"class, images; beside it lies labels\.csv") as caught:
        started(pictures)
    assert "a folder named for it" in caught.value.repair
    with pytest.raises(ConfigError, match="a single folder of a class, clips") as caught:
        started(sounds)
    assert f"modelwright init {table}" in caught.value.repair
    pytest.importorskip("rapidfuzz")
    assert ("transcription", {}) == started(table)


def test_texts_in_two_languages_of_any_name_are_told_how_to_be_named(tmp_path):
    """A folder of corpus.de and corpus.en is no folder of classes."""
    for place, language in enumerate(("de", "en")):
        text = "\n".join(pair[place] for pair in PAIRS)
        put(tmp_path, f"two/corpus.{language}", text)

    with pytest.raises(ConfigError) as caught:
        started(tmp_path / "two")
    assert "pair: [de, en], files: {train: corpus}" in caught.value.repair


def test_columns_that_a_recipe_names_say_what_a_table_is(tmp_path):
    """No data.format is needed beside them."""
    path = put(tmp_path, "a.csv", "from,to\n" + "\n".join(map(",".join, PAIRS)))
    asked = section(path, columns={"source": "from", "target": "to"})

    assert SOURCES["parallel_text"] is catalog.source_of(asked, "pairs", "sequence")

"""Parquet and JSON lines: the same rows as from CSV, for every task that reads tables; faults."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from modelwright.core.errors import DataError, MissingExtra
from modelwright.core.recipe import Columns, Data, Interactions
from modelwright.data import catalog, jsonl, parquet, tables

pyarrow = pytest.importorskip("pyarrow")

TEXTS = {"text": [f"warm day {n}" if n % 2 else f"cold night {n}" for n in range(40)],
         "label": ["good" if n % 2 else "bad" for n in range(40)]}  # fmt: skip
PAIRS = {"source": [f"ein Hund {n}" for n in range(40)],
         "target": [f"a dog {n}" for n in range(40)]}  # fmt: skip
SERIES = {"date": [f"2024-01-{1 + n // 24:02} {n % 24:02}:00" for n in range(120)],
          "load": [float(n % 12) / 4 for n in range(120)]}  # fmt: skip
USES = {"user": [n // 8 for n in range(80)], "item": [100 + n % 11 for n in range(80)],
        "rating": [1 + n % 5 for n in range(80)], "time": list(range(80))}  # fmt: skip
TAGGED = {"words": [f"hier ist Anna {n}" for n in range(40)], "tags": ["O O B-PER O"] * 40}
CASES = [
    ("text", "tags", TAGGED, {}),
    ("stream", "next", {"text": TEXTS["text"]}, {"window": 16}),
    ("text", "classes", TEXTS, {}),
    ("pairs", "sequence", PAIRS, {"tokens": {"unit": "characters"}}),
    ("series", "horizon", SERIES, {"horizon": 4, "window": 16}),
    ("items", "ranking", USES, {}),
    ("ratings", "rating", USES, {}),
]


def write(path: Path, columns: dict[str, list[object]], rows_of_a_group: int = 7) -> Path:
    """The same table as Parquet, JSON lines or CSV, as the name says."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=rows_of_a_group)
        return path
    if path.suffix == ".jsonl":
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        path.write_text("\n".join(map(json.dumps, rows)))
        return path
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return path


@pytest.mark.parametrize(("kind", "answer", "columns", "keys"), CASES)
def test_rows_are_those_of_the_same_table_as_csv(tmp_path, kind, answer, columns, keys):
    """One digest, whichever of the three files the rows come from."""
    found = [
        catalog.load(Data(source=str(write(tmp_path / name, columns)), **keys), kind, answer)
        for name in ("t.csv", "t.parquet", "t.jsonl")
    ]

    assert found[0].digest == found[1].digest == found[2].digest
    assert len(found[0].parts["train"]) > 0


def test_a_table_is_read_by_row_groups(tmp_path):
    """The first row comes before the last group is looked at: what is broken there shows later."""
    path = write(tmp_path / "t.parquet", {"text": ["a" * 5000 + str(n) for n in range(9000)]}, 4500)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20000] = bytes(20000)
    path.write_bytes(content)
    rows = parquet.rows(path)

    assert str(next(rows)["text"]).endswith("a0")
    with pytest.raises(DataError, match="cannot be read"):
        list(rows)


def test_columns_are_taken_by_name_and_by_number(tmp_path):
    """Both name the same column, and only what is wanted is read."""
    path = write(tmp_path / "t.parquet", {"a": [1, 2], "b": ["x", "y"], "c": [0.5, 1.5]})

    assert ["x", "y"] == [row[1] for row in tables.records(path, ("b",))]
    assert ["x", "y"] == [row[1] for row in tables.records(path, (1,))]
    assert {1: "x", "b": "x"} == next(parquet.rows(path, ["b"]))


@pytest.mark.parametrize("content", [b"", b"text,label\nwarm,good\n", b"PAR1 and nothing"])
def test_what_is_no_parquet_is_named(tmp_path, content):
    """A file that only has the name is an error that names it."""
    path = tmp_path / "t.parquet"
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"t\.parquet cannot be read") as found:
        catalog.load(Data(source=str(path), format="text_table"), "text", "classes")
    assert "a whole Parquet file" in found.value.expected


def test_a_missing_column_is_told_with_the_nearest_name(tmp_path):
    """As in other tables, and with the row's number."""
    path = write(tmp_path / "t.parquet", {"texts": ["warm"], "label": ["good"]})

    with pytest.raises(DataError, match=r"line 1: there is no column 'text'") as found:
        catalog.load(Data(source=str(path)), "text", "classes")
    assert "texts" in found.value.expected


@pytest.mark.parametrize("value", [b"warm", [1, 2]])
def test_a_field_that_is_no_text_is_named(tmp_path, value):
    """Nothing is turned into a text that is none."""
    path = write(tmp_path / "t.parquet", {"text": ["a", "b", "c"], "label": ["x", "y", "x"]})
    import pyarrow.parquet

    table = pyarrow.table({"text": [value] * 3, "label": ["x", "y", "x"]})
    pyarrow.parquet.write_table(table, path)

    with pytest.raises(DataError, match="line 1: the column 'text' holds"):
        catalog.load(Data(source=str(path)), "text", "classes")


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    """What to install stands in the error."""
    path = write(tmp_path / "t.parquet", TEXTS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    with pytest.raises(MissingExtra, match="pyarrow") as found:
        catalog.load(Data(source=str(path)), "text", "classes")
    assert "modelwright[parquet]" in found.value.repair


def test_columns_with_other_names_are_read(tmp_path):
    """data.interactions and data.columns name them, as in CSV."""
    uses = {"who": USES["user"], "what": USES["item"], "stars": USES["rating"]}
    own = Interactions(user="who", item="what", rating="stars")
    source = str(write(tmp_path / "u.parquet", uses))
    found = catalog.load(
        Data(source=source, format="rating_table", interactions=own), "ratings", "rating"
    )
    texts = str(write(tmp_path / "t.parquet", {"say": TEXTS["text"], "as": TEXTS["label"]}))
    other = catalog.load(Data(source=texts, columns=Columns(text="say", label="as")), "text")

    assert 11 == found.inputs["items"]
    assert ["bad", "good"] == other.labels
    assert np.all(other.parts["train"].classes < 2)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"load": 2, "heat": 3}', "line 2: the first line has no field 'heat'"),
        ('{"load": [2]}', "line 2: the field 'load' holds \\[2\\]"),
        ("[2]", "line 2: '\\[2\\]' is no object"),
        ('{"load": 2', "line 2: Expecting"),
    ],
)
def test_a_broken_line_of_json_is_named(line, what):
    """With its number, and what a line has to be."""
    with pytest.raises(DataError, match=what) as caught:
        jsonl.lines('{"load": 1}\n' + line, "t.jsonl")

    assert caught.value.expected


def test_words_and_tags_may_be_lists(tmp_path):
    """As data sets of tagged words in JSON have them; another column is named in the recipe."""
    row = json.dumps({"tokens": ["New York", "is", "big"], "ner": ["B-LOC", "O", "O"]})
    (tmp_path / "t.jsonl").write_text("\n".join([row] * 20))
    section = Data(
        source=str(tmp_path / "t.jsonl"), columns=Columns(words="tokens", tags="ner"),
        tokens={"unit": "given"},
    )  # fmt: skip
    with pytest.raises(DataError, match="'New York' is one word and has a blank"):
        catalog.load(section, "text", "tags")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"words": "a b", "tags": "O"}, "line 1: 2 words and 1 tags"),
        ({"words": "a b", "tags": [1, 2]}, "line 1: the column 'tags' holds \\[1, 2\\]"),
        ({"words": "a b", "tag": "O O"}, "line 1: the column 'tags' is not there"),
    ],
)
def test_wrong_words_and_tags_are_named(tmp_path, row, what):
    """With the line, and how to name the columns."""
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=what):
        catalog.load(Data(source=str(tmp_path / "t.jsonl")), "text", "tags")

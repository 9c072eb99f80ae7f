"""Tables of texts on disk: what is damaged or of another form is told with its place."""

import gzip
import json
import zlib

import pytest

from modelwright.core import recipe
from modelwright.core.errors import DataError
from modelwright.data import catalog, tables, uses
from modelwright.data.rows import load_part, save

from .conftest import section


@pytest.mark.parametrize(
    ("name", "line", "answer"),
    [("t.csv.gz", "a text,label\n", "classes"), ("t.txt.gz", "word O\n", "tags")],
)
def test_a_damaged_archive_is_a_data_error(tmp_path, name, line, answer):
    """What cannot be unpacked is an error that names the file, not the library's own."""
    packed = bytearray(gzip.compress(20 * line.encode(), mtime=0))
    packed[10] = 7  # a block of no known type, behind a header that is right
    (tmp_path / name).write_bytes(packed)

    with pytest.raises(zlib.error):
        gzip.decompress(packed)
    with pytest.raises(DataError, match=rf"{name} cannot be read"):
        catalog.load(section(tmp_path / name), "text", answer)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"text": "b", "label": "x"', r"line 3: Expecting ',' delimiter, at column 27"),
        ('[["text", "b"], ["label", "x"]]', r'line 3: \[\["text", "b"\], \["label", "x"\]\]'),
        ("7", "line 3: 7"),
        (f"{'[' * 100_000}", "line 3: maximum recursion"),
        ("9" * 5000, "line 3: Exceeds the limit"),
    ],
    ids=["cut", "a list", "a number", "deep", "long"],
)
def test_a_line_that_is_no_json_object_is_named(tmp_path, line, what):
    """With its number, blank lines counted, and what a line has to be."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n\n' + line)

    with pytest.raises(DataError, match=rf"t\.jsonl, {what}") as caught:
        catalog.load(section(path), "text")
    assert "a JSON object on each line" == caught.value.expected


@pytest.mark.parametrize(
    ("answer", "row", "wanted"),
    [
        ("classes", {"text": "half \ud83d of {}", "label": "\ud83d"}, "half ? of {}"),
        ("tags", {"words": ["half", "\ud83d", "{}"], "tags": ["O", "B-\ud83d", "O"]}, "half ? {}"),
    ],
)
def test_half_a_character_is_read_as_a_question_mark(tmp_path, answer, row, wanted):
    """JSON can hold what no UTF-8 can; such rows are loaded, saved and read back."""
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps(row).replace("{}", str(n)) for n in range(20)))
    data = catalog.load(section(path), "text", answer)
    save(data, tmp_path / "data")
    texts = [text for part in data.parts for text in load_part(tmp_path / "data", part).origins]

    assert sorted(wanted.format(n) for n in range(20)) == sorted(texts)
    assert {"?", "O", "B-?"} >= set(data.labels)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('"He said ""hi"" and left"', 'He said "hi" and left'),
        ('"He said ""hi"""', 'He said "hi"'),
        ('"hi"', '"hi"'),
        ('"hi" he said', '"hi" he said'),
        ('a 5" disk', 'a 5" disk'),
    ],
)
def test_quotes_between_tabs_are_the_texts_own_unless_doubled(tmp_path, field, text):
    """Some programs put quotes around a field that holds one, others write it as it is."""
    path = tmp_path / "t.tsv"
    path.write_text(f"text\tlabel\n{field}\tx\n")

    assert [("t.tsv line 2", text, "x")] == list(tables.records(path, ("text", "label")))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_csv_is_divided_by_what_its_first_lines_say(tmp_path, mark):
    """As programs of many countries write it; another such mark within a text divides nothing."""
    path = tmp_path / "t.csv"
    path.write_text(mark.join(("text", "label")) + f'\n"one; two, three"{mark}x\n' * 3)

    wanted = [(f"t.csv line {n}", "one; two, three", "x") for n in (2, 4, 6)]
    assert wanted == list(tables.records(path, ("text", "label")))


def test_a_column_that_others_call_otherwise_is_read_and_said(tmp_path, capsys):
    """Where the table has none of our name; what a model is asked is read so, too."""
    path = tmp_path / "t.csv"
    path.write_text("path,sentence\na.wav,one\n")

    assert [("t.csv line 2", "one", "a.wav")] == list(tables.records(path, ("text", "file")))
    assert "has no column 'file'; 'path' is read as data.columns.file" in capsys.readouterr().err
    path.write_text("tokens\nNew York\n")
    assert [("t.csv line 2", ["New", "York"])] == list(tables.rows_of_words(path, "words", ""))
    path.write_text("tokens,tokens\na,b\n")
    with pytest.raises(DataError, match="2 columns are called 'tokens'"):
        list(tables.rows_of_words(path, "words", ""))


def test_null_is_an_empty_field(tmp_path):
    """A row without a text is a finding, as of CSV; one without a number is no class nan."""
    rows = [{"text": f"a text {n}", "label": "ab"[n % 2]} for n in range(20)]
    rows += [{"text": None, "label": "a"}, {"text": "last", "label": None}]
    rows += [{"text": "the last", "label": float("nan")}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = catalog.load(section(tmp_path / "t.jsonl", valid=0.2, test=0.2), "text", "classes")

    assert "empty_texts" in {one.check for one in found.findings}
    assert "nan" not in found.labels


def test_a_name_that_two_columns_have_is_refused(tmp_path):
    """Which of them is meant, nobody can know."""
    path = tmp_path / "rows.csv"
    path.write_text("text,label,text\na,x,b\n")
    with pytest.raises(DataError, match="line 1: 2 columns are called 'text'"):
        list(tables.records(path, ("text", "label")))

    assert [("rows.csv line 2", "x")] == list(tables.records(path, ("label",)))


@pytest.mark.parametrize("column", ["user", "time"])
def test_so_it_is_of_users_and_items(tmp_path, column):
    """In training, and in what a model is asked about."""
    path = tmp_path / "uses.csv"
    path.write_text(f"user,item,time,{column}\n1,2,3,4\n")
    own = recipe.Interactions(user="user", item="item", time="time")
    for read in (
        lambda: uses.uses(path, own, "time"),
        lambda: list(uses.asked_about(path, ("user", "item", "time"))),
    ):
        with pytest.raises(DataError, match=f"2 columns are called '{column}'"):
            read()


def test_so_it_is_of_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table([["a"], ["x"], ["b"]], names=["text", "label", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="2 columns are called 'text'"):
        list(tables.records(tmp_path / "rows.parquet", ("text", "label")))

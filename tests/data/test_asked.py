"""What a person names to be answered: files, folders, tables, texts, the standard input."""

import gzip
import io
import sys

import pytest

from modelwright.data import asked as asking
from modelwright.data import text


def manifest(kind="text", answer="classes", labels=(), **preprocess):
    inputs = {"kind": kind, "pair": ["de", "en"], "unit": "words", "max_length": 99}
    return {"model": {"inputs": inputs, "outputs": {"kind": answer}}, "labels": list(labels),
            "preprocess": preprocess}  # fmt: skip


def contents(*inputs, **how):
    """What is asked, as text, or the reason why it is not."""
    found = asking.asked([str(one) for one in inputs], asking.reader(manifest(**how)))
    return [one.problem.what if one.problem else one.content.decode() for one in found]


@pytest.mark.parametrize(("name", "content", "wanted"), [
    ("a.txt", b"one\r\ntwo\xe2\x80\xa8still two\n\n", ["one", "two\u2028still two"]),
    ("a.txt.gz", gzip.compress(b"one\ntwo", mtime=0), ["one", "two"]),
    ("a.csv", b"label,text\nx,one\ny,\"two, too\"\n", ["one", "two, too"]),
    ("A.CSV", b"label,text\nx,one\n", ["one"]),
    ("a.tsv.gz", gzip.compress(b"text\tlabel\none\tx\n", mtime=0), ["one"]),
    ("a.jsonl", b'{"text": "one", "label": 1}\n', ["one"]),
])  # fmt: skip
def test_a_file_has_a_text_on_each_line_or_row(tmp_path, name, content, wanted):
    """Named by itself or within its folder; tables by their column, packed ones unpacked."""
    (tmp_path / name).write_bytes(content)

    assert wanted == contents(tmp_path / name)
    assert wanted == contents(tmp_path)


@pytest.mark.parametrize(("how", "content", "wanted"), [
    ({"columns": ["title", "body"]}, b"title,body\nA,B\n", ["A B"]),
    ({"columns": [1]}, b"A,B\nC,D\n", ["B", "D"]),
    ({"kind": "pairs", "answer": "sequence"}, b"target,source\na,ein\n", ["ein"]),
    ({}, b"title\nA\n", ["{}, line 2: there is no column 'text'"]),
    ({}, b"text\n\"\"\n", ["the text is empty"]),
    ({}, b"text,label\n", ["the table has no row"]),
])  # fmt: skip
def test_a_table_is_read_by_the_column_of_the_training(tmp_path, how, content, wanted):
    """The manifest names it; of older models it has its default name."""
    (tmp_path / "a.csv").write_bytes(content)

    assert [one.format(tmp_path / "a.csv") for one in wanted] == contents(tmp_path / "a.csv", **how)


def test_files_are_whole_where_those_of_the_training_were(tmp_path):
    """A model of a folder of texts takes each file for one, as a language model does."""
    (tmp_path / "a.txt").write_text("one\ntwo")

    assert ["one\ntwo"] == contents(tmp_path / "a.txt", whole_files=True)
    assert ["one\ntwo"] == contents(tmp_path, kind="stream", answer="next")
    assert ["one", "two"] == contents(tmp_path)


@pytest.mark.parametrize(("name", "content", "wanted"), [
    ("a.txt", "U.S. B-LOC\nwon O\n\nyes O\n", [["U.S.", "won"], ["yes"]]),
    ("a.txt", "U.S.\nwon\n\nyes\n", [["U.S.", "won"], ["yes"]]),
    ("a.conll", "U.S. NNP\nwon VB\n", [["U.S.", "won"]]),
    ("a.jsonl", '{"tokens": ["U.S.", "won"]}\n', [["U.S.", "won"]]),
    ("a.conll", "U.S. NNP\n\n1996-08-22 CD\n", [["U.S."], ["1996-08-22"]]),
    ("a.csv", "words,tags\nU.S.,B-LOC\n", [["U.S."]]),
    ("a.tsv", "words\ttags\nU.S. won\tB-LOC O\n", [["U.S.", "won"]]),
    ("a.tsv", "U.S.\tB-LOC\nwon\tO\n", [["U.S.", "won"]]),
    ("a.txt", "U.S. won\nyes\n", [["U", ".", "S", ".", "won"], ["yes"]]),
    ("a.csv", "words,tags\nU.S. won,B-LOC O\nyes,O\n", [["U.S.", "won"], ["yes"]]),
    ("a.jsonl", '{"words": ["U.S.", "won"]}\n', [["U.S.", "won"]]),
])  # fmt: skip
def test_tagged_words_are_sentences_of_these_very_words(tmp_path, name, content, wanted):
    """Words that come divided are not cut again; lines of running text are."""
    (tmp_path / name).write_text(content)
    how = manifest(answer="tags", labels=["O", "B-LOC"], columns=["words"])
    found = list(asking.asked([str(tmp_path / name)], asking.reader(how)))

    inputs = {"unit": "given", "asked": "words", "max_length": 9}
    assert wanted == [text.tokens(one.content, inputs, {}) for one in found]
    assert text.JOINT not in "".join(one.name for one in found)


@pytest.mark.parametrize(("given", "wanted"), [
    ("a/b", "there is no such file"),
    ("./my text", "there is no such file"),
    ("nothing.txt", "there is no such file"),
    ("nothing.csv.gz", "there is no such file"),
    ("he said yes/no and left", None),
    ("please have a look at a.txt", None),
    ("see https://example.org/a", None),
    ("a/b\nc", None),
    (" ", "the text is empty"),
])  # fmt: skip
def test_what_looks_like_a_path_is_no_text(given, wanted):
    """A path that leads nowhere is refused; what is clearly a text is one."""
    assert [wanted or given] == contents(given)


def test_names_of_items_may_be_divided_like_paths():
    """ "AC/DC" is one."""
    assert ["AC/DC"] == contents("AC/DC", kind="items", answer="ranking")


@pytest.mark.parametrize(("kind", "content", "wanted"), [
    ("text", b"one\ntwo\n", ["one", "two"]),
    ("stream", b"one\ntwo\n", ["one\ntwo\n"]),
    ("series", b"1,2\n", ["1,2\n"]),
    ("image", b"PNG", ["PNG"]),
    ("text", gzip.compress(b"one", mtime=0), ["one"]),
    ("text", b"", ["it is empty"]),
    ("text", b"\n \n", ["it is empty"]),
    ("text", b"a\xe9", ["it is not UTF-8: byte 1 is 0xe9"]),
])  # fmt: skip
def test_the_standard_input_is_a_file(monkeypatch, kind, content, wanted):
    """Its bytes are read as those of a file of the kind that the model takes."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    assert wanted == contents("-", kind=kind)


def test_what_cannot_be_read_costs_no_other_answer(tmp_path):
    """Each comes with its reason and what helps, in its place."""
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "b.txt").write_text("one\n\ntwo")
    (tmp_path / "c.txt").touch()
    found = list(asking.asked([str(tmp_path)], asking.reader(manifest())))

    assert ["it is not UTF-8: byte 0 is 0xff", None, "the text is empty", None, "it is empty"] == [
        one.problem and one.problem.what for one in found
    ]
    assert f"{tmp_path / 'b.txt'} line 2" == found[2].name
    assert "iconv" in found[0].problem.repair


USES = {"kind": "items", "answer": "ranking", "columns": ["user", "item", "time"]}
RATED = {"kind": "ratings", "answer": "rating", "columns": ["user", "item"]}


def questions(*inputs, **how):
    """Name and text of each question, or the reason why there is none."""
    found = asking.asked([str(one) for one in inputs], asking.reader(manifest(**how)))
    return [(one.name, one.problem.what if one.problem else one.content.decode()) for one in found]


@pytest.mark.parametrize(("name", "content"), [
    ("a.csv", "item,user,time\nx,7,2\ny,7,1\n\"a, b\",8,1\n"),
    ("a.tsv", "user\titem\ttime\n7\tx\t2\n7\ty\t1\n8\ta, b\t1\n"),
    ("a.dat", "user::item::time\n7::x::2\n7::y::1\n8::a, b::1\n"),
    ("a.jsonl", '{"user": 7, "item": "x", "time": 2}\n{"user": 7, "item": "y", "time": 1}\n'
                '{"user": 8, "item": "a, b", "time": 1}\n'),
])  # fmt: skip
def test_a_table_of_uses_asks_for_each_user(tmp_path, name, content):
    """Their items in the order of time, as a person would name them; packed or within a folder too;
    of ratings each row asks for its item by its user, whatever rating it has."""
    (tmp_path / name).write_text(content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    each = [("user 7", "y,x"), ("user 8", '"a, b"')]
    rows = [("user 7", "@7,x"), ("user 7", "@7,y"), ("user 8", '@8,"a, b"')]

    assert each == questions(tmp_path / name, **USES)
    assert each + each == questions(tmp_path, **USES)
    assert sorted(rows) == sorted(questions(tmp_path / name, **RATED))


@pytest.mark.parametrize(("how", "content", "wanted"), [
    (USES, "user,item\n7,x\n7,y\n", [("user 7", "x,y")]),  # without times as they stand
    ({**USES, "columns": [0, 1, 3]}, "7,x,5,2\n7,y,5,1\n", [("user 7", "y,x")]),
    ({**USES, "columns": [0, 1, 3]}, "userId,movieId\n7,x\n7,y\n", [("user 7", "x,y")]),
    (RATED, "user,item\n,x\n", [("a.csv line 2", "x")]),  # a stranger
    ({**RATED, "columns": ["who", "what"]}, "what,who\nx,7\n", [("user 7", "@7,x")]),
    (USES, "user,film\n7,x\n", [("{}", "{} has no column 'item'")]),
    (RATED, "user,item\n7,x\n8\n", [("user 7", "@7,x"), ("{}", "a.csv line 3: 1 fields")]),
    (USES, "user,item,time\n7,x,noon\n", [("{}", "a.csv line 2: 'noon' is no time")]),
    (RATED, "", [("{}", "it is empty")]),
])  # fmt: skip
def test_columns_of_users_and_items_are_those_of_the_training(tmp_path, how, content, wanted):
    """By name or by number; what is missing is told, and how the columns have to be called."""
    (tmp_path / "a.csv").write_text(content)
    path = tmp_path / "a.csv"

    assert [tuple(one.format(path) for one in pair) for pair in wanted] == questions(path, **how)


def test_lines_of_items_stay_lines(tmp_path):
    """A text file has a history on each line; so does any file for a model of an older release."""
    (tmp_path / "a.txt").write_text("x, y\nz\n")
    (tmp_path / "a.csv").write_text("x, y\n")

    assert ["x, y", "z"] == contents(tmp_path / "a.txt", **USES)
    assert ["x, y"] == contents(tmp_path / "a.csv", kind="items", answer="ranking")

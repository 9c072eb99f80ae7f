"""Texts with a label each and words with a tag each: what becomes a class, and what none."""

import json
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelwright.core.errors import DataError
from modelwright.data import asked, catalog, checks, text
from modelwright.data.tags import read_tagged

from .conftest import section


@pytest.mark.parametrize(("answer", "wanted"), [("classes", ["c++", "c#"]),
                                                ("tags", ["c", "+", "+", "c", "#"])])  # fmt: skip
def test_given_tokens_stay_whole_but_in_running_text_to_tag(tmp_path, answer, wanted):
    """A person's text is cut as the rows were; tagged rows came with blanks around each comma."""
    lines = {"classes": "text\tlabel\nx y\ta\ny z\tb\n" + "x z\ta\n" * 9,
             "tags": "x O\ny B-A\n\n" * 12}[answer]  # fmt: skip
    path = tmp_path / ("t.tsv" if answer == "classes" else "train.txt")
    path.write_text(lines)
    keys = section(path, tokens={"unit": "given"}, valid=0.2, test=0.2)
    data, _ = checks.check(catalog.load(keys, "text", answer), keys)

    assert wanted == text.tokens(b"c++ c#", data.inputs, data.files)


def test_a_row_without_a_label_is_of_no_class(tmp_path):
    """It is a finding that stops the gate; no class has an empty name."""
    lines = [f"text {n},{'ab'[n % 2]}" for n in range(20)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["text,label", *lines, "text 20,", "text 21,  "]))
    data = catalog.load(section(path), "text")
    _, report = checks.check(data, section(path))
    (found,) = [one for one in report["findings"] if one["blocking"]]

    assert ["a", "b"] == data.labels
    assert ("label_out_of_range", [["t.csv line 22"], ["t.csv line 23"]]) == (
        found["check"], found["rows"]
    )  # fmt: skip
    assert "2 rows have no label, or one that train does not have" == found["text"]
    assert 20 == sum(len(rows) for rows in data.parts.values())


IOB2 = "B-PER O B-LOC I-LOC I-LOC O B-LOC"


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (IOB2, False),
        ("S-PER O B-LOC I-LOC E-LOC O S-LOC", True),  # BIOES
        ("U-PER O B-LOC I-LOC L-LOC O U-LOC", True),  # BILOU
    ],
)
def test_spans_may_be_marked_at_their_ends_too(tmp_path, capsys, tags, said):
    """Tags of other schemes become those by which spans are read, and a line says so."""
    words = ["Anna", "in", "New", "York", "City", "or", "Rome"]
    lines = [f"{word} {tag}" for word, tag in zip(words, tags.split(), strict=True)]
    (tmp_path / "t.txt").write_text("\n".join([*lines, ""] * 2))
    parts, labels, _ = read_tagged(tmp_path / "t.txt", section(tmp_path / "t.txt"))
    targets = parts["train"].targets

    assert ["O", "B-LOC", "I-LOC", "B-PER"] == labels
    assert [IOB2.split()] * 2 == [[labels[tag] for tag in targets[row]] for row in range(2)]
    assert said == ("as IOB2 writes them" in capsys.readouterr().err)


@pytest.mark.parametrize("tag", ["NN", "DT", "PRP$", "X-LOC"])
def test_tags_that_mark_no_span_are_refused(tmp_path, tag):
    """Parts of speech would be trained on and judged by spans that are never there."""
    (tmp_path / "t.txt").write_text(f"Rome B-LOC\nis O\n\nhere {tag}\n")

    with pytest.raises(DataError) as caught:
        read_tagged(tmp_path / "t.txt", section(tmp_path / "t.txt"))
    assert f"t.txt, sentence 2: the tag {tag!r} says nothing of where" in caught.value.what
    assert "IOB2" in caught.value.expected and f"B-{tag}" in caught.value.repair


@pytest.mark.parametrize("tag", ["B", "S", "B-"])
def test_tags_of_no_kind_are_told_to_have_one(tmp_path, tag):
    """As where words are cut from characters: what a span is of is missing, not where it begins."""
    (tmp_path / "t.txt").write_text(f"here {tag}\n")

    with pytest.raises(DataError, match="says nothing of a span's kind") as caught:
        read_tagged(tmp_path / "t.txt", section(tmp_path / "t.txt"))
    assert f"write {tag[0]}-WORD" == caught.value.repair


def test_long_rows_are_cut_in_train_alone_where_tags_are_asked_for(tmp_path, capsys):
    """What is judged, or asked for, is tagged to its end; what is cut is said."""
    rows = ["\n".join(f"word{place} O" for place in range(length)) for length in (9, 3, 4)]
    for name, first in zip(("train", "valid", "test"), (rows[0], rows[1], rows[0]), strict=True):
        (tmp_path / f"{name}.txt").write_text(f"{first}\n\n{rows[2]}\n")
    found = catalog.load(section(tmp_path, tokens={"max_length": 5}), "text", "tags")

    lengths = {part: list(found.parts[part].targets.lengths) for part in found.parts}
    assert {"train": [5, 4], "valid": [3, 4], "test": [9, 4]} == lengths
    assert "1 of 2 rows of train have more than 5 tokens" in capsys.readouterr().err
    assert 9 == len(text.tokens(b"a b c d e f g h i", found.inputs, found.files))


@pytest.mark.parametrize("lines", [
    "서울에 B-LOC\n간다 O\n", "北京 B-LOC\n很 O\n大 O\n", "北 B-LOC\n京 I-LOC\n2019 O\n年 O\n",
    "北京 B-LOC\n",
])  # fmt: skip
def test_borders_between_words_of_every_script_stay(tmp_path, lines):
    """As many tokens as tags, and no tag is lost."""
    (tmp_path / "t.txt").write_text(f"{lines}\n" * 12)
    data = catalog.load(section(tmp_path / "t.txt", valid=0.2, test=0.2), "text", "tags")
    words = [line.split()[0] for line in lines.splitlines()]

    for own in (rows for rows in data.parts.values() if len(rows)):
        assert {len(words)} == set(own.inputs["ids"].lengths) == set(own.targets.lengths)
    asked = text.JOINT.join(["", *words]).encode()
    assert words == text.tokens(asked, data.inputs, data.files)


@pytest.mark.parametrize("unit", text.UNITS)
@settings(deadline=None)
@given(line=st.text())
@example("cafe\u0301 ，ﬁ… \u1112\u1161\u11ab ㈱")
def test_tokens_know_their_places_in_the_text_as_it_came(unit, line):
    """Cut as for training; each stands where it was written, and no character is lost."""
    line = line.lstrip(text.JOINT + "\ufeff")
    found = text.tokens(line.encode(errors="replace"), {"unit": unit, "whole": True}, {})
    whole = line.encode(errors="replace").decode()

    assert text.split(whole, unit) == found
    assert whole == found.text
    ends = [0, *(end for _, end in found.places)]
    for token, (begin, end), before in zip(found, found.places, ends, strict=False):
        plain = unicodedata.normalize("NFKC", whole[begin:end])
        assert "".join(token.split()) in "".join(plain.split())
        assert not whole[before:begin].strip()  # between tokens there are blanks alone


def test_running_text_of_single_characters_is_cut_into_them(tmp_path):
    """A number that came as one token does not make a word of what stands around it."""
    (tmp_path / "t.txt").write_text("北 B-LOC\n京 I-LOC\n2019 O\n年 O\n\n" * 12)
    data = catalog.load(section(tmp_path / "t.txt", valid=0.2, test=0.2), "text", "tags")

    assert ["北", "京", "大"] == text.tokens("北京大".encode(), data.inputs, data.files)


def test_a_tag_too_many_is_no_longer_row(tmp_path):
    """Only what data.tokens.max_length cut has more tags than tokens."""
    (tmp_path / "t.txt").write_text("new-york B-LOC\nis O\n\n" * 12)
    keys = section(tmp_path / "t.txt", valid=0.2, test=0.2, tokens={"unit": "characters"})
    with pytest.raises(DataError, match=r"has 2 tags and 1\d tokens"):
        catalog.load(keys, "text", "tags")
    (tmp_path / "t.txt").write_text("北京 B-LOC\n很大 O\n\n" * 12)
    keys = section(tmp_path / "t.txt", valid=0.2, test=0.2, tokens={"unit": "words"})
    assert {2} == set(catalog.load(keys, "text", "tags").parts["train"].targets.lengths)


@pytest.mark.parametrize("odd", ["①", "²", "--5", "-", "٣"])
def test_labels_that_look_like_numbers_are_sorted(tmp_path, odd):
    """What float cannot read is a word."""
    lines = [f"text {n},{[odd, '10', '9', '-1'][n % 4]}" for n in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *lines]))

    found = catalog.load(section(tmp_path / "t.csv"), "text").labels
    assert ["-1", "9", "10"] == [one for one in found if one != odd]


@pytest.mark.parametrize(("line", "wanted"), [
    ("हिन्दी में लिखा, है!", ["हिन्दी", "में", "लिखा", ",", "है", "!"]),
    ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
    ("مُدَرِّس جديد", ["مُدَرِّس", "جديد"]),
    ("It's naïve", ["It's", "naïve"]),
])  # fmt: skip
def test_what_is_written_on_a_letter_belongs_to_its_word(line, wanted):
    """Vowel signs and the like are no letters to Python, and no borders to people."""
    assert wanted == text.split(line, "words")


@pytest.mark.parametrize("line", ["ภาษาไทยไม่มีช่องว่าง", "日本語のテキスト", "ភាសាខ្មែរ"])
def test_scripts_without_blanks_are_cut_into_characters(tmp_path, line):
    """As `auto` promises."""
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + f"{line}\ta\n{line}{line}\tb\n" * 10)
    data = catalog.load(section(tmp_path / "t.tsv"), "text")

    assert "characters" == data.inputs["unit"]


def test_names_that_only_begin_like_a_part_are_none(tmp_path):
    """Neither checked rows nor praise are what a model is chosen and judged by."""
    for name in ("train", "validated", "testimonials", "validation", "test_b"):
        (tmp_path / f"{name}.csv").write_text("text,label\nx,a\n")
    files = text.part_files(tmp_path, section(tmp_path))

    assert ["train.csv", "validation.csv", "test_b.csv"] == [one.name for one in files.values()]


@pytest.mark.parametrize("where", ["in the middle", "in front"])
def test_a_control_character_in_a_text_divides_no_words(tmp_path, where):
    """The unit separator marks words that came divided; in a text of its own it is a blank."""
    words = {"in the middle": "it's\x1ffine, {}", "in front": "\x1fit's fine, {}"}[where]
    rows = [{"text": words.format("ab"[n % 2]), "label": "ab"[n % 2]} for n in range(20)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = catalog.load(section(path), "text")
    (question,) = asked.asked([words.format("a")], asked.reader({"model": vars(data)}))
    (ids,) = text.read_input(question.content, data.inputs, data.files)["ids"]

    assert 4 == len(data.parts["train"].inputs["ids"][0]) == len(ids)
    assert text.UNKNOWN not in ids[:, 0]

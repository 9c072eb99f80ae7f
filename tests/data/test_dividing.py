"""Running text is cut into words as those that a tagger learned from were."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelwright.core import recipe
from modelwright.data import catalog, text
from modelwright.data.dividing import divide

TREEBANK = [
    "He", "paid", "$", "1.8", "billion", ",", "1,000", "times", "it", "did", "n't", "say",
    "so-called", "U.S.", "firms", "'s", "Corp.", "at", "10:30", "AT&T", "n't", "It", ".",
]  # fmt: skip


@pytest.fixture
def known(tmp_path):
    """What a tagger knows of the words it learned from, each twice."""
    lines = "".join(f"{word} O\n" for word in TREEBANK)
    (tmp_path / "t.txt").write_text(f"{lines}\n" * 12)
    section = recipe.Data(source=str(tmp_path / "t.txt"), valid=0.2, test=0.2)
    return catalog.load(section, "text", "tags")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("He paid $2.75 billion.", ["He", "paid", "$", "2.75", "billion", "."]),
        ("It didn't say 12,500.", ["It", "did", "n't", "say", "12,500", "."]),
        ("U.S. firms, Corp. firms", ["U.S.", "firms", ",", "Corp.", "firms"]),
        ("well-known times at 9:15", ["well-known", "times", "at", "9:15"]),
        ("Kim's O'Brien.", ["Kim", "'s", "O'Brien", "."]),
        ("R&D, (it)", ["R&D", ",", "(", "it", ")"]),
        ("a.b/c-d", ["a", ".", "b", "/", "c-d"]),
    ],
)
def test_words_are_cut_as_those_of_train(known, asked, words):
    """New numbers, names and hyphens like those of train stay whole; a full stop, a bracket or a
    clitic is cut off, as there."""
    assert words == text.tokens(asked.encode(), known.inputs, known.files)


def test_what_train_kept_whole_stays_whole(tmp_path):
    """Other rules make other words of the same text."""
    (tmp_path / "t.txt").write_text("It's O\nC++ B-LANG\n@you O\n\n" * 12)
    section = recipe.Data(source=str(tmp_path / "t.txt"), valid=0.2, test=0.2)
    data = catalog.load(section, "text", "tags")

    assert ["It's", "C++", "@you"] == text.tokens(b"It's C++ @you", data.inputs, data.files)


@settings(deadline=None)
@given(line=st.text())
@example("cafe\u0301 ，ﬁ… don’t 1.8.")
def test_no_character_is_lost(line):
    """Each word stands where it was written, and between words there are blanks alone."""
    found = divide(line, "NFKC", {"shape:d.d", "token:.", "token:n't"})
    ends = [0, *(end for _, end in found.places)]

    for token, (begin, end), before in zip(found, found.places, ends, strict=False):
        assert "".join(token.split()) in "".join(
            unicodedata.normalize("NFKC", line[begin:end]).split()
        )
        assert not unicodedata.normalize("NFKC", line[before:begin]).strip()
    assert line == found.text

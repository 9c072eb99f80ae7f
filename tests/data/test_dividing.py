"""Running text is cut into words as those that a tagger learned from were."""

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelwright.core import recipe
from modelwright.data import catalog, tags, text
from modelwright.data.dividing import divide

CHUNKS = Path(__file__).parents[3] / "shared/data/conll2000_chunking"
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


def _written(words):
    """Words of a Treebank as people write them: no blanks before a comma, none within don't."""
    line = re.sub(r" ([.,;:?!%)])", r"\1", " ".join(words))
    line = re.sub(r" ('s|'re|'ve|'ll|'m|'d|n't|')(?= |$)", r"\1", line)
    return re.sub(r"([$#(]|``) | (?='')", r"\1", line)


@pytest.mark.skipif(not CHUNKS.is_dir(), reason="../shared/data is not here")
def test_real_sentences_come_apart_as_they_are_tagged():
    """Of CoNLL-2000's test part more than nine in ten, to the last word; by signs and blanks alone
    three in ten."""
    section = recipe.Data(source=str(CHUNKS))
    train, test = (
        [words for words, _ in tags._tagged(CHUNKS / f"{part}.txt.gz", section)]
        for part in ("train", "test")
    )
    known = text.learn(train, "given", ("token", "shape"), 30_000).table
    own = sum(list(divide(_written(words), "NFKC", known)) == words for words in test)
    plain = sum(text.split(_written(words), "words") == words for words in test)

    assert own > 0.94 * len(test)
    assert plain < 0.3 * len(test)


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

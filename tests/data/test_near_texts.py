"""Near-duplicate texts: planted ones are found, others are not."""

import numpy as np
import pytest

from modelwright.data.near_texts import NearTexts, runs

pytest.importorskip("rensa")

LETTERS = list("abcdefghijklmnopqrstuvwxyz")


def texts(number, seed=0):
    draw = np.random.default_rng(seed)
    return [" ".join("".join(draw.choice(LETTERS, 6)) for _ in range(40)) for _ in range(number)]


def test_planted_copies_are_found():
    """A text with one word changed is found, and so is the number of the one it is a copy of."""
    seen, originals = NearTexts(), texts(200)
    assert [None] * 200 == [seen.add(text) for text in originals]
    for number in range(0, 200, 10):
        words = originals[number].split()
        words[number % 40] = "other"
        assert number == seen.add(" ".join(words))


def test_what_is_half_the_same_is_another_text():
    """Texts that share half their words are no copies."""
    seen, originals = NearTexts(), texts(50)
    for text, other in zip(originals, texts(50, seed=1), strict=True):
        seen.add(text)
        assert seen.add(" ".join(text.split()[:20] + other.split()[20:])) is None


def test_case_and_blanks_are_no_difference():
    """What a reader would not see does not count, in Latin or Chinese letters."""
    for text in ("The quick brown fox", "上海今天下雨了吗"):
        seen = NearTexts()
        seen.add(text)
        assert 0 == seen.add(f"  {text.upper()}\n")


@pytest.mark.parametrize("text", ["", "a", "天"])
def test_short_texts_are_compared_whole(text):
    """A text shorter than a run is near to itself alone."""
    seen = NearTexts()

    assert [text] == runs(text)
    assert [None, 0, None] == [seen.add(one) for one in (text, text, text + "b")]

"""Near-duplicate texts: planted ones are found, others are not."""

import tracemalloc

import numpy as np
import pytest

from modelwright.core.recipe import Clean, Data
from modelwright.data import catalog, near_texts
from modelwright.data.checks import check
from modelwright.data.near_texts import NearTexts, near_pairs, runs

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


def test_pairs_carry_the_places_of_the_texts():
    """Equal texts are passed over, and numbers still are those of all texts."""
    one, other = texts(2)
    near = one[:-1] + ("x" if one[-1] != "x" else "y")

    assert [(0, 3)] == near_pairs([one, one, other, near, near])


def test_the_gate_notes_them_and_a_step_drops_them(tmp_path):
    """A near copy in the test part is a finding across parts; within one it can be dropped."""
    for part, seed in (("train", 0), ("valid", 1), ("test", 2)):
        rows = texts(20, seed)
        if part == "test":
            rows[3] = texts(20, 0)[5][:-1]
        if part == "train":
            rows.append(rows[7][:-1])
        lines = [f"{text},{number % 2}" for number, text in enumerate(rows)]
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,label", *lines]))
    section = Data(source=str(tmp_path))
    _, report = check(catalog.load(section, "text"), section)
    cleaned = Data(source=str(tmp_path), clean=(Clean(drop="near_duplicates"),))
    data, after = check(catalog.load(cleaned, "text"), cleaned)
    found, left = (
        next(one for one in two["findings"] if one["check"] == "near_duplicates")
        for two in (report, after)
    )

    assert "2 texts are nearly an earlier one, 1 across parts" == found["text"]
    assert found["rows"][0][0].startswith("train 5") and found["rows"][0][1].startswith("test 3")
    assert 1 == left["count"] and 20 == len(data.parts["train"])


def test_the_index_finds_what_looking_at_all_finds(monkeypatch):
    """Beyond several blocks and merges, with near and equal texts among others, the nearest earlier
    text is the one that comparing all numbers gives, the first of several."""
    import rensa

    monkeypatch.setattr(near_texts, "BLOCK", 16)
    draw = np.random.default_rng(0)
    originals = texts(60)
    every: list[str] = []
    for number in range(400):
        words = originals[int(draw.integers(60))].split()
        for place in draw.integers(40, size=int(draw.integers(4))):
            words[place] = f"other{draw.integers(3)}"
        every.append(" ".join(words) if number % 3 else texts(1, 1000 + number)[0])
    sketches = []
    for text in every:
        sketches.append(rensa.RMinHash(num_perm=near_texts.NUMBERS, seed=0))
        sketches[-1].update(runs(text))
    seen, found = NearTexts(), 0
    for number, (text, own) in enumerate(zip(every, sketches, strict=True)):
        shares = [(own.jaccard(other), -place) for place, other in enumerate(sketches[:number])]
        share, nearest = max(shares, default=(0.0, 0))
        wanted = -nearest if share >= near_texts.SIMILARITY else None

        assert wanted == seen.add(text)
        found += wanted is not None
    assert 50 < found < 350


def test_memory_is_bounded_by_the_text():
    """Less than 800 bytes for each different text, whatever its length, and none for one more of
    the same; while parts of the index are merged, less than 1,200."""
    seen, number = NearTexts(), 4 * near_texts.BLOCK
    made = texts(number)
    tracemalloc.start()
    try:
        for text in made:
            assert seen.add(text) is None
        kept, most = tracemalloc.get_traced_memory()
        for text in made[:100]:
            assert seen.add(text) is not None
        more = tracemalloc.get_traced_memory()[0] - kept
    finally:
        tracemalloc.stop()

    assert 700 < kept / number < 800
    assert most / number < 1200
    assert more < 10 * 100


class Watched(list):
    """Blocks of numbers, and how often one was looked into."""

    looks = 0

    def __getitem__(self, place):
        Watched.looks += 1
        return super().__getitem__(place)


def test_what_all_texts_have_in_common_costs_each_the_same(monkeypatch):
    """Texts with one long passage are compared with some of those before, not with all, and a copy
    of one is still found."""
    monkeypatch.setattr(near_texts, "BLOCK", 16)
    monkeypatch.setattr(near_texts, "COMPARED", 8)
    monkeypatch.setattr(Watched, "looks", 0)
    footer, every = " ".join(text[:200] for text in texts(2, 7)), texts(400)
    seen = NearTexts()
    seen._blocks = Watched()
    for text in every:
        seen.add(f"{text[:70]} {footer}")

    assert 1000 < Watched.looks <= len(every) * (near_texts.COMPARED + 1)  # all: 80,000
    assert 399 == seen.add(f"{every[399][:69]} {footer}")

"""Matching of pictures with texts: loss, recall both ways, answer, against their formulas."""

import numpy as np
import pytest
import torch

from modelwright.measure.quality import bootstrap
from modelwright.tasks import match
from modelwright.tasks.catalog import TASKS, Task

MATCHING = TASKS["image-text-matching"]


def table(targets, images, texts):
    outputs = {"image_vector": np.array(images, float), "text_vector": np.array(texts, float)}
    return match.statistics(outputs, np.array(targets))


def drawn(pictures, texts_each, seed=0, dim=6):
    """Random vectors of length one; each picture has the same vector in all of its rows."""
    draw = np.random.default_rng(seed)
    image = draw.standard_normal((pictures, dim)).repeat(texts_each, 0)
    text = draw.standard_normal((pictures * texts_each, dim))
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (image, text)]
    return table(np.arange(pictures).repeat(texts_each) + 70, *unit)


def by_hand(rows, depth):
    """Recall both ways with sorted lists, as the papers define it."""
    targets, (images, texts) = rows[:, 0], np.split(rows[:, 1:], 2, axis=1)
    pictures = list(dict.fromkeys(targets))
    of = {one: images[list(targets).index(one)] for one in pictures}
    text_hits = [
        own in sorted(pictures, key=lambda one: -of[one] @ text)[:depth]
        for own, text in zip(targets, texts, strict=True)
    ]
    image_hits = [
        one in [targets[row] for row in np.argsort(-texts @ of[one])[:depth]] for one in pictures
    ]
    return np.mean(image_hits), np.mean(text_hits)


@pytest.mark.parametrize("texts_each", [1, 5])
@pytest.mark.parametrize("depth", match.DEPTHS)
def test_recall_is_that_of_sorted_lists(texts_each, depth):
    """Every picture ranks all texts, every text all pictures; any own text is a hit."""
    rows = drawn(30, texts_each)
    found = MATCHING.values(MATCHING.whole(rows))
    image, text = by_hand(rows, depth)

    assert image == pytest.approx(found[f"image_to_text_recall_at_{depth}"])
    assert text == pytest.approx(found[f"text_to_image_recall_at_{depth}"])
    if depth == 10:
        assert (image + text) / 2 == pytest.approx(found["recall_at_10"])


def test_pictures_with_few_texts_count_as_much():
    """A picture is one question, however many texts it has; a text is one, whosever it is."""
    far, near = [0.0, 1.0], [1.0, 0.0]
    rows = table([1, 1, 1, 2], [near, near, near, far], [near, near, near, [0.9, -0.1]])
    found = match.values(match.whole(rows).sum(0))

    assert (1 + 0) / 2 == found["image_to_text_recall_at_1"]
    assert 3 / 4 == found["text_to_image_recall_at_1"]


def test_a_model_that_scores_all_alike_is_not_rewarded():
    """Ties count half: among 30 pictures with equal vectors nobody is among the first ten."""
    rows = drawn(30, 2)
    rows[:, 1:] = 0.5

    assert 0 == match.values(match.whole(rows).sum(0))["recall_at_10"]


def test_the_order_of_rows_changes_nothing():
    """The metric is of the part, not of a row's place in it."""
    rows = drawn(20, 3)
    turned = rows[np.random.default_rng(1).permutation(len(rows))]
    before, after = (match.values(match.whole(one).sum(0)) for one in (rows, turned))

    assert before == pytest.approx(after)


def test_scores_are_made_in_bounded_blocks(monkeypatch):
    """However many texts and pictures there are, and with the figures of one block."""
    rows = drawn(40, 3)
    rows[60:90, 7:] = rows[:30, 7:]  # equal texts, of other pictures
    expected = MATCHING.whole(rows)
    monkeypatch.setattr(match, "MOST_SCORES", 40 * 7)
    made, take = [], np.take_along_axis

    def seen(scores, *how):
        made.append(scores.size)
        return take(scores, *how)

    monkeypatch.setattr(np, "take_along_axis", seen)

    np.testing.assert_array_equal(expected, MATCHING.whole(rows))
    assert 40 * 7 == max(made)


def test_the_interval_draws_pictures():
    """Rows of one picture are drawn together, so that the interval is no narrower than it is."""
    rows = drawn(40, 5)
    units, made = MATCHING.units(rows), MATCHING.whole(rows)

    def value(counts):
        assert all(len(set(counts[units == one])) == 1 for one in range(40))
        return MATCHING.values(made, counts)["recall_at_10"]

    low, high = bootstrap(len(rows), value, units)
    alone = bootstrap(len(rows), lambda counts: MATCHING.values(made, counts)["recall_at_10"])

    assert list(range(40)) == sorted(set(units.tolist()))
    assert high - low > alone[1] - alone[0]


def test_the_loss_is_the_papers():
    """With pictures of one text each: cross-entropy of the scores, by rows and by columns."""
    pairs = torch.tensor([[[1.0, 0], [1, 0]], [[0, 2.0], [0.6, 0.8]], [[3.0, 4], [0, 1]]])
    scores = (pairs[:, 0] @ pairs[:, 1].T).numpy()
    by_row = np.log(np.exp(scores).sum(1)) - scores.diagonal()
    by_column = np.log(np.exp(scores).sum(0)) - scores.diagonal()

    assert (by_row.mean() + by_column.mean()) / 2 == pytest.approx(
        match.loss(pairs, torch.tensor([5, 3, 9])).item(), abs=1e-6
    )


def test_two_texts_of_a_picture_are_both_right():
    """In equal shares: who is sure of the picture pays for the choice between its texts only."""
    image = torch.tensor([[20.0, 0], [20, 0], [0, 20]])
    text = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    found = match.loss(torch.stack([image, text], 1), torch.tensor([4, 4, 6]))

    assert 2 / 3 * np.log(2) == pytest.approx(found.item(), abs=1e-5)


def test_ranked_shows_the_nearest_texts():
    """Of each picture the nearest texts, whether they are its own, and where its first one is."""
    outputs = {"image_vector": np.eye(3)[[0, 0, 1]], "text_vector": np.eye(3)[[0, 2, 0]]}
    first, second = match.ranked(outputs, np.array([8, 8, 9]), 5)

    assert (0, 1) == (first["row"], first["place"])
    assert [True, False, True] == [one["right"] for one in first["best"]]
    assert (2, 3) == (second["row"], second["place"])


def test_the_answer_ranks_the_texts():
    """Nearest first, each with its cosine."""
    outputs = {"image_vector": np.eye(2)[[0, 0]], "text_vector": np.array([[0, 1.0], [0.6, 0.8]])}
    said = match.answer(outputs, [], ["a cat", "a dog"])

    assert "a dog" == said["answer"]
    assert [("a dog", 0.6), ("a cat", 0.0)] == [
        (one["label"], one["score"]) for one in said["ranking"]
    ]


def test_the_task_is_in_the_table():
    """Pictures with texts in, vectors out."""
    assert Task("image_text", "vectors", match) == MATCHING

"""Recommendation: loss, ranks and answer against their formulas."""

import math

import numpy as np
import pytest
import torch

from modelwright.core.signature import NO_TARGET
from modelwright.tasks import recommend
from modelwright.tasks.catalog import TASKS, Task

SCORES = np.array([[9.0, 5.0, 7.0, 5.0, 1.0, 5.0]])


def values(scores, targets):
    return recommend.values(
        recommend.statistics({"scores": np.array(scores)}, np.array(targets)).sum(0)
    )


@pytest.mark.parametrize(
    ("targets", "rank"),
    [
        ([4], 6),  # five others score more
        ([0, 4], 5),  # the best one was used: no candidate
        ([2, 0, 4], 4),
        ([4, 0], 1),
        ([2, 0], 1),
        ([1], 1 + 2 + 2 / 2),  # two above, two of the same score
        ([3, 1], 1 + 2 + 1 / 2),  # one of those was used
        ([3, 5, 0, 2, 1], 1),  # nothing is left but the two lowest
        ([0, 4, NO_TARGET, NO_TARGET], 5),  # padding counts for nothing
    ],
)
def test_the_rank_counts_every_unused_item(targets, rank):
    """By hand: all items but the used ones, half of a tie; the last target is the one to find."""
    found = values(SCORES, [targets])

    assert 1 / math.log2(rank + 1) == pytest.approx(found["ndcg_at_10"])
    assert 1 / rank == pytest.approx(found["mrr"])
    assert 1 == found["hr_at_10"]


@pytest.mark.parametrize(("rank", "hit"), [(10, 1), (11, 0)])
def test_only_the_first_ten_count(rank, hit):
    """The eleventh item gains nothing, but has a reciprocal rank."""
    found = values(-np.arange(30.0)[None], [[rank - 1]])

    assert hit == found["hr_at_10"]
    assert hit / math.log2(rank + 1) == pytest.approx(found["ndcg_at_10"])
    assert 1 / rank == pytest.approx(found["mrr"])


def test_a_model_that_scores_all_alike_is_not_rewarded():
    """Ties count half, so that a constant model ranks in the middle."""
    assert 1 / 51 == pytest.approx(values(np.zeros((1, 101)), [[0]])["mrr"])


def test_rows_are_judged_as_they_are_alone():
    """The metrics of several rows of unequal length are the means of each one's."""
    random = np.random.default_rng(0)
    scores = random.standard_normal((3, 8))
    targets = [[1, 2], [5], [7, 3, 0, 4]]
    padded = np.array([row + [NO_TARGET] * (5 - len(row)) for row in targets])
    alone = [values(scores[i : i + 1], [row])["mrr"] for i, row in enumerate(targets)]

    assert np.mean(alone) == pytest.approx(values(scores, padded)["mrr"])
    assert recommend.METRIC == next(iter(values(scores, padded)))


def test_the_loss_is_over_all_real_places_and_items():
    """Cross-entropy by hand, in float32, whatever the precision of what comes in."""
    scores = torch.randn(2, 3, 5, dtype=torch.bfloat16)
    targets = torch.tensor([[1, 4, NO_TARGET], [0, NO_TARGET, NO_TARGET]])
    found = recommend.loss(scores, targets)
    logs = scores.float().log_softmax(-1)

    assert torch.float32 == found.dtype
    assert -(logs[0, 0, 1] + logs[0, 1, 4] + logs[1, 0, 0]) / 3 == pytest.approx(found.item())


def test_an_answer_leaves_out_the_history():
    """The ten best of what is left, with scores; their probabilities are among what is left."""
    labels = [f"film {place}" for place in range(14)]
    outputs = {"scores": np.arange(14.0)}
    found = recommend.answer(outputs, labels, ["film 13", "film 11"])
    weights = np.exp([place for place in range(14) if place not in (11, 13)])

    assert "film 12" == found["answer"]
    assert [12, 10, 9, 8, 7, 6, 5, 4, 3, 2] == [one["score"] for one in found["probabilities"]]
    assert math.e**12 / weights.sum() == pytest.approx(found["probabilities"][0]["probability"])


def test_who_has_used_everything_gets_no_answer():
    """Nothing is left to recommend."""
    found = recommend.answer({"scores": np.zeros(2)}, ["a", "b"], ["b", "a"])

    assert {"answer": "", "probabilities": []} == found


def test_the_catalog_names_this_task():
    """Recommendation is this file."""
    assert Task("items", "ranking", recommend) == TASKS["recommendation"]

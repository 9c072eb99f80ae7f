"""Language modelling: loss, likelihood and answer against their formulas."""

import math

import numpy as np
import pytest
import torch

from modelwright.core.signature import NO_TARGET
from modelwright.tasks import language
from modelwright.tasks.catalog import TASKS, Task

RANDOM = np.random.default_rng(0)
LABELS = ["", "\ufffd", "a", "bc", "ä", "天", "\udce5"]  # the last is the first byte of 天
LOGITS = RANDOM.standard_normal((3, 5, 7)).astype(np.float32)
TARGETS = np.array([[2, 3, 4, 5, 6], [2, 2, NO_TARGET, NO_TARGET, NO_TARGET], [1, 2, 3, 4, 5]])
WHICH = math.log(0x110000 - 0x800 - 5)  # of all characters without a token, the unknown one


def surprises():
    """Negative log-probability at each real place, straight from the definition."""
    found = np.exp(LOGITS.astype(np.float64))
    found /= found.sum(-1, keepdims=True)
    return [
        -math.log(found[row, place, target])
        for row in range(3)
        for place, target in enumerate(TARGETS[row])
        if target != NO_TARGET
    ]


def test_the_loss_is_the_mean_over_real_places():
    """Padding counts nothing; there is no smoothing unless it is asked for."""
    found = language.loss(torch.tensor(LOGITS), torch.tensor(TARGETS))

    assert np.mean(surprises()) == pytest.approx(found.item(), rel=1e-5)
    assert 0 == TASKS["language-modeling"].logic.LABEL_SMOOTHING
    smooth = language.loss(torch.tensor(LOGITS), torch.tensor(TARGETS), label_smoothing=0.1)
    assert smooth.item() != pytest.approx(found.item(), rel=1e-4)


def test_statistics_count_what_was_to_be_predicted():
    """Characters by their first byte, bytes of UTF-8, tokens; of each row by itself."""
    found = language.statistics({"logits": LOGITS}, TARGETS, LABELS)

    assert [[6, 9, 5], [2, 2, 2], [6, 9, 5]] == found[:, :3].tolist()
    assert sum(surprises()) + WHICH == pytest.approx(found[:, 3].sum(), rel=1e-5)


def test_values_are_per_character_byte_and_token():
    """The one of the goals first."""
    nats = sum(surprises()) + WHICH
    found = language.values(language.statistics({"logits": LOGITS}, TARGETS, LABELS).sum(0))

    assert language.METRIC == next(iter(found))
    assert {
        "nats_per_char": nats / 14, "bits_per_byte": nats / 20 / math.log(2),
        "nats_per_token": nats / 12,
    } == pytest.approx(found, rel=1e-5)  # fmt: skip


def test_an_unknown_character_is_never_cheaper_than_it_is():
    """However few tokens there are: letters drawn evenly from 26 cost ln 26 at the least."""
    letters = RANDOM.integers(0, 26, (4, 500))
    for known in (1, 8, 25, 26):
        shares = np.append(np.full(known, 1 / 26), 1 - known / 26)
        logits = np.log(np.maximum([0, shares[-1], *shares[:-1]], 1e-9))
        targets = np.where(letters < known, letters + 2, 1)
        labels = ["", "\ufffd", *"abcdefghijklmnopqrstuvwxyz"[:known]]
        outputs = {"logits": np.tile(logits, (*targets.shape, 1))}
        found = language.values(language.statistics(outputs, targets, labels).sum(0))

        assert found["nats_per_char"] >= math.log(26) - 1e-6
        assert found["bits_per_byte"] >= math.log2(26) - 1e-6
        if known == 26:
            assert math.log(26) == pytest.approx(found["nats_per_char"], rel=1e-6)


def test_without_labels_a_token_is_a_character():
    """As for models of noise."""
    found = language.statistics({"logits": LOGITS}, TARGETS)

    assert [5, 5, 5] == found[0, :3].tolist()


def test_large_scores_are_no_matter():
    """No exponential overflows."""
    found = language.statistics({"logits": 1e4 * LOGITS}, TARGETS, LABELS)

    assert np.isfinite(found).all()


def test_an_answer_lists_what_is_likeliest_next():
    """Of the last place; a part of a character is shown as such."""
    probabilities = np.zeros((4, 7))
    probabilities[-1] = [0, 0, 0.1, 0.2, 0, 0.3, 0.4]
    found = language.answer({"probabilities": probabilities}, LABELS)

    assert "\ufffd" == found["answer"]
    assert ["\ufffd", "天", "bc", "a"] == [one["label"] for one in found["probabilities"]][:4]
    assert 0.4 == found["probabilities"][0]["probability"]


def test_the_catalog_names_this_task():
    """Language modelling is this file."""
    assert Task("stream", "next", language) == TASKS["language-modeling"]

"""Accuracy and what the rows cannot tell about it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.core.errors import DataError, IntegrityError
from modelwright.core.signature import Signature
from modelwright.measure.quality import binomial_tail, clopper_pearson, evaluate


class Echo:
    """Answers with the image's first pixel."""

    signature = Signature((), ())

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        images = batch["image"]
        self.batches.append(len(images))
        logits = np.eye(3, dtype=np.float32)[images[:, 0, 0, 0]]
        return {"logits": logits, "probabilities": np.full((len(images), 3), 1 / 3, np.float32)}

    def close(self):
        pass


def images_of(answers):
    return np.array(answers, np.uint8).reshape(-1, 1, 1, 1)


def test_evaluate_counts_answers_by_truth():
    """Confusion has the truth down and the answer across, and accuracy is its diagonal."""
    quality = evaluate(Echo(), images_of([0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 0]), 3)

    assert [[1, 0, 1], [0, 1, 0], [0, 1, 1]] == quality.confusion.tolist()
    assert (5, 0.6) == (quality.rows, quality.accuracy)
    assert clopper_pearson(3, 5) == (quality.low, quality.high)
    assert [True, True, False, True, False] == quality.correct.tolist()
    assert (5, 3) == quality.probabilities.shape


def test_evaluate_goes_batch_by_batch_to_the_last_row():
    """Rows run in batches of the given size, the last one smaller."""
    session = Echo()
    quality = evaluate(session, images_of([0, 1, 2, 0, 1]), np.array([0, 1, 2, 0, 1]), 3, 2)

    assert [2, 2, 1] == session.batches
    assert 1.0 == quality.accuracy


@pytest.mark.parametrize(
    ("answers", "targets", "text"),
    [
        ([], [], "0 images"),
        ([0, 1], [0], "2 images and targets of shape"),
        ([0, 1], [0, 3], "targets from 0 to 3"),
        ([0, 1], [-1, 0], "targets from -1 to 0"),
    ],
)
def test_rows_that_do_not_fit_are_refused(answers, targets, text):
    """No rows, another number of targets and classes that do not exist are errors."""
    with pytest.raises(DataError, match=text):
        evaluate(Echo(), images_of(answers), np.array(targets, int), 3)


def test_a_model_that_gives_nan_has_no_accuracy():
    """NaN is refused and its rows are named, not counted as an answer."""

    class Broken(Echo):
        def __call__(self, batch):
            outputs = super().__call__(batch)
            return {**outputs, "logits": outputs["logits"] * np.nan}

    with pytest.raises(IntegrityError, match="within rows 0 to 1"):
        evaluate(Broken(), images_of([0, 1]), np.array([0, 1]), 3)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.3085),
        (8, 10, 0.4439, 0.9748),
        (10, 10, 0.6915, 1.0),
        (1, 1, 0.025, 1.0),
        (50, 100, 0.3983, 0.6017),
    ],
)
def test_clopper_pearson_gives_the_published_values(successes, trials, low, high):
    """The interval equals the tables to four digits."""
    assert (low, high) == pytest.approx(clopper_pearson(successes, trials), abs=5e-5)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_clopper_pearson_ends_have_tails_of_a_fortieth(data):
    """Each end is where the tail beyond the observation holds 2.5 %, for up to a million rows."""
    trials = data.draw(st.integers(1, 1_000_000))
    successes = data.draw(st.integers(1, trials))
    low, high = clopper_pearson(successes, trials)

    assert 0.025 == pytest.approx(binomial_tail(successes, trials, low), rel=1e-4)
    assert 0 < low < successes / trials <= high <= 1


def test_clopper_pearson_refuses_impossible_counts():
    """More successes than trials, or no trials, are errors."""
    with pytest.raises(DataError, match="11 successes in 10 trials"):
        clopper_pearson(11, 10)
    with pytest.raises(DataError, match="0 successes in 0 trials"):
        clopper_pearson(0, 0)

"""Paired differences and the Pareto order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.core.errors import ConfigError, DataError
from modelwright.measure.compare import compare, paired_interval, pareto
from modelwright.measure.quality import Quality
from modelwright.tasks.catalog import TASKS

IMAGES, SERIES = TASKS["image-classification"], TASKS["forecasting"]


def quality(answers, targets):
    answers, targets = np.array(answers), np.array(targets)
    probabilities = np.eye(3)[answers]
    outputs = {"logits": probabilities, "probabilities": probabilities}
    sums = IMAGES.logic.statistics(outputs, targets)
    return Quality(
        metric="accuracy", values=IMAGES.values(sums), low=0.0, high=1.0,
        statistics=sums, outputs=outputs, targets=targets,
    )  # fmt: skip


def test_rows_are_compared_one_by_one():
    """Every answer that differs is counted; the drop is what that costs."""
    targets = [0, 0, 0, 0, 0]
    before, after = quality([0, 0, 1, 1, 0], targets), quality([1, 2, 0, 2, 0], targets)
    difference = compare(before, after, IMAGES)

    assert 4 == difference.flipped
    assert 0.2 == pytest.approx(difference.drop)
    assert difference.low < difference.drop < difference.high


def test_equal_models_have_no_drop_but_an_interval():
    """Without one flipped row the drop is 0, and its interval still has a width."""
    same = quality([0, 1, 1], [0, 1, 2])
    difference = compare(same, same, IMAGES)

    assert (0.0, 0) == (difference.drop, difference.flipped)
    assert difference.low < 0 < difference.high


def test_different_rows_are_refused():
    """Models judged on different targets cannot be paired."""
    with pytest.raises(DataError, match="different targets"):
        compare(quality([0], [0]), quality([0], [1]), IMAGES)


def forecast(errors):
    outputs = {"scaled": np.array(errors, float).reshape(-1, 1, 1)}
    targets = np.zeros((len(errors), 1, 1))
    sums = SERIES.logic.statistics(outputs, targets)
    return Quality("mse", SERIES.logic.values(sums.sum(0)), 0.0, 1.0, sums, outputs, targets)


def test_more_error_is_a_drop():
    """Where less is better, a larger value is the loss; numbers have no answers to flip."""
    random = np.random.default_rng(0).uniform(0.5, 1.5, 200)
    worse, better = (
        compare(forecast(one), forecast(other), SERIES)
        for one, other in ((random, 1.1 * random), (1.1 * random, random))
    )

    assert (None, None) == (worse.flipped, better.flipped)
    assert 0 < worse.low < worse.drop < worse.high
    assert 0.21 * (random**2).mean() == pytest.approx(worse.drop)
    assert (worse.drop, worse.low) == pytest.approx((-better.drop, -better.high))


@pytest.mark.parametrize(
    ("counts", "ends"),
    [  # Newcombe 1998, Table III, method 10
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((54, 0, 0, 0), (-0.0664, 0.0664)),
        ((0, 30, 0, 0), (0.8395, 1.0)),
    ],
)
def test_the_paired_interval_gives_the_published_values(counts, ends):
    """Method 10 equals what its paper prints."""
    assert ends == pytest.approx(paired_interval(*counts), abs=1e-3)


@given(*[st.integers(0, 200)] * 4)
def test_the_paired_interval_holds_the_difference_and_turns_with_it(both, first, second, neither):
    """The estimate lies inside, ends stay within -1 to 1, and swapping models swaps the ends."""
    rows = both + first + second + neither
    if rows == 0:
        return
    low, high = paired_interval(both, first, second, neither)
    swapped = paired_interval(both, second, first, neither)

    assert -1 - 1e-9 <= low <= (first - second) / rows + 1e-9
    assert (first - second) / rows - 1e-9 <= high <= 1 + 1e-9
    assert (low, high) == pytest.approx((-swapped[1], -swapped[0]), abs=1e-9)


points = st.lists(
    st.fixed_dictionaries({"accuracy": st.integers(0, 5), "mb": st.integers(0, 5)}), max_size=12
)


@given(points)
def test_pareto_keeps_what_no_point_beats(points):
    """A point stays exactly if none is as good in both measures and better in one."""

    def beats(one, other):
        as_good = one["accuracy"] >= other["accuracy"] and one["mb"] <= other["mb"]
        return as_good and one != other

    expected = [
        index
        for index, point in enumerate(points)
        if not any(beats(other, point) for other in points)
    ]
    assert expected == pareto(points, higher=["accuracy"], lower=["mb"])


def test_pareto_refuses_what_it_cannot_compare():
    """No measure, a missing one and NaN are errors, not an arbitrary order."""
    with pytest.raises(ConfigError, match="no measure"):
        pareto([{"mb": 1.0}])
    with pytest.raises(ConfigError, match="point 1 lacks mb"):
        pareto([{"mb": 1.0}, {}], lower=["mb"])
    with pytest.raises(ConfigError, match="NaN"):
        pareto([{"mb": float("nan")}], lower=["mb"])

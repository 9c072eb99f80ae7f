"""Accuracy and what the rows cannot tell about it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.core.errors import DataError, IntegrityError
from modelwright.core.goals import METRICS
from modelwright.core.signature import Signature, TensorSpec
from modelwright.data.rows import Rows, ragged
from modelwright.data.shared import Windows
from modelwright.measure import quality as judging
from modelwright.measure.compare import compare
from modelwright.measure.quality import Quality, binomial_tail, bootstrap, clopper_pearson, evaluate
from modelwright.tasks.catalog import TASKS

IMAGES, TAGS = TASKS["image-classification"], TASKS["tagging"]


class Echo:
    """Answers with the image's first pixel."""

    signature = Signature((), (TensorSpec("logits", "float32", ("batch", 3)),))

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        images = batch["image"]
        self.batches.append(len(images))
        logits = np.eye(3, dtype=np.float32)[images[:, 0, 0, 0]]
        return {"logits": logits, "probabilities": np.full((len(images), 3), 1 / 3, np.float32)}

    def close(self):
        pass


def rows_of(answers, targets):
    images = np.array(answers, np.uint8).reshape(-1, 1, 1, 1)
    return Rows({"image": images}, np.array(targets, np.int64), [""] * len(images))


def test_evaluate_counts_answers_by_truth():
    """Confusion has the truth down and the answer across, and accuracy is its diagonal."""
    quality = evaluate(Echo(), rows_of([0, 1, 1, 2, 2], [0, 1, 2, 2, 0]), IMAGES)

    assert [[1, 0, 1], [0, 1, 0], [0, 1, 1]] == quality.confusion.tolist()
    assert (5, 0.6) == (quality.rows, quality.accuracy)
    assert clopper_pearson(3, 5) == (quality.low, quality.high)
    assert [True, True, False, True, False] == quality.correct.tolist()
    assert (5, 3) == quality.probabilities.shape


def test_of_very_many_classes_the_confusions_are_a_list(monkeypatch):
    """The most frequent first, each with the rows of its class; few classes have a table."""
    targets, answers = [0, 0, 0, 0, 1, 1, 1, 2], [2, 2, 1, 0, 0, 1, 1, 1]
    quality = evaluate(Echo(), rows_of(answers, targets), IMAGES)
    assert {"confusion": quality.confusion.tolist()} == quality.by_class()
    monkeypatch.setattr("modelwright.measure.quality.MOST_CLASSES", 2)
    monkeypatch.setattr("modelwright.measure.quality.MOST_CONFUSED", 2)

    assert {"confused": [[0, 2, 2, 4], [0, 1, 1, 4]]} == quality.by_class()


def test_evaluate_goes_batch_by_batch_to_the_last_row():
    """Rows run in batches of the given size, the last one smaller."""
    session = Echo()
    quality = evaluate(session, rows_of([0, 1, 2, 0, 1], [0, 1, 2, 0, 1]), IMAGES, batch_size=2)

    assert [2, 2, 1] == session.batches
    assert 1.0 == quality.accuracy


def test_long_recordings_run_in_smaller_batches(monkeypatch):
    """The longest row, as often as there are rows, is no more than goes into one call."""
    most, longest = 1000, 240
    monkeypatch.setattr("modelwright.measure.quality.MOST_INPUTS", most)

    class Listener(Echo):
        signature = Signature(
            (TensorSpec("samples", "float32", ("batch", "time")),
             TensorSpec("lengths", "int64", ("batch",))),
            Echo.signature.outputs,
        )  # fmt: skip

        def __call__(self, batch):
            samples = batch["samples"]
            self.batches.append(samples.shape)
            logits = np.zeros((len(samples), 3), np.float32)
            return {"logits": logits, "probabilities": logits}

    sounds = [np.ones(length, np.int16) for length in (longest, 30, 80, 16, 200, 100, 9, 50, 60)]
    rows = Rows({"samples": ragged(sounds)}, np.zeros(9, np.int64), [""] * 9)
    session = Listener()
    quality = evaluate(session, rows, TASKS["audio-classification"])

    assert [4, 4, 1] == [number for number, _ in session.batches]
    assert all(number * longest <= most for number, _ in session.batches)
    assert 9 == quality.rows


def test_no_rows_are_refused():
    """Nothing can be said of a model without a row."""
    with pytest.raises(DataError, match="no rows"):
        evaluate(Echo(), rows_of([], []), IMAGES)


def test_a_model_that_gives_nan_has_no_accuracy():
    """NaN is refused and its rows are named, not counted as an answer."""

    class Broken(Echo):
        def __call__(self, batch):
            outputs = super().__call__(batch)
            return {**outputs, "logits": outputs["logits"] * np.nan}

    with pytest.raises(IntegrityError, match="within rows 0 to 1"):
        evaluate(Broken(), rows_of([0, 1], [0, 1]), IMAGES)


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


class EchoTags:
    """Answers every place with the id that stands there, padding with the id 2."""

    signature = Signature(
        (TensorSpec("ids", "int64", ("batch", "time")),),
        (TensorSpec("logits", "float32", ("batch", "time", 3)),),
    )

    def __call__(self, batch):
        logits = np.eye(3, dtype=np.float32)[np.where(batch["ids"] > 0, batch["ids"] - 1, 2)]
        return {"logits": logits, "probabilities": logits}

    def close(self):
        pass


def test_rows_of_unequal_length_are_judged_without_their_padding():
    """However rows are put together, every real place counts once and stays in its row's place."""
    random = np.random.default_rng(0)
    texts = [random.integers(1, 4, length) for length in (3, 1, 9, 5, 2, 17)]
    tags = [text - 1 for text in texts]
    tags[2] = (tags[2] + 1) % 3
    rows = Rows({"ids": ragged(texts)}, ragged(tags), [""] * 6)
    whole, pairs = (
        evaluate(EchoTags(), rows, TAGS, ["O", "B-X", "I-X"], size) for size in (256, 2)
    )

    assert 37 == len(whole.answers) == whole.statistics[:, 3].sum()
    np.testing.assert_array_equal(np.concatenate(tags), whole.targets)
    np.testing.assert_array_equal(np.concatenate(texts) - 1, whole.answers)
    np.testing.assert_array_equal(whole.answers, pairs.answers)
    np.testing.assert_array_equal(whole.statistics, pairs.statistics)
    assert 28 / 37 == whole.values["places_right"]
    assert whole.low <= whole.value == whole.values["f1"] <= whole.high


class EchoBoxes:
    """One box a picture, wherever."""

    signature = Signature((TensorSpec("image", "uint8", ("batch", 1, 4, 4)),),
                          (TensorSpec("scores", "float32", ("batch", 1, 1)),))  # fmt: skip

    def __call__(self, batch):
        number = len(batch["image"])
        return {"scores": np.zeros((number, 1, 1), np.float32),
                "boxes": np.zeros((number, 1, 4), np.float32)}  # fmt: skip

    def close(self):
        pass


@pytest.mark.parametrize("numbers", [(0, 1, 0), (0, 0, 0), (2, 0, 3)])
def test_every_thing_of_every_picture_is_kept(numbers):
    """Of fewer things than pictures, and of more."""
    things = [np.float32([[row, 0, 4, 4, 0]] * number).reshape(-1, 5)
              for row, number in enumerate(numbers)]  # fmt: skip
    rows = Rows({"image": np.zeros((3, 1, 4, 4), np.uint8)},
                ragged(things, np.zeros((0, 5), np.float32)), [""] * 3)  # fmt: skip
    found = evaluate(EchoBoxes(), rows, TASKS["detection"], ["x"], 2)

    np.testing.assert_array_equal(np.concatenate(things), found.targets)


@pytest.mark.parametrize("spread", [0.2, 1.0])
def test_the_bootstrap_covers(spread):
    """Over repeated draws of rows the interval holds the true mean some 95 times in 100."""
    random, held = np.random.default_rng(1), 0
    for _ in range(200):
        errors = random.lognormal(0, spread, 120)
        low, high = bootstrap(120, lambda counts, own=errors: float(counts @ own / 120))
        held += low <= np.exp(spread**2 / 2) <= high

    assert 175 <= held <= 198


class EchoMean:
    """Forecasts zero, the mean of all series to come."""

    signature = Signature(
        (TensorSpec("window", "float32", ("batch", 1, 1)),),
        (TensorSpec("scaled", "float32", ("batch", 24, 1)),
         TensorSpec("forecast", "float32", ("batch", 24, 1))),
    )  # fmt: skip

    def __call__(self, batch):
        nothing = np.zeros((len(batch["window"]), 24, 1), np.float32)
        return {"scaled": nothing, "forecast": nothing}


def wandering(random, steps):
    """A series of spread 1 whose neighbours are alike, as windows of one step and 24 to come."""
    values = random.standard_normal((steps, 1))
    for step in range(1, steps):
        values[step] = 0.8 * values[step - 1] + 0.6 * values[step]
    starts = np.arange(steps - 24)
    inputs = {"window": Windows(values.astype(np.float32), starts, 1)}
    return Rows(inputs, Windows(values, starts + 1, 24), [""] * len(starts))


@pytest.mark.parametrize("steps", [120, 300])
def test_intervals_of_forecasts_cover(steps):
    """Windows that overlap are no rows of their own: the interval holds the truth, 1, as often as
    it says, of short series too, and none of its ends is below 0; nor are forecasts kept."""
    random = np.random.default_rng(0)
    found = [
        evaluate(EchoMean(), wandering(random, steps), TASKS["forecasting"]) for _ in range(100)
    ]

    assert 85 <= sum(one.low <= 1 <= one.high for one in found)
    assert all(0 <= one.low < one.value < one.high for one in found)
    assert all({} == one.outputs for one in found)


def test_a_drop_of_forecasts_is_paired_and_wide():
    """What one of two models adds alike to each error is no more certain than its blocks are."""
    held = 0
    for seed in range(50):
        rows = wandering(np.random.default_rng(seed), 300)
        one = evaluate(EchoMean(), rows, TASKS["forecasting"])
        table = one.statistics * [1, 1.1, 1, 1]
        other = dataclasses.replace(one, statistics=table, values={"mse": 1.1 * one.value})
        drop = compare(one, other, TASKS["forecasting"])
        held += drop.low <= 0.1 <= drop.high

        assert 0.1 * one.value == pytest.approx(drop.drop)
        assert drop.high - drop.low < 0.2 * (one.high - one.low)
    assert 42 <= held


def test_scores_of_all_items_are_not_kept():
    """They are as many as rows times items, and nobody looks at them later."""

    class Popular:
        signature = Signature(
            (TensorSpec("ids", "int64", ("batch", "time", 1)),),
            (TensorSpec("scores", "float32", ("batch", 30)),
             TensorSpec("probabilities", "float32", ("batch", 30))),
        )  # fmt: skip

        def __call__(self, batch):
            scores = np.tile(np.arange(30, dtype=np.float32), (len(batch["ids"]), 1))
            return {"scores": scores, "probabilities": scores}

    ids = ragged([np.ones((length, 1), np.int32) for length in (1, 2, 3)])
    rows = Rows({"ids": ids}, ragged([np.arange(n) for n in (1, 2, 3)]), [""] * 3)
    found = evaluate(Popular(), rows, TASKS["recommendation"])

    assert {} == found.outputs
    assert (3, 3) == (found.rows, len(found.targets))


def test_one_window_has_no_interval():
    """Nothing fails; both ends are its value."""
    found = evaluate(EchoMean(), wandering(np.random.default_rng(0), 25), TASKS["forecasting"])

    assert found.low == found.value == found.high


def test_the_bootstrap_is_the_same_twice():
    """The same rows give the same interval, whatever was drawn before."""
    rows = np.random.default_rng(0).random(50)
    first = bootstrap(50, lambda counts: float(counts @ rows))
    np.random.default_rng().random()

    assert first == bootstrap(50, lambda counts: float(counts @ rows))
    assert first[0] < rows.sum() < first[1]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("accuracy", 0.97, 0.03), ("f1", 0.5, 0.5), ("mse", 0.4, 0.4), ("size_mb", 3.0, 3.0)],
)
def test_less_error_is_better(name, value, error):
    """A measure's error grows away from its best value, and leads back to it."""
    metric = METRICS[name]
    better = value + (0.01 if metric.higher_is_better else -0.01)

    assert error == pytest.approx(metric.error(value))
    assert value == pytest.approx(metric.at_error(metric.error(value)))
    assert metric.error(better) < metric.error(value)
    assert 0.0 == metric.error(metric.best)


def test_a_quick_look_has_no_interval():
    """It would be drawn a thousand times, and nobody reads it."""
    rows = rows_of([0, 1, 2, 2], [0, 1, 2, 1])
    whole, quick = (evaluate(Echo(), rows, IMAGES, thorough=one) for one in (True, False))

    assert whole.values == quick.values and quick.low == 0.75 == quick.high
    assert whole.low < 0.75 < whole.high


def by_class(rights, sizes):
    """A table of rows in classes of those sizes, so many of each right, others taken for the
    first."""
    true = np.repeat(np.arange(len(sizes)), sizes)
    right = np.concatenate([np.arange(size) < own for own, size in zip(rights, sizes, strict=True)])
    said = np.where(right, true, np.where(true == 0, 1, 0))
    columns = (np.ones(len(true)), right, np.ones(len(true)), true, said)
    return np.stack(columns, 1).astype(float)


@pytest.mark.parametrize("measure", ["balanced_accuracy", "f1_macro"])
@pytest.mark.parametrize(("rights", "sizes"), [
    ((200, 3), (200, 3)), ((190, 0), (200, 3)), ([7] * 300, [10] * 300), ((5,), (5,)),
])  # fmt: skip
def test_intervals_over_classes_hold_their_value(rights, sizes, measure):
    """However few rows a class has, and however many classes there are; three of three right say
    little of others."""
    table = by_class(rights, sizes)
    task = dataclasses.replace(TASKS["image-classification"], judged_by=measure)
    value = task.values(table)[measure]
    low, high = judging._interval(task, measure, table)

    assert 0 <= low < value <= high <= 1 or low == 0 == value < high
    if len(sizes) == 2:
        assert high - low > 0.1  # three rows say little, and half of that goes into the mean


def test_intervals_over_classes_cover(monkeypatch):
    """Drawn again and again, 95 times in 100 the interval has the true balanced accuracy."""
    monkeypatch.setattr(judging, "RESAMPLES", 200)
    task = dataclasses.replace(TASKS["image-classification"], judged_by="balanced_accuracy")
    draw, sizes, shares = np.random.default_rng(1), (150, 12), (0.9, 0.6)
    found = [
        judging._interval(task, task.metric, by_class(draw.binomial(sizes, shares), sizes))
        for _ in range(150)
    ]
    covered = sum(low <= np.mean(shares) <= high for low, high in found)

    assert 133 <= covered <= 149


def test_a_drop_over_classes_has_an_interval_within_them():
    """Of three rows of a class one is lost: a sixth of the balanced accuracy, give or take, and
    never more than that class has; where nothing changed, nothing is lost."""
    task = dataclasses.replace(TASKS["image-classification"], judged_by="balanced_accuracy")

    def judged(table):
        values = task.values(table)
        return Quality("balanced_accuracy", values, 0, 1, table, {}, table[:, 3])

    before, after = judged(by_class((200, 3), (200, 3))), judged(by_class((200, 2), (200, 3)))
    found = compare(before, after, task)

    assert np.isclose(1 / 6, found.drop)
    assert 0 <= found.low < found.drop < found.high <= 0.5
    assert (0, 0, 0) == tuple(
        getattr(compare(before, before, task), key) for key in ("drop", "low", "high")
    )

"""How good a model's answers are on given rows, with an interval for what the rows cannot tell.

Reads a Session of any runtime, rows and the task; gives a Quality.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modelwright.core.errors import DataError, IntegrityError
from modelwright.core.goals import METRICS
from modelwright.core.progress import counted, working
from modelwright.data.rows import Ragged, Rows
from modelwright.models.heads import HEADS
from modelwright.runtime.act import play
from modelwright.runtime.catalog import Session
from modelwright.tasks.catalog import Task

RESAMPLES = 1000
MOST_INPUTS = 2**22  # numbers that go into one call: large pictures, long recordings
MOST_CLASSES, MOST_CONFUSED = 100, 100  # of a table of confusions; of a list where there are more
MOST_SCORES = 2**23  # of one call, where each place has an answer
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's, of 1 to 9


@dataclass(frozen=True, eq=False)
class Quality:
    """A task's metric on some rows, with its 95 % interval, and what every row added to it.

    values: all metrics of the task; `value` is the one that decides, `metric`
    low, high: 95 % interval of `value`. Of an accuracy Clopper-Pearson, exact: over repeated draws
        of rows they enclose the true one at least 95 times in 100. Of others the bootstrap over
        rows, or over the units that rows form.
    statistics: (rows, k) float64, from which the metrics follow
    units: (rows,), which rows are drawn together; None: each by itself
    outputs: by name (n, ...), at every real place of every row, one after the other; empty where
        a place has as many as a vocabulary
    targets: (n, ...), of the same places; of all things in all rows, where a row has several
    """

    metric: str
    values: dict[str, float]
    low: float
    high: float
    statistics: np.ndarray
    outputs: dict[str, np.ndarray]
    targets: np.ndarray
    units: np.ndarray | None = None

    @property
    def value(self) -> float:
        return self.values[self.metric]

    @property
    def accuracy(self) -> float:
        return self.values["accuracy"]

    @property
    def rows(self) -> int:
        return len(self.statistics)

    @property
    def answers(self) -> np.ndarray:
        """(n,) int64: the class with the largest logit, the first of them in a tie."""
        return np.asarray(self.outputs["logits"].argmax(-1))

    @property
    def probabilities(self) -> np.ndarray:
        """(n, num_classes) float32."""
        return self.outputs["probabilities"]

    @property
    def correct(self) -> np.ndarray:
        """(n,) bool."""
        return np.asarray(self.answers == self.targets)

    @property
    def confusion(self) -> np.ndarray:
        """(num_classes, num_classes) int64; truth down, answer across."""
        classes = self.outputs["logits"].shape[-1]
        counts = np.bincount(self.targets * classes + self.answers, minlength=classes**2)
        return counts.reshape(classes, classes)

    def by_class(self) -> dict[str, list[list[int]]]:
        """Which classes are taken for which: `confusion`, or of very many classes `confused`:
        truth, answer, how many rows, how many of that class; the most frequent first."""
        if self.outputs["logits"].shape[-1] <= MOST_CLASSES:
            return {"confusion": self.confusion.tolist()}
        wrong = ~self.correct
        pairs = np.stack([self.targets[wrong], self.answers[wrong]], 1)
        kinds, counts = np.unique(pairs, axis=0, return_counts=True)
        first = np.argsort(-counts, kind="stable")[:MOST_CONFUSED]
        of = np.bincount(self.targets)[kinds[first, 0]]
        return {"confused": np.column_stack([kinds[first], counts[first], of]).tolist()}


def evaluate(
    session: Session, rows: Rows, task: Task, labels: Sequence[str] = (), batch_size: int = 256,
    *, thorough: bool = True, what: str = "batches judged",
) -> Quality:  # fmt: skip
    """Run a session over rows and judge its answers.

    Args:
        labels: names of the classes, where the task's metric reads them.
        thorough: False judges by what one call gives, the task's `look`, where its metric takes
            more, the task's `run`; and leaves the interval out: both its ends are the value.
        what: is done, for people who wait.
    Raises: DataError without rows; IntegrityError if an output is not a number.
    """
    if not len(rows):
        raise DataError("evaluate: no rows", expected="at least one row")
    if task.acting:
        with working(what):
            return _played(session, rows, task, labels, thorough)
    alike = rows.lengths
    order = np.arange(len(rows)) if alike is None else np.argsort(alike, kind="stable")
    shapes = [one.shape[1:] for one in session.signature.inputs]

    def numbers(row: int) -> int:
        """That go in for one row."""
        places = 1 if alike is None else int(alike[row])
        sizes = [[size if isinstance(size, int) else places for size in own] for own in shapes]
        return max(1, sum(map(math.prod, sizes)))

    judged, lengths = session.signature.outputs[0], rows.places(session.signature)
    if lengths is not None:
        scores = int(lengths.max()) * int(judged.shape[-1])
        batch_size = min(batch_size, max(1, MOST_SCORES // scores))
    several = None  # targets of a row: places, or things of a few numbers each
    if isinstance(rows.targets, Ragged) and (judged.over_time or rows.targets.values.ndim > 1):
        several = rows.targets
    statistics: list[np.ndarray] = []
    outputs: dict[str, list[np.ndarray]] = {}
    targets: list[np.ndarray] = []
    parts, start = list[np.ndarray](), 0
    while start < len(order):
        last = order[min(start + batch_size, len(order)) - 1]  # the longest, or as long as any
        parts.append(order[start : start + max(1, min(batch_size, MOST_INPUTS // numbers(last)))])
        start += len(parts[-1])
    for part in counted(parts, what, len(parts)):
        found = session(rows.batch(part))
        if not all(np.isfinite(value).all() for value in found.values()):
            raise IntegrityError(
                f"evaluate: the model gives NaN or infinity within rows {part.min()} to "
                f"{part.max()}",
                expected="finite outputs",
                repair="take an earlier checkpoint, or train again with a lower learning rate",
            )
        wanted = rows.batch_targets(part)
        statistics.append(task.logic.statistics(found, wanted, labels))
        here = None if lengths is None else lengths[part]
        for name, value in found.items() if HEADS[task.outputs].kept else ():
            outputs.setdefault(name, []).append(real_places(value, here))
        if isinstance(rows.targets, Ragged):
            many = rows.targets.lengths[part]
            if several is not None:
                wanted = wanted[np.arange(wanted.shape[1]) < many[:, None]]
            else:  # the last is judged
                wanted = wanted[np.arange(len(part)), many - 1]
        targets.append(wanted)
    back = np.argsort(order, kind="stable")
    table = np.concatenate(statistics)[back]
    metric = task.look
    if thorough and hasattr(task.logic, "run"):  # judged by more than one call of the model
        table, metric = table + task.logic.run(session, rows, labels), task.metric
    units, table = task.units(table), task.whole(table)
    metrics = task.values(table)
    one_each = np.ones(len(rows), np.int64)
    of_outputs = one_each if lengths is None else lengths[order]
    of_targets = one_each if several is None else several.lengths[order]
    low = high = metrics[metric]
    if thorough:
        low, high = _interval(task, metric, table, units)
    return Quality(
        metric=metric,
        values=metrics,
        low=low,
        high=high,
        statistics=table,
        outputs={name: _in_order(parts, of_outputs, back) for name, parts in outputs.items()},
        targets=_in_order(targets, of_targets, back),
        units=units,
    )


def _played(
    session: Session, rows: Rows, task: Task, labels: Sequence[str], thorough: bool
) -> Quality:
    """Judge how a model acts: rows are episodes, which it plays."""
    found, targets = play(session, rows), rows.batch_targets(np.arange(len(rows)))
    table = task.logic.statistics(found, targets, labels)
    values = task.values(table)
    low = high = values[task.metric]
    if thorough:
        low, high = _interval(task, task.metric, table)
    return Quality(task.metric, values, low, high, table, found, targets)


def interval_of(quality: Quality, task: Task) -> tuple[float, float]:
    """The 95 % interval of the task's metric, be it another than the one that was judged."""
    if task.metric == quality.metric:
        return quality.low, quality.high
    return _interval(task, task.metric, quality.statistics, quality.units)


def _interval(
    task: Task, metric: str, table: np.ndarray, units: np.ndarray | None = None
) -> tuple[float, float]:
    if metric == "accuracy":
        return clopper_pearson(int(table[:, 1].sum()), len(table))
    judged = replace(task, judged_by=metric)
    if judged.strata(table) is None:
        low, high = bootstrap(len(table), lambda counts: task.values(table, counts)[metric], units)
    else:
        low, high = _within_classes(judged, table)
    own = METRICS[metric]
    if not own.bounded:
        return low, high
    most = max(own.best, task.values(table)[metric]) if own.higher_is_better else math.inf
    return max(low, 0.0), min(high, most)


def _in_order(parts: Sequence[np.ndarray], sizes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values of one row after the other, of `sizes` places each, in the order of `rows`."""
    begins = np.cumsum(sizes) - sizes
    places = [np.arange(begins[row], begins[row] + sizes[row]) for row in rows]
    return np.asarray(np.concatenate(parts)[np.concatenate(places)])


def real_places(value: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """A batch's values without padding: (batch, time, ...) -> (places, ...), row by row.

    Without lengths, nothing is changed.
    """
    if lengths is None:
        return value
    real: np.ndarray = np.arange(value.shape[1]) < lengths[:, None]
    return np.asarray(value[real])


def _within_classes(task: Task, table: np.ndarray) -> tuple[float, float]:
    """The interval of a metric that counts classes alike: rows of each class weighed at random
    among themselves, with two that nobody saw, half of each; moved so that its middle is the value.

    Source: Rubin 1981, Annals of Statistics 9(1) (the Bayesian bootstrap); of a balanced accuracy
    it is the posterior of Brodersen et al. 2010 with Jeffreys' prior.
    """
    unseen = task.logic.prior(table)
    whole = np.concatenate([table, unseen])
    sure = np.concatenate([np.ones(len(table)), np.full(len(unseen), 0.5)])
    strata = task.strata(whole)
    assert strata is not None
    found = [task.values(whole, one)[task.metric] for one in _weighed(strata, sure)]
    low, middle, high = np.quantile(found, (0.025, 0.5, 0.975))
    moved = task.values(table)[task.metric] - middle
    return float(low + moved), float(high + moved)


def _weighed(strata: np.ndarray, sure: np.ndarray) -> Iterator[np.ndarray]:
    """Weights of rows at random, RESAMPLES times; those of a stratum add up to its rows.

    sure: (rows,), what each row counts on average before that
    """
    draw, sizes = np.random.default_rng(0), np.bincount(strata, sure)
    for _ in range(RESAMPLES):
        weights = draw.gamma(sure)
        weights *= (sizes / np.maximum(np.bincount(strata, weights), 1e-300))[strata]
        yield weights


def bootstrap(
    rows: int, value: Callable[[np.ndarray], float], units: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> tuple[float, float]:  # fmt: skip
    """The 95 % percentile interval of a value of some rows, rows drawn again and again.

    Draws of ten units or fewer are too much alike: there it is Student's t, over the values that
    are left when one unit after the other is left out. One row or unit says nothing of others:
    both ends are its value.

    Args:
        value: how often each row was drawn, (rows,) -> the value of that draw.
        units: (rows,), from 0: rows of one number are drawn together.
        strata: (rows,), from 0: rows of one number are weighed among themselves (Rubin 1981).

    Source: Efron, Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 and 11.
    """
    if strata is not None:
        found = [value(one) for one in _weighed(strata, np.ones(rows))]
        low, high = np.quantile(found, (0.025, 0.975))
        return float(low), float(high)
    draw = np.random.default_rng(0)
    if units is not None and 1 <= units.max() <= len(T_95):
        left = np.array([value(1.0 * (units != one)) for one in range(units.max() + 1)])
        middle, wide = value(np.ones(rows)), T_95[len(left) - 2]
        half = wide * math.sqrt((len(left) - 1) * float(left.var()))
        return middle - half, middle + half
    units = np.arange(rows) if units is None else units
    number = int(units.max()) + 1
    found = [
        value(np.bincount(draw.integers(0, number, number), minlength=number)[units])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def clopper_pearson(
    successes: int, trials: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """The exact two-sided interval of a share.

    The lower end is the share at which `successes` or more has probability (1 - confidence) / 2;
    the upper end likewise, for `successes` or fewer.

    Raises: DataError unless 0 <= successes <= trials and trials >= 1.
    Source: Clopper and Pearson 1934, Biometrika 26(4), 404-413.

    >>> [round(end, 4) for end in clopper_pearson(8, 10)]
    [0.4439, 0.9748]
    """
    if not 0 <= successes <= trials or trials < 1:
        raise DataError(
            f"clopper_pearson: {successes} successes in {trials} trials",
            expected="at least one trial, and no more successes than trials",
        )
    outside = (1 - confidence) / 2
    low = _lower_end(successes, trials, outside)
    return low, 1 - _lower_end(trials - successes, trials, outside)


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """P(X >= successes) for X of `trials` at a `share` of at most successes / trials.

    Terms fall from the first one on, so those beyond forty standard deviations are left out.

    >>> round(binomial_tail(8, 10, 0.5), 6)
    0.054688
    """
    if successes == 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    first = (
        math.lgamma(trials + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(trials - successes + 1)
        + successes * math.log(share)
        + (trials - successes) * math.log1p(-share)
    )
    last = min(trials, successes + 20 * math.isqrt(trials) + 50)
    steps = np.arange(successes, last, dtype=np.float64)
    ratios = np.log((trials - steps) / (steps + 1)) + (math.log(share) - math.log1p(-share))
    return min(1.0, math.exp(first) * (1 + float(np.exp(np.cumsum(ratios)).sum())))


def _lower_end(successes: int, trials: int, outside: float) -> float:
    if successes == 0:
        return 0.0
    low, high = 0.0, successes / trials
    for _ in range(60):  # halving 60 times reaches the resolution of a float
        middle = (low + high) / 2
        if binomial_tail(successes, trials, middle) < outside:
            low = middle
        else:
            high = middle
    return (low + high) / 2

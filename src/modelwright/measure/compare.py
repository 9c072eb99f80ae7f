"""Two models on the same rows, and many models by several measures.

Reads Qualities and plain numbers; gives a Difference, or which points no other one beats.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelwright.core.errors import ConfigError, DataError
from modelwright.core.goals import METRICS
from modelwright.measure.quality import Quality, bootstrap, interval_of
from modelwright.tasks.catalog import Task

Z_95 = 1.959963984540054  # two-sided 95 % point of the normal distribution


@dataclass(frozen=True)
class Difference:
    """What changed from one model to another on the same rows.

    drop: how much worse the metric became; positive is a loss
    low, high: 95 % interval of the drop, paired by row
    flipped: answers that differ, of as many as there are places; None where answers are numbers
    """

    rows: int
    drop: float
    low: float
    high: float
    flipped: int | None


def compare(before: Quality, after: Quality, task: Task) -> Difference:
    """The paired difference of two models judged on the same rows, in the task's metric.

    Raises: DataError if the two were judged on different targets.
    """
    if not np.array_equal(before.targets, after.targets):
        raise DataError(
            f"compare: {before.rows} and {after.rows} rows with different targets",
            expected="both models judged on the same rows in the same order",
        )
    error, drop = METRICS[task.metric].error, lost(before, after, task.metric)
    flipped = flips(before, after)
    if task.metric == "accuracy":
        first, second = before.correct, after.correct
        low, high = paired_interval(
            int((first & second).sum()), int((first & ~second).sum()),
            int((~first & second).sum()), int((~first & ~second).sum()),
        )  # fmt: skip
    else:

        def drawn(counts: np.ndarray) -> float:
            first, second = (
                task.values(one.statistics, counts)[task.metric] for one in (before, after)
            )
            return error(second) - error(first)

        strata = task.strata(after.statistics)
        low, high = bootstrap(before.rows, drawn, before.units, strata=strata)
    return Difference(before.rows, drop, low, high, flipped)


def lost(before: Quality, after: Quality, metric: str) -> float:
    """How much worse a metric became, on the same rows."""
    error = METRICS[metric].error
    return error(after.values[metric]) - error(before.values[metric])


def losses(before: Quality, after: Quality, tasks: Sequence[Task]) -> dict[str, float]:
    """Of each task's metric its interval, and what it lost: "f1_low", "f1_high", "f1_drop"."""
    found: dict[str, float] = {}
    for task in tasks:
        name, (low, high) = task.metric, interval_of(after, task)
        drop = lost(before, after, name)
        found |= {f"{name}_low": low, f"{name}_high": high, f"{name}_drop": drop}
    return found


def flips(before: Quality, after: Quality) -> int | None:
    """Answers that differ; None where answers are numbers."""
    if "logits" not in before.outputs:
        return None
    return int((before.answers != after.answers).sum())


def paired_interval(
    both: int, first_only: int, second_only: int, neither: int
) -> tuple[float, float]:
    """95 % interval of share(first) - share(second) when both are judged on the same rows.

    Unlike Wald's interval on the discordant rows, it has a width when no row changed.

    Source: Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10 (square-and-add of
    Wilson's score limits, with the continuity-corrected phi).

    >>> [round(end, 3) for end in paired_interval(36, 12, 2, 0)]
    [0.057, 0.34]
    """
    rows = both + first_only + second_only + neither
    first, second = (both + first_only) / rows, (both + second_only) / rows
    first_low, first_high = _wilson(both + first_only, rows)
    second_low, second_high = _wilson(both + second_only, rows)
    product = both * neither - first_only * second_only
    corrected = max(product - rows / 2, 0.0) if product > 0 else float(product)
    margins = (
        (both + first_only)
        * (second_only + neither)
        * (both + second_only)
        * (first_only + neither)
    )
    phi = corrected / math.sqrt(margins) if margins else 0.0
    down, up = first - first_low, first_high - first
    other_down, other_up = second - second_low, second_high - second
    below = down**2 - 2 * phi * down * other_up + other_up**2
    above = up**2 - 2 * phi * up * other_down + other_down**2
    difference = first - second
    return difference - math.sqrt(max(below, 0.0)), difference + math.sqrt(max(above, 0.0))


def pareto(
    points: Sequence[Mapping[str, float]],
    *,
    higher: Sequence[str] = (),
    lower: Sequence[str] = (),
) -> list[int]:
    """Indexes of the points that no other point beats, in order.

    One point beats another if it is at least as good in every measure and better in one; equal
    points both stay.

    Args:
        higher: measures where more is better.
        lower: measures where less is better.
    Raises: ConfigError if no measure is named, a point lacks one, or a value is NaN.

    >>> pareto([{"mb": 1}, {"mb": 2}, {"mb": 1}], lower=["mb"])
    [0, 2]
    """
    if not higher and not lower:
        raise ConfigError("pareto: no measure to compare by", expected="higher=… or lower=…")
    costs = []
    for index, point in enumerate(points):
        missing = [name for name in (*higher, *lower) if name not in point]
        if missing:
            raise ConfigError(f"pareto: point {index} lacks {', '.join(missing)}")
        costs.append([-point[name] for name in higher] + [point[name] for name in lower])
    table = np.array(costs, np.float64).reshape(len(points), len(higher) + len(lower))
    if np.isnan(table).any():
        raise ConfigError("pareto: a measure is NaN", expected="measured figures only")
    return [
        index
        for index, own in enumerate(table)
        if not ((table <= own).all(1) & (table < own).any(1)).any()
    ]


def _wilson(successes: int, trials: int) -> tuple[float, float]:
    """Score limits of one share. Source: Wilson 1927, JASA 22, 209-212."""
    share = successes / trials
    centre = share + Z_95**2 / (2 * trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + Z_95**2 / (4 * trials**2))
    return (centre - half) / (1 + Z_95**2 / trials), (centre + half) / (1 + Z_95**2 / trials)

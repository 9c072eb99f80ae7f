"""The next values of every series: loss, mean squared error, answer."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

METRIC = "mse"
LABEL_SMOOTHING = None  # there are no labels
# of times that can be continued; others say nothing of what a day or a month is
FORMATS = (
    "%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H", "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y-%m", "%Y%m%d", "%Y",
)  # fmt: skip
HORIZONS, MOST_BLOCKS = 3, 10  # of windows that an interval draws together


def loss(scaled: Tensor, targets: Tensor) -> Tensor:
    """Mean of absolute and squared error on the scale where each series has spread one.

    scaled, targets: (batch, horizon, channels)

    The absolute half keeps single jumps of a series from steering the fit; docs/experiments.md.
    """
    scaled = scaled.float()
    return 0.5 * F.l1_loss(scaled, targets) + 0.5 * F.mse_loss(scaled, targets)


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row: values, squared and absolute errors, summed; and its horizon.

    outputs: scaled (rows, horizon, channels); targets: the same shape -> (rows, 4)
    """
    error = outputs["scaled"].astype(np.float64) - targets
    flat = error.reshape(len(error), -1)
    number = np.full(len(flat), flat.shape[1], np.float64)
    steps = np.full(len(flat), error.shape[1], np.float64)
    return np.stack([number, (flat**2).sum(1), np.abs(flat).sum(1), steps], axis=1)


def units(table: np.ndarray) -> np.ndarray:
    """Which rows are drawn together for an interval: blocks of windows that follow one another.

    Neighbours forecast nearly the same steps: by windows, the interval would be too narrow. So a
    block is three horizons long or more, and there are at most ten, since errors may hang together
    for longer; but at least two, as one has no spread.
    Source: Schmeiser 1982, Operations Research 30(3), 556-568 (few long batches are enough).

    >>> units(np.full((7, 4), 1.0)).tolist()
    [0, 0, 0, 0, 1, 1, 1]
    """
    rows = len(table)
    blocks = min(max(rows // (HORIZONS * int(table[0, 3])), 2), MOST_BLOCKS, rows)
    return np.asarray(np.arange(rows) * blocks // rows)


def values(sums: np.ndarray) -> dict[str, float]:
    """Mean squared and mean absolute error, in units of each series' spread on the train part.

    >>> values(np.array([4.0, 2.0, 3.0]))
    {'mse': 0.5, 'mae': 0.75}
    """
    return {"mse": float(sums[1] / sums[0]), "mae": float(sums[2] / sums[0])}


def answer(
    outputs: Mapping[str, np.ndarray], labels: Sequence[str], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """What a person reads: the next values of each series, on its own scale, and their times.

    outputs: of one row, without the batch: forecast (horizon, channels)
    tokens: the times of the values before, if they have any
    """
    forecast = outputs["forecast"]
    said: dict[str, Any] = {
        "answer": {
            label: [float(value) for value in forecast[:, channel]]
            for channel, label in enumerate(labels)
        }
    }
    times = continued(tokens, len(forecast))
    return {**said, "times": times} if times else said


def continued(times: Sequence[str], steps: int) -> list[str]:
    """The times that follow others, written as one of FORMATS; none where those are of no such
    form, or not evenly apart, in seconds or in months.

    >>> continued(["2024-02-28 12:00", "2024-02-28 18:00"], 2)
    ['2024-02-29 00:00', '2024-02-29 06:00']
    >>> continued(["2023-10-31", "2023-11-30", "2023-12-31"], 2), continued(["7", "8"], 1)
    (['2024-01-31', '2024-02-29'], [])
    """
    for form in FORMATS if len(times) > 1 else ():
        try:
            known = [datetime.strptime(one, form) for one in times]
            return [one.strftime(form) for one in _after(known, steps)]
        except (ValueError, OverflowError):  # of another form, or beyond the last year
            continue
    return []


def _after(known: Sequence[datetime], steps: int) -> list[datetime]:
    """By months where all are of one day of the month or all of its last, else by seconds."""
    ahead = range(1, steps + 1)
    for back in (timedelta(days=1), timedelta()):  # the last day is the one before the first
        moved = [one + back for one in known]
        months = [12 * one.year + one.month - 1 for one in moved]
        gaps = {later - one for one, later in pairwise(months)}
        alike = len({one.replace(year=1, month=1) for one in moved}) == 1
        if alike and len(gaps) == 1 and gaps != {0} and (moved[0].day == 1 or not back):
            (gap,) = gaps
            numbers = [months[-1] + step * gap for step in ahead]
            return [moved[-1].replace(year=n // 12, month=n % 12 + 1) - back for n in numbers]
    apart = {later - one for one, later in pairwise(known)}
    if len(apart) > 1 or min(apart) <= timedelta():
        return []
    return [known[-1] + step * min(apart) for step in ahead]

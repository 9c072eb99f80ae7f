"""The next values of every series: loss, mean squared error, answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

METRIC = "mse"
LABEL_SMOOTHING = None  # there are no labels
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
    """What a person reads: the next values of each series, on its own scale.

    outputs: of one row, without the batch: forecast (horizon, channels)
    """
    forecast = outputs["forecast"]
    return {
        "answer": {
            label: [float(value) for value in forecast[:, channel]]
            for channel, label in enumerate(labels)
        }
    }

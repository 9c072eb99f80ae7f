"""The rating that a user will give to an item: loss, squared error, answer.

Source: Koren, Bell, Volinsky 2009, IEEE Computer 42(8), "Matrix Factorization Techniques for
Recommender Systems", equation 5 (squared error with a penalty on the vectors).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from modelwright.core.signature import NO_TARGET
from modelwright.tasks.losses import places

METRIC = "rmse"
LABEL_SMOOTHING = None  # there are no labels
weight = places


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over all real places, and the head's penalty.

    outputs: (batch, time, 2), rating and penalty; targets: (batch, time), NO_TARGET at padding
    """
    rating, penalty = outputs.float().flatten(0, -2).unbind(-1)
    targets = targets.flatten()
    real = targets != NO_TARGET
    error = (rating - targets).square() + penalty
    return (error * real).sum() / real.sum().clamp_min(1)


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row: rows, squared and absolute error.

    outputs: rating (rows, 1); targets: (rows, time), the last one that is no padding is judged
        -> (rows, 3)
    """
    real = targets != NO_TARGET
    last = targets.shape[1] - 1 - real[:, ::-1].argmax(1)
    error = outputs["rating"][:, 0].astype(np.float64) - targets[np.arange(len(targets)), last]
    return np.stack([np.ones(len(error)), error**2, np.abs(error)], axis=1)


def values(sums: np.ndarray) -> dict[str, float]:
    """Root of the mean squared error, and mean absolute error.

    >>> values(np.array([4.0, 1.0, 2.0]))
    {'rmse': 0.5, 'mae': 0.5}
    """
    return {"rmse": float(np.sqrt(sums[1] / sums[0])), "mae": float(sums[2] / sums[0])}


def answer(
    outputs: Mapping[str, np.ndarray], labels: Sequence[str], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """What a person reads: the rating to expect, and of which item.

    outputs: of one row, without the batch: rating (1,)

    >>> answer({"rating": np.array([3.5])}, [], ["Alien"])
    {'answer': '3.5', 'item': 'Alien', 'rating': 3.5}
    """
    rating = float(outputs["rating"][0])
    return {"answer": f"{rating:.3g}", "item": "".join(tokens), "rating": rating}

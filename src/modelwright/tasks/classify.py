"""One label for each example, be it an image, a text or a sound: loss, metric, answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.tasks.losses import cross_entropy

METRIC = "accuracy"
LABEL_SMOOTHING = 0.1
loss = cross_entropy


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row: rows, rights, and the loss in nats; their sums give the metrics.

    outputs: logits and probabilities (rows, num_classes); targets: (rows,) -> (rows, 3)
    """
    rows = np.arange(len(targets))
    right = outputs["logits"].argmax(-1) == targets
    surprise = -np.log(np.maximum(outputs["probabilities"][rows, targets], 1e-30))
    return np.stack([np.ones(len(targets)), right, surprise], axis=1)


def values(sums: np.ndarray) -> dict[str, float]:
    """Accuracy as a share, loss in nats.

    >>> values(np.array([4.0, 3.0, 2.0]))
    {'accuracy': 0.75, 'loss': 0.5}
    """
    return {"accuracy": float(sums[1] / sums[0]), "loss": float(sums[2] / sums[0])}


def answer(
    outputs: Mapping[str, np.ndarray], labels: Sequence[str], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """What a person reads: the label and every label's probability, most likely first.

    outputs: of one row, without the batch

    >>> answer({"probabilities": np.array([0.25, 0.75])}, ["cat", "dog"])["answer"]
    'dog'
    """
    probabilities = outputs["probabilities"]
    order = np.argsort(-probabilities, kind="stable")
    return {
        "answer": labels[int(order[0])],
        "probabilities": [
            {"label": labels[int(index)], "probability": float(probabilities[index])}
            for index in order
        ],
    }

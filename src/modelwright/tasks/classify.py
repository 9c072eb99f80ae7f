"""One label for each example, be it an image, a text or a sound: loss, metric, answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from modelwright.tasks.losses import cross_entropy

METRIC = "accuracy"
BY_CLASS = ("balanced_accuracy", "f1_macro")
LABEL_SMOOTHING = 0.1


def loss(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean over rows of the cross-entropy, in nats, times the weight of the row's class.

    logits: (batch, num_classes); targets: (batch,); class_weights: (num_classes,) or fewer, up to
    the last class that comes up
    """
    if class_weights is None:
        return cross_entropy(logits, targets, label_smoothing)
    each = F.cross_entropy(
        logits.float(), targets, label_smoothing=label_smoothing, reduction="none"
    )
    return (class_weights[targets] * each).mean()


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row: 1, whether it is right, the loss in nats, its class, and the answer.

    outputs: logits and probabilities (rows, num_classes); targets: (rows,) -> (rows, 5)
    """
    rows = np.arange(len(targets))
    answers = outputs["logits"].argmax(-1)
    surprise = -np.log(np.maximum(outputs["probabilities"][rows, targets], 1e-30))
    return np.stack([np.ones(len(targets)), answers == targets, surprise, targets, answers], axis=1)


def values_of_rows(table: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Shares, and the loss in nats.

    accuracy: of the rows, those that are right
    balanced_accuracy: the mean over classes that rows have of the share that is right of each
    f1_macro: the mean over classes that rows have, or were answered, of F1, 2 · right / (rows +
        answers)

    table: (rows, 5), as `statistics` gives it; weights: (rows,), how often each counts
    Source: Brodersen et al. 2010, ICPR, The balanced accuracy and its posterior distribution;
        Opitz, Burst 2019, arXiv:1911.03347 (the mean of the F1s).

    >>> right, wrong = [1, 1, 0.5, 0, 0], [1, 0, 0.5, 1, 0]
    >>> seen = np.array([right, right, wrong, [1, 1, 0.5, 1, 1]])
    >>> found = values_of_rows(seen, np.ones(4))
    >>> found["accuracy"], found["balanced_accuracy"], round(found["f1_macro"], 4), found["loss"]
    (0.75, 0.75, 0.7333, 0.5)
    """
    rows, right, loss = weights @ table[:, :3]
    true, said = table[:, 3].astype(np.int64), table[:, 4].astype(np.int64)
    classes = 1 + int(max(true.max(), said.max()))
    held, answered, hits = (
        np.bincount(kinds, counts, classes)
        for kinds, counts in ((true, weights), (said, weights), (true, weights * table[:, 1]))
    )
    either = held + answered
    return {
        "accuracy": float(right / rows),
        "balanced_accuracy": float((hits[held > 0] / held[held > 0]).mean()),
        "f1_macro": float((2 * hits[either > 0] / either[either > 0]).mean()),
        "loss": float(loss / rows),
    }


def classes(table: np.ndarray) -> np.ndarray:
    """Of each row, its own."""
    return table[:, 3].astype(np.int64)


def prior(table: np.ndarray) -> np.ndarray:
    """Rows that nobody saw, half of each counted: in each class one that is right, and one that is
    taken for what its rows are mostly taken for. With those, a class of three rows that are all
    right may yet have others: Jeffreys' prior of a share.

    table: (rows, 5) -> (two for each class that rows have, 5)
    """
    true, said = classes(table), table[:, 4].astype(np.int64)
    held = np.unique(true)
    wrong = true != said
    unseen = []
    for one in held:
        taken = said[wrong & (true == one)]
        others = taken if taken.size else true[true != one]
        other = np.bincount(others).argmax() if others.size else one + 1
        unseen += [(1, 1, 0, one, one), (1, 0, 0, one, other)]
    return np.array(unseen, np.float64)


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

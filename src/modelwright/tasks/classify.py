"""One label for each example: loss, metrics, answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def loss(
    logits: Tensor,
    targets: Tensor,
    *,
    targets_mixed: Tensor | None = None,
    mix: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy, in nats; with mixup or cutmix the weighted mean over both targets.

    logits: (batch, num_classes); targets, targets_mixed: (batch,)

    Args:
        mix: weight of `targets`; the rest goes to `targets_mixed`.
    Source: Szegedy et al. 2015, arXiv:1512.00567, section 7 (smoothing); Zhang et al. 2017,
        arXiv:1710.09412 (mixup).
    """
    logits = logits.float()
    value = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    if targets_mixed is None:
        return value
    other = F.cross_entropy(logits, targets_mixed, label_smoothing=label_smoothing)
    return mix * value + (1 - mix) * other


def metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy as a share, loss in nats.

    >>> import torch
    >>> metrics(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))["accuracy"]
    0.5
    """
    return {
        "accuracy": (logits.argmax(-1) == targets).float().mean().item(),
        "loss": F.cross_entropy(logits.float(), targets).item(),
    }


def answer(probabilities: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """What a person reads: the label and every label's probability, most likely first.

    probabilities: (num_classes,)

    >>> import numpy as np
    >>> answer(np.array([0.25, 0.75]), ["cat", "dog"])["answer"]
    'dog'
    """
    order = np.argsort(-probabilities, kind="stable")
    return {
        "answer": labels[int(order[0])],
        "probabilities": [
            {"label": labels[int(index)], "probability": float(probabilities[index])}
            for index in order
        ],
    }

"""Losses that several tasks share."""

import torch.nn.functional as F
from torch import Tensor

from modelwright.core.signature import NO_TARGET


def places(targets: Tensor) -> Tensor:
    """Over how many real places the mean goes."""
    return (targets != NO_TARGET).sum()


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over all rows, or all real places of all rows, in nats.

    logits: (batch, num_classes) or (batch, time, num_classes); targets: the same without the last
    axis, NO_TARGET at padding

    Source: Szegedy et al. 2015, arXiv:1512.00567, section 7 (smoothing).
    """
    return F.cross_entropy(
        logits.float().flatten(0, -2), targets.flatten(),
        ignore_index=NO_TARGET, label_smoothing=label_smoothing,
    )  # fmt: skip

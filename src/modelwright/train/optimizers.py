"""Parameter groups, optimizers, and the schedule as a function of progress."""

from typing import Literal

import torch
from torch import nn


def make_optimizer(
    model: nn.Module,
    name: Literal["adamw", "sgd"],
    *,
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """An optimizer whose weight decay spares biases, norms and positions.

    Source: Loshchilov, Hutter 2017, arXiv:1711.05101 (AdamW); Sutskever et al. 2013 (Nesterov).
    """
    matrices = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim > 1
        and name.rpartition(".")[2] not in ("positions", "token")
    ]
    kept = {id(parameter) for parameter in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in kept]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if name == "adamw":  # fused: one pass over memory; several times the speed of foreach on CPUs
        return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), fused=True)
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True, fused=True)


def learning_rate_factor(step: int, progress: float, *, warmup_steps: int, decay: float) -> float:
    """Warmup, stable, decay: the share of the full learning rate to use now.

    Rises over the first steps, stays, and falls in a straight line to zero over the last `decay`
    of the budget, so that it reaches zero exactly when the budget is spent.

    Args:
        step: steps done.
        progress: share of the budget spent, by steps or by time.
    Source: Hu et al. 2024, arXiv:2404.06395, section 4.

    >>> [round(learning_rate_factor(s, s / 100, warmup_steps=10, decay=0.5), 2)
    ...  for s in (0, 4, 9, 50, 75, 100)]
    [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    rising = min(1.0, (step + 1) / max(1, warmup_steps))
    falling = min(1.0, max(0.0, (1.0 - progress) / decay)) if decay > 0 else 1.0
    return min(rising, falling)

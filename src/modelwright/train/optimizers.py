"""Parameter groups, optimizers, and the schedule as a function of progress."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from modelwright.core.errors import ConfigError

OptimizerName = Literal["adamw", "sgd", "muon"]


class Several(torch.optim.Optimizer):
    """Optimizers with parameters of their own, as one: groups and state side by side."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()  # torch has put new objects in place of the old ones


def make_optimizer(
    model: nn.Module,
    name: OptimizerName,
    *,
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """An optimizer whose weight decay spares biases, norms and positions.

    Muon moves hidden matrices; embeddings, the head and everything else stay with AdamW. Its steps
    are as large as AdamW's, so that one learning rate serves both.

    Source: Loshchilov, Hutter 2017, arXiv:1711.05101 (AdamW); Sutskever et al. 2013 (Nesterov);
        Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982,
        section 2.2 (the size of Muon's steps).
    """
    matrices = [parameter for _, parameter in _matrices(model)]
    kept = {id(parameter) for parameter in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in kept]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if name == "muon":
        ours = hidden_matrices(model)
        if not ours:
            raise ConfigError(
                "train.optimizer: muon moves matrices, and this model's body has none",
                expected="adamw or sgd, or a family with linear layers",
            )
        hidden = {id(parameter) for parameter in ours}
        groups[0]["params"] = [p for p in matrices if id(p) not in hidden]
        muon = torch.optim.Muon(
            ours, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        return Several([muon, _adamw(groups, learning_rate)])
    if name == "adamw":
        return _adamw(groups, learning_rate)
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True, fused=True)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon moves: matrices of the body."""
    return [p for name, p in _matrices(model) if name.startswith("body.") and p.ndim == 2]


def _matrices(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Weights that take part in products, with their names."""
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim > 1
        and name.rpartition(".")[2] not in ("positions", "token")
    ]


def _adamw(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.AdamW:
    # fused: one pass over memory; several times the speed of foreach on CPUs
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), fused=True)


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

"""A convolution over the last few places, of each feature by itself, around a skip.

Attention finds what stands far back; what stands right before is cheaper to bring along.
Source: So et al. 2021, arXiv:2109.08668, section 3 (depthwise, behind attention's projections);
Allen-Zhu 2025, arXiv:2512.17351, "Canon layers" (around a skip, before feed-forward nets too).
"""

from typing import Any

import torch
from torch import Tensor, nn

from modelwright.models.carried import Carried


class ShortConv(nn.Module):
    """sequence: (batch, time, dim) -> the same
    carried: the last places before the sequence, (batch, size - 1, dim); at first zeros

    It starts as its skip.

    Args:
        size: places that each one sees, itself among them.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, 1, size))  # the last one is the place's own

    def forward(self, sequence: Tensor, carried: Carried | None = None) -> Tensor:
        taps = self.taps(self.weight).to(sequence.dtype)
        if carried is None:
            return torch.as_tensor(_Convolved.apply(sequence, taps))  # type: ignore[no-untyped-call]
        reach = len(taps) - 1
        known = torch.cat([carried.take(), sequence], 1)
        carried.leave(known[:, known.shape[1] - reach :])
        found = sequence * taps[0]
        for back in range(1, len(taps)):
            start = reach - back
            found = found + known[:, start : start + sequence.shape[1]] * taps[back]
        return found

    def taps(self, weight: Tensor) -> Tensor:
        """(size, dim): what a place is multiplied by, that before it, and so on."""
        taps = weight[:, 0].flip(1).t()
        own = torch.zeros_like(taps)
        own[0] = 1
        return taps + own


class _Convolved(torch.autograd.Function):
    """sequence (batch, time, dim), taps (size, dim): one pass over memory a tap, where products of
    shifted copies take three and a torch.conv1d of each channel on CPUs as many."""

    @staticmethod
    def forward(ctx: Any, sequence: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(sequence, taps)
        found = sequence * taps[0]
        for back in range(1, min(len(taps), sequence.shape[1])):
            found[:, back:].addcmul_(sequence[:, :-back], taps[back])
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        sequence, taps = ctx.saved_tensors
        before, of_taps = gradient * taps[0], torch.zeros_like(taps)
        of_taps[0] = (sequence * gradient).sum((0, 1))
        for back in range(1, min(len(taps), sequence.shape[1])):
            before[:, :-back].addcmul_(gradient[:, back:], taps[back])
            of_taps[back] = (sequence[:, :-back] * gradient[:, back:]).sum((0, 1))
        return before, of_taps


def as_products_take(features: Tensor) -> Tensor:
    """Features as torch.autocast gives them to a product, where it is on."""
    kind = features.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return features
    return features.to(torch.get_autocast_dtype(kind))

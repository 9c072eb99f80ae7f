"""Adafactor: second moments as means over rows and columns, in one process or in shards.

In one process these are the steps of torch.optim.Adafactor, which takes no parameters in shards
(DTensor). Here each process sums over its piece, the sums are added up over those axes of the mesh
that cut what is summed over, and every process keeps the whole means: they are small, and a
checkpoint of them fits any other layout.
Source: Shazeer, Stern 2018, arXiv:1804.04235, algorithm 4; epsilons as torch has them.
"""

import math
from typing import Any

import torch
from torch import Tensor

from modelwright.train.shards import local

LEAST_SCALE, LONGEST_UPDATE, DECAY = 1e-3, 1.0, -0.8  # epsilon 2, d, the exponent of beta 2


class Adafactor(torch.optim.Optimizer):
    """Steps relative to a parameter's own size; decoupled weight decay.

    Args:
        learning_rate: the largest relative step; at step t it is at most 1/sqrt(t).
    """

    def __init__(self, params: Any, learning_rate: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": learning_rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"])

    def _move(self, parameter: Tensor, rate: float, decay: float) -> None:
        state, gradient = self.state[parameter], local(parameter.grad)
        state.setdefault("step", torch.tensor(0.0)).add_(1)
        step = state["step"].item()
        scale = _mean_length(local(parameter), parameter).clamp_min(LEAST_SCALE)
        parameter.mul_(1 - rate * decay)
        estimate = self._second_moment(parameter, gradient, step**DECAY)
        smallest = torch.finfo(parameter.dtype).eps
        update = estimate.clamp_(min=smallest * smallest).rsqrt_().mul_(gradient)
        longest = (_mean_length(update, parameter) / LONGEST_UPDATE).clamp_min(1.0)
        factor = scale / longest * min(rate, step**-0.5)
        local(parameter).sub_(update.mul_(factor.to(update.dtype)))

    def _second_moment(self, parameter: Tensor, gradient: Tensor, newest: float) -> Tensor:
        """Of this process's piece, brought up to date."""
        state = self.state[parameter]
        if parameter.ndim < 2:
            if "variance" not in state:
                state["variance"] = torch.zeros_like(parameter)
            own = local(state["variance"])
            return own.lerp_(gradient.square(), newest).clone()
        for name, dim in (("row_var", -1), ("col_var", -2)):
            squares = gradient.norm(dim=dim, keepdim=True).square_()  # no copy of the gradient
            mean = (_summed(squares, parameter, dim) / parameter.shape[dim]).squeeze(dim)
            state[name] = state[name].lerp_(mean, newest) if name in state else mean * newest
        rows, columns = state["row_var"].unsqueeze(-1), state["col_var"].unsqueeze(-2)
        smallest = torch.finfo(parameter.dtype).eps
        rows = rows / rows.mean(-2, keepdim=True).clamp_(min=smallest)
        return _piece(rows, parameter) * _piece(columns, parameter)


def _mean_length(values: Tensor, parameter: Tensor) -> Tensor:
    """Root of the mean square, of a whole of which each process has a piece, cut as the parameter
    is; float64, on its device."""
    squares = _summed(values.norm().square(), parameter)
    return squares.double().sqrt() / math.sqrt(parameter.numel())


def _summed(sums: Tensor, parameter: Any, dim: int | None = None) -> Tensor:
    """The whole's sums, of sums over each process's piece: over one dim, or over all."""
    if not hasattr(parameter, "placements"):
        return sums
    from torch.distributed.tensor import DTensor, Partial  # slow to import

    shape = list(parameter.shape) if dim is not None else []
    if dim is not None:
        dim %= parameter.ndim
        shape[dim] = 1
    placements = [
        Partial() if cut is not None and dim in (None, cut) else one
        for one in parameter.placements
        for cut in [getattr(one, "dim", None)]
    ]
    strides = torch.empty(shape, device="meta").stride()
    found = DTensor.from_local(
        sums.contiguous(), parameter.device_mesh, placements, shape=torch.Size(shape),
        stride=strides,
    )  # fmt: skip
    return torch.as_tensor(found.full_tensor())


def _piece(means: Tensor, parameter: Any) -> Tensor:
    """What of whole means belongs to this process's piece of the parameter."""
    if not hasattr(parameter, "placements"):
        return means
    from torch.distributed.tensor import Replicate, distribute_tensor

    placements = [
        Replicate() if dim is not None and means.shape[dim] != parameter.shape[dim] else one
        for one in parameter.placements
        for dim in [getattr(one, "dim", None)]
    ]
    mesh = parameter.device_mesh
    found: Any = distribute_tensor(means, mesh, placements, src_data_rank=None)
    return torch.as_tensor(found.to_local())

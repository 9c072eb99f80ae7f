"""Muon: steps of matrices with all directions equally long, in one process or in shards.

torch.optim.Muon gives the same steps in one process and bfloat16. Over shards (DTensor, as FSDP2
makes them) it sums products of shards in bfloat16 and takes other steps; here each process brings
the whole update together first.
A convolution's filters are the rows of a matrix, one for each channel that comes out.
Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982.
"""

import math
from typing import Any

import torch
from torch import Tensor

from modelwright.train.shards import is_cut, local

MOMENTUM = 0.95
ROUNDS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # of Jordan et al.
RMS_OF_ADAMW = 0.2  # arXiv:2502.16982, section 2.2: steps as large as AdamW's


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal; decoupled weight decay.

    Args:
        params: matrices and filters, or groups of them.
        learning_rate: as AdamW's, whatever the shape.
        products: what `orthogonalize` computes in.

    found_inf: a flag on the device; where it is 1, a step changes nothing (optimizers.hold_back).
    """

    _step_supports_amp_scaling = True  # what torch's own say if they look at that flag
    found_inf: Tensor | None = None

    def __init__(
        self, params: Any, learning_rate: float, weight_decay: float = 0.0, *,
        products: torch.dtype = torch.bfloat16,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": learning_rate, "weight_decay": weight_decay})
        self.products = products

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, decay = group["lr"], group["weight_decay"]
            for matrix in group["params"]:  # or filters
                sides = matrix.shape[0], math.prod(matrix.shape[1:])
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                changed = [local(matrix), local(state["momentum_buffer"])]
                flag = self.found_inf
                before = [] if flag is None else [one.clone() for one in changed]
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - MOMENTUM)
                update = orthogonal_update(matrix.grad.lerp(momentum, MOMENTUM), self.products)
                matrix.mul_(1 - rate * decay)
                matrix.add_(update, alpha=-rate * RMS_OF_ADAMW * math.sqrt(max(sides)))
                for one, old in zip(changed, before, strict=False):
                    one.copy_(torch.where(flag > 0, old, one))  # type: ignore[operator, arg-type]


def orthogonal_update(update: Tensor, products: torch.dtype) -> Tensor:
    """`orthogonalize` of a matrix, or of filters as its rows; of one in shards, this process's
    share of the result."""
    if not is_cut(update):
        return orthogonalize(update.flatten(1), products).view_as(update)
    from torch.distributed.tensor import DTensor, distribute_tensor  # slow to import

    assert isinstance(update, DTensor)
    whole = orthogonal_update(update.full_tensor(), products)
    # every process has it all: nothing has to be sent
    return distribute_tensor(whole, update.device_mesh, update.placements, src_data_rank=None)


def orthogonalize(matrix: Tensor, products: torch.dtype = torch.bfloat16) -> Tensor:
    """Singular vectors kept, singular values brought near one; (rows, columns) -> same.

    Newton–Schulz rounds of a polynomial that is steep at zero: the values end between 0.7 and 1.2.

    Args:
        products: the type of what is computed and given. bfloat16 is enough, but a processor that
            has none takes thirty times as long for it as for float32.
    """
    linear, cubic, quintic = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if tall else matrix).to(products)
    wide = wide / wide.norm().clamp_min(1e-7)
    for _ in range(ROUNDS):
        gram = wide @ wide.T
        wide = torch.addmm(
            wide, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), wide, beta=linear
        )
    return wide.T if tall else wide

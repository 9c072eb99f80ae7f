"""Steps of weights that are kept in bfloat16, without losing the small ones.

A bfloat16 has eight bits: rounded to the nearest, a change below about a 500th of a weight is lost,
and most steps of a training are smaller. So a step is taken in float32 and its result is rounded up
or down at random, with the odds of its distance: the mean of many small steps is right. A float32
copy of the weights would do too, but takes the memory that bfloat16 weights are chosen to save.
Source: Gupta et al. 2015, arXiv:1502.02551 (stochastic rounding); Zamirai et al. 2020,
arXiv:2010.06192 (for bfloat16 weights).
"""

import zlib
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.train.shards import local

BITS = 16  # of a float32 that a bfloat16 has not
PIECE = 2**22  # values that are float32 at a time, or one parameter


class Rounding(torch.optim.Optimizer):
    """An optimizer over weights of which some are bfloat16; its moments are float32.

    Which way a value is rounded is a function of seed, step, parameter and place: copies of a
    parameter stay equal on all processes, and a resumed training rounds as one never stopped.

    Args:
        inner: over the model's parameters, fresh; it takes the steps, on float32 copies.
    """

    def __init__(self, inner: torch.optim.Optimizer, model: nn.Module, seed: int) -> None:
        self.inner, self.seed = inner, seed
        self._names: dict[Tensor, int] = {
            one: zlib.crc32(name.encode()) for name, one in model.named_parameters()
        }
        super().__init__([dict(group) for group in inner.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for own, group in zip(self.param_groups, self.inner.param_groups, strict=True):
            group.update({key: value for key, value in own.items() if key != "params"})
            group["params"] = []
        for own, group in zip(self.param_groups, self.inner.param_groups, strict=True):
            for piece in _in_pieces([one for one in own["params"] if one.grad is not None]):
                self._step_of(piece, group)

    def _step_of(self, piece: list[Tensor], group: dict[str, Any]) -> None:
        """Let the inner optimizer see some parameters alone, as float32."""
        copies: dict[Tensor, Tensor] = {}
        for parameter in piece:
            copies[parameter] = copy = parameter
            if parameter.dtype == torch.bfloat16:
                copies[parameter] = copy = parameter.detach().float()
                assert parameter.grad is not None
                copy.grad = parameter.grad.float()
        group["params"] = list(copies.values())
        self.inner.state.update({copies[one]: self.state[one] for one in piece})
        self.inner.step()
        for parameter, copy in copies.items():
            self.state[parameter] = self.inner.state[copy]
            if copy is not parameter:
                rounded = round_by_chance(local(copy), self._draw(parameter))
                local(parameter).copy_(rounded)
        group["params"] = []
        self.inner.state.clear()  # with it go the copies

    def _draw(self, parameter: Tensor) -> torch.Generator:
        step = int(self.param_groups[0].get("at_step", 0))
        number = (self.seed * 1_000_003 + step) << 32 | self._names[parameter]
        return torch.Generator(parameter.device).manual_seed(number % 2**63)


def workspace_bytes(model: nn.Module) -> int:
    """What a step takes while it is taken: the copies of a piece, their gradients, its noise and
    two results."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    return 5 * 4 * min(sum(sizes), max([PIECE, *sizes]))


def _in_pieces(parameters: list[Tensor]) -> list[list[Tensor]]:
    """In turn, of at most PIECE values unless one alone has more."""
    pieces: list[list[Tensor]] = []
    room = 0
    for parameter in parameters:
        if parameter.numel() > room:
            pieces.append([])
            room = PIECE
        pieces[-1].append(parameter)
        room -= parameter.numel()
    return pieces


def round_by_chance(values: Tensor, draw: torch.Generator) -> Tensor:
    """float32 -> bfloat16, each to one of its two neighbours, with the odds of its distance.

    >>> draw = torch.Generator().manual_seed(0)
    >>> halfway = torch.full((1000,), 1 + 2**-8)  # between 1 and 1 + 2**-7
    >>> round(round_by_chance(halfway, draw).float().mean().item(), 3)
    1.004
    """
    noise = torch.randint(
        0, 1 << BITS, values.shape, generator=draw, device=values.device, dtype=torch.int32
    )
    bits = values.contiguous().view(torch.int32) + noise
    return (bits & -(1 << BITS)).view(torch.float32).bfloat16()

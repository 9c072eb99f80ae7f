"""The weights of one training: those that learn, their average, and what comes out."""

import copy

import torch
from torch import Tensor, nn

from modelwright.train.keep import move_average, pairs
from modelwright.train.parallel import World
from modelwright.train.precision import CHANGING, lower_weights, require_fit, to_fp8
from modelwright.train.recompute import recompute_blocks
from modelwright.train.settings import Settings


class Weights:
    """
    model: learns; laid out over the processes, in the types of the precision.
    averaged: over the steps, laid out alike, float32; the same as `model` where that is off.
    result: what comes out, whole and float32, once it was gathered.
    Raises: ConfigError for a model that precision or recomputing do not fit.
    """

    def __init__(
        self, model: nn.Module, settings: Settings, device: torch.device, world: World
    ) -> None:
        self._decay, self._world = settings.ema, world
        require_fit(settings.precision, model, device.type)
        self.model = model.to(  # type: ignore[call-overload]
            device=device, memory_format=torch.channels_last
        )
        self.averaged = copy.deepcopy(self.model) if settings.ema else self.model
        plain = bool(settings.ema) or settings.precision not in CHANGING
        whole = world.size == 1 and plain
        self.result = self.averaged if whole else copy.deepcopy(self.model)
        if settings.precision == "bf16-true":
            lower_weights(self.model, all_of_them=world.cut)
        if settings.precision == "fp8-mixed":
            to_fp8(self.model)
        world.place(self.model)
        # last: it holds on to each block's forward, which places of its own may have replaced
        recompute_blocks(self.model, settings.activation_checkpointing)
        if settings.ema:
            world.place(self.averaged)
        self.result.eval()
        self._pairs = pairs(self.averaged, self.model) if settings.ema else None

    def move(self, step: int, held: Tensor | None = None) -> None:
        """The average by one step, from 1; as `move_average`."""
        if self._pairs is not None:
            move_average(self._pairs, self._decay, step, held)

    def gather(self) -> None:
        """Put together what comes out; every process has to call it."""
        if self.result is not self.averaged:
            self.result.load_state_dict(self._world.whole(self.averaged.state_dict()))

    def average(self) -> dict[str, Tensor]:
        """The averaged weights by name; empty where that is off."""
        return dict(self.averaged.state_dict()) if self._decay else {}

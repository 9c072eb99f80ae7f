"""The weights of one training: those that learn, their average, what comes out."""

import copy

import torch
from torch import Tensor, nn

from modelwright.models.catalog import ModelSpec, fresh_model
from modelwright.models.later import Later
from modelwright.train.keep import move_average, pairs
from modelwright.train.parallel import World
from modelwright.train.precision import CHANGING, lower_weights, require_fit, to_fp8
from modelwright.train.recompute import recompute_blocks
from modelwright.train.settings import Settings
from modelwright.train.shards import fill, local


def first_model(spec: ModelSpec, seed: int, world: World) -> nn.Module | Later:
    """The model that a seed gives, to train in a world: where a process holds a part of it alone,
    one whose values are made when it is laid out."""
    return Later(spec, seed) if world.parts else fresh_model(spec, seed)


class Weights:
    """
    model: learns; laid out over the processes, in the types of the precision.
    averaged: over the steps, laid out alike, float32; the same as `model` where that is off.
    result: what comes out, whole and float32, once it was gathered; of several processes in the
        first one alone.
    Raises: ConfigError for a model that precision or recomputing do not fit.
    """

    def __init__(
        self, model: nn.Module | Later, settings: Settings, device: torch.device, world: World
    ) -> None:
        self._decay, self._world, self._device = settings.ema, world, device
        later = model if isinstance(model, Later) else None
        self.model = model.model if isinstance(model, Later) else model
        require_fit(settings.precision, self.model, device.type)
        if later is None:
            self.model.to(  # type: ignore[call-overload]
                device=device, memory_format=torch.channels_last
            )
        self.averaged = copy.deepcopy(self.model) if settings.ema else self.model
        plain = bool(settings.ema) or settings.precision not in CHANGING
        whole = world.size == 1 and plain
        self.result = self.averaged if whole else copy.deepcopy(self.model).to("meta")
        if settings.precision == "bf16-true":
            lower_weights(self.model, all_of_them=world.cut)
        if settings.precision == "fp8-mixed":
            to_fp8(self.model)
        world.place(self.model)
        # last: it holds on to each block's forward, which places of its own may have replaced
        recompute_blocks(self.model, settings.activation_checkpointing)
        if settings.ema:
            world.place(self.averaged)
        if later is not None:
            both = [self.model, self.averaged] if settings.ema else [self.model]
            for one in both:
                one.to_empty(device=device)
            for name, value in later.values():
                for one in both:
                    fill(one, name, value)
        self.result.eval()
        self._pairs = pairs(self.averaged, self.model) if settings.ema else None

    def move(self, step: int, held: Tensor | None = None) -> None:
        """The average by one step, from 1; as `move_average`."""
        if self._pairs is not None:
            move_average(self._pairs, self._decay, step, held)

    @torch.no_grad()
    def finite(self) -> bool:
        """Whether all that this process holds of them are numbers; their average with them."""
        states = self.model.state_dict(), self.average()
        values = [local(one) for state in states for one in state.values()]
        sound = [one.isfinite().all() for one in values if one.is_floating_point()]
        return bool(torch.stack(sound).all())

    @torch.no_grad()
    def gather(self) -> None:
        """Put together what comes out; every process has to call it."""
        if self.result is self.averaged:
            return
        own: dict[str, Tensor] = {}
        if self._world.first:
            if any(one.is_meta for one in self.result.parameters()):
                self.result.to_empty(device=self._device)
            own = self.result.state_dict()
            for name, buffer in self.averaged.named_buffers():
                self.result.get_buffer(name).copy_(buffer)  # a state leaves some of them out
        for name, value in self._world.each_whole(self.averaged.state_dict()):
            if name in own:
                own[name].copy_(value)

    def average(self) -> dict[str, Tensor]:
        """The averaged weights by name; empty where that is off."""
        return dict(self.averaged.state_dict()) if self._decay else {}

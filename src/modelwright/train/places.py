"""The places of a sequence dealt out: to processes of their own (context), or of those that share
each block's matrices (tensor), where nothing else is shared: at norms, skips and dropout.

With context a process has its places all through the blocks, and sees the keys and values of all
others; it has two pieces, one from either end, so that each has as much to look back at. What looks
at all places at once (a head that pools) gets them all, in every process.
Source: Llama Team 2024, arXiv:2407.21783, section 3.3.2 (context); Korthikanti et al. 2022,
arXiv:2205.05198, section 4.2 (sequence parallel).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from modelwright.core.errors import ConfigError
from modelwright.core.signature import NO_TARGET
from modelwright.models.heads import RankHead, Scores, TagHead
from modelwright.models.layers import Attention, CrossAttention, attend, rotate
from modelwright.models.pairs import Decoder
from modelwright.models.short_conv import ShortConv
from modelwright.models.transformer import EncoderBlock, EncoderBody

PLACEWISE = (TagHead, Scores, RankHead)  # heads that take each place by itself while training


class Places:
    """Which places of every sequence this process has.

    A sequence is as long as all have a piece of it; what that adds nobody sees, and has no target.

    Args:
        context, tensor: meshes of one axis.
    """

    def __init__(self, context: DeviceMesh, tensor: DeviceMesh) -> None:
        self.context, self.tensor = context, tensor
        self.parts, self.rank = context.size(), context.get_local_rank()
        self.length = 0  # of what came in last, where a mask does not say it

    def own(self, sequence: Tensor, fill: int = 0) -> Tensor:
        """(batch, time, ...) -> (batch, own time, ...), all of it without context.

        Args:
            fill: what stands behind the end.
        """
        time, pieces = sequence.shape[1], 2 * self.parts if self.parts > 1 else 1
        if missing := -time % (pieces * self.tensor.size()):
            behind = (0, 0) * (sequence.ndim - 2) + (0, missing)
            sequence = F.pad(sequence, behind, value=fill)
        if self.parts == 1:
            return sequence
        cut = sequence.chunk(pieces, dim=1)
        return torch.cat([cut[self.rank], cut[-1 - self.rank]], dim=1)

    def own_targets(self, targets: Tensor) -> Tensor:
        """(batch, time) -> (batch, own time)"""
        return self.own(targets, NO_TARGET)

    def starts(self, size: int) -> tuple[int, int]:
        """The first place of either piece of this process, each of that size."""
        return self.rank * size, (2 * self.parts - 1 - self.rank) * size

    def everyone(self, own: Tensor, dim: int) -> Tensor:
        """What each process has of its places, in their order; gradients go back to all."""
        if self.parts == 1:
            return own
        found = _together(own, self.context, dim, Partial())
        cut = found.chunk(2 * self.parts, dim)
        return torch.cat([*cut[::2], *reversed(cut[1::2])], dim)

    def begin(self, sequence: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What this process takes into the first block; the mask goes on being of all places."""
        self.length = sequence.shape[1]
        own = self.own(sequence)
        if mask is None and own.shape[1] * self.parts > self.length:
            mask = torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
        if self.tensor.size() > 1:
            whole = DTensor.from_local(own, self.tensor, [Replicate()], run_check=False)
            own = whole.redistribute(placements=[Shard(1)]).to_local()
        return own, mask

    def end(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before the last norm: places that processes with other parts of the matrices have."""
        return (_together(inputs[0], self.tensor, 1, Replicate()),)

    def whole(self, head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Before a head that looks at all places: those of everyone, and no more."""
        features, mask, *others = inputs
        length = self.length if mask is None else mask.shape[1]
        features = self.everyone(features, 1)
        return features[:, : length or None], mask, *others


def _as_long(mask: Tensor, keys: Tensor) -> Tensor:
    """A mask that also says that nothing is behind the end."""
    return F.pad(mask, (0, keys.shape[2] - mask.shape[1]))


def deal_places(model: nn.Module, context: DeviceMesh, tensor: DeviceMesh) -> Places:
    """Let a model work on its own places; tensor is one whose matrices are cut already.

    Raises: ConfigError for a context of a model that is no transformer.
    """
    places = Places(context, tensor)
    body = getattr(model, "body", None)
    if not isinstance(body, EncoderBody):
        raise ConfigError(
            f"train.layout: context {places.parts}: only attention can look at places that another "
            "process has, and this model's body has none",
            expected="a transformer: encoder, decoder or both",
            repair="give the processes to data instead",
        )
    decoder = getattr(model, "decoder", None)
    _become(body, _Body, places)
    if decoder is not None:
        _become(decoder, _Decoder, places)
    for module in list(model.modules()):
        if isinstance(module, Attention):
            _become(module, _Attention, places)
        elif isinstance(module, CrossAttention):
            _become(module, _CrossAttention, places)
        if tensor.size() > 1 and isinstance(module, EncoderBlock | CrossAttention):
            _become(module.dropout, _Dropout, places)
        if isinstance(module, EncoderBlock):
            for conv in (module.attention_conv, module.mlp_conv):
                if conv is not None:
                    _become(conv, _ShortConv, places)
    if tensor.size() > 1:
        for sequence in (body, decoder):
            if sequence is not None:
                sequence.norm.register_forward_pre_hook(places.end)
    if not deals_targets(model):
        model.get_submodule("head").register_forward_pre_hook(places.whole)
    return places


def deals_targets(model: nn.Module) -> bool:
    """Whether places bring their targets along: otherwise each process has the whole loss."""
    return isinstance(model.get_submodule("head"), PLACEWISE)


def _become(module: nn.Module, kind: type[nn.Module], places: Places) -> None:
    module.__class__ = kind
    module.__dict__["places"] = places


def _together(own: Tensor, mesh: DeviceMesh, dim: int, gradient: Placement) -> Tensor:
    """Pieces of all processes; gradient: what each one's of the whole is."""
    pieces = DTensor.from_local(own, mesh, [Shard(dim)], run_check=False)
    whole = pieces.redistribute(placements=[Replicate()])
    return torch.as_tensor(whole.to_local(grad_placements=[gradient]))


def _summed(value: Tensor, mesh: DeviceMesh) -> Tensor:
    """The same in every process, whose gradients are summed."""
    whole = DTensor.from_local(value, mesh, [Replicate()], run_check=False)
    return torch.as_tensor(whole.to_local(grad_placements=[Partial()]))


class _Body(EncoderBody):
    places: Places

    def enter(self, sequence: Tensor, mask: Any = None, carried: Any = None) -> Any:
        return self.places.begin(*super().enter(sequence, mask, carried))

    def share_of(self, number: int, shares: Tensor) -> Tensor:
        """Its gradient is summed where each process has other places."""
        return _summed(shares, self.places.tensor)[number]


class _Decoder(Decoder):
    places: Places

    def enter(self, sequence: Tensor, carried: Any = None) -> Tensor:
        return self.places.begin(super().enter(sequence, carried), None)[0]


class _Attention(Attention):
    places: Places

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        places, size = self.places, query.shape[2] // 2
        if places.parts == 1:
            return super().mix(query, key, value, None if mask is None else _as_long(mask, key))
        starts = places.starts(size)
        if self.rotary:
            query, key = (
                torch.cat([rotate(*one) for one in zip(side.chunk(2, 2), starts, strict=True)], 2)
                for side in (query, key)
            )
        key, value = places.everyone(torch.stack([key, value]), 3).unbind(0)
        if not self.causal:
            seen = None if mask is None else _as_long(mask, key)[:, None, None]
            return attend(query, key, value, seen)
        mixed = []
        for piece, start in zip(query.chunk(2, 2), starts, strict=True):
            end = start + size
            seen = torch.ones(size, end, dtype=torch.bool, device=query.device).tril(start)
            mixed.append(attend(piece, key[:, :, :end], value[:, :, :end], seen))
        return torch.cat(mixed, 2)


class _ShortConv(ShortConv):
    """Over everyone's places, as those right before a piece are another process's."""

    places: Places

    def forward(self, sequence: Tensor, carried: Any = None) -> Tensor:
        places = self.places
        whole = places.everyone(_together(sequence, places.tensor, 1, Partial()), 1)
        own = places.own(super().forward(whole, carried))
        return own.chunk(places.tensor.size(), 1)[places.tensor.get_local_rank()]

    def taps(self, weight: Tensor) -> Tensor:
        """Their gradient is summed where each process has other places."""
        return _summed(super().taps(weight), self.places.tensor)


class _CrossAttention(CrossAttention):
    places: Places

    def remember(self, features: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.places.everyone(torch.stack(super().remember(features)), 3).unbind(0)
        return key, value

    def forward(self, sequence: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return super().forward(sequence, key, value, _as_long(mask, key))


class _Dropout(nn.Dropout):
    """With a draw for each process, from one that all have in common: places differ."""

    places: Places

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or not self.p:
            return features
        seed = int(torch.randint(2**62, ()).item()) + self.places.tensor.get_local_rank()
        draw = torch.Generator(features.device).manual_seed(seed)
        kept = torch.empty_like(features).bernoulli_(1 - self.p, generator=draw)
        return features * kept / (1 - self.p)

"""Parts that several architectures share: attention, norms, positions, convolution with norm."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.models.carried import Carried

FEW_CHANNELS = 16


def has_batch_norms(model: nn.Module) -> bool:
    """Whether rows of a pass of training change each other's results, and the norms' means."""
    return any(isinstance(one, nn.BatchNorm2d) for one in model.modules())


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch norm: one unit to the exporter, pruner and quantizer.

    features: (batch, in_channels, height, width) -> (batch, out_channels, height / stride, ...)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        zero_init: bool = False,
    ) -> None:
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False,
            groups=groups,
        )  # fmt: skip
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        conv.weight.detach().mul_(math.sqrt(groups))  # torch counts the channels of all groups
        norm = nn.BatchNorm2d(out_channels)
        if zero_init:  # the block starts as its skip: arXiv:1812.01187, section 3.1
            nn.init.zeros_(norm.weight)
        super().__init__(conv, norm)

    def forward(self, features: Tensor) -> Tensor:
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        # torch 2.13's backward of this one case writes beyond its memory: a strided 1 x 1 kernel,
        # channels-last, few channels. The same product, over the places that it takes.
        if (
            self.training and conv.kernel_size == (1, 1) and conv.stride != (1, 1)
            and conv.in_channels < FEW_CHANNELS and not features.is_contiguous()
        ):  # fmt: skip
            down, across = conv.stride
            mapped = F.conv2d(features[:, :, ::down, ::across], conv.weight)
            return torch.as_tensor(norm(mapped))
        return torch.as_tensor(norm(conv(features)))


class SeparableConvNorm(nn.Sequential):
    """A convolution of each channel by itself, then a mix of the channels at each place.

    features: (batch, in_channels, height, width) -> (batch, out_channels, height / stride, ...)

    Source: Chollet 2016, arXiv:1610.02357 (nothing bends between the two); Howard et al. 2017,
    arXiv:1704.04861, section 3.1 (a norm behind each).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *,
        zero_init: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            ConvNorm(in_channels, in_channels, kernel_size, stride, groups=in_channels),
            ConvNorm(in_channels, out_channels, 1, zero_init=zero_init),
        )


Convolution = Literal["full", "separable"]
CONV_NORMS: dict[Convolution, type[ConvNorm | SeparableConvNorm]] = {
    "full": ConvNorm,
    "separable": SeparableConvNorm,
}


def sinusoidal_positions(
    length: int, dim: int, first_place: int = 0, device: torch.device | None = None
) -> Tensor:
    """Fixed position vectors, (length, dim); pairs of sine and cosine.

    Args:
        first_place: of the first of them.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    >>> sinusoidal_positions(4, 6).shape
    torch.Size([4, 6])
    """
    places = torch.arange(length, device=device, dtype=torch.float32) + first_place
    even = torch.arange(0, dim, 2, device=device, dtype=torch.float32)
    angle = places[:, None] * torch.exp(even * (-math.log(10_000.0) / dim))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim]


def mel_filters(rate: int, size: int, num_mels: int) -> Tensor:
    """Triangles over a spectrum, evenly spaced on the mel scale, (num_mels, size / 2 + 1).

    Args:
        rate: samples a second.
        size: of the transform that gives the spectrum.
    Source: O'Shaughnessy 1987, mel = 2595 log10(1 + f / 700).
    """
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    mels = torch.linspace(0, highest, num_mels + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0).float()


def unit_mean_square(features: Tensor) -> Tensor:
    """Each vector over the root of its mean square, without a learned scale."""
    scale = features.float().square().mean(-1, keepdim=True).add(1e-6).rsqrt()
    return features * scale.to(features.dtype)


def rotate(heads: Tensor, first_place: int = 0) -> Tensor:
    """Turn pairs of features by an angle that grows with the place: rotary positions.

    heads: (batch, num_heads, time, head_dim), head_dim even -> same shape

    Args:
        first_place: of the first of them.
    Source: Su et al. 2021, arXiv:2104.09864, section 3.2; halves instead of neighbours, as Llama.
    """
    time, dim = heads.shape[-2:]
    places = torch.arange(time, device=heads.device, dtype=torch.float32) + first_place
    rates = 10_000.0 ** (-torch.arange(0, dim, 2, device=heads.device, dtype=torch.float32) / dim)
    angle = places[:, None] * rates
    cos, sin = angle.cos().to(heads.dtype), angle.sin().to(heads.dtype)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Softmax of scaled products, times the values.

    query, key, value: (batch, num_heads, time, head_dim), keys and values of as many heads or
    each for several of the queries'; seen: bool, broadcasts to (batch, num_heads, query time, key
    time), true where a place may be looked at -> as query

    torch's fused kernel, but for bfloat16 on CPUs, where its backward pass takes several times as
    long as plain products do (docs/experiments.md).
    """
    if (each := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(each, 1), value.repeat_interleave(each, 1)
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)
    if causal:
        sides = (query.shape[-2], key.shape[-2])
        seen = torch.ones(sides, dtype=torch.bool, device=query.device).tril()
    flat = query.flatten(0, 1)
    places = (
        query.new_zeros(())
        if seen is None
        else query.new_zeros(seen.shape).masked_fill(~seen, float("-inf"))
    )
    bias = places.expand(*query.shape[:-1], key.shape[-2]).flatten(0, 1)
    scores = torch.baddbmm(
        bias, flat, key.flatten(0, 1).transpose(1, 2), alpha=query.shape[-1] ** -0.5
    )
    return (scores.softmax(-1) @ value.flatten(0, 1)).view_as(query)


class Attention(nn.Module):
    """Multi-head self-attention.

    sequence: (batch, time, dim); mask: (batch, time) bool, true at real places
        -> (batch, time, dim)
    carried: of causal attention, keys and values of all places before the sequence

    Args:
        num_kv_heads: keys and values have so many heads, each for several of the queries'; as many
            as the queries where None.
        rotary: turn queries and keys by their place.
        causal: each place sees itself and what came before.
        qk_norm: bring queries and keys to unit mean square before they meet.
    Raises: ConfigError if they cannot be dealt out evenly.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2; Ainslie et al. 2023,
        arXiv:2305.13245 (grouped queries); Dehghani et al. 2023, arXiv:2302.05442 (normed ones).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        rotary: bool = False,
        causal: bool = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        if num_heads % self.num_kv_heads:
            raise ConfigError(
                f"model.num_kv_heads: {self.num_kv_heads} heads of keys cannot be dealt out to "
                f"{num_heads} of queries",
                expected=f"a divisor of {num_heads}",
            )
        self.head_dim = dim // num_heads
        self.rotary, self.causal, self.qk_norm = rotary, causal, qk_norm
        # row by row of each key's head: its queries, the key, the value; so that heads can be dealt
        # out to several devices
        self.qkv = nn.Linear(dim, (num_heads + 2 * self.num_kv_heads) * self.head_dim)
        self.out = nn.Linear(num_heads * self.head_dim, dim)

    def forward(
        self, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None
    ) -> Tensor:
        each = self.num_heads // self.num_kv_heads
        heads = self.qkv(sequence).unflatten(2, (-1, each + 2, self.head_dim))
        query, key, value = (
            part.flatten(2, 3).transpose(1, 2) for part in heads.split([each, 1, 1], dim=3)
        )
        if self.qk_norm:
            query, key = unit_mean_square(query), unit_mean_square(key)
        if carried is None:
            mixed = self.mix(query, key, value, mask)
        else:
            mixed = attend(*self._carried_on(query, key, value, carried))
        return torch.as_tensor(self.out(mixed.transpose(1, 2).flatten(2)))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What each place finds at all places of a sequence that begins with the first; shapes as
        of `attend`, mask (batch, time)."""
        if self.rotary:
            query, key = rotate(query), rotate(key)
        # padding comes last, so a causal place never sees it
        seen = None if mask is None or self.causal else mask[:, None, None]
        return attend(query, key, value, seen, causal=self.causal)

    def _carried_on(
        self, query: Tensor, key: Tensor, value: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same with the places before them, and which of all each place sees."""
        past_key, past_value = carried.take(), carried.take()
        before = past_key.shape[2]
        if self.rotary:
            query, key = rotate(query, before), rotate(key, before)
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        carried.leave(key)
        carried.leave(value)
        places = torch.arange(key.shape[2], device=key.device)
        return query, key, value, places <= places[before:, None]


class CrossAttention(nn.Module):
    """Attention from each place of one sequence to all places of another, behind a norm and around
    a skip.

    Args:
        memory_dim: features of the other sequence.
    Source: Bahdanau et al. 2014, arXiv:1409.0473; Luong et al. 2015, arXiv:1508.04025 (products);
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
    """

    def __init__(self, dim: int, num_heads: int, memory_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(memory_dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def remember(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the other sequence, once for all places that will look there.

        features: (batch, time, memory_dim) -> each (batch, num_heads, time, head_dim)
        """
        both = self.key_value(features).unflatten(2, (-1, 2, self.head_dim))
        key, value = both.permute(3, 0, 2, 1, 4).unbind(0)
        return key, value

    def forward(self, sequence: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """(batch, places, dim) -> the same; mask: (batch, time) bool, true at real places."""
        heads = self.query(self.norm(sequence)).unflatten(2, (-1, self.head_dim))
        mixed = attend(heads.transpose(1, 2), key, value, mask[:, None, None])
        found = self.out(mixed.transpose(1, 2).flatten(2))
        return torch.as_tensor(sequence + self.dropout(found))


class SquaredReLU(nn.Module):
    """max(x, 0)². Source: So et al. 2021, arXiv:2109.08668, section 3."""

    def forward(self, features: Tensor) -> Tensor:
        if torch.is_grad_enabled() and features.requires_grad:
            return torch.as_tensor(_SquaredReLU.apply(features))  # type: ignore[no-untyped-call]
        return features.relu().square()


class _SquaredReLU(torch.autograd.Function):
    """The same with a gradient of two passes over memory in place of five: 2 max(x, 0)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        positive = features.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return torch.as_tensor(gradient * positive).mul_(2)


class Dropout(nn.Dropout):
    """torch's, but on CPUs several times as fast (docs/experiments.md): see `kept_of`."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or not self.p:
            return features
        if features.device.type != "cpu" or type(features) is not Tensor:
            return super().forward(features)
        return features * kept_of(features, self.p)


def kept_of(features: Tensor, share: float) -> Tensor:
    """What features on a CPU are multiplied by so that about `share` of them become zero, while
    their mean stays; shape and type as theirs.

    One draw of 64 bits decides for eight of them, so `share` is taken in 256ths.
    """
    dropped = min(max(round(256 * share), 1), 255)
    draws = torch.empty(-(-features.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    whole = draws.view(torch.uint8)[: features.numel()].view(features.shape)
    return (whole >= dropped).to(features.dtype).mul_(256 / (256 - dropped))


class GatedSiLU(nn.Module):
    """One half of the features through SiLU, times the other: (..., 2n) -> (..., n).

    Source: Shazeer 2020, arXiv:2002.05202 (SwiGLU).
    """

    def forward(self, features: Tensor) -> Tensor:
        gate, value = features.chunk(2, dim=-1)
        return F.silu(gate) * value


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu2": SquaredReLU,
    "swiglu": GatedSiLU,
}


def feed_forward(dim: int, mlp_dim: int, activation: str = "gelu") -> nn.Sequential:
    """Two linear layers around an activation, a row of ACTIVATIONS, of `mlp_dim` features."""
    width = 2 * mlp_dim if activation == "swiglu" else mlp_dim
    return nn.Sequential(nn.Linear(dim, width), ACTIVATIONS[activation](), nn.Linear(mlp_dim, dim))


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
}

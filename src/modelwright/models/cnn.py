"""Residual convolution nets for grids and for sequences: features in, features out.

One class covers the small nets of the size ladder and the published ResNet shapes.
Source: He et al. 2015, arXiv:1512.03385 (blocks); He et al. 2018, arXiv:1812.01187
(zero-initialised last norm of a block).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modelwright.core.signature import TensorSpec
from modelwright.models.carried import Carried, Look, unmoved
from modelwright.models.groups import Group, Groups, Place
from modelwright.models.layers import CONV_NORMS, ConvNorm, Convolution, Dropout, SeparableConvNorm

KERNEL_SIZE = 3  # of convolutions over time


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a skip.

    features: (batch, in_channels, height, width) -> (batch, width, height / stride, width / stride)
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, inner: int | None = None,
        convolution: Convolution = "full",
    ) -> None:  # fmt: skip
        super().__init__()
        inner, conv_norm = inner or width, CONV_NORMS[convolution]
        self.body = nn.Sequential(
            conv_norm(in_channels, inner, 3, stride),
            nn.ReLU(),
            conv_norm(inner, width, 3, zero_init=True),
        )
        self.skip = _skip(in_channels, width, stride)
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        return torch.as_tensor(self.relu(self.body(features) + self.skip(features)))


class PlainBlock(nn.Module):
    """Two 3x3 convolutions without a skip; a stride of two is the largest of each four places.

    features: (batch, in_channels, height, width) -> (batch, width, height / stride, width / stride)

    The first convolution sees every place. While training the largest are taken before its norm,
    which then has a quarter of the work; afterwards behind norm and ReLU, which an exporter folds
    into the convolution. The norm's scale stays at one, so it keeps order: the same values.
    In nets of few blocks it learns more in a second than one with a skip (docs/experiments.md).
    Source: Simonyan, Zisserman 2014, arXiv:1409.1556.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, inner: int | None = None,
        convolution: Convolution = "full",
    ) -> None:  # fmt: skip
        super().__init__()
        inner, conv_norm = inner or width, CONV_NORMS[convolution]
        first = conv_norm(in_channels, inner, 3)
        self.body = nn.Sequential(first, nn.ReLU(), conv_norm(inner, width, 3), nn.ReLU())
        # as many places as a convolution with that stride gives
        self.largest = nn.MaxPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self._early = stride > 1 and isinstance(first, ConvNorm)
        if self._early:
            first.get_parameter("1.weight").requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        first, relu, *rest = self.body
        if self._early and self.training:
            assert isinstance(first, ConvNorm)
            conv, norm = first
            features = relu(norm(self.largest(conv(features))))
        else:
            features = self.largest(relu(first(features)))
        for one in rest:
            features = one(features)
        return features


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the width, around a skip; stride in the 3x3."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, inner: int | None = None) -> None:
        super().__init__()
        inner, out_channels = inner or width, width * self.expansion
        self.body = nn.Sequential(
            ConvNorm(in_channels, inner, 1),
            nn.ReLU(),
            ConvNorm(inner, inner, 3, stride),
            nn.ReLU(),
            ConvNorm(inner, out_channels, 1, zero_init=True),
        )
        self.skip = _skip(in_channels, out_channels, stride)
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        return torch.as_tensor(self.relu(self.body(features) + self.skip(features)))


BLOCKS: dict[str, type[BasicBlock | PlainBlock | Bottleneck]] = {
    "basic": BasicBlock, "plain": PlainBlock, "bottleneck": Bottleneck,
}  # fmt: skip


def _skip(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return ConvNorm(in_channels, out_channels, 1, stride)


class ResidualBody(nn.Module):
    """Stem and stages of blocks.

    features: (batch, in_channels, height, width) -> (batch, out_dim, height', width')

    Args:
        widths: channels of each stage, before a bottleneck's expansion.
        depths: blocks in each stage; as many numbers as widths.
        strides: how much each stage shrinks the grid.
        inner: channels inside each block, in order, where they differ from its stage's width.
        stem: "small" is one 3x3 convolution; "imagenet" is 7x7 stride 2 and a max-pool.
        stem_width: channels of the small stem; the first stage's width when None.
        convolution: a row of CONV_NORMS, of blocks that are no bottlenecks.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        widths: Sequence[int],
        depths: Sequence[int],
        strides: Sequence[int],
        block: Literal["basic", "plain", "bottleneck"] = "basic",
        stem: Literal["small", "imagenet"] = "small",
        stem_width: int | None = None,
        inner: Sequence[int] | None = None,
        convolution: Convolution = "full",
    ) -> None:
        super().__init__()
        block_class = BLOCKS[block]
        how: dict[str, Any] = {} if block == "bottleneck" else {"convolution": convolution}
        channels = stem_width or widths[0]
        if stem == "small":
            self.stem = nn.Sequential(ConvNorm(in_channels, channels, 3), nn.ReLU())
        else:
            self.stem = nn.Sequential(
                ConvNorm(in_channels, channels, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
            )
        stages: list[nn.Module] = []
        inner_widths = iter(inner or [])
        for width, depth, stride in zip(widths, depths, strides, strict=True):
            blocks: list[nn.Module] = []
            for index in range(depth):
                blocks.append(
                    block_class(
                        channels,
                        width,
                        stride if index == 0 else 1,
                        next(inner_widths, None),
                        **how,
                    )
                )
                channels = width * block_class.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.out_dim = channels

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.as_tensor(self.stages(self.stem(features)))


class GridBody(nn.Module):
    """Residual stages, the last of which is put back onto the grid of the one before it.

    features: (batch, in_channels, height, width)
        -> (batch, out_dim, height / stride, width / stride)

    Both sides are multiples of twice the stride. The last grid is twice as coarse: it sees farther,
    and costs little.
    Source: Lin et al. 2016, arXiv:1612.03144 (lateral connections, nearest upsampling, addition).

    Args:
        stride: 4, 8 or 16, pixels between the places of what comes out.
        widths: channels of the stages at half the stride, the stride and twice the stride.
        depths: blocks in each stage.
        out_dim: features of each place.
        inner: channels inside each block, in order, where they differ from its stage's width.
        convolution: a row of CONV_NORMS, of the blocks.
    """

    def __init__(
        self, in_channels: int, *, stride: int, widths: Sequence[int], depths: Sequence[int],
        out_dim: int, inner: Sequence[int] | None = None, convolution: Convolution = "full",
    ) -> None:  # fmt: skip
        super().__init__()
        first = max(stride // 4, 1)
        channels, inner_widths = widths[0] // 2, iter(inner or [])
        self.stem = nn.Sequential(ConvNorm(in_channels, channels, 2 * first + 1, first), nn.ReLU())
        stages: list[nn.Module] = []
        for width, depth in zip(widths, depths, strict=True):
            blocks: list[nn.Module] = []
            for index in range(depth):
                step = 2 if index == 0 else 1
                own = next(inner_widths, None)
                blocks.append(BasicBlock(channels, width, step, own, convolution))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.fine, self.coarse = ConvNorm(widths[1], out_dim, 1), ConvNorm(widths[2], out_dim, 1)
        self.merge = nn.Sequential(ConvNorm(out_dim, out_dim, 3), nn.ReLU())
        self.out_dim = out_dim

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        fine = self.stages[1](self.stages[0](self.stem(features)))
        coarse = self.coarse(self.stages[2](fine))
        coarse = nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return torch.as_tensor(self.merge(torch.relu(self.fine(fine) + coarse)))


class SequenceBlock(nn.Module):
    """Norm, a dilated convolution over time, a product within each place, around a skip.

    sequence: (batch, time, dim); mask: (batch, time) bool -> (batch, time, dim)

    Padding is set to zero before the convolution, so it never changes a real place. A separable
    convolution reads each feature by itself, and `mix` brings them together.
    Source: Bai et al. 2018, arXiv:1803.01271 (dilated and causal); Gehring et al. 2017.
    """

    def __init__(
        self, dim: int, inner: int, *, kernel_size: int, dilation: int, causal: bool,
        dropout: float, convolution: Convolution = "full",
    ) -> None:  # fmt: skip
        super().__init__()
        separable = convolution == "separable"
        self.norm = nn.LayerNorm(dim)
        reach = self.reach = dilation * (kernel_size - 1)
        self.padding = (reach, 0) if causal else (reach // 2, reach - reach // 2)
        self.conv = nn.Conv1d(
            dim, dim if separable else inner, kernel_size, dilation=dilation,
            groups=dim if separable else 1,
        )  # fmt: skip
        self.mix = nn.Linear(dim, inner) if separable else None
        self.out = nn.Linear(inner, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.dropout = Dropout(dropout)

    def forward(
        self, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None,
        look: Look = unmoved,
    ) -> Tensor:  # fmt: skip
        normed = self.norm(sequence)
        if mask is not None:
            normed = normed * mask[..., None]
        normed = normed.transpose(1, 2)
        if carried is None:
            padded = nn.functional.pad(normed, self.padding)
        else:  # the last inputs before these; at first zeros, which are the padding
            padded = torch.cat([carried.take(), normed], 2)
            carried.leave(padded[:, :, padded.shape[2] - self.reach :])
        hidden = self.conv(padded).transpose(1, 2)
        if self.mix is not None:
            hidden = self.mix(hidden)
        return look(sequence + self.dropout(self.out(self.dropout(hidden.relu()))))


class SequenceBody(nn.Module):
    """Convolution blocks over time; the reach doubles from block to block.

    sequence: (batch, time, dim); mask: (batch, time) bool -> (batch, time, dim)

    Args:
        inner: channels inside each block; as many as there are blocks.
        causal: a place sees only what came before it.
        convolution: full, or separable.
        norm: layer norm of each place at the end; without it a head has to norm what it pools.
    """

    def __init__(
        self,
        dim: int,
        *,
        inner: Sequence[int],
        kernel_size: int = KERNEL_SIZE,
        causal: bool = False,
        norm: bool = True,
        dropout: float = 0.0,
        convolution: Convolution = "full",
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SequenceBlock(
                dim, width, kernel_size=kernel_size, dilation=2**index, causal=causal,
                dropout=dropout, convolution=convolution,
            )
            for index, width in enumerate(inner)
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.out_dim = dim

    def forward(
        self, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None
    ) -> Tensor:
        for block in self.blocks:
            sequence = block(sequence, mask, carried)
        return torch.as_tensor(self.norm(sequence))


def state(args: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """The last inputs of every causal convolution."""
    reach = args.get("kernel_size", KERNEL_SIZE) - 1
    return tuple(
        TensorSpec(f"past.{layer}.inputs", "float32", ("batch", args["dim"], reach * 2**layer))
        for layer in range(len(args["inner"]))
    )


def _conv_norm(name: str) -> list[Place]:
    """The output channels of a ConvNorm."""
    norm = ("weight", "bias", "running_mean", "running_var")
    return [Place(f"{name}.0.weight", 0)] + [Place(f"{name}.1.{part}", 0) for part in norm]


def groups(model: nn.Module) -> Groups:
    """The channels inside each block: no skip ties them to others."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, (BasicBlock, PlainBlock)):
            first, last = f"{name}.body.0", f"{name}.body.2"
            between: list[Place] = []
            if isinstance(module.body[0], SeparableConvNorm):  # what mixes is the second of each
                between = _conv_norm(f"{last}.0")
                first, last = f"{first}.1", f"{last}.1"
            places = [*_conv_norm(first), *between, Place(f"{last}.0.weight", 1)]
            found.append(Group(len(model.get_parameter(places[0].tensor)), tuple(places)))
        elif isinstance(module, SequenceBlock):
            own = f"{name}.conv" if module.mix is None else f"{name}.mix"
            places = [Place(f"{own}.{part}", 0) for part in ("weight", "bias")]
            places.append(Place(f"{name}.out.weight", 1))
            found.append(Group(module.out.in_features, tuple(places)))
    return found, lambda sizes: {"inner": sizes}

"""Transformer encoder and causal decoder over sequences, pre-norm.

Source: Vaswani et al. 2017, arXiv:1706.03762; Dosovitskiy et al. 2020, arXiv:2010.11929.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modelwright.core.signature import PAST, TensorSpec
from modelwright.models.carried import Carried, Look, unmoved
from modelwright.models.groups import Group, Groups, Place
from modelwright.models.layers import NORMS, Attention, Dropout, feed_forward, sinusoidal_positions
from modelwright.models.short_conv import ShortConv, as_products_take

Positions = Literal["sinusoidal", "learned", "rotary"]


class EncoderBlock(nn.Module):
    """Attention and a feed-forward net, each behind a norm and around a skip.

    sequence: (batch, time, dim); mask: (batch, time) bool -> (batch, time, dim)
    look: attention to another sequence, between the two; models/pairs.py

    Args:
        norm, activation: rows of NORMS and ACTIVATIONS.
        zero_init: the block starts as its skip (Zhang et al. 2019, arXiv:1901.09321).
        short_conv: places that a ShortConv behind either norm sees; 0 for none.
        attention: further arguments of Attention.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        dropout: float,
        *,
        norm: str = "layer",
        activation: str = "gelu",
        zero_init: bool = False,
        short_conv: int = 0,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.attention_norm = NORMS[norm](dim)
        self.attention_conv = ShortConv(dim, short_conv) if short_conv else None
        self.attention = Attention(dim, num_heads, **attention)
        self.mlp_norm = NORMS[norm](dim)
        self.mlp_conv = ShortConv(dim, short_conv) if short_conv else None
        self.mlp = feed_forward(dim, mlp_dim, activation)
        self.dropout = Dropout(dropout)
        if zero_init:
            nn.init.zeros_(self.attention.out.weight)
            nn.init.zeros_(self.mlp.get_parameter("2.weight"))

    def forward(
        self, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None,
        look: Look = unmoved,
    ) -> Tensor:  # fmt: skip
        normed = self.attention_norm(sequence)
        if self.attention_conv is not None:
            normed = self.attention_conv(as_products_take(normed), carried)
        sequence = look(sequence + self.dropout(self.attention(normed, mask, carried)))
        normed = self.mlp_norm(sequence)
        if self.mlp_conv is not None:
            normed = self.mlp_conv(as_products_take(normed), carried)
        return torch.as_tensor(sequence + self.dropout(self.mlp(normed)))


class EncoderBody(nn.Module):
    """Positions, blocks, final norm.

    sequence: (batch, time, dim); mask: (batch, time) bool -> (batch, time [+ 1], dim)

    Args:
        mlp_dims: hidden size of each block's feed-forward net; as many as there are blocks.
        max_len: longest sequence, for which learned positions are made.
        positions: "sinusoidal" is fixed, "learned" is trained, "rotary" turns queries and keys.
        class_token: put a learned vector first, as the published ViT does.
        embed_skip: before each block, add a learned share of what came in (github.com/KellerJordan/
            modded-nanogpt, 2024, after U-net's skips).
        short_conv: as of the blocks, and one over what comes in.
        block: further arguments of every EncoderBlock.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        mlp_dims: Sequence[int],
        max_len: int = 0,
        positions: Positions = "learned",
        class_token: bool = False,
        embed_skip: bool = False,
        dropout: float = 0.0,
        norm: str = "layer",
        short_conv: int = 0,
        **block: Any,
    ) -> None:
        super().__init__()
        self.conv = ShortConv(dim, short_conv) if short_conv else None
        self.token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.sinusoidal = positions == "sinusoidal"
        self.positions: Tensor | None = None
        if positions == "learned":
            length = max_len + int(class_token)
            self.positions = nn.Parameter(torch.randn(length, dim) * 0.02)
        rotary = positions == "rotary"
        self.blocks = nn.ModuleList(
            EncoderBlock(
                dim, num_heads, mlp_dim, dropout, rotary=rotary, norm=norm, short_conv=short_conv,
                **block,
            )
            for mlp_dim in mlp_dims
        )  # fmt: skip
        self.shares = nn.Parameter(torch.zeros(len(mlp_dims))) if embed_skip else None
        self.norm = NORMS[norm](dim)
        self.out_dim = dim

    def forward(
        self, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None
    ) -> Tensor:
        sequence, mask = self.enter(sequence, mask, carried)
        embedded = sequence
        for number, block in enumerate(self.blocks):
            if self.shares is not None:
                sequence = sequence + self.share_of(number, self.shares) * embedded
            sequence = block(sequence, mask, carried)
        return torch.as_tensor(self.norm(sequence))

    def share_of(self, number: int, shares: Tensor) -> Tensor:
        """How much of what came in a block sees again."""
        return shares[number]

    def enter(
        self, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What the first block sees: with the class token and positions, where there are any."""
        if self.conv is not None:
            sequence = self.conv(sequence, carried)
        if self.token is not None:
            token = self.token.expand(sequence.shape[0], -1, -1)
            sequence = torch.cat([token, sequence], dim=1)
        if self.sinusoidal:
            sequence = with_sinusoidal(sequence, carried)
        elif self.positions is not None:
            places = torch.arange(sequence.shape[1], device=sequence.device)
            before = 0 if carried is None else carried.places
            sequence = sequence + self.positions[places + before]
        return sequence, mask


def with_sinusoidal(sequence: Tensor, carried: Carried | None = None) -> Tensor:
    """(batch, time, dim) and the fixed vectors of its places, which are behind those carried."""
    before = 0 if carried is None else carried.places
    time, dim = sequence.shape[1:]
    found = sinusoidal_positions(time, dim, before, sequence.device)
    return sequence + found.to(sequence.dtype)


def num_heads(dim: int) -> int:
    """Heads of 32 features each."""
    return max(1, dim // 32)


def state(args: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """Keys and values of every causal block, and the last places that its ShortConvs see."""
    heads, conv = max(1, args["dim"] // args.get("head_dim", 32)), args.get("short_conv", 0)
    seen = ("batch", args.get("num_kv_heads") or heads, PAST, args["dim"] // heads)
    shapes: dict[str, tuple[int | str, ...]] = {"key": seen, "value": seen}
    entry: list[TensorSpec] = []
    if conv:
        last = ("batch", conv - 1, args["dim"])
        shapes = {"attention_inputs": last, **shapes, "mlp_inputs": last}
        entry = [TensorSpec("past.inputs", "float32", last)]
    return *entry, *(
        TensorSpec(f"past.{layer}.{name}", "float32", shape)
        for layer in range(args["num_layers"])
        for name, shape in shapes.items()
    )


def groups(model: nn.Module) -> Groups:
    """The hidden units of each block's feed-forward net."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, EncoderBlock):
            hidden, out = module.get_submodule("mlp.0"), module.get_submodule("mlp.2")
            assert isinstance(hidden, nn.Linear) and isinstance(out, nn.Linear)
            halves = hidden.out_features // out.in_features  # two where one gates the other
            places = (
                Place(f"{name}.mlp.0.weight", 0, repeats=halves),
                Place(f"{name}.mlp.0.bias", 0, repeats=halves),
                Place(f"{name}.mlp.2.weight", 1),
            )
            found.append(Group(out.in_features, places))
    return found, lambda sizes: {"mlp_dims": sizes}

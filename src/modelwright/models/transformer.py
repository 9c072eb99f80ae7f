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
from modelwright.models.layers import Attention, sinusoidal_positions


class EncoderBlock(nn.Module):
    """Attention and a feed-forward net, each behind a norm and around a skip.

    sequence: (batch, time, dim); mask: (batch, time) bool -> (batch, time, dim)
    look: attention to another sequence, between the two; models/pairs.py
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, dropout: float,
        *, rotary: bool = False, causal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, rotary=rotary, causal=causal)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None,
        look: Look = unmoved,
    ) -> Tensor:  # fmt: skip
        mixed = self.attention(self.attention_norm(sequence), mask, carried)
        sequence = look(sequence + self.dropout(mixed))
        return torch.as_tensor(sequence + self.dropout(self.mlp(self.mlp_norm(sequence))))


class EncoderBody(nn.Module):
    """Positions, blocks, final norm.

    sequence: (batch, time, dim); mask: (batch, time) bool -> (batch, time [+ 1], dim)

    Args:
        mlp_dims: hidden size of each block's feed-forward net; as many as there are blocks.
        max_len: longest sequence; positions are made for it, but for rotary ones.
        positions: "sinusoidal" is fixed, "learned" is trained, "rotary" turns queries and keys.
        causal: a place sees only what came before it.
        class_token: put a learned vector first, as the published ViT does.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        mlp_dims: Sequence[int],
        max_len: int = 0,
        positions: Literal["sinusoidal", "learned", "rotary"] = "learned",
        class_token: bool = False,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        length, rotary = max_len + int(class_token), positions == "rotary"
        self.positions: Tensor | None = None
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(length, dim) * 0.02)
        elif not rotary:
            del self.positions  # a plain attribute of that name would keep the buffer out
            self.register_buffer("positions", sinusoidal_positions(length, dim))
        self.blocks = nn.ModuleList(
            EncoderBlock(dim, num_heads, mlp_dim, dropout, rotary=rotary, causal=causal)
            for mlp_dim in mlp_dims
        )
        self.norm = nn.LayerNorm(dim)
        self.out_dim = dim

    def forward(
        self, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None
    ) -> Tensor:
        if self.token is not None:
            token = self.token.expand(sequence.shape[0], -1, -1)
            sequence = torch.cat([token, sequence], dim=1)
        if self.positions is not None:
            sequence = sequence + self.positions[: sequence.shape[1]]
        for block in self.blocks:
            sequence = block(sequence, mask, carried)
        return torch.as_tensor(self.norm(sequence))


def num_heads(dim: int) -> int:
    """Heads of 32 features each."""
    return max(1, dim // 32)


def state(args: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """Keys and values of every causal block."""
    heads = num_heads(args["dim"])
    shape = ("batch", heads, PAST, args["dim"] // heads)
    return tuple(
        TensorSpec(f"past.{layer}.{name}", "float32", shape)
        for layer in range(args["num_layers"])
        for name in ("key", "value")
    )


def groups(model: nn.Module) -> Groups:
    """The hidden units of each block's feed-forward net."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, EncoderBlock):
            hidden = module.get_submodule("mlp.0")
            assert isinstance(hidden, nn.Linear)
            places = (
                Place(f"{name}.mlp.0.weight", 0),
                Place(f"{name}.mlp.0.bias", 0),
                Place(f"{name}.mlp.2.weight", 1),
            )
            found.append(Group(hidden.out_features, places))
    return found, lambda sizes: {"mlp_dims": sizes}

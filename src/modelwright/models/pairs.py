"""One sequence to another: an encoder of the source, a decoder that looks at it place by place.

The decoder is the family's own causal layer (self-attention, recurrence, convolution), each
followed by attention to the source. The recurrence comes before the attention of its layer, so that
in training it runs over the whole target at once (Luong et al. 2015, arXiv:1508.04025, section
3.1); that of the next layer sees what was attended to so far.
Source: Vaswani et al. 2017, arXiv:1706.03762; Bahdanau et al. 2014, arXiv:1409.0473; Gehring et
al. 2017, arXiv:1705.03122.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.core.signature import TensorSpec
from modelwright.models.carried import Carried
from modelwright.models.chain import Model
from modelwright.models.embed import PAD, Words
from modelwright.models.layers import CrossAttention, Dropout
from modelwright.models.transformer import num_heads, with_sinusoidal


class Decoder(nn.Module):
    """Causal layers, each followed by attention to what the encoder gave.

    Args:
        layers: (sequence, mask, carried, look) -> sequence, all around their own skips.
        sinusoidal: whether places are told by fixed vectors, as of transformers.
    """

    def __init__(
        self, layers: Sequence[nn.Module], dim: int, memory_dim: int, dropout: float,
        sinusoidal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sinusoidal = sinusoidal
        self.layers = nn.ModuleList(layers)
        self.looks = nn.ModuleList(
            CrossAttention(dim, num_heads(dim), memory_dim, dropout) for _ in layers
        )
        self.norm = nn.LayerNorm(dim)

    def remember(self, features: Tensor) -> list[Tensor]:
        """Keys and values of the source for every layer, in turn."""
        return [one for look in self.looks for one in look.remember(features)]  # type: ignore[operator]

    def forward(
        self, sequence: Tensor, memory: Sequence[Tensor], carried: Carried | None = None
    ) -> Tensor:
        """(batch, places, dim) -> the same; memory: as `remember` gives it, then the mask."""
        *sides, mask = memory
        sequence = self.enter(sequence, carried)
        for layer, look, key, value in zip(
            self.layers, self.looks, sides[::2], sides[1::2], strict=True
        ):
            there = partial(look, key=key, value=value, mask=mask)
            sequence = layer(sequence, None, carried, there)
        return torch.as_tensor(self.norm(sequence))

    def enter(self, sequence: Tensor, carried: Carried | None = None) -> Tensor:
        """What the first layer sees."""
        return with_sinusoidal(sequence, carried) if self.sinusoidal else sequence


class EncoderDecoder(Model):
    """Ids of the source, and of the target so far -> the score of each id as the next one.

    source: (batch, time) int64, 0 at padding; target: (batch, places) int64
        -> (batch, places, vocab_size)

    Args:
        body: the encoder, (sequence, mask) -> features of body.out_dim.
        source_vocab_size: None where both sides have the same ids, which then share their vectors.
    """

    def __init__(
        self, body: nn.Module, decoder: Decoder, head: nn.Module, dim: int, vocab_size: int,
        source_vocab_size: int | None, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__(Words(vocab_size, dim), body, head)
        own = source_vocab_size is not None
        self.source_words = Words(source_vocab_size or 0, dim) if own else None
        self.decoder = decoder
        self.dropout = Dropout(dropout)

    def encode(self, *inputs: Tensor) -> list[Tensor]:
        """What the decoder needs to know of the source: the signature's memory."""
        (source,) = inputs
        mask = source != PAD
        words = self.embed if self.source_words is None else self.source_words
        features = self.dropout(self.body(self.dropout(words(source)), mask))
        return [*self.decoder.remember(features), mask]

    def decode(
        self, ids: Tensor, memory: Sequence[Tensor], carried: Carried | None = None
    ) -> Tensor:
        """Scores at each place of the target."""
        features = self.decoder(self.dropout(self.embed(ids)), memory, carried)
        return torch.as_tensor(self.head(self.dropout(features), self.embed.weight))

    def forward(self, *inputs: Tensor) -> Tensor:
        source, target = inputs
        return self.decode(target, self.encode(source))


def memory(args: Mapping[str, Any], num_layers: int) -> tuple[TensorSpec, ...]:
    """What `EncoderDecoder.encode` gives."""
    heads = num_heads(args["dim"])
    shape = ("batch", heads, "time", args["dim"] // heads)
    sides = [
        TensorSpec(f"memory.{layer}.{name}", "float32", shape)
        for layer in range(num_layers)
        for name in ("key", "value")
    ]
    return (*sides, TensorSpec("memory.mask", "bool", ("batch", "time")))

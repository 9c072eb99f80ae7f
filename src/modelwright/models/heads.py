"""HEADS: what a body's output becomes, by kind of answer.

A head takes (features, mask, *inputs) and gives the tensor that the loss is made of; `finish`
adds what people and programs read. Both are the outputs of every artifact, under `outputs`' names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modelwright.core.signature import TensorSpec
from modelwright.models.embed import window_statistics


class ClassHead(nn.Module):
    """Pool, then one linear layer.

    features: (batch, dim, height, width) or (batch, time, dim) -> logits (batch, num_classes)

    Args:
        pool: "mean" over all real places; "first" place (a class token); "both" the mean and the
            largest value of each feature, side by side.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        pool: Literal["mean", "first", "both"] = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * dim if pool == "both" else dim, num_classes)

    def forward(self, features: Tensor, mask: Tensor | None = None, *inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(self.dropout(self._pooled(features, mask))))

    def _pooled(self, features: Tensor, mask: Tensor | None) -> Tensor:
        if self.pool == "first":
            return features[:, 0]
        if features.dim() == 4:
            return features.mean((2, 3))
        if mask is None:
            mean, real = features.mean(1), None
        else:
            real = mask[..., None]
            mean = (features * real).sum(1) / real.sum(1).clamp_min(1)
        if self.pool == "mean":
            return mean
        lowest = features if real is None else features.masked_fill(~real, -1e4)
        return torch.cat([mean, lowest.amax(1)], dim=-1)


class TagHead(nn.Module):
    """Scores of labels at every place.

    features: (batch, time, dim) -> logits (batch, time, num_classes)
    """

    def __init__(self, dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, num_classes)

    def forward(self, features: Tensor, mask: Tensor | None = None, *inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(self.dropout(features)))


class Scores(nn.Module):
    """How well each id comes next: features against the table of vectors.

    features: (batch, time, dim); vectors: (vocab_size, dim) -> (batch, time, vocab_size)
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        return nn.functional.linear(features, vectors, self.bias)


class HorizonHead(nn.Module):
    """The next values of every channel, from all places of its sequence.

    features: (batch * channels, time, dim); window: (batch, length, channels)
        -> (batch, horizon, channels), less each channel's `mean`, in units of its `std`
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, dim: int, time: int, horizon: int, mean: Sequence[float], std: Sequence[float],
        *, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim * time, horizon)

    def forward(self, features: Tensor, mask: Tensor | None, window: Tensor) -> Tensor:
        batch, _, channels = window.shape
        flat = self.linear(self.dropout(features.flatten(1)))
        mean, spread = window_statistics(window)
        own = flat.reshape(batch, channels, -1).transpose(1, 2)
        return torch.as_tensor((own * spread + mean - self.mean) / self.std)


class RankHead(nn.Module):
    """How well each item fits next: the features against the very vectors that items come in as.

    features: (batch, time, dim); vectors: (items + FIRST_ITEM, item_dim), the embedding's
        -> scores (batch, items) after the last real place; (batch, time, items) while training

    Source: Kang, McAuley 2018, arXiv:1808.09781, section 3.4 (one set of vectors for both ends).
    """

    def __init__(self, dim: int, item_dim: int, vocab_size: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, item_dim)
        self.bias = nn.Parameter(torch.zeros(vocab_size))  # how popular an item is by itself

    def forward(self, features: Tensor, mask: Tensor, vectors: Tensor) -> Tensor:
        if not self.training:
            last = (mask.sum(1) - 1).clamp_min(0)[:, None, None].expand(-1, 1, features.shape[2])
            features = features.gather(1, last).squeeze(1)
        wanted = self.linear(self.dropout(features))
        return nn.functional.linear(wanted, vectors, self.bias)[..., FIRST_ITEM:]


FIRST_ITEM = 2  # the ids before it are no items: padding, and one that nobody knows


def _softmax(raw: Tensor, own: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return raw, raw.softmax(-1)


def _unscaled(raw: Tensor, own: Mapping[str, Any]) -> tuple[Tensor, ...]:
    std = torch.tensor(own["std"], dtype=raw.dtype)
    return raw, raw * std + torch.tensor(own["mean"], dtype=raw.dtype)


@dataclass(frozen=True)
class Head:
    """One kind of answer.

    build: (its description, the inputs' description, dim, dropout) -> module.
    outputs: the tensors that an artifact gives: first what is judged, then what is read.
    finish: the head's tensor to all of them.
    each_place: whether every place of a sequence has a target while training.
    writes: whether the answer is a text, token by token, each given those before it: one that goes
        on with the input, or a new one; "" where it is no text.
    """

    build: Callable[[Mapping[str, Any], Mapping[str, Any], int, float], nn.Module]
    outputs: Callable[[Mapping[str, Any]], tuple[TensorSpec, ...]]
    finish: Callable[[Tensor, Mapping[str, Any]], tuple[Tensor, ...]]
    each_place: bool = False
    writes: Literal["", "on", "anew"] = ""


def _floats(*shape: int | str) -> Callable[..., tuple[TensorSpec, ...]]:
    return lambda *names: tuple(TensorSpec(name, "float32", shape) for name in names)


HEADS: dict[str, Head] = {
    "classes": Head(
        lambda own, inputs, dim, dropout: ClassHead(
            dim, own["num_classes"], dropout=dropout,
            pool="mean" if inputs["kind"] == "image" else "both",
        ),
        lambda own: _floats("batch", own["num_classes"])("logits", "probabilities"),
        _softmax,
    ),
    "tags": Head(
        lambda own, inputs, dim, dropout: TagHead(dim, own["num_classes"], dropout=dropout),
        lambda own: _floats("batch", "time", own["num_classes"])("logits", "probabilities"),
        _softmax,
    ),
    "next": Head(
        lambda own, inputs, dim, dropout: TagHead(dim, own["num_classes"]),
        lambda own: _floats("batch", "time", own["num_classes"])("logits", "probabilities"),
        _softmax,
        writes="on",
    ),
    "sequence": Head(
        lambda own, inputs, dim, dropout: Scores(own["num_classes"]),
        lambda own: _floats("batch", "target_time", own["num_classes"])("logits", "probabilities"),
        _softmax,
        writes="anew",
    ),
    "ranking": Head(
        lambda own, inputs, dim, dropout: RankHead(
            dim, inputs["dim"], inputs["vocab_size"], dropout=dropout
        ),
        lambda own: _floats("batch", own["num_classes"])("scores", "probabilities"),
        _softmax,
        each_place=True,
    ),
    "horizon": Head(
        lambda own, inputs, dim, dropout: HorizonHead(
            dim, inputs["length"] // inputs["patch"], own["horizon"], own["mean"], own["std"],
            dropout=dropout,
        ),
        lambda own: _floats("batch", own["horizon"], len(own["mean"]))("scaled", "forecast"),
        _unscaled,
    ),
}  # fmt: skip

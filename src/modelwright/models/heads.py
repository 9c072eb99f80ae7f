"""HEADS: what a body's output becomes, by kind of answer.

A head takes (features, mask, *inputs) and gives the tensor that the loss is made of; `finish`
adds what people and programs read. Both are the outputs of every artifact, under `outputs`' names.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.core.signature import NEVER, TARGET_TIME, TensorSpec
from modelwright.models.embed import window_statistics
from modelwright.models.layers import Dropout
from modelwright.models.ratings import RatingHead, last_real


class ClassHead(nn.Module):
    """Pool, then one linear layer, between them a norm if asked for.

    features: (batch, dim, height, width) or (batch, time, dim) -> logits (batch, num_classes)

    Args:
        pool: "mean" over all real places; "first" place (a class token); "both" the mean and the
            largest value of each feature, side by side.
        norm: layer norm of what was pooled. Places are then not normed one by one, so that the
            length of a word's vector says how much it counts (docs/experiments.md).
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        pool: Literal["mean", "first", "both"] = "mean",
        norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pool = pool
        pooled = 2 * dim if pool == "both" else dim
        self.norm = nn.LayerNorm(pooled) if norm else nn.Identity()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(pooled, num_classes)

    def forward(self, features: Tensor, mask: Tensor | None = None, *inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(self.dropout(self.norm(self._pooled(features, mask)))))

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

    Args:
        soft_cap: logits are bent so that none reaches it; 0 leaves them straight.
    Source: Gemma Team 2024, arXiv:2408.00118, section 2 (soft-capping).
    """

    def __init__(
        self, dim: int, num_classes: int, *, dropout: float = 0.0, soft_cap: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(dim, num_classes)
        self.soft_cap = soft_cap

    def forward(self, features: Tensor, mask: Tensor | None = None, *inputs: Tensor) -> Tensor:
        logits = torch.as_tensor(self.linear(self.dropout(features)))
        if not self.soft_cap:
            return logits
        return self.soft_cap * torch.tanh(logits.float() / self.soft_cap)


class LetterHead(nn.Module):
    """Scores of letters, and of none (id 0), at every place; behind a row's end always none.

    features: (batch, time, dim) -> logits (batch, time, num_classes)

    At those places no letter can be (NEVER), and none costs nothing: the likelihood of a text over
    all places is the one over the real places.
    Source: Graves et al. 2006, ICML, "Connectionist Temporal Classification", section 3.1.
    """

    behind: Tensor

    def __init__(self, dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(dim, num_classes)
        behind = torch.full((num_classes,), NEVER)
        behind[0] = 0
        self.register_buffer("behind", behind, persistent=False)

    def forward(self, features: Tensor, mask: Tensor, *inputs: Tensor) -> Tensor:
        logits = self.linear(self.dropout(features))
        return torch.where(mask[..., None], logits, self.behind.to(logits.dtype))


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
    """The next values of every channel: a linear map of its window, and what the body adds to it.

    features: (batch * channels, time, dim); window: (batch, length, channels)
        -> (batch, horizon, channels), less each channel's `mean`, in units of its `std`

    The linear map alone is hard to beat on long horizons; the body begins at nothing.
    Source: Zeng et al. 2022, arXiv:2205.13504; Li et al. 2023, arXiv:2305.10721, of windows that
        are brought to zero mean and unit spread before.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, dim: int, time: int, length: int, horizon: int, mean: Sequence[float],
        std: Sequence[float], *, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(dim * time, horizon)
        self.direct = nn.Linear(length, horizon, bias=False)
        for layer in (self.linear, self.direct):
            nn.init.zeros_(layer.weight)

    def forward(self, features: Tensor, mask: Tensor | None, window: Tensor) -> Tensor:
        batch, _, channels = window.shape
        added = self.linear(self.dropout(features.flatten(1)))
        mean, spread = window_statistics(window, self.std)
        direct = self.direct(((window - mean) / spread).transpose(1, 2))
        own = (direct + added.reshape(batch, channels, -1)).transpose(1, 2)
        return torch.as_tensor((own * spread + mean - self.mean) / self.std)


class RankHead(nn.Module):
    """How well each item fits next: the features against the very vectors that items come in as.

    features: (batch, time, dim); vectors: (items + FIRST_ITEM, item_dim), the embedding's
        -> scores (batch, items) after the last real place; (batch, time, items) while training

    Source: Kang, McAuley 2018, arXiv:1808.09781, section 3.4 (one set of vectors for both ends).
    """

    def __init__(self, dim: int, item_dim: int, vocab_size: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(dim, item_dim)
        self.bias = nn.Parameter(torch.zeros(vocab_size))  # how popular an item is by itself

    def forward(self, features: Tensor, mask: Tensor, vectors: Tensor, *inputs: Tensor) -> Tensor:
        if not self.training:
            features = last_real(features, mask)
        wanted = self.linear(self.dropout(features))
        return nn.functional.linear(wanted, vectors, self.bias)[..., FIRST_ITEM:]


class BoxHead(nn.Module):
    """At each place of a grid: scores of classes, and the box of the thing that it lies in.

    features: (batch, dim, height, width) or (batch, height * width, dim)
        -> (batch, height * width, num_classes + 4): logits; x1, y1, x2, y2 of the box, in pixels;
        while training also the place itself, x and y of its centre, by which things find places

    Source: Tian et al. 2019, arXiv:1904.01355 (distances to four sides); the logits' first bias:
    Lin et al. 2017, arXiv:1708.02002, section 4.1.
    """

    places: Tensor

    def __init__(self, dim: int, num_classes: int, grid: Sequence[int], stride: int) -> None:
        super().__init__()
        self.num_classes, self.stride = num_classes, stride
        self.farthest = math.log(2 * max(grid))  # no side lies farther off than twice the picture
        self.linear = nn.Linear(dim, num_classes + 4)
        nn.init.constant_(self.linear.bias[:num_classes], -math.log(99))
        nn.init.constant_(self.linear.bias[num_classes:], 1.0)
        down, across = (stride * (torch.arange(size) + 0.5) for size in grid)
        centres = torch.cartesian_prod(down, across).flip(1)
        self.register_buffer("places", centres[None])

    def forward(self, features: Tensor, mask: Tensor | None = None, *inputs: Tensor) -> Tensor:
        if features.dim() == 4:
            features = features.flatten(2).transpose(1, 2)
        raw = self.linear(features).float()
        logits, sides = raw.split((self.num_classes, 4), -1)
        reach = self.stride * sides.clamp_max(self.farthest).exp()
        near, far = self.places - reach[..., :2], self.places + reach[..., 2:]
        if not self.training:
            return torch.cat([logits, near, far], -1)
        return torch.cat([logits, near, far, self.places.expand(raw.shape[0], -1, -1)], -1)


class ActionHead(nn.Module):
    """What the situation at the last place is worth, and how much better than the mean each action.

    features: (batch, time, dim) -> scores (batch, actions): the worth, plus an action's advantage

    Their mean is the worth, their differences are the advantages, so that one head serves both
    those who learn what actions are worth and those who learn which to prefer.
    Source: Wang et al. 2015, arXiv:1511.06581, equation 9 (dueling).
    """

    def __init__(self, dim: int, num_actions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 1 + num_actions)
        with torch.no_grad():  # at first, every action is as good: arXiv:2006.05990, section 3.2
            self.linear.weight.mul_(0.01)
            self.linear.bias.zero_()

    def forward(self, features: Tensor, mask: Tensor | None = None, *inputs: Tensor) -> Tensor:
        found = self.linear(features[:, -1])
        advantages = found[:, 1:]
        return torch.as_tensor(found[:, :1] + advantages - advantages.mean(1, keepdim=True))


FIRST_ITEM = 2  # the ids before it are no items: padding, and one that nobody knows


def _softmax(raw: Tensor, own: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return raw, raw.softmax(-1)


def _unscaled(raw: Tensor, own: Mapping[str, Any]) -> tuple[Tensor, ...]:
    mean, std = (
        torch.tensor(own[name], dtype=raw.dtype, device=raw.device) for name in ("mean", "std")
    )
    return raw, raw * std + mean


def _found(raw: Tensor, own: Mapping[str, Any]) -> tuple[Tensor, ...]:
    number, (height, width) = own["num_classes"], own["grid"]
    sides = torch.tensor([width, height, width, height], dtype=raw.dtype, device=raw.device)
    limit = own["stride"] * sides
    boxes = raw[..., number : number + 4]
    return raw[..., :number], torch.minimum(boxes.clamp_min(0), limit)


def _scaled(raw: Tensor, own: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return raw, raw * own["scale"]


def _halves(raw: Tensor, own: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return raw[:, 0], raw[:, 1]


@dataclass(frozen=True)
class Head:
    """One kind of answer.

    build: (its description, the inputs' description, dim, dropout) -> module.
    outputs: the tensors that an artifact gives: first what is judged, then what is read.
    finish: the head's tensor to all of them.
    each_place: whether every place of a sequence has a target while training.
    grid: whether it takes a picture's features place by place, `stride` pixels apart.
    kept: whether the outputs of all rows are kept at once: they are few enough, or looked at later.
    made_up: one row's target to plan with, where it is neither classes nor numbers of the output.
    decides: whether the largest value of what is judged is the answer.
    toss: all that is judged, (rows, n) -> how near to the largest value another one is as good.
    spells: whether a target is a text, of fewer letters than there are places; id 0 is none.
    numbered: whether a target is the number of what a row belongs to, and no class.
    writes: whether the answer is a text, token by token, each given those before it: one that goes
        on with the input, or a new one; "" where it is no text.
    """

    build: Callable[[Mapping[str, Any], Mapping[str, Any], int, float], nn.Module]
    outputs: Callable[[Mapping[str, Any]], tuple[TensorSpec, ...]]
    finish: Callable[[Tensor, Mapping[str, Any]], tuple[Tensor, ...]]
    each_place: bool = False
    writes: Literal["", "on", "anew"] = ""
    spells: bool = False
    numbered: bool = False
    grid: bool = False
    kept: bool = True
    made_up: Callable[[Mapping[str, Any]], np.ndarray] | None = None
    decides: bool = False
    toss: Callable[[np.ndarray], float] | None = None


def _one_box(own: Mapping[str, Any]) -> np.ndarray:
    """The middle of the picture, of the first class."""
    height, width = (own["stride"] * side for side in own["grid"])
    corners = [width / 4, height / 4, width * 3 / 4, height * 3 / 4]
    return np.array([[*corners, 0]], np.float32)


TOSS_NATS = 0.1  # the next token is often a toss between several; the metric judges how likely
TOSS_SHARE = 0.05  # of the mean distance between the best and the worst action


def _floats(*shape: int | str) -> Callable[..., tuple[TensorSpec, ...]]:
    return lambda *names: tuple(TensorSpec(name, "float32", shape) for name in names)


HEADS: dict[str, Head] = {
    "classes": Head(
        lambda own, inputs, dim, dropout: ClassHead(
            dim, own["num_classes"], dropout=dropout,
            pool="mean" if inputs["kind"] == "image" or "plain" in inputs else "both",
            norm="plain" in inputs,
        ),
        lambda own: _floats("batch", own["num_classes"])("logits", "probabilities"),
        _softmax,
        decides=True,
    ),
    "tags": Head(
        lambda own, inputs, dim, dropout: TagHead(dim, own["num_classes"], dropout=dropout),
        lambda own: _floats("batch", "time", own["num_classes"])("logits", "probabilities"),
        _softmax,
        decides=True,
    ),
    "next": Head(
        lambda own, inputs, dim, dropout: TagHead(
            dim, own["num_classes"], soft_cap=own.get("soft_cap", 0.0)
        ),
        lambda own: _floats("batch", "time", own["num_classes"])("logits", "probabilities"),
        _softmax,
        kept=False,
        decides=True,
        toss=lambda scores: TOSS_NATS,
        writes="on",
    ),
    "sequence": Head(
        lambda own, inputs, dim, dropout: Scores(own["num_classes"]),
        lambda own: _floats("batch", TARGET_TIME, own["num_classes"])("logits", "probabilities"),
        _softmax,
        kept=False,
        decides=True,
        toss=lambda scores: TOSS_NATS,
        writes="anew",
    ),
    "letters": Head(
        lambda own, inputs, dim, dropout: LetterHead(dim, own["num_classes"], dropout=dropout),
        lambda own: _floats("batch", own["places"], own["num_classes"])("logits", "probabilities"),
        _softmax,
        spells=True,
        decides=True,
    ),
    "ranking": Head(
        lambda own, inputs, dim, dropout: RankHead(
            dim, inputs["dim"], inputs["vocab_size"], dropout=dropout
        ),
        lambda own: _floats("batch", own["num_classes"])("scores", "probabilities"),
        _softmax,
        kept=False,
        each_place=True,
    ),
    "rating": Head(
        lambda own, inputs, dim, dropout: RatingHead(
            dim, inputs["dim"], inputs["vocab_size"], dropout=dropout,
            mean=own["mean"],
        ),
        lambda own: _floats("batch", 1)("score", "rating"),
        lambda raw, own: (raw, raw.clamp(own["low"], own["high"])),
        each_place=True,
    ),
    "boxes": Head(
        lambda own, inputs, dim, dropout: BoxHead(
            dim, own["num_classes"], own["grid"], own["stride"]
        ),
        lambda own: (
            TensorSpec("scores", "float32", ("batch", math.prod(own["grid"]), own["num_classes"])),
            TensorSpec("boxes", "float32", ("batch", math.prod(own["grid"]), 4)),
        ),
        _found,
        grid=True,
        kept=False,
        made_up=_one_box,
    ),
    "vectors": Head(  # of each tower; assemble.Towers brings them to length one
        lambda own, inputs, dim, dropout: ClassHead(
            dim, own["dim"], dropout=dropout, pool="mean" if inputs["kind"] == "image" else "both"
        ),
        lambda own: _floats("batch", own["dim"])("image_vector", "text_vector"),
        _halves,
        numbered=True,
    ),
    "horizon": Head(
        lambda own, inputs, dim, dropout: HorizonHead(
            dim, inputs["length"] // inputs["patch"], inputs["length"], own["horizon"],
            own["mean"], own["std"],
            dropout=dropout,
        ),
        lambda own: _floats("batch", own["horizon"], len(own["mean"]))("scaled", "forecast"),
        _unscaled,
        kept=False,
    ),
    "actions": Head(
        lambda own, inputs, dim, dropout: ActionHead(dim, own["num_classes"]),
        lambda own: _floats("batch", own["num_classes"])("scores", "values"),
        _scaled,
        decides=True,
        toss=lambda scores: TOSS_SHARE * float(np.ptp(scores, axis=1).mean()),
    ),
}  # fmt: skip

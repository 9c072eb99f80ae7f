"""EMBEDS: what a model takes in, by kind of data, and how bytes become what a body takes.

An embedding gives (features, mask): a grid (batch, channels, height, width) or a sequence
(batch, time, dim), and which places of the sequence are real (batch, time), or None where all are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.core.signature import FRAMES_PER_S, PAD_MULTIPLE, TARGET_TIME, TensorSpec
from modelwright.models.layers import Dropout, mel_filters

Masked = tuple[Tensor, Tensor | None]
PAD = 0  # the id of a place that holds nothing; the tokenizers never give it


class Normalize(nn.Module):
    """Pixels to numbers around zero; part of the model, so that it ships inside the graph.

    images: (batch, channels, height, width), 0 to 255, uint8 or float -> float32, same shape
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        inverse = 1 / torch.tensor(std, dtype=torch.float32)
        self.register_buffer("inverse_std", inverse.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) * self.inverse_std


class Patches(nn.Module):
    """Cut a grid into patches and map each to a vector.

    grid: (batch, channels, height, width) -> (batch, time, dim); time runs row by row.
    Rows of an image are patches of height 1 and full width.
    Source: Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1.
    """

    def __init__(self, channels: int, patch: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.patch = patch
        # not a convolution with as large a stride: in bf16 and channels-last, torch 2.13's reads
        # memory that it never wrote when a patch is one pixel high
        self.project = nn.Linear(channels * patch[0] * patch[1], dim)

    def forward(self, grid: Tensor) -> Tensor:
        batch, channels, height, width = grid.shape
        down, across = self.patch
        cells = grid.reshape(batch, channels, height // down, down, width // across, across)
        patches = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return torch.as_tensor(self.project(patches))


class ImageEmbed(nn.Module):
    """Normalised pixels, as the grid that they are or cut into a sequence.

    image: (batch, channels, height, width) uint8 -> grid or sequence, no mask
    """

    def __init__(self, normalize: Normalize, patches: Patches | None = None) -> None:
        super().__init__()
        self.normalize, self.patches = normalize, patches

    def forward(self, image: Tensor) -> Masked:
        grid = self.normalize(image)
        return (grid if self.patches is None else self.patches(grid)), None


class TokenEmbed(nn.Module):
    """The sum of the vectors of each token's features; a place whose first id is 0 is padding.

    While training, whole places are dropped as well as single values: a text must not hang on one
    word (docs/experiments.md; Iyyer et al. 2015, "Deep unordered composition", section 2.2).

    ids: (batch, time, features) int64 -> (batch, time, dim)

    Args:
        whole: False drops single values only: what comes next hangs on each of the last tokens.
    """

    def __init__(
        self, vocab_size: int, dim: int, *, dropout: float = 0.0, whole: bool = True
    ) -> None:
        super().__init__()
        self.whole = whole
        self.vectors = nn.Embedding(vocab_size, dim, padding_idx=PAD)
        nn.init.normal_(self.vectors.weight, std=dim**-0.5)
        with torch.no_grad():
            self.vectors.weight[PAD] = 0
        self.dropout = Dropout(dropout)

    def forward(self, ids: Tensor) -> Masked:
        return self.dropped(self.vectors(ids).sum(2)), ids[..., 0] != PAD

    def dropped(self, vectors: Tensor) -> Tensor:
        """While training, without some values, and some whole places."""
        if not self.whole:
            return torch.as_tensor(self.dropout(vectors))
        whole = self.dropout(torch.ones_like(vectors[..., :1]))
        return torch.as_tensor(self.dropout(vectors) * whole)


class ToldEmbed(nn.Module):
    """What a user told at each place: an item's vector times its rating, plus the rating's own.

    Before training, what is multiplied by is the rating less the mean, in units of the spread.

    ids: (batch, time, 4) int64; the first two, who asks for what, are the head's
        -> (batch, time, dim)

    Args:
        levels: the ratings; their ids follow those of `items` asked for and of as many told.
    """

    def __init__(
        self, vocab_size: int, items: int, levels: Sequence[float], dim: int, *, dropout: float
    ) -> None:
        super().__init__()
        self.tokens = TokenEmbed(vocab_size, dim, dropout=dropout)
        self.first, self.last = 1 + 2 * items, len(levels)
        rating = torch.tensor(levels, dtype=torch.float32)
        scaled = (rating - rating.mean()) / rating.std(correction=0).clamp_min(1e-6)
        self.rating = nn.Embedding(1 + len(levels), dim)  # none told, then each
        with torch.no_grad():
            self.rating.weight.copy_(torch.cat([torch.zeros(1), scaled])[:, None].expand(-1, dim))
            for asked in (slice(2, 2 + items), slice(self.first + 1 + len(levels), None)):
                self.tokens.vectors.weight[asked] *= 0.3  # their products begin near zero

    def forward(self, ids: Tensor) -> Masked:
        item, rating = self.tokens.vectors(ids[..., 2:]).unbind(2)
        level = (ids[..., 3] - self.first).clamp(0, self.last)
        told = item * self.rating(level) + rating
        return self.tokens.dropped(told), ids[..., 0] != PAD


class Words(nn.Embedding):
    """Vectors of ids, that are also what each id is scored by.

    ids: (batch, time) int64 -> (batch, time, dim)

    Source: Press, Wolf 2016, arXiv:1608.05859 (one table for both ends).
    """

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__(vocab_size, dim, padding_idx=PAD)
        nn.init.normal_(self.weight, std=dim**-0.5)
        with torch.no_grad():
            self.weight[PAD] = 0

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * math.sqrt(self.embedding_dim)


class MelEmbed(nn.Module):
    """Sound to a sequence of log-mel frames, each mapped to a vector.

    samples: (batch, samples) float32 in [-1, 1]; lengths: (batch,) int64, real samples of each row
        -> (batch, time, dim), one place for every `stack` frames, which are `hop` samples apart

    The transform is two convolutions with windowed cosines and sines, so that it ships inside the
    graph. Each row's frames are brought to zero mean and unit variance over its real frames.
    Source: Davis, Mermelstein 1980 (mel scale); Slaney 1998, Auditory Toolbox (filters).
    """

    basis: Tensor
    filters: Tensor

    def __init__(self, rate: int, num_mels: int, dim: int, *, stack: int = 1) -> None:
        super().__init__()
        self.window, self.hop, self.stack = (
            rate // 40,
            rate // FRAMES_PER_S,
            stack,
        )  # 25 ms every 10 ms
        size = 1 << (self.window - 1).bit_length()
        time = torch.arange(self.window, dtype=torch.float64)
        angle = 2 * torch.pi * torch.arange(size // 2 + 1)[:, None] * time / size
        hann = torch.hann_window(self.window, periodic=False, dtype=torch.float64)
        waves = torch.cat([angle.cos(), angle.sin()]) * hann
        self.register_buffer("basis", waves[:, None].float())
        self.register_buffer("filters", mel_filters(rate, size, num_mels))
        self.project = nn.Linear(num_mels * stack, dim)

    def forward(self, samples: Tensor, lengths: Tensor) -> Masked:
        kind = samples.device.type
        # a loud tone's power is beyond what float16 holds
        if kind != "meta" and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                frames, mask = self.frames(samples.float(), lengths)
        else:
            frames, mask = self.frames(samples, lengths)
        return self.project(frames), mask

    def frames(self, samples: Tensor, lengths: Tensor) -> Masked:
        """What is measured: (batch, time, num_mels * stack), and which places are real."""
        half = self.window // 2  # an odd window needs one sample more behind
        padded = nn.functional.pad(samples, (half, self.window - half))
        parts = nn.functional.conv1d(padded[:, None], self.basis.to(padded.dtype), stride=self.hop)
        real, imaginary = parts.float().square().chunk(2, dim=1)
        # from 3e-6 on, 89 dB below the loudest tone, counted from there: silence is exactly zero
        # and the rounding of what is next to silent stays small, whatever computes it
        mels = (3e5 * (self.filters @ (real + imaginary))).clamp_min(1).log().transpose(1, 2)
        places = torch.arange(mels.shape[1], device=mels.device)
        mask = places < (lengths[:, None] // self.hop + 1)
        weight = mask[..., None] / mask.sum(1)[:, None, None]
        mean = (mels * weight).sum(1, keepdim=True)
        spread = ((mels - mean).square() * weight).sum(1, keepdim=True)
        frames = (mels - mean) * torch.rsqrt(spread + 1e-3) * mask[..., None]
        if self.stack == 1:
            return frames, mask
        number = (frames.shape[1] - 1) // self.stack + 1
        behind = number * self.stack - frames.shape[1]
        stacked = nn.functional.pad(frames.contiguous(), (0, 0, 0, behind)).reshape(
            frames.shape[0], number, self.project.in_features
        )
        places = torch.arange(number, device=mels.device)
        return stacked, places < lengths[:, None] // (self.hop * self.stack) + 1


class WindowEmbed(nn.Module):
    """A window of several series: each on its own, brought to zero mean, cut into patches.

    window: (batch, length, channels) float32 -> (batch * channels, time, dim)

    Args:
        std: of each channel over train, its unit.

    Source: Nie et al. 2022, arXiv:2211.14730 (patches, one channel at a time); Kim et al. 2022,
        "Reversible Instance Normalization" (each window's own mean and spread).
    """

    std: Tensor

    def __init__(
        self, length: int, patch: int, std: Sequence[float], dim: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.patch, self.length = patch, length
        self.project = nn.Linear(patch, dim)
        self.dropout = Dropout(dropout)

    def forward(self, window: Tensor) -> Masked:
        mean, spread = window_statistics(window, self.std)
        flat = ((window - mean) / spread).transpose(1, 2).flatten(0, 1)
        patches = flat.reshape(flat.shape[0], self.length // self.patch, self.patch)
        return self.dropout(self.project(patches)), None


class ObservationEmbed(nn.Module):
    """The last observations: each number less its mean, in units of its spread, then mapped.

    observation: (batch, length, features) float32 -> (batch, length, dim)
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("inverse_std", 1 / torch.tensor(std, dtype=torch.float32))
        self.project = nn.Linear(len(mean), dim)

    def forward(self, observation: Tensor) -> Masked:
        return self.project((observation - self.mean) * self.inverse_std), None


def window_statistics(window: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of each channel of each window, (batch, 1, channels) both; the latter not
    below 0.003 of `std`, (channels,), so that a constant window has one in any unit."""
    mean = window.mean(1, keepdim=True)
    variance = (window - mean).square().mean(1, keepdim=True)
    return mean, torch.sqrt(variance + 1e-5 * std.square())


@dataclass(frozen=True)
class Embed:
    """One kind of input.

    inputs: the tensors that a model of this kind takes, from its description.
    sequence: (description, dim, dropout) -> the module that makes a sequence; None for images,
        which each family cuts its own way, for pictures with texts, which are two inputs, and for
        pairs of sequences (models/pairs.py).
    most_places: of such a sequence, padding included; None where one that is asked for may be
        longer than any that was trained on.
    """

    inputs: Callable[[Mapping[str, Any]], tuple[TensorSpec, ...]]
    sequence: Callable[[Mapping[str, Any], int, float], nn.Module] | None
    most_places: Callable[[Mapping[str, Any]], int] | None = None


def _most_tokens(own: Mapping[str, Any]) -> int:
    return -(-int(own["max_length"]) // PAD_MULTIPLE) * PAD_MULTIPLE


_TOKENS = Embed(
    lambda own: (TensorSpec("ids", "int64", ("batch", "time", own["features"])),),
    lambda own, dim, dropout: TokenEmbed(own["vocab_size"], dim, dropout=dropout),
    _most_tokens,
)

EMBEDS: dict[str, Embed] = {
    "image": Embed(lambda own: (TensorSpec("image", "uint8", ("batch", *own["shape"])),), None),
    "text": _TOKENS,
    "pairs": Embed(
        lambda own: (
            TensorSpec("source", "int64", ("batch", "time")),
            TensorSpec("target", "int64", ("batch", TARGET_TIME)),
        ),
        None,
    ),
    "stream": Embed(
        _TOKENS.inputs,
        lambda own, dim, dropout: TokenEmbed(own["vocab_size"], dim, dropout=dropout, whole=False),
        _most_tokens,
    ),
    "items": _TOKENS,
    "ratings": Embed(
        _TOKENS.inputs,
        lambda own, dim, dropout: ToldEmbed(
            own["vocab_size"], own["items"], own["levels"], dim, dropout=dropout
        ),
        _most_tokens,
    ),
    "image_text": Embed(
        lambda own: tuple(
            spec for kind in ("image", "text") for spec in EMBEDS[kind].inputs(own[kind])
        ),
        None,
    ),
    "audio": Embed(
        lambda own: (
            TensorSpec("samples", "float32", ("batch", "time")),
            TensorSpec("lengths", "int64", ("batch",)),
        ),
        lambda own, dim, dropout: MelEmbed(
            own["rate"], own["num_mels"], dim, stack=own.get("stack", 1)
        ),
    ),
    "series": Embed(
        lambda own: (
            TensorSpec("window", "float32", ("batch", own["length"], len(own["channels"]))),
        ),
        lambda own, dim, dropout: WindowEmbed(
            own["length"], own["patch"], own["std"], dim, dropout=dropout
        ),
        lambda own: own["length"] // own["patch"],
    ),
    "observation": Embed(
        lambda own: (
            TensorSpec("observation", "float32", ("batch", own["length"], own["features"])),
        ),
        lambda own, dim, dropout: ObservationEmbed(own["mean"], own["std"], dim),
        lambda own: own["length"],
    ),
}


def most_places(inputs: Mapping[str, Any]) -> int:
    """For how many places positions can be learned, by the description of what comes in.

    Raises: ConfigError where rows have no bound.
    """
    most = EMBEDS[inputs["kind"]].most_places
    if most is None:
        raise ConfigError(
            f"model.positions: learned ones end with the longest row of training, and of the kind "
            f"{inputs['kind']!r} there may be longer ones",
            expected="sinusoidal or rotary",
        )
    return most(inputs)

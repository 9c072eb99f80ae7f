"""Labels that are probably wrong, by what a quick model expects of rows that it has not seen.

Confident learning with three folds of a multinomial logistic regression, on shrunken pixels, on
the ids of tokens, or on a coarse spectrogram.
Source: Northcutt, Jiang, Chuang 2021, JAIR 70, arXiv:1911.00068, sections 3.1 and 3.2.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelwright.data.image import pieces
from modelwright.data.rows import Array, Ragged, Rows

Indices = npt.NDArray[np.int64]

FOLDS = 3
LARGEST_ROWS = 20_000  # of more, a sample is looked at
STEPS, LEARNING_RATE, WEIGHT_DECAY = 40, 0.05, 1e-3  # of the quick model, on all rows at once
_SIDE = 12  # pixels of a shrunken image
_BANDS, _STRETCHES, _FRAME = 32, 8, 512  # of a spectrogram
_TOKENS = 200  # of a text that are looked at


@dataclass(frozen=True)
class Suspects:
    """Rows whose label is doubted, the surest first.

    rows, likely: int64 (suspects,), the row and the class that it looks like
    looked_at: the number of rows looked at
    """

    rows: Indices
    likely: Indices
    looked_at: int


def suspects(parts: Sequence[Rows], num_classes: int) -> Suspects:
    """The rows of all parts, one after the other, whose label the quick model doubts.

    The same rows give the same suspects.
    """
    labels = np.concatenate([rows.classes for rows in parts])
    chosen = np.arange(len(labels))
    if len(chosen) > LARGEST_ROWS:
        chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:LARGEST_ROWS])
    features = _features(parts, chosen)
    doubted, likely = confident_errors(
        out_of_fold(features, labels[chosen], num_classes), labels[chosen]
    )
    return Suspects(chosen[doubted], likely, len(chosen))


def confident_errors(
    probabilities: npt.NDArray[np.float64], labels: Indices
) -> tuple[Indices, Indices]:
    """Rows that are confidently counted for another class than their label, and that class.

    probabilities: (rows, classes), each row's from a model that has not seen it; labels: (rows,)

    A row counts for the likeliest of the classes whose threshold it reaches: what the rows
    labelled so have on average. The widest margins come first.
    """
    number = probabilities.shape[1]
    counts = np.bincount(labels, minlength=number)
    own = probabilities[np.arange(len(labels)), labels]
    sums = np.bincount(labels, own, minlength=number)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    likely = reached.argmax(1)
    wrong = np.flatnonzero((reached.max(1) >= 0) & (likely != labels))
    margin = probabilities[wrong, likely[wrong]] - own[wrong]
    order = wrong[np.argsort(-margin, kind="stable")]
    return order, likely[order]


Logits = Callable[[Indices], Tensor]


@dataclass(frozen=True)
class Dense:
    """Rows of numbers, each column with mean 0 and spread 1."""

    values: Tensor

    @property
    def width(self) -> int:
        return self.values.shape[1]

    def logits(self, rows: Indices, weight: Tensor) -> Tensor:
        return self.values[torch.from_numpy(rows)] @ weight


@dataclass(frozen=True)
class Bags:
    """Rows of ids, of unequal number; each row is the mean of its ids' weights."""

    ids: Ragged
    width: int

    def logits(self, rows: Indices, weight: Tensor) -> Tensor:
        bag = self.ids.take(rows)
        # the square root keeps long texts from being all alike
        per_row = torch.from_numpy(np.sqrt(np.maximum(bag.lengths, 1))).float()[:, None]
        found = torch.nn.functional.embedding_bag(
            torch.from_numpy(bag.values), weight, torch.from_numpy(bag.offsets[:-1]), mode="sum"
        )
        return found / per_row


def out_of_fold(
    features: Dense | Bags, labels: Indices, num_classes: int
) -> npt.NDArray[np.float64]:
    """Each row's probabilities by a model that was fitted to the other folds, (rows, classes)."""
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    found = np.zeros((len(labels), num_classes))
    for number in range(FOLDS):
        weight, bias = _fitted(features, np.flatnonzero(fold != number), labels, num_classes)
        held = np.flatnonzero(fold == number)
        with torch.no_grad():
            logits = features.logits(held, weight) + bias
        found[held] = logits.double().softmax(1).numpy()
    return found


def _fitted(
    features: Dense | Bags, rows: Indices, labels: Indices, num_classes: int
) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(features.width, num_classes, requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    targets = torch.from_numpy(labels[rows])
    optimizer = torch.optim.Adam([weight, bias], LEARNING_RATE)
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(features.logits(rows, weight) + bias, targets)
        loss = loss + WEIGHT_DECAY * weight.square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return weight.detach(), bias.detach()


def _features(parts: Sequence[Rows], chosen: Indices) -> Dense | Bags:
    begins = np.cumsum([0, *(len(rows) for rows in parts)])
    own = [chosen[(chosen >= a) & (chosen < b)] - a for a, b in pairwise(begins)]
    name = next(iter(parts[0].inputs))
    columns = [rows.inputs[name] for rows in parts]
    if name == "ids":
        texts = [
            _ids(column, row) for column, rows in zip(columns, own, strict=True) for row in rows
        ]
        offsets = np.cumsum([0, *map(len, texts)])
        ids = np.concatenate([np.zeros(0, np.int64), *texts])
        return Bags(Ragged(ids, offsets), 1 + int(ids.max(initial=0)))
    made = [
        _shrunken(column, rows) if isinstance(column, np.ndarray) else _spectra(column, rows)
        for column, rows in zip(columns, own, strict=True)
    ]
    values = torch.cat(made)
    spread = values.std(0, correction=0).clamp_min(1e-3)
    return Dense((values - values.mean(0)) / spread / math.sqrt(values.shape[1] / 64))


def _ids(column: object, row: int) -> Indices:
    assert isinstance(column, Ragged)
    return column[row][:_TOKENS].reshape(-1).astype(np.int64)


def _shrunken(images: Array, rows: Indices) -> Tensor:
    """Pixels of at most _SIDE a side, float32 (rows, values)."""
    size = min(images.shape[2], _SIDE), min(images.shape[3], _SIDE)
    found = torch.zeros(len(rows), images.shape[1] * math.prod(size))
    for piece in pieces(images, len(rows)):
        pixels = torch.from_numpy(images[rows[piece]]).float()
        found[piece] = torch.nn.functional.adaptive_avg_pool2d(pixels, size).flatten(1)
    return found


def _spectra(column: object, rows: Indices) -> Tensor:
    """The logarithm of _BANDS of frequency in _STRETCHES of time, float32 (rows, values)."""
    assert isinstance(column, Ragged)
    window = torch.hann_window(_FRAME)
    found = torch.zeros(len(rows), _BANDS * _STRETCHES)
    for place, row in enumerate(rows):
        samples = torch.from_numpy(column[row].astype(np.float32)) / 32768
        samples = torch.nn.functional.pad(samples, (0, max(0, _FRAME - len(samples))))
        power = (
            torch.stft(
                samples, _FRAME, _FRAME // 2, window=window, center=False, return_complex=True
            )
            .abs()
            .square()
        )
        coarse = torch.nn.functional.adaptive_avg_pool2d(power[None], (_BANDS, _STRETCHES))
        found[place] = coarse.flatten().clamp_min(1e-8).log()
    return found

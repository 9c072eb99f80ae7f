"""Labels that are probably wrong, by what a quick model expects of rows that it has not seen.

Confident learning with three folds of a multinomial logistic regression, on shrunken pixels, on
the ids of tokens weighed by how few rows have them, or on a coarse spectrogram.
Source: Northcutt, Jiang, Chuang 2021, JAIR 70, arXiv:1911.00068, sections 3.1 and 3.2; of the
weights Salton, Buckley 1988, "Term-weighting approaches in automatic text retrieval".
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelwright.data.image import pieces
from modelwright.data.rows import Array, Ragged, Rows
from modelwright.data.text import NOTHING

Indices = npt.NDArray[np.int64]

FOLDS = 3
LARGEST_ROWS = 20_000  # of more, a sample is looked at
MOST_STEPS, WEIGHT_DECAY = 50, 1e-4  # of the quick model, on all rows at once
_SQUARES = 2  # summed over a row of pixels or bands, as 1 over a text, so that one decay fits all
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


def out_of_fold(features: Tensor, labels: Indices, num_classes: int) -> npt.NDArray[np.float64]:
    """Each row's probabilities by a model that was fitted to the other folds, (rows, classes).

    features: (rows, width), dense or sparse
    """
    fold = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)) % FOLDS)
    targets, found = torch.from_numpy(labels), np.zeros((len(labels), num_classes))
    for number in range(FOLDS):
        rows, held = (one.nonzero()[:, 0] for one in (fold != number, fold == number))
        weight, bias = _fitted(features.index_select(0, rows), targets[rows], num_classes)
        logits = features.index_select(0, held) @ weight + bias
        found[held.numpy()] = logits.double().softmax(1).numpy()
    return found


def _fitted(features: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weight and bias, by quasi-Newton steps until they stay, MOST_STEPS at most."""
    weight, bias = torch.zeros(features.shape[1], num_classes), torch.zeros(num_classes)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MOST_STEPS, tolerance_grad=1e-4, tolerance_change=1e-7,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip
    across, along = _by_row(features.t()), _by_row(features)
    wanted = torch.nn.functional.one_hot(targets, num_classes).float() / len(targets)

    def loss() -> float:
        logs = (along @ weight + bias).log_softmax(1)
        errors = logs.exp() / len(targets) - wanted
        weight.grad = across @ errors + 2 * WEIGHT_DECAY * weight
        bias.grad = errors.sum(0)
        return float(WEIGHT_DECAY * weight.square().sum() - (logs * wanted).sum())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight, bias


def _by_row(features: Tensor) -> Tensor:
    """Laid out so that products with it are fast."""
    if not features.is_sparse:
        return features
    with warnings.catch_warnings():  # torch calls the layout a beta, once
        warnings.simplefilter("ignore", UserWarning)
        return features.coalesce().to_sparse_csr()


def _features(parts: Sequence[Rows], chosen: Indices) -> Tensor:
    """What the quick model sees of the chosen rows, float32 (rows, width)."""
    begins = np.cumsum([0, *(len(rows) for rows in parts)])
    own = [chosen[(chosen >= a) & (chosen < b)] - a for a, b in pairwise(begins)]
    name = next(iter(parts[0].inputs))
    columns = [rows.inputs[name] for rows in parts]
    if name == "ids":
        return _weighed(
            [_ids(column, row) for column, rows in zip(columns, own, strict=True) for row in rows]
        )
    made = [
        _shrunken(column, rows) if isinstance(column, np.ndarray) else _spectra(column, rows)
        for column, rows in zip(columns, own, strict=True)
    ]
    values = torch.cat(made)
    spread = values.std(0, correction=0).clamp_min(1e-3)
    return (values - values.mean(0)) / spread / math.sqrt(values.shape[1] / _SQUARES)


def _weighed(texts: Sequence[Indices]) -> Tensor:
    """Of each text its ids' weights, of length 1 together, sparse (rows, ids): 1 and the logarithm
    of an id's number in the text, times that of the share of texts that have it."""
    each = [np.unique(ids[ids != NOTHING], return_counts=True) for ids in texts]
    ids = np.concatenate([np.zeros(0, np.int64), *(own for own, _ in each)])
    counts = np.concatenate([np.ones(0), *(number for _, number in each)])
    rows = np.repeat(np.arange(len(each)), [len(own) for own, _ in each])
    having = np.bincount(ids)
    weights = (1 + np.log(counts)) * (1 + np.log((1 + len(each)) / (1 + having)))[ids]
    lengths = np.sqrt(np.bincount(rows, weights**2, minlength=len(each)))
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([rows, ids])),
        torch.from_numpy(weights / lengths[rows]).float(),
        (len(each), len(having)), check_invariants=False, is_coalesced=True,
    )  # fmt: skip


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

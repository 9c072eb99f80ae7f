"""Pairs of images that are nearly equal, found exactly and within 400 MB.

Images are averaged down to at most 12 × 12 values a channel, their mean is removed and they are
scaled to length 1, so that the product of two is a cosine that ignores brightness and contrast.
Two vectors of length 1 with cosine c lie sqrt(2 - 2c) apart, and no projection puts them further
apart: with the rows sorted along the direction in which they vary most, a row has to be compared
with its neighbours only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from modelwright.data.image import pieces
from modelwright.data.rows import LISTED, Images, Indices

LARGEST_SIDE = 12
LARGEST_ROWS = 80_000
_ROUNDING = 1e-6  # of a float32 product of unit vectors
_LEFT, _RIGHT = 1024, 4096  # rows of one tile of products: 16 MB


@dataclass(frozen=True)
class NearPairs:
    """across, within: numbers of pairs between parts and inside one.
    pairs: at most LISTED of them, those across first; positions count the rows to compare of
        all parts, one after the other.
    compared: the number of images looked at, of `rows`.
    """

    across: int
    within: int
    pairs: list[tuple[int, int]]
    compared: int
    rows: int


def near_pairs(parts: Sequence[tuple[Images, Indices]], threshold: float) -> NearPairs:
    """Every pair of images with a cosine of at least `threshold` when shrunk.

    parts: images uint8 (rows, channels, height, width), of one shape, and which of them to compare

    Of more than LARGEST_ROWS images a sample is compared (seeded, the same every time). Images
    that are of one value throughout resemble nothing.
    """
    sizes = [len(indices) for _, indices in parts]
    total = sum(sizes)
    chosen = np.arange(total)
    if total > LARGEST_ROWS:
        chosen = np.sort(np.random.default_rng(0).permutation(total)[:LARGEST_ROWS])
    if len(chosen) < 2:
        return NearPairs(0, 0, [], len(chosen), total)
    part_of = np.repeat(np.arange(len(parts)), sizes)[chosen]
    starts = np.cumsum([0, *sizes])
    features = [
        _features(images, indices[chosen[part_of == number] - starts[number]])
        for number, (images, indices) in enumerate(parts)
    ]
    shrunk = torch.cat(features)
    del features
    positions, owners = torch.from_numpy(chosen), torch.from_numpy(part_of)
    spread = _main_direction(shrunk)
    order = torch.argsort(spread, stable=True)
    line = spread[order]
    reach = math.sqrt(2 - 2 * threshold) + 1e-3
    limits = torch.searchsorted(line, line + reach, right=True)
    bound = threshold - _ROUNDING
    across, within = 0, 0
    pairs_across: list[tuple[int, int]] = []
    pairs_within: list[tuple[int, int]] = []
    for start in range(0, len(order), _LEFT):
        left = order[start : start + _LEFT]
        last = int(limits[min(start + _LEFT, len(order)) - 1])
        for begin in range(start, last, _RIGHT):
            right = order[begin : min(begin + _RIGHT, last)]
            products = shrunk[left] @ shrunk[right].T
            if begin == start:
                products.fill_diagonal_(0)  # a row and itself
            # few rows have a near one: nonzero over the whole tile costs more than the product
            hit = (products.amax(dim=1) >= bound).nonzero().squeeze(1)
            i, j = (products[hit] >= bound).nonzero(as_tuple=True)
            i = hit[i]
            ahead = j + begin > i + start
            a, b = left[i[ahead]], right[j[ahead]]
            different = owners[a] != owners[b]
            across += int(different.sum())
            within += int((~different).sum())
            _list(pairs_across, positions, a[different], b[different])
            _list(pairs_within, positions, a[~different], b[~different])
    listed = (sorted(pairs_across) + sorted(pairs_within))[:LISTED]
    return NearPairs(across, within, listed, len(chosen), total)


def _features(images: Images, indices: Indices) -> torch.Tensor:
    """float32 (rows, at most channels · 12 · 12), each of length 1, or 0 where constant."""
    _, channels, height, width = images.shape
    size = (min(height, LARGEST_SIDE), min(width, LARGEST_SIDE))
    out = torch.empty(len(indices), channels * size[0] * size[1])
    for piece in pieces(images, len(indices)):
        chunk = torch.from_numpy(images[indices[piece]]).float()
        values = torch.nn.functional.adaptive_avg_pool2d(chunk, size).flatten(1)
        values -= values.mean(dim=1, keepdim=True)
        length = values.norm(dim=1, keepdim=True)
        # below a thousandth of a grey level nothing but rounding is left
        out[piece] = torch.where(length > 1e-3, values / length, 0.0)
    return out


def _main_direction(shrunk: torch.Tensor) -> torch.Tensor:
    """Each row's coordinate along the first principal component."""
    mean = shrunk.mean(dim=0)
    covariance = shrunk.T @ shrunk / len(shrunk) - torch.outer(mean, mean)
    direction: torch.Tensor = torch.linalg.eigh(covariance.double()).eigenvectors[:, -1]
    return shrunk @ direction.float()


def _list(
    pairs: list[tuple[int, int]], positions: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> None:
    room = LISTED - len(pairs)
    if room > 0:
        found = torch.stack([positions[a[:room]], positions[b[:room]]], dim=1)
        pairs += [(min(x, y), max(x, y)) for x, y in found.tolist()]

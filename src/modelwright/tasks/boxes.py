"""Boxes in numpy: overlap, suppression, which found box is which true one, average precision.

A box is x1, y1, x2, y2 in pixels. Overlap is a ratio of areas, so that stretching the picture
along a side changes none of it.
"""

import numpy as np

# Overlaps at which a found box counts as right. Source: Lin et al. 2014, arXiv:1405.0312.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the curve


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair, (n, 4) and (m, 4) -> (n, m).

    >>> overlaps(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2]])).round(3)
    array([[0.333]])
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    areas = [(one[:, 2:] - one[:, :2]).clip(0).prod(-1) for one in (first, second)]
    union = areas[0][:, None] + areas[1] - shared
    return np.asarray(shared / np.maximum(union, 1e-9))


def suppress(boxes: np.ndarray, labels: np.ndarray, overlap: float) -> np.ndarray:
    """Places of the boxes that stay: each takes out later ones of its label that lie over it.

    boxes: (n, 4), best first; labels: (n,)

    >>> boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 3]])
    >>> suppress(boxes, np.array([0, 0, 1]), 0.5)
    array([0, 2])
    """
    over = (overlaps(boxes, boxes) > overlap) & (labels[:, None] == labels)
    stays = np.ones(len(boxes), np.bool_)
    for place in range(len(boxes)):
        if stays[place]:
            stays[place + 1 :] &= ~over[place, place + 1 :]
    return np.flatnonzero(stays)


def matched(
    boxes: np.ndarray, labels: np.ndarray, true: np.ndarray, true_labels: np.ndarray
) -> np.ndarray:
    """Whether each found box is right at each of THRESHOLDS, (thresholds, n) bool.

    boxes: (n, 4), best first; each takes the free true box of its label that it lies over most.
    Source: pycocotools, COCOeval.evaluateImg; of equal overlaps, the last true box.
    """
    right = np.zeros((len(THRESHOLDS), len(boxes)), np.bool_)
    if not len(true) or not len(boxes):
        return right
    over = np.where(labels[:, None] == true_labels, overlaps(boxes, true), -1.0)
    every = np.arange(len(THRESHOLDS))
    free = np.ones((len(THRESHOLDS), len(true)), np.bool_)
    for place in range(len(boxes)):
        own = np.where(free, over[place], -1.0)
        best = len(true) - 1 - own[:, ::-1].argmax(1)
        right[:, place] = own[every, best] >= THRESHOLDS - 1e-10
        free[every[right[:, place]], best[right[:, place]]] = False
    return right


def matched_once(
    boxes: np.ndarray, labels: np.ndarray, true: np.ndarray, true_labels: np.ndarray
) -> np.ndarray:
    """Whether each found box is right at an overlap of 0.5 as VOC says, (n,) bool.

    boxes: (n, 4), best first; each takes the true box of its label that it lies over most, and is
    wrong if a better one had that, also where `matched` would let it have another.
    Source: Everingham et al. 2010 and the VOC2010 development kit, VOCevaldet.

    >>> true = np.array([[0, 0, 10, 10], [0, 4, 10, 14]])
    >>> matched_once(true[[0, 0]], np.zeros(2), true, np.zeros(2))
    array([ True, False])
    """
    right = np.zeros(len(boxes), np.bool_)
    if not len(true):
        return right
    over = np.where(labels[:, None] == true_labels, overlaps(boxes, true), -1.0)
    taken = set[int]()
    for place, best in enumerate(over.argmax(1).tolist()):
        right[place] = over[place, best] >= 0.5 and best not in taken
        if right[place]:
            taken.add(best)
    return right


def curve(right: np.ndarray, weights: np.ndarray, number: float) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each found box, the best first; precision never rises.

    right: (..., n) bool; weights: (n,), how often each box counts; number: of true boxes
        -> both (..., n)
    """
    hits = np.cumsum(right * weights, -1)
    found = np.cumsum(weights)
    precision = hits / np.maximum(found, 1e-9)
    falling = np.maximum.accumulate(precision[..., ::-1], -1)[..., ::-1]
    return hits / number, falling


def area(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Under the interpolated curve: each rise of recall times the precision from there on.

    recall, precision: (..., n), of `curve` -> (...)
    Source: Everingham et al. 2010 and the VOC2010 development kit, VOCap.
    """
    return np.asarray((np.diff(recall, axis=-1, prepend=0) * precision).sum(-1))


def at_recalls(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Mean precision at RECALLS, 0 where a recall is not reached, (..., n) -> (...).

    Source: pycocotools, COCOeval.accumulate.
    """
    found = np.zeros(recall.shape[:-1])
    for place in np.ndindex(found.shape):
        reached = np.searchsorted(recall[place], RECALLS)
        found[place] = np.append(precision[place], 0.0)[reached].mean()
    return found

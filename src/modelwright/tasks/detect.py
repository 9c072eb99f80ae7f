"""Boxes with classes in a picture: loss, average precision, answer.

The model gives scores of the classes and a box at every cell of a grid (models/heads.py, BoxHead).
Which cell answers for which thing is settled anew in each step, by how well it does already.
Source: Tian et al. 2019, arXiv:1904.01355 (one box a cell, no anchors); Feng et al. 2021,
arXiv:2108.07755 (assignment by alignment of score and overlap).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modelwright.core.signature import NO_TARGET
from modelwright.tasks.boxes import (
    THRESHOLDS,
    area,
    at_recalls,
    curve,
    matched,
    matched_once,
    overlaps,
    suppress,
)

METRIC = "ap50"
LABEL_SMOOTHING = None  # scores learn how well their box lies, which is no label

# docs/experiments.md has the reasons
NEAREST = 10  # cells of a thing that learn to find it
ALIGNED = (0.5, 6.0)  # powers of score and overlap
BOX_WEIGHT = 2.0
FAINTEST = 0.01  # scores from which a box is looked at
CANDIDATES, MOST = 400, 100  # boxes of a picture before suppression, and that are judged
SAME = 0.6  # overlap from which the fainter of two boxes of a class is taken out
CORNERS = 60  # of a curve that is shown
SURE = 0.35  # scores from which an answer names a box


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of scores against how well each box lies, and 1 - GIoU of the boxes.

    outputs: (batch, cells, num_classes + 6), as BoxHead gives them while training
    targets: (batch, places, 5): x1, y1, x2, y2, class; NO_TARGET at padding

    Both are sums over cells, divided by `weight`.
    Source: Rezatofighi et al. 2019, arXiv:1902.09630 (GIoU).
    """
    logits, boxes = outputs[..., :-6].float(), outputs[..., -6:-2].float()
    with torch.no_grad():
        wanted, which = _assigned(logits.sigmoid(), boxes, outputs[..., -2:].float(), targets)
        weights = wanted.sum(-1)
        true = targets[..., :4].float().gather(1, which[..., None].expand(-1, -1, 4))
        real = weights > 0
    scores = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    lie = 1 - _giou(boxes[real], true[real])
    return (scores + BOX_WEIGHT * (lie * weights[real]).sum()) / weight(targets)


def weight(targets: Tensor) -> Tensor:
    """Pictures and the things in them: known from the targets alone, so that parts of a batch that
    several passes or processes see add up to it; and never 0, since empty pictures teach too.

    targets: (batch, places, 5), as `loss` takes them -> ()
    """
    return len(targets) + (targets[..., 4] >= 0).sum()


def _assigned(
    scores: Tensor, boxes: Tensor, centres: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """What scores should be, (batch, cells, num_classes), and each cell's target, (batch, cells).

    A thing goes to the NEAREST cells inside it with the largest score^a * overlap^b; a cell that
    several ask for goes to the one it overlaps most. The best cell's score should be its overlap.
    """
    real = targets[..., 4] >= 0
    kinds = targets[..., 4].clamp_min(0).long()
    true = torch.where(real[..., None], targets[..., :4].float(), 0.0)
    x, y = centres[:, None, :, 0], centres[:, None, :, 1]
    x1, y1, x2, y2 = (true[..., side, None] for side in range(4))
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)  # (batch, things, cells)
    # a thing between the centres of cells goes to the nearest one
    far = ((x - (x1 + x2) / 2) ** 2 + (y - (y1 + y2) / 2) ** 2).argmin(-1, keepdim=True)
    inside = inside.scatter(2, far, True) & real[..., None]
    over = _overlaps(true[:, :, None], boxes[:, None]).clamp_min(1e-6)
    of_kind = scores.transpose(1, 2).gather(1, kinds[..., None].expand(-1, -1, scores.shape[1]))
    fit = torch.where(inside, of_kind ** ALIGNED[0] * over ** ALIGNED[1], -1.0)
    best = fit.topk(min(NEAREST, fit.shape[-1]), -1).indices
    chosen = torch.zeros_like(inside).scatter(2, best, True) & inside
    owner = torch.where(chosen, over, -1.0).argmax(1)  # (batch, cells)
    chosen &= torch.arange(chosen.shape[1], device=owner.device)[:, None] == owner[:, None]
    fit = torch.where(chosen, fit, 0.0)
    scale = torch.where(chosen, over, 0.0).amax(-1) / fit.amax(-1).clamp_min(1e-30)
    value = (fit * scale[..., None]).gather(1, owner[:, None])[:, 0]
    kind = kinds.gather(1, owner)
    wanted = torch.zeros_like(scores).scatter(2, kind[..., None], value[..., None])
    return wanted, owner


def _overlaps(first: Tensor, second: Tensor) -> Tensor:
    shared, union, _ = _areas(first, second)
    return shared / union.clamp_min(1e-6)


def _giou(first: Tensor, second: Tensor) -> Tensor:
    shared, union, hull = _areas(first, second)
    return shared / union.clamp_min(1e-6) - (hull - union) / hull.clamp_min(1e-6)


def _areas(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of intersection, union and the smallest box around both; (..., 4) each -> (...)."""
    low, high = (
        torch.maximum(first[..., :2], second[..., :2]),
        torch.minimum(first[..., 2:], second[..., 2:]),
    )
    shared = (high - low).clamp_min(0).prod(-1)
    union = sum(((one[..., 2:] - one[..., :2]).prod(-1) for one in (first, second)), -shared)
    outer = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(
        first[..., :2], second[..., :2]
    )
    return shared, torch.as_tensor(union), outer.prod(-1)


def found(scores: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a picture's grid shows: labels, scores and boxes of at most MOST things, best first.

    scores: (cells, num_classes), before the sigmoid; boxes: (cells, 4)
        -> (n,) int64, (n,) from 0 to 1, (n, 4)
    """
    flat = 1 / (1 + np.exp(-scores.ravel().astype(np.float64)))
    order = np.argsort(-flat, kind="stable")[:CANDIDATES]
    order = order[flat[order] >= FAINTEST]
    cells, labels = np.divmod(order, scores.shape[1])
    stay = suppress(boxes[cells], labels, SAME)[:MOST]
    return labels[stay], flat[order[stay]], boxes[cells[stay]]


def agreement(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Boxes that either of two forms of a model names, and how many of them the other sees too.

    before, after: scores and boxes of the same rows
    It is seen by a box of its label that lies over it by half, with a score not far below SURE.
    """
    same = total = 0
    for row in range(len(before["scores"])):
        sides = [found(one["scores"][row], one["boxes"][row]) for one in (before, after)]
        for own, other in (sides, sides[::-1]):
            kinds, _, where = (value[own[1] >= SURE] for value in own)
            seen, _, there = (value[other[1] >= SURE / 2] for value in other)
            over = (overlaps(where, there) >= 0.5) & (kinds[:, None] == seen)
            same, total = same + int(over.any(1).sum()), total + len(kinds)
    return same, total


PARTS = 3 + len(THRESHOLDS)  # of a found box: class, score, whether VOC, and COCO, call it right


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row what average precision needs: its found boxes, and the true ones by class.

    outputs: scores (rows, cells, num_classes), boxes (rows, cells, 4)
    targets: (rows, places, 5); NO_TARGET at padding -> (rows, MOST * PARTS + num_classes)

    Found boxes are MOST times class, score (0 where there are fewer), right by VOC's rule at 0.5,
    and by COCO's at each of THRESHOLDS.
    """
    classes = outputs["scores"].shape[2]
    table = np.zeros((len(targets), MOST * PARTS + classes))
    for row, (scores, boxes, true) in enumerate(
        zip(outputs["scores"], outputs["boxes"], targets, strict=True)
    ):
        own = true[true[:, 4] != NO_TARGET]
        kinds, sure, where = found(scores, boxes)
        given = where, kinds, own[:, :4], own[:, 4]
        part = np.column_stack([kinds, sure, matched_once(*given), matched(*given).T])
        table[row, : part.size] = part.ravel()
        table[row, MOST * PARTS :] = np.bincount(own[:, 4].astype(np.int64), minlength=classes)
    return table


def values_of_rows(table: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """Average precision, the mean over the classes that come up, as shares.

    ap50: at an overlap of 0.5, the area under the interpolated curve (VOC)
    ap: the mean over overlaps of 0.5 to 0.95, read at 101 recalls (COCO)

    Args:
        weights: (rows,), how often each row counts; once where None.
    """
    weights = np.ones(len(table)) if weights is None else weights
    boxes = table[:, : MOST * PARTS].reshape(-1, PARTS)
    numbers = weights @ table[:, MOST * PARTS :]
    counts = np.repeat(weights, MOST)
    order = np.argsort(-boxes[:, 1], kind="stable")
    order = order[(boxes[order, 1] > 0) & (counts[order] > 0)]
    boxes, counts = boxes[order], counts[order]
    single, several = [], []
    for kind in np.flatnonzero(numbers > 0):
        own = boxes[:, 0] == kind
        recall, precision = curve(boxes[own, 2:].T, counts[own], numbers[kind])
        single.append(float(area(recall[0], precision[0])))
        several.append(float(at_recalls(recall[1:], precision[1:]).mean()))
    return {"ap50": float(np.mean(single or [0.0])), "ap": float(np.mean(several or [0.0]))}


def answer(
    outputs: Mapping[str, np.ndarray], labels: Sequence[str], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """What a person reads: how many of what, and each one's label, score and box.

    outputs: of one row, without the batch: scores and boxes
    tokens: pixels of the picture asked about for each one of the input, across and down; boxes
        are in the picture's pixels

    >>> outputs = {"scores": np.array([[0.0]]), "boxes": np.array([[1.0, 2.0, 3.0, 4.0]])}
    >>> answer(outputs, ["cat"])["boxes"]
    [{'label': 'cat', 'score': 0.5, 'box': [1.0, 2.0, 3.0, 4.0]}]
    """
    kinds, sure, where = found(outputs["scores"], outputs["boxes"])
    if tokens:
        where = where * np.array([float(one) for one in tokens] * 2)
    named = [labels[int(kind)] for kind in kinds[sure >= SURE]]
    counts = Counter(named)
    said = ", ".join(f"{counts[label]} {label}" for label in labels if counts[label])
    return {
        "answer": said or "nothing",
        "boxes": [
            {"label": label, "score": float(score), "box": [float(side) for side in box]}
            for label, score, box in zip(named, sure, where, strict=False)
        ],
    }


def truth(targets: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """What is there, as an answer's boxes are told; targets: of one row, (places, 5)."""
    return [
        {"label": labels[int(kind)], "box": [float(side) for side in box]}
        for *box, kind in targets[targets[:, 4] != NO_TARGET]
    ]


def curves(table: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class that comes up: recall and precision at an overlap of 0.5, box after box.

    table: (rows, k), of `statistics`; at most CORNERS points of each curve are told
    """
    boxes = table[:, : MOST * PARTS].reshape(-1, PARTS)
    boxes = boxes[np.argsort(-boxes[:, 1], kind="stable")]
    told = []
    for kind, number in enumerate(table[:, MOST * PARTS :].sum(0)):
        own = boxes[(boxes[:, 0] == kind) & (boxes[:, 1] > 0)]
        if number and len(own):
            recall, precision = curve(own[:, 2] > 0, np.ones(len(own)), float(number))
            few = np.unique(np.linspace(0, len(own) - 1, CORNERS).astype(np.int64))
            points = [[float(recall[one]), float(precision[one])] for one in few]
            told.append({"label": labels[kind], "boxes": int(number), "points": points})
    return told

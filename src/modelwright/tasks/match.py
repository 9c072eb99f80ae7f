"""Which text belongs to which picture: contrastive loss, recall of rankings both ways, answer.

A row is a picture with one of its texts; rows with the same target show the same picture. A part is
judged as a whole: every picture ranks all texts, every text ranks all pictures.
Source: Radford et al. 2021, arXiv:2103.00020 (loss); Faghri et al. 2017, arXiv:1707.05612 and
Hodosh et al. 2013, JAIR 47 (recall among the first k).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

METRIC = "recall_at_10"
LABEL_SMOOTHING = None  # there are no labels
DEPTHS = (1, 5, 10)
SHOWN = 3  # texts beside a picture
MOST_SCORES = 2**23  # of texts with pictures, made at once


def loss(pairs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of finding a picture's texts and a text's picture in the batch, in nats.

    pairs: (batch, 2, dim), vectors of pictures and of texts; targets: (batch,)

    Rows of one picture are all right, in equal shares.
    """
    scores = pairs[:, 0].float() @ pairs[:, 1].float().T
    same = (targets[:, None] == targets).float()
    wanted = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)) / 2


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row: the number of its picture, the picture's vector, the text's.

    outputs: image_vector and text_vector (rows, dim); targets: (rows,) -> (rows, 1 + 2 dim)
    """
    return np.column_stack([targets, outputs["image_vector"], outputs["text_vector"]])


def whole(table: np.ndarray) -> np.ndarray:
    """Of each row, once all are there: hits of its text, and its share in those of its picture.

    table: (rows, 1 + 2 dim), as `statistics` gives -> (rows, 8): one, hits of the text's picture
        among the first 1, 5 and 10 pictures; the row's share in its picture, hits of any of the
        picture's texts among the first 1, 5 and 10 texts, times that share

    Equal scores count as half before. What is ranked stays the whole part, whichever rows are
    summed. Scores are made block by block of texts, twice: they are too many to be kept.
    """
    pictures, first, picture = np.unique(table[:, 0], return_index=True, return_inverse=True)
    images, texts = np.split(table[:, 1:], 2, axis=1)
    size = max(1, MOST_SCORES // len(pictures))
    blocks = [np.arange(len(table))[start : start + size] for start in range(0, len(table), size)]
    rank, found = np.empty(len(table)), np.ones(len(pictures))
    best = np.full(len(pictures), -np.inf)
    for rows in blocks:
        scores = texts[rows] @ images[first].T  # (texts, pictures)
        own = np.take_along_axis(scores, picture[rows, None], 1)
        rank[rows] = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
        np.maximum.at(best, picture[rows], own[:, 0])
    for rows in blocks:
        scores = texts[rows] @ images[first].T
        np.put_along_axis(scores, picture[rows, None], -np.inf, 1)  # others stand before the best
        found += (scores > best).sum(0) + (scores == best).sum(0) / 2
    share = 1 / np.bincount(picture)[picture]
    return np.column_stack(
        [
            np.ones(len(table)), *(rank <= depth for depth in DEPTHS),
            share, *(share * (found <= depth)[picture] for depth in DEPTHS),
        ]
    )  # fmt: skip


def units(table: np.ndarray) -> np.ndarray:
    """Which rows are drawn together for an interval: those of one picture.

    Texts of one picture are no independent rows: by rows, the interval would be too narrow.
    """
    return np.unique(table[:, 0], return_inverse=True)[1]


def values(sums: np.ndarray) -> dict[str, float]:
    """Recall among the first ten, the mean of both ways, and among the first 1, 5, 10 each way.

    >>> values(np.array([10.0, 1, 3, 5, 2, 0, 1, 1]))["recall_at_10"]
    0.5
    """
    text = {f"text_to_image_recall_at_{k}": sums[1 + i] / sums[0] for i, k in enumerate(DEPTHS)}
    image = {f"image_to_text_recall_at_{k}": sums[5 + i] / sums[4] for i, k in enumerate(DEPTHS)}
    mean = (text["text_to_image_recall_at_10"] + image["image_to_text_recall_at_10"]) / 2
    return {name: float(one) for name, one in ({METRIC: mean} | image | text).items()}


def ranked(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, number: int
) -> list[dict[str, Any]]:
    """Some pictures, evenly from all, with the texts nearest to each, for people to look at.

    outputs: image_vector and text_vector (rows, dim); targets: (rows,)
    Of each: row, place of its first right text, and best, the first SHOWN texts by their rows,
    each with its cosine and whether it is right.
    """
    first = np.unique(targets, return_index=True)[1]
    chosen = first[np.linspace(0, len(first) - 1, min(number, len(first))).astype(np.int64)]
    found = []
    for row in chosen:
        scores = outputs["text_vector"] @ outputs["image_vector"][row]
        order = np.argsort(-scores, kind="stable")
        right = targets[order] == targets[row]
        best = [
            {"row": int(one), "score": float(scores[one]), "right": bool(right[place])}
            for place, one in enumerate(order[:SHOWN])
        ]
        found.append({"row": int(row), "place": int(right.argmax()) + 1, "best": best})
    return found


def answer(
    outputs: Mapping[str, np.ndarray], labels: Sequence[str], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """What a person reads: the texts, nearest to the picture first, each with its cosine.

    outputs: of a picture with each text; tokens: the texts

    >>> pair = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> answer({"image_vector": pair[:1], "text_vector": pair}, [], ["a dog", "a cat"])["answer"]
    'a dog'
    """
    scores = (outputs["image_vector"] * outputs["text_vector"]).sum(-1)
    order = np.argsort(-scores, kind="stable")
    return {
        "answer": tokens[int(order[0])],
        "ranking": [{"label": tokens[int(one)], "score": float(scores[one])} for one in order],
    }

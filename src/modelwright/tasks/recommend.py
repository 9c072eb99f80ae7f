"""What a user takes next, by what the user took so far: loss, rank among all items, answer.

Every item that the user has not used is ranked: on a sample of them, worse models can look better.
Source: Krichene, Rendle 2020, KDD, "On Sampled Metrics for Item Recommendation".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.core.signature import NO_TARGET
from modelwright.tasks.losses import cross_entropy, places

METRIC = "ndcg_at_10"
LABEL_SMOOTHING = 0.0
# over all items, not sampled ones: Klenitskiy, Vasilev 2023, arXiv:2309.07602
loss, weight = cross_entropy, places
TOP = 10


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row: rows, discounted gain and hit among the first ten, reciprocal rank.

    outputs: scores (rows, items); targets: (rows, time), the item to find behind those that were
        used, which are no candidates; NO_TARGET behind it -> (rows, 4)

    The rank is one more than the candidates with a larger score and half of those with the same.
    Source: Järvelin, Kekäläinen 2002, ACM TOIS 20(4) (discounted gain; with one item to find, the
    ideal one is 1).
    """
    scores = outputs["scores"]
    rows = np.arange(len(targets))
    real = targets != NO_TARGET
    wanted = targets[rows, targets.shape[1] - 1 - real[:, ::-1].argmax(1)]
    candidates = np.ones(scores.shape, np.bool_)
    row, place = np.nonzero(real)
    candidates[row, targets[row, place]] = False
    own = scores[rows, wanted][:, None]
    larger = ((scores > own) & candidates).sum(1)
    ties = ((scores == own) & candidates).sum(1)
    rank = 1 + larger + ties / 2
    hit = rank <= TOP
    return np.stack([np.ones(len(rank)), hit / np.log2(rank + 1), hit, 1 / rank], axis=1)


def values(sums: np.ndarray) -> dict[str, float]:
    """Means over rows: discounted gain and hits among the first ten, reciprocal rank.

    >>> values(np.array([4.0, 2.0, 3.0, 1.0]))
    {'ndcg_at_10': 0.5, 'hr_at_10': 0.75, 'mrr': 0.25}
    """
    rows, gain, hits, reciprocal = sums.tolist()
    return {"ndcg_at_10": gain / rows, "hr_at_10": hits / rows, "mrr": reciprocal / rows}


def answer(
    outputs: Mapping[str, np.ndarray], labels: Sequence[str], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """What a person reads: the ten best of the items that are not in the history.

    outputs: of one row, without the batch; tokens: the labels of the history
    Each has its score, and its probability among the items that are not in the history.

    >>> answer({"scores": np.array([2.0, 1.0, 0.0])}, ["a", "b", "c"], ["a"])["answer"]
    'b'
    """
    used = set(tokens)
    left = np.array([place for place, label in enumerate(labels) if label not in used], np.int64)
    scores = outputs["scores"][left].astype(np.float64)
    weights = np.exp(scores - scores.max(initial=-np.inf))
    order = np.argsort(-scores, kind="stable")[:TOP]
    best = [
        {
            "label": labels[int(left[index])],
            "score": float(scores[index]),
            "probability": float(weights[index] / weights.sum()),
        }
        for index in order
    ]
    return {"answer": best[0]["label"] if best else "", "probabilities": best}

"""Which action to take, by what is seen: loss, what episodes add up to, answer.

How experience is made and when it is learned from is train/dqn.py's and train/ppo.py's business.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

METRIC = "mean_return"
LABEL_SMOOTHING = None  # there are no labels


def loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Huber loss between the score of the action taken and what it should have been, by mean.

    scores: (batch, actions); targets: (batch, 2) float32: the action's number, its score

    Source: Mnih et al. 2015, Nature 518, "Human-level control", methods (errors clipped).
    """
    taken = scores.float().gather(1, targets[:, :1].long())[:, 0]
    return F.smooth_l1_loss(taken, targets[:, 1])


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each episode: one, its return and its steps.

    outputs: return, length, (episodes,) each, as runtime/act.py gives them -> (episodes, 3)
    """
    return np.stack([np.ones(len(targets)), outputs["return"], outputs["length"]], axis=1)


def values(sums: np.ndarray) -> dict[str, float]:
    """Means over episodes: the sum of all rewards, undiscounted, and the steps.

    >>> values(np.array([4.0, -360.0, 364.0]))
    {'mean_return': -90.0, 'mean_length': 91.0}
    """
    return {"mean_return": float(sums[1] / sums[0]), "mean_length": float(sums[2] / sums[0])}


def answer(
    outputs: Mapping[str, np.ndarray], labels: Sequence[str], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """What a person reads: the action to take, and what each is worth, best first.

    outputs: of one row, without the batch: values (actions,)

    >>> answer({"values": np.array([8.0, 9.5])}, ["left", "right"])["answer"]
    'right'
    """
    order = np.argsort(-outputs["values"], kind="stable")
    return {
        "answer": labels[int(order[0])],
        "values": [
            {"label": labels[int(place)], "value": float(outputs["values"][place])}
            for place in order
        ],
    }

"""What comes next in a text: loss, likelihood by character, byte and token, answer."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.core.decode import READ
from modelwright.core.signature import NO_TARGET
from modelwright.tasks.losses import cross_entropy, places

METRIC = "nats_per_char"
LABEL_SMOOTHING = 0.0  # likelihood is what is judged, and smoothing costs it
loss, weight = cross_entropy, places
OPTIONS = READ["on"]  # what predict takes
LIKELIEST = 10  # next tokens that an answer lists
UNKNOWN = 1  # the id of every character that train's tokens lack
CHARACTERS = 0x110000 - 0x800  # that Unicode has room for; surrogates are none


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row: characters, bytes and tokens to predict, and their surprise in nats.

    outputs: logits (rows, time, num_classes); targets: (rows, time) -> (rows, 4)

    Who predicts that a character is unknown has not said which: all that no token stands for are
    as likely, and each counts as one byte, the fewest that it can have.

    Args:
        labels: the text of each token; without them each counts as one character and one byte.
    """
    logits = outputs["logits"]
    real = targets != NO_TARGET
    wanted = np.where(real, targets, 0)
    highest = logits.max(-1, keepdims=True)
    total = np.exp(logits - highest).sum(-1, dtype=np.float64)
    own = np.take_along_axis(logits - highest, wanted[..., None], -1)[..., 0]
    surprise = np.log(total) - own
    sizes = np.ones((logits.shape[-1], 2))
    if len(labels):
        sizes = _sizes(tuple(labels))
        surprise[wanted == UNKNOWN] += math.log(CHARACTERS - len(labels) + 2)  # padding, unknown
    counts = np.where(real[..., None], sizes[wanted], 0).sum(1)
    return np.column_stack([counts, real.sum(1), np.where(real, surprise, 0).sum(1)])


@functools.lru_cache(maxsize=4)
def _sizes(labels: tuple[str, ...]) -> np.ndarray:
    """(labels, 2): characters and bytes of each; a character counts where its first byte stands."""
    spelled = [label.encode("utf-8", "surrogateescape") for label in labels]
    spelled[UNKNOWN] = b"?"
    return np.array([(sum(b >> 6 != 2 for b in one), len(one)) for one in spelled], np.float64)


def values(sums: np.ndarray) -> dict[str, float]:
    """Negative log-likelihood: nats a character, bits a byte, nats a token.

    >>> values(np.array([10.0, 20.0, 5.0, 20 * math.log(2)]))["bits_per_byte"]
    1.0
    """
    chars, size, tokens, nats = (float(one) for one in sums)
    return {
        "nats_per_char": nats / max(chars, 1),
        "bits_per_byte": nats / max(size, 1) / math.log(2),
        "nats_per_token": nats / max(tokens, 1),
    }


def answer(
    outputs: Mapping[str, np.ndarray], labels: Sequence[str], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """What a person reads: the likeliest tokens behind the text, likeliest first.

    outputs: of one row, without the batch: probabilities (time, num_classes)

    >>> answer({"probabilities": np.array([[0, 0, 0.25, 0.75]])}, ["", "?", "a", "b"])["answer"]
    'b'
    """
    probabilities = outputs["probabilities"][-1]
    order = np.argsort(-probabilities, kind="stable")[:LIKELIEST]
    likeliest = [
        {"label": _shown(labels[int(one)]), "probability": float(probabilities[one])}
        for one in order
    ]
    return {"answer": likeliest[0]["label"], "probabilities": likeliest}


def _shown(label: str) -> str:
    """A token that is a part of a character has no text of its own."""
    return label.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

"""A label for each word or character: loss, span F1, answer.

Labels follow the IOB2 scheme: B-X begins a span of kind X, I-X continues it, O is outside.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from modelwright.core.signature import NO_TARGET
from modelwright.tasks.losses import cross_entropy, places

METRIC = "f1"
LABEL_SMOOTHING = 0.0  # docs/experiments.md
loss, weight = cross_entropy, places
Span = tuple[int, int, str]


def statistics(
    outputs: Mapping[str, np.ndarray], targets: np.ndarray, labels: Sequence[str] = ()
) -> np.ndarray:
    """Of each row: spans found, spans true, spans found and true, places, places right.

    outputs: logits (rows, time, num_classes); targets: (rows, time) -> (rows, 5)
    """
    answers = outputs["logits"].argmax(-1)
    rows = []
    for own, true in zip(answers, targets, strict=True):
        real = true != NO_TARGET
        found = set(spans([labels[int(tag)] for tag in own[real]]))
        wanted = set(spans([labels[int(tag)] for tag in true[real]]))
        right = int((own[real] == true[real]).sum())
        rows.append((len(found), len(wanted), len(found & wanted), int(real.sum()), right))
    return np.array(rows, np.float64)


def values(sums: np.ndarray) -> dict[str, float]:
    """Span F1, precision and recall over the whole set, and the share of places right.

    Source: Tjong Kim Sang, Buchholz 2000, section 3; the definition of the script conlleval.

    >>> values(np.array([4.0, 5.0, 3.0, 10.0, 9.0]))["f1"]
    0.6666666666666666
    """
    found, wanted, both, places, right = sums.tolist()
    return {
        "f1": 2 * both / max(found + wanted, 1),
        "precision": both / max(found, 1),
        "recall": both / max(wanted, 1),
        "places_right": right / max(places, 1),
    }


def spans(tags: Sequence[str]) -> list[Span]:
    """First place, place after the last, and kind of each span, as conlleval reads them.

    A span begins at B-, and at an I- whose kind differs from the tag before.

    >>> spans(["B-NP", "I-NP", "O", "I-VP", "B-VP"])
    [(0, 2, 'NP'), (3, 4, 'VP'), (4, 5, 'VP')]
    """
    found: list[Span] = []
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, own = tag.partition("-")
        if kind and (prefix != "I" or own != kind):
            found.append((start, place, kind))
            kind = ""
        if prefix in ("B", "I") and not kind:
            start, kind = place, own
    return found


def answer(
    outputs: Mapping[str, np.ndarray], labels: Sequence[str], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """What a person reads: the text as it came, the spans in it, each word or character with its
    label, and the kinds of spans that there can be.

    outputs: of one row, without the batch
    tokens: the row's words or characters; places in a text that they have are kept

    A span's start and end count tokens, its start_char and end_char characters of the text.
    """
    tags = [labels[int(tag)] for tag in outputs["logits"].argmax(-1)][: len(tokens)]
    text, places = _placed(tokens)
    found = []
    for start, end, kind in spans(tags):
        first, last = places[start][0], places[end - 1][1]
        own = {"text": text[first:last], "kind": kind, "start": start, "end": end}
        found.append({**own, "start_char": first, "end_char": last})
    return {
        "text": text,
        "answer": found,
        "tags": [{"text": word, "tag": tag} for word, tag in zip(tokens, tags, strict=False)],
        "kinds": sorted({kind for label in labels if (kind := label.partition("-")[2])}),
    }


def _placed(tokens: Sequence[str]) -> tuple[str, Sequence[tuple[int, int]]]:
    """The text that tokens were cut from, and where each stands in it; of those that came divided
    one is made."""
    if hasattr(tokens, "places"):
        return tokens.text, tokens.places  # type: ignore[attr-defined]
    # of characters; what stands for several of them, as "..." does for one, is no word
    single = all(len(token) == 1 for token in tokens if token[:1].isalnum())
    joint = "" if single else " "
    ends = [*accumulate(len(token) + len(joint) for token in tokens)]
    return joint.join(tokens), [
        (end - len(joint) - len(token), end - len(joint))
        for token, end in zip(tokens, ends, strict=True)
    ]

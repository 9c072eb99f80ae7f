"""Token by token, for many rows at once: a model's state between calls, and beam search.

Reads a session of any runtime; gives ids. What was seen is never looked at again: the memory of the
source is made once, and each call hands its state to the next (`Signature.memory`, `.state`).
Source: Sutskever et al. 2014, arXiv:1409.3215, section 3.2 (beam search); Wu et al. 2016,
arXiv:1609.08144, section 7 (length penalty).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from modelwright.core.errors import ConfigError
from modelwright.core.signature import Signature
from modelwright.data.text import UNKNOWN
from modelwright.models.carried import fresh

Arrays = Mapping[str, np.ndarray]
Ids = np.ndarray
MOST_TIMES, MOST_MORE = 2, 10  # tokens of a text that is written, from those of its source


class Steps(Protocol):
    """A session of a model that writes."""

    signature: Signature

    def encode(self, batch: Arrays) -> dict[str, np.ndarray]:
        """The memory of all inputs but the last."""
        ...

    def step(self, ids: Ids, carried: Arrays) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits of each place of the last input, and the new past, from memory and past."""
        ...


class Reading:
    """Rows that a model has read up to some token, and what it keeps of each.

    Args:
        batch: the inputs; the last one is read by calls.
    """

    def __init__(self, session: Steps, batch: Arrays, rows: int) -> None:
        self._session = session
        self.memory = session.encode(batch) if session.signature.memory else {}
        self.past = fresh(session.signature.state, rows)

    def __call__(self, ids: Ids) -> np.ndarray:
        """Read on: (rows, places) -> logits behind the last of them, (rows, vocab_size)."""
        wide = ids[..., None] if len(self._session.signature.inputs[-1].shape) == 3 else ids
        logits, self.past = self._session.step(wide, {**self.memory, **self.past})
        return logits[:, -1]

    def pick(self, order: np.ndarray) -> None:
        """Go on with these rows, in that order; a row may come more than once."""
        if not np.array_equal(order, np.arange(len(next(iter(self.past.values()))))):
            self.past = {name: value[order] for name, value in self.past.items()}

    def pick_sources(self, order: np.ndarray) -> None:
        """The same for what is kept of the source."""
        self.memory = {name: value[order] for name, value in self.memory.items()}


def beam_search(
    session: Steps, batch: Arrays, *, beam: int = 5, length_penalty: float = 1.0,
    most: int | None = None,
) -> list[Ids]:  # fmt: skip
    """The text of highest score for each row, (tokens,) without its end.

    A beam of 1 takes the likeliest token each time. Of ties the first id is taken, so the same
    inputs give the same text.

    Args:
        batch: the model's inputs; the last one holds how each row begins in its first place, and
            the last id of the vocabulary, which is that beginning, ends a text.
        length_penalty: alpha; 0 prefers short texts, 1 about the mean of their tokens.
        most: tokens of a text; by the length of its source where None.
    Raises: ConfigError for a beam or a penalty out of range.
    """
    if not 1 <= beam <= MOST_BEAMS:
        raise ConfigError(f"beam is {beam}", expected=f"1 to {MOST_BEAMS}")
    if not 0 <= length_penalty <= 10:
        raise ConfigError(f"length_penalty is {length_penalty}", expected="0 to 10")
    names = [one.name for one in session.signature.inputs]
    begin = np.ascontiguousarray(batch[names[-1]][:, :1])
    limits = _limits(batch[names[0]], most)
    rows = len(begin)
    reading = Reading(session, batch, rows * beam)
    every = np.repeat(np.arange(rows), beam)
    reading.pick_sources(every)
    ids = begin[every]
    end = int(session.signature.outputs[0].shape[-1]) - 1
    scores = np.full((rows, beam), -np.inf)
    scores[:, 0] = 0  # all beams of a row are alike at first
    texts = np.zeros((rows, beam, 0), np.int64)
    here = np.arange(rows)  # rows that are still written
    done: list[list[tuple[float, int, Ids]]] = [[] for _ in range(rows)]  # score, minus length
    while True:
        found = _log_softmax(reading(ids)).reshape(len(here), beam, -1) + scores[..., None]
        flat, size = found.reshape(len(here), -1), found.shape[-1]
        best = _best(flat, 2 * beam)
        values = np.take_along_axis(flat, best, 1)
        source, token = best // size, best % size
        length = texts.shape[2] + 1
        penalty = ((5 + length) / 6) ** length_penalty
        ended = (token == end) & np.isfinite(values)
        for row, rank in zip(*np.nonzero(ended[:, :beam]), strict=True):
            text = texts[row, source[row, rank]]
            done[here[row]].append((float(values[row, rank] / penalty), -length, text))
        # those that go on: the best that do not end
        order = np.argsort(ended, axis=1, kind="stable")[:, :beam]
        scores, source, token = (
            np.take_along_axis(one, order, 1) for one in (values, source, token)
        )
        texts = np.take_along_axis(texts, source[..., None], 1)
        texts = np.concatenate([texts, token[..., None]], 2)
        # enough have ended, and what goes on is no better: poor texts end early and fill no place
        full = np.array([
            len(done[row]) >= beam and scores[place, 0] / penalty <= max(done[row], key=_rank)[0]
            for place, row in enumerate(here)
        ])  # fmt: skip
        long = length >= limits[here]
        for row in np.flatnonzero(long):
            if not done[here[row]]:  # nothing has ended: the best so far, without an end
                done[here[row]].append((float(scores[row, 0] / penalty), -length, texts[row, 0]))
        stay = np.flatnonzero(~(full | long))
        if not len(stay):
            break
        kept = (stay[:, None] * beam + source[stay]).ravel()
        reading.pick(kept)
        if len(stay) < len(here):
            reading.pick_sources((stay[:, None] * beam + np.arange(beam)).ravel())
        scores, texts, here = scores[stay], texts[stay], here[stay]
        ids = token[stay].reshape(-1, 1)
    return [max(own, key=_rank)[2] for own in done]


MOST_BEAMS = 64


def _rank(text: tuple[float, int, Ids]) -> tuple[float, int]:
    return text[:2]


def _limits(source: np.ndarray, most: int | None) -> np.ndarray:
    real = (source != 0).sum(1)
    return MOST_TIMES * real + MOST_MORE if most is None else np.full(len(source), most)


def _best(scores: np.ndarray, number: int) -> np.ndarray:
    """Places of the largest of each row, largest first, of equals the first."""
    some = np.sort(np.argpartition(-scores, number - 1, axis=1)[:, :number], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """(rows, vocab_size) float32; what stands for nothing never comes up."""
    shifted = logits - logits.max(-1, keepdims=True)
    found = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    found[:, : UNKNOWN + 1] = -np.inf
    return np.asarray(found)


class Writes:
    """What sessions of every runtime offer for models that write."""

    def write(self: Any, batch: Arrays, **how: Any) -> list[Ids]:
        """The ids of each row's text; `how` as in `beam_search`."""
        return beam_search(self, batch, **how)

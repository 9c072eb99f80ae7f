"""Token by token, for many rows at once: a model's state between calls, beam search, draws.

Reads a session of any runtime; gives ids. What was seen is never looked at again: the memory of the
source is made once, and each call hands its state to the next (`Signature.memory`, `.state`).
Source: Sutskever et al. 2014, arXiv:1409.3215, section 3.2 (beam search); Wu et al. 2016,
arXiv:1609.08144, section 7 (length penalty); Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et
al. 2019, arXiv:1904.09751 (top-p).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from modelwright.core.decode import (
    BEAM,
    LENGTH_PENALTY,
    MOST_MORE,
    MOST_TIMES,
    checked,
    settle,
)
from modelwright.core.signature import Signature
from modelwright.data.text import UNKNOWN
from modelwright.models.carried import fresh

Arrays = Mapping[str, np.ndarray]
Ids = np.ndarray
Told = Callable[[Sequence[int] | Ids], None]


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
    session: Steps, batch: Arrays, *, beam: int = BEAM, length_penalty: float = LENGTH_PENALTY,
    max_new: int | None = None,
) -> list[Ids]:  # fmt: skip
    """The text of highest score for each row, (tokens,) without its end.

    A beam of 1 takes the likeliest token each time. Where the limit cuts a text off, it is held
    against those that have ended by the same score. Of ties the first id is taken, so the same
    inputs give the same text.

    Args:
        batch: the model's inputs; the last one holds how each row begins in its first place, and
            the last id of the vocabulary, which is that beginning, ends a text.
        length_penalty: alpha; 0 prefers short texts, 1 about the mean of their tokens.
        max_new: tokens of a text; by the length of its source where None.
    Raises: ConfigError for a beam or a penalty out of range.
    """
    checked({"beam": beam, "length_penalty": length_penalty, "max_new": max_new})
    begin, limits, end = _asked(session, batch, max_new)
    rows = len(begin)
    reading = Reading(session, batch, rows * beam)
    every = np.repeat(np.arange(rows), beam)
    reading.pick_sources(every)
    ids = begin[every]
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
        for row in np.flatnonzero(long):  # the best that would go on, beside those that have ended
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


def _rank(text: tuple[float, int, Ids]) -> tuple[float, int]:
    return text[:2]


def _asked(session: Steps, batch: Arrays, max_new: int | None) -> tuple[Ids, np.ndarray, int]:
    """How each row begins, how long it may become, and the id that ends a text."""
    names = [one.name for one in session.signature.inputs]
    begin = np.ascontiguousarray(batch[names[-1]][:, :1])
    real = (batch[names[0]] != 0).sum(1)
    limits = MOST_TIMES * real + MOST_MORE if max_new is None else np.full(len(begin), max_new)
    return begin, limits, int(session.signature.outputs[0].shape[-1]) - 1


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


@dataclass(frozen=True)
class Writing:
    """How text is written on.

    max_new: tokens at most.
    temperature: below 1 keeps to what is likely, above 1 strays; 0 always takes the likeliest.
    top_k: draw from that many of the likeliest; None from all.
    top_p: draw from the fewest of the likeliest that hold this share of all probability.
    stop: a text at which to end; it is not given.

    Raises: ConfigError for a value out of its range.
    """

    max_new: int = 200
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    stop: str = ""

    def __post_init__(self) -> None:
        checked(asdict(self))


def choose(scores: np.ndarray, how: Writing, draw: np.random.Generator) -> int:
    """The next id: the likeliest, the first of them in a tie, or one drawn."""
    if how.temperature == 0:
        return int(UNKNOWN + 1 + scores[UNKNOWN + 1 :].argmax())
    return int(draw.choice(len(scores), p=distribution(scores, how)))


def distribution(scores: np.ndarray, how: Writing) -> np.ndarray:
    """What is drawn from, (vocab_size,); padding and the unknown token never come up.

    >>> distribution(np.log([1, 1, 1, 2, 5]), Writing(top_k=2)).round(3).tolist()
    [0.0, 0.0, 0.0, 0.286, 0.714]
    """
    scaled = scores.astype(np.float64)
    scaled[: UNKNOWN + 1] = -np.inf
    with np.errstate(over="ignore"):  # what is far behind is infinitely far behind
        found = np.exp((scaled - scaled.max()) / how.temperature)
    order = np.argsort(-found, kind="stable")
    found[order[how.top_k :] if how.top_k is not None else order[:0]] = 0
    found /= found.sum()
    before = np.cumsum(found[order]) - found[order]  # probability of all that are likelier
    late = before >= how.top_p - 1e-12
    late[0] = False  # however small the share
    found[order[late]] = 0
    return np.asarray(found / found.sum())


def sample(
    session: Steps, batch: Arrays, *, temperature: float, top_k: int | None = None,
    top_p: float = 1.0, seed: int = 0, max_new: int | None = None, told: Told | None = None,
) -> list[Ids]:  # fmt: skip
    """A drawn text for each row, (tokens,) without its end; `batch` and `max_new` as in
    `beam_search`, the others as in `Writing`.

    Every row has draws of its own from the same seed, so that its text hangs on its source alone,
    not on what is written beside it.

    Args:
        told: called with the first row's ids so far, each time that one is drawn.
    Raises: ConfigError for a value out of its range.
    """
    how = Writing(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    ids, limits, end = _asked(session, batch, max_new)
    reading = Reading(session, batch, len(ids))
    draws = [np.random.default_rng(seed) for _ in ids]
    texts: list[list[int]] = [[] for _ in ids]
    here = np.arange(len(ids))  # rows that are still written
    while len(here):
        scores = reading(ids)
        drawn = np.array(
            [choose(own, how, draws[row]) for own, row in zip(scores, here, strict=True)]
        )
        for row, token in zip(here, drawn, strict=True):
            if token != end:
                texts[row].append(int(token))
        if told is not None and here[0] == 0:
            told(texts[0])
        long = np.array([len(texts[row]) >= limits[row] for row in here])
        stay = np.flatnonzero((drawn != end) & ~long)
        reading.pick(stay)
        if len(stay) < len(here):
            reading.pick_sources(stay)
        here, ids = here[stay], drawn[stay].reshape(-1, 1)
    return [np.array(text, np.int64) for text in texts]


class Writes:
    """What sessions of every runtime offer for models that write.

    decode: how the artifact is to write, where that is not the default.
    """

    decode: Mapping[str, Any] = {}

    def prepare(self) -> None:
        """Read now what a first text would read: a server's folder may change under it."""

    def write(self: Any, batch: Arrays, *, told: Told | None = None, **how: Any) -> list[Ids]:
        """The ids of each row's text; `how`, over `decode`, as in `beam_search` and `sample`.

        told: as in `sample`; a search tells nothing before its end.
        """
        how = settle("anew", how, self.decode)
        if temperature := how.pop("temperature", 0.0):
            return sample(self, batch, temperature=temperature, told=told, **how)
        return beam_search(self, batch, **how)

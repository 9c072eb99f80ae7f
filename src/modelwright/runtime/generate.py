"""Text from a language model, token by token, whatever runtime it is open in.

Reads a Session and the model's tokens; gives pieces of text as they come. `written` does not know
how scores are found: `Cached` reads each token once, `Recomputed` all of them again for each new
one; both give the same.
Source: Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2019, arXiv:1904.09751 (top-p).
"""

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modelwright.core.errors import ConfigError
from modelwright.data.language import Tokens, label_bytes
from modelwright.data.text import UNKNOWN
from modelwright.runtime.catalog import Session, WritingSession
from modelwright.runtime.decode import Reading, Steps

# every id so far -> the score of each id as the next one, (vocab_size,)
Scores = Callable[[Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class Writing:
    """How text is written on.

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
        for name, right, expected in (
            ("max_new", self.max_new >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < np.inf, "0 or more"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not right:
                raise ConfigError(f"{name} is {getattr(self, name)}", expected=expected)


def first_seen(number: int, window: int) -> int:
    """Where the model begins to read a text of that many tokens.

    A window that is full lets go of its older half: reading on costs one token, beginning anew the
    half that is left.

    >>> [first_seen(number, 8) for number in (1, 8, 9, 12, 13)]
    [0, 0, 4, 4, 8]
    """
    half = max(1, window // 2)
    return max(0, -(-(number - window) // half)) * half


@dataclass(frozen=True)
class Recomputed:
    """Scores from a session that looks at all ids in the window anew each time."""

    session: Session
    window: int

    def __call__(self, ids: Sequence[int]) -> np.ndarray:
        seen = np.array(ids[first_seen(len(ids), self.window) :], np.int64)
        return np.asarray(self.session({"ids": seen[None, :, None]})["logits"][0, -1])


class Cached:
    """Scores from a session that reads on from where the last call ended, if it can."""

    def __init__(self, session: Steps, window: int) -> None:
        self._session, self._window = session, window
        self._read: list[int] = []
        self._reading: Reading | None = None

    def __call__(self, ids: Sequence[int]) -> np.ndarray:
        seen = list(ids[first_seen(len(ids), self._window) :])
        known = len(self._read)
        if self._reading is None or known >= len(seen) or seen[:known] != self._read:
            self._reading, known = Reading(self._session, {}, 1), 0
        self._read = seen
        return np.asarray(self._reading(np.array([seen[known:]], np.int64))[0])


def scores_of(session: WritingSession, window: int) -> Scores:
    """The quickest way to a session's scores; models of older folders carry no state."""
    return Cached(session, window) if session.signature.state else Recomputed(session, window)


def written(scores: Scores, tokens: Tokens, prompt: str, how: Writing) -> Iterator[str]:
    """The text that follows a prompt, in pieces; joined they are all of it.

    The same prompt, model and `how` give the same text.

    Raises: ConfigError for an empty prompt.
    """
    ids = [int(one) for one in tokens.encode(prompt)]
    if not ids:
        raise ConfigError("the prompt is empty", expected="something to be continued")
    draw = np.random.default_rng(how.seed)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    held = ""  # could be the beginning of `stop`
    for _ in range(how.max_new):
        ids.append(choose(scores(ids), how, draw))
        held += decoder.decode(label_bytes(tokens.labels[ids[-1]]))
        if how.stop and how.stop in held:
            yield held[: held.index(how.stop)]
            return
        free = len(held) - _overlap(held, how.stop)
        if free:
            yield held[:free]
        held = held[free:]
    yield held + decoder.decode(b"", final=True)


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
    scaled = scores.astype(np.float64) / how.temperature
    scaled[: UNKNOWN + 1] = -np.inf
    found = np.exp(scaled - scaled.max())
    order = np.argsort(-found, kind="stable")
    found[order[how.top_k :] if how.top_k is not None else order[:0]] = 0
    found /= found.sum()
    before = np.cumsum(found[order]) - found[order]  # probability of all that are likelier
    found[order[before >= how.top_p - 1e-12]] = 0
    return np.asarray(found / found.sum())


def _overlap(text: str, stop: str) -> int:
    """Characters at the text's end that `stop` begins with."""
    for number in range(min(len(text), len(stop)), 0, -1):
        if text.endswith(stop[:number]):
            return number
    return 0

"""Text from a language model, token by token, whatever runtime it is open in.

Reads a Session and the model's tokens; gives pieces of text as they come. `written` does not know
how scores are found: `Cached` reads each token once, `Recomputed` all of them again for each new
one; both give the same.
"""

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modelwright.core.errors import ConfigError
from modelwright.data.language import Tokens, label_bytes
from modelwright.runtime.catalog import Session, WritingSession
from modelwright.runtime.decode import Reading, Steps, Writing, choose

# every id so far -> the score of each id as the next one, (vocab_size,)
Scores = Callable[[Sequence[int]], np.ndarray]


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


def _overlap(text: str, stop: str) -> int:
    """Characters at the text's end that `stop` begins with."""
    for number in range(min(len(text), len(stop)), 0, -1):
        if text.endswith(stop[:number]):
            return number
    return 0

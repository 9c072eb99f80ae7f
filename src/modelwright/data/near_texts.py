"""Texts that are nearly equal, found among any number of them in bounded memory.

A text is the set of its runs of letters; two texts are near where these sets share much. The
share is estimated from 128 numbers a text (MinHash), and only texts that agree in one of several
bands of these numbers are compared.
Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", section 3.4 (bands).
"""

from collections.abc import Iterable
from typing import Any

from modelwright.core.errors import MissingExtra

MOST_LETTERS = 4000  # of a text that are looked at
SIMILARITY = 0.8  # share of the runs in both texts of those in either one
RUN = 5  # letters
NUMBERS, BANDS = 128, 32  # texts with a share of 0.8 meet all but certainly


class NearTexts:
    """The texts so far, and which of them a new one is near to.

    Memory: 3 to 4 kB for each text (measured; its numbers are 512 bytes, most of the rest are the
    tables of the bands).

    Raises: MissingExtra without the library that does the hashing.
    """

    def __init__(self, similarity: float = SIMILARITY) -> None:
        try:
            import rensa
        except ImportError as error:
            raise MissingExtra("rensa", "text", "looking for near-duplicate texts") from error
        self.similarity = similarity
        self._rensa: Any = rensa
        self._index = rensa.RMinHashLSH(threshold=similarity, num_perm=NUMBERS, num_bands=BANDS)
        self._hashes: list[Any] = []

    def add(self, text: str) -> int | None:
        """The number of the nearest earlier text, if one is near; the text is kept as the next.

        >>> seen = NearTexts()
        >>> [seen.add(text) for text in ("a plain little text", "a plain little text.", "else")]
        [None, 0, None]
        """
        own = self._rensa.RMinHash(num_perm=NUMBERS, seed=0)
        own.update(runs(text))
        near = [(own.jaccard(self._hashes[one]), -one) for one in self._index.query(own)]
        self._index.insert(len(self._hashes), own)
        self._hashes.append(own)
        share, number = max(near, default=(0.0, 0))
        return -number if share >= self.similarity else None


def near_pairs(texts: Iterable[str]) -> list[tuple[int, int]]:
    """Numbers of each text that is near to an earlier one, and of that one, earlier ones first.

    Texts that are equal to an earlier one are passed over: they are duplicates.

    Raises: MissingExtra without the library that does the hashing.
    """
    seen, pairs = NearTexts(), []
    places: list[int] = []  # of the texts that were added
    known: set[str] = set()
    for place, text in enumerate(texts):
        if text in known:
            continue
        known.add(text)
        near = seen.add(text)
        places.append(place)
        if near is not None:
            pairs.append((places[near], place))
    return pairs


def runs(text: str) -> list[str]:
    """Every run of RUN letters, without case and repeated blanks; a shorter text is one run."""
    plain = " ".join(text[:MOST_LETTERS].lower().split())
    ends = range(RUN, len(plain) + 1)
    return sorted({plain[end - RUN : end] for end in ends}) or [plain]

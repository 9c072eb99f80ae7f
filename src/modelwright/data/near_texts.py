"""Texts that are nearly equal, found among any number of them in bounded memory.

A text is the set of its runs of letters; two texts are near where these sets share much. The
share is estimated from 128 numbers a text (MinHash), and only texts that agree in one of several
bands of these numbers are compared.
Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", section 3.4 (bands).
"""

from typing import Any

from modelwright.core.errors import MissingExtra

SIMILARITY = 0.8  # share of the runs in both texts of those in either one
RUN = 5  # letters
NUMBERS, BANDS = 128, 32  # texts with a share of 0.8 meet all but certainly


class NearTexts:
    """The texts so far, and which of them a new one is near to.

    Memory: about 1 kB for each text.

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


def runs(text: str) -> list[str]:
    """Every run of RUN letters, without case and repeated blanks; a shorter text is one run."""
    plain = " ".join(text.lower().split())
    ends = range(RUN, len(plain) + 1)
    return sorted({plain[end - RUN : end] for end in ends}) or [plain]

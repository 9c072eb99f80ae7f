"""Texts that are nearly equal, found among any number of them in little memory.

A text is the set of its runs of letters; two texts are near where these sets share much. The
share is estimated from 128 numbers a text (MinHash), and only texts that agree in one of several
bands of these numbers are compared.
Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", section 3.4 (bands).
"""

import math
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core.errors import MissingExtra

MOST_LETTERS = 4000  # of a text that are looked at
SIMILARITY = 0.8  # share of the runs in both texts of those in either one
RUN = 5  # letters
NUMBERS = 128
LEAST = math.ceil(SIMILARITY * NUMBERS)  # numbers that near texts share
# near texts differ in NUMBERS - LEAST numbers at most; of one band more, one is equal for certain
BANDS = NUMBERS - LEAST + 1
BLOCK = 512  # texts that are looked through one by one before their bands are sorted

Numbers = npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint64]
_STARTS = np.arange(BANDS) * NUMBERS // BANDS
# a band's key is a sum of products with odd factors, its upper half: Dietzfelbinger 1996
_FACTORS: Keys = np.random.default_rng(0).integers(2**63, size=NUMBERS, dtype=np.uint64) * 2 + 1
_TEXT = np.uint64(2**32 - 1)  # the half of a key below, where the text's number stands


class NearTexts:
    """The texts so far, and which of them a new one is near to.

    Memory: 724 bytes for each different text, 512 for its numbers and 8 for each band, and a
    quarter of a MB for those that are looked through.

    Raises: MissingExtra without the library that does the hashing.
    """

    def __init__(self) -> None:
        try:
            import rensa
        except ImportError as error:
            raise MissingExtra("rensa", "text", "looking for near-duplicate texts") from error
        self._rensa: Any = rensa
        self._blocks: list[Numbers] = []  # (BLOCK, NUMBERS) each, of the texts that are kept
        self._levels: list[Keys] = []  # sorted keys of full blocks, each level twice the next
        self._places = array("I")  # of each text that is kept, how many were added before it
        self._added = 0

    def add(self, text: str) -> int | None:
        """The number of the nearest earlier text, if one is near; the text is kept as the next.

        >>> seen = NearTexts()
        >>> [seen.add(text) for text in ("a plain little text", "a plain little text.", "else")]
        [None, 0, None]
        """
        sketch = self._rensa.RMinHash(num_perm=NUMBERS, seed=0)
        sketch.update(runs(text))
        own: Numbers = np.array(sketch.digest(), np.uint32)
        shared, kept = self._nearest(own)
        near = self._places[kept] if shared >= LEAST else None
        if shared < NUMBERS:  # another with the same numbers would never be nearer than the first
            self._keep(own)
        self._added += 1
        return near

    def _nearest(self, own: Numbers) -> tuple[int, int]:
        """Of the kept texts the one that shares most numbers, the first of several: how many it
        shares, and which one it is."""
        keys = _keys(own)
        found = []
        for level in self._levels:
            begins = np.searchsorted(level, keys)
            ends = np.searchsorted(level, keys | _TEXT, "right")
            found += [level[begins[band] : ends[band]] for band in np.flatnonzero(begins < ends)]
        sorted_ones = len(self._places) // BLOCK * BLOCK
        unsorted = np.arange(sorted_ones, len(self._places), dtype=np.uint64)
        texts = np.append(np.unique(np.concatenate([unsorted[:0], *found]) & _TEXT), unsorted)
        best = 0, 0
        for block in np.unique(texts // BLOCK).tolist():
            rows = (texts[texts // BLOCK == block] % BLOCK).astype(np.int64)
            shared = np.count_nonzero(self._blocks[block][rows] == own, axis=1)
            most = int(shared.argmax())
            if shared[most] > best[0]:
                best = int(shared[most]), block * BLOCK + int(rows[most])
        return best

    def _keep(self, own: Numbers) -> None:
        row = len(self._places) % BLOCK
        if not row:
            self._blocks.append(np.empty((BLOCK, NUMBERS), np.uint32))
        self._blocks[-1][row] = own
        self._places.append(self._added)
        if row + 1 == BLOCK:
            texts = np.arange(len(self._places) - BLOCK, len(self._places), dtype=np.uint64)
            level = (_keys(self._blocks[-1]) | texts[:, None]).ravel()
            level.sort()
            while self._levels and len(self._levels[-1]) <= len(level):
                level = np.concatenate([self._levels.pop(), level])
                level.sort(kind="stable")  # two sorted runs, so this merges them
            self._levels.append(level)


def _keys(numbers: Numbers) -> Keys:
    """(…, NUMBERS) to (…, BANDS): the hash of each band in the upper half, nothing below."""
    hashes: Keys = np.add.reduceat(numbers * _FACTORS, _STARTS, axis=-1)
    return hashes & ~_TEXT


def near_pairs(texts: Iterable[str]) -> list[tuple[int, int]]:
    """Numbers of each text that is near to an earlier one, and of that one, earlier ones first.

    Texts that are equal to an earlier one are passed over: they are duplicates.

    Raises: MissingExtra without the library that does the hashing.
    """
    seen, pairs = NearTexts(), []
    places = array("I")  # of the texts that were added
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

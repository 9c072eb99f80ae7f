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
from modelwright.core.progress import counted

MOST_LETTERS = 4000  # of a text that are looked at
SIMILARITY = 0.8  # share of the runs in both texts of those in either one
RUN = 5  # letters
NUMBERS = 128
LEAST = math.ceil(SIMILARITY * NUMBERS)  # numbers that near texts share
# near texts differ in NUMBERS - LEAST numbers at most; of one band more, one is equal for certain
BANDS = NUMBERS - LEAST + 1
BLOCK = 512  # texts whose bands are compared one by one before they are sorted
# where very many texts have something in common, such as a footer, comparing each with all of them
# would take days: of a level's texts with the same band these, and of all found these
SAME_BAND, COMPARED = 16, 256

Numbers = npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint64]
_STARTS = np.arange(BANDS) * NUMBERS // BANDS
# a band's key is a sum of products with odd factors, its upper half: Dietzfelbinger 1996
_FACTORS: Keys = np.random.default_rng(0).integers(2**63, size=NUMBERS, dtype=np.uint64) * 2 + 1
_TEXT = np.uint64(2**32 - 1)  # the half of a key below, where the text's number stands


class NearTexts:
    """The texts so far, and which of them a new one is near to.

    Memory: 724 bytes for each different text, 512 for its numbers and 8 for each band, and a
    quarter of a MB for those that are not sorted yet. Time for each: what a text and a few binary
    searches take, however many there are and whatever they have in common. For that only the first
    SAME_BAND with the same band are looked at, of each level, and of them the COMPARED that share
    most bands are compared; where fewer share one, the nearest is exact.

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
        self._recent: Keys = np.empty((BLOCK, BANDS), np.uint64)  # keys of the block that is filled
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
        keys = _keys(own)
        shared, kept = self._nearest(own, keys)
        near = self._places[kept] if shared >= LEAST else None
        if shared < NUMBERS:  # another with the same numbers would never be nearer than the first
            self._keep(own, keys)
        self._added += 1
        return near

    def _nearest(self, own: Numbers, keys: Keys) -> tuple[int, int]:
        """Of the kept texts the one that shares most numbers, the first of several: how many it
        shares, and which one it is."""
        full, rest = divmod(len(self._places), BLOCK)
        alike = np.nonzero(self._recent[:rest] == keys)[0].astype(np.uint64)
        found = [alike + np.uint64(full * BLOCK)]  # each as often as it has a band in common
        for level in self._levels:
            begins = np.searchsorted(level, keys)
            there = level[np.minimum(begins, len(level) - 1)] & ~_TEXT == keys
            ends = np.searchsorted(level, keys[there] | _TEXT, "right")
            for begin, end in zip(begins[there].tolist(), ends.tolist(), strict=True):
                found.append(level[begin : min(end, begin + SAME_BAND)] & _TEXT)
        every = np.concatenate(found)
        if not len(every):
            return 0, 0
        texts, bands = np.unique(every, return_counts=True)
        if len(texts) > COMPARED:
            texts = np.sort(texts[np.argsort(-bands, kind="stable")[:COMPARED]])
        rows = [self._blocks[text // BLOCK][text % BLOCK] for text in texts.tolist()]
        shared = np.count_nonzero(np.stack(rows) == own, axis=1)
        best = int(shared.argmax())
        return int(shared[best]), int(texts[best])

    def _keep(self, own: Numbers, keys: Keys) -> None:
        row = len(self._places) % BLOCK
        if not row:
            self._blocks.append(np.empty((BLOCK, NUMBERS), np.uint32))
        self._blocks[-1][row], self._recent[row] = own, keys
        self._places.append(self._added)
        if row + 1 == BLOCK:
            texts = np.arange(len(self._places) - BLOCK, len(self._places), dtype=np.uint64)
            level = (self._recent | texts[:, None]).ravel()
            level.sort()
            while self._levels and len(self._levels[-1]) <= len(level):
                level = np.concatenate([self._levels.pop(), level])
                level.sort(kind="stable")  # two sorted runs, so this merges them
            self._levels.append(level)


def _keys(numbers: Numbers) -> Keys:
    """(…, NUMBERS) to (…, BANDS): the hash of each band in the upper half, nothing below."""
    hashes: Keys = np.add.reduceat(numbers * _FACTORS, _STARTS, axis=-1)
    return hashes & ~_TEXT


def near_pairs(texts: Iterable[str], of: int | None = None) -> list[tuple[int, int]]:
    """Numbers of each text that is near to an earlier one, and of that one, earlier ones first.

    Texts that are equal to an earlier one are passed over: they are duplicates.

    Args:
        of: how many there are, for whoever waits.
    Raises: MissingExtra without the library that does the hashing.
    """
    seen, pairs = NearTexts(), []
    places = array("I")  # of the texts that were added
    known: set[str] = set()
    for place, text in enumerate(counted(texts, "gate: texts compared with earlier ones", of)):
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

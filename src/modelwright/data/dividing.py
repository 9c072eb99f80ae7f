"""A text that a person wrote, cut into words as those of train were cut.

Words that came with tags were cut by somebody's rules: 1.8 and U.S. are one word, It's and don't
are two, or not. What the rules were, the words of train show. So a text is cut wherever it could
be, and what stands side by side is put together again where train knows the result.
"""

import re
import unicodedata
from collections.abc import Container, Sequence

from modelwright.data.clean import Form, Placed, placed

# vowels and the like that are written on a letter, which \w leaves out
_MARKS = "".join(
    one for one in map(chr, range(0x300, 0xAC00)) if unicodedata.category(one) in ("Mn", "Mc")
)
WORD = rf"\w[\w{_MARKS}]*"
# where a word could be cut; Treebanks cut before the n of n't
_ATOM = re.compile(rf"\w+?(?=n['’]t\b)|n['’]t\b|{WORD}|[^\w\s]")
_LETTERS = re.compile(rf"{WORD}")
_BY_APOSTROPHE = re.compile(rf"{WORD}(?:['’]{WORD})+")
MOST_ATOMS = 12  # of a word
# what a piece costs: known from train; a plain word or sign that is new; several atoms that look
# like a word of train, or that an apostrophe joins: more than two known pieces, less than three
KNOWN, NEW, ALIKE, JOINED = 1.0, 1.5, 2.5, 2.6


def shape(token: str) -> str:
    """Kinds of characters, runs as one: 'Xx' for a name, 'd' for a number."""
    kinds = ("X" if c.isupper() else "x" if c.islower() else "d" if c.isdigit() else c
             for c in token)  # fmt: skip
    return re.sub(r"(.)\1+", r"\1", "".join(kinds))


def divide(text: str, form: Form, known: Container[str]) -> Placed:
    """The words of a text, each with its place in it.

    Args:
        known: features of train's words (data/text.py).

    >>> known = {"token:u.s.", "token:it", "token:'s", "token:.", "shape:d.d"}
    >>> list(divide("It's 1.8, in U.S. firms.", "NFC", known))
    ['It', "'s", '1.8', ',', 'in', 'U.S.', 'firms', '.']
    """
    atoms = placed(text, form, _ATOM)
    tokens: list[str] = []
    places: list[tuple[int, int]] = []
    begin = 0
    for end in range(1, len(atoms) + 1):
        if end < len(atoms) and atoms.places[end][0] == atoms.places[end - 1][1]:
            continue  # nothing stands between
        for first, behind in _cheapest(atoms[begin:end], known):
            tokens.append("".join(atoms[begin + first : begin + behind]))
            places.append((atoms.places[begin + first][0], atoms.places[begin + behind - 1][1]))
        begin = end
    return Placed(text, tokens, places)


def _cheapest(atoms: Sequence[str], known: Container[str]) -> list[tuple[int, int]]:
    """Where each piece of a run of atoms begins and ends; of equals the longest first."""
    best: list[tuple[float, int]] = [(0.0, 0)]  # for each end the cost, and where its piece begins
    for end in range(1, len(atoms) + 1):
        best.append(min(
            (best[first][0] + _cost(atoms[first:end], known), first)
            for first in range(max(0, end - MOST_ATOMS), end)
        ))  # fmt: skip
    pieces: list[tuple[int, int]] = []
    end = len(atoms)
    while end:
        pieces.append((best[end][1], end))
        end = best[end][1]
    return pieces[::-1]


def _cost(piece: Sequence[str], known: Container[str]) -> float:
    token = "".join(piece)
    if f"token:{token.lower()}" in known:
        return KNOWN
    if len(piece) == 1:
        return NEW
    inner = _LETTERS.match(piece[0]) and _LETTERS.match(piece[-1])  # no sentence's full stop
    if inner and f"shape:{shape(token)}" in known:
        return ALIKE
    return JOINED if _BY_APOSTROPHE.fullmatch(token) else float("inf")

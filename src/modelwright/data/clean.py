"""Cleaning steps for rows of text, in the recipe's order; each row passes through once, streamed.

Nothing is dropped silently: what a step changed or left out is counted and becomes a finding.
What a normal form changes of a text that is asked can be found again in it (`placed`).
"""

import functools
import hashlib
import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from modelwright.core.errors import ConfigError, MissingExtra, did_you_mean
from modelwright.core.recipe import Clean
from modelwright.data.near_texts import NearTexts
from modelwright.data.rows import Finding

Record = tuple[str, str, str]  # place, text, label
Step = Callable[[str], str | None]  # a text to what becomes of it; None leaves the row out
Form = Literal["NFC", "NFKC"]
ROWS = ""  # among the counts, which go by the names of steps
_TAG = re.compile(r"<[A-Za-z/!?][^<>]*>")  # elsewhere < is less, or half a heart
_NAMES = {"cjk": ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA")}
_HEADER = re.compile(r"[!-9;-~]+:")  # RFC 5322, section 2.2; who asks may leave them out
_BLANK_LINE = re.compile(r"\r?\n\r?\n")


def cleaned(
    records: Iterator[Record],
    steps: Sequence[Clean],
    counts: dict[str, int],
    keep_blank: bool = False,
) -> Iterator[Record]:
    """The rows after every step; `counts` is added to as they pass, of each step and, as ROWS, of
    the rows that came.

    Args:
        keep_blank: whether texts of blanks alone pass as they are.
    Memory: as of `every_step`.
    """
    step = every_step(steps, counts)
    for where, text, label in records:
        kept = text if keep_blank and not text.strip() else step(text)
        if kept is not None:
            yield where, kept, label


def every_step(steps: Sequence[Clean], counts: dict[str, int]) -> Step:
    """The steps one after the other, as one; `counts` is added to with each text, and whenever one
    of them does something.

    Memory grows only with drop: by about 100 bytes for each different text, or by less than 800
    with near_duplicates.
    """
    chain = [(step.name, STEPS[step.key](step.value)) for step in steps]
    for name in (ROWS, *(name for name, _ in chain)):  # a step that did nothing is told as well
        counts.setdefault(name, 0)

    def step(text: str) -> str | None:
        counts[ROWS] += 1
        for name, one in chain:
            kept = one(text)
            if kept != text:
                counts[name] += 1
            if kept is None:
                return None
            text = kept
        return text

    return step


def cleaned_pairs(
    records: Iterator[Record], steps: Sequence[Clean], counts: dict[str, int]
) -> Iterator[Record]:
    """Rows of place, source and target after every step, taken on both texts.

    A row is left out if one of them is; drop: duplicates looks at both together.

    Raises: ConfigError for a step that takes texts of one language, which no pair is in.
    """
    if any(step.language for step in steps):
        raise ConfigError(
            "data.clean: language keeps texts of one language, and pairs are in two",
            expected="script, where both are written in the same one",
        )
    chain = [(step.name, step.key == "drop", STEPS[step.key](step.value)) for step in steps]
    for name in (ROWS, *(name for name, *_ in chain)):
        counts.setdefault(name, 0)
    for where, source, target in records:
        counts[ROWS] += 1
        left: tuple[str | None, str | None] = source, target
        for name, together, step in chain:
            before = left
            if together:
                left = before if step("\0".join(map(str, before))) is not None else (None, None)
            else:
                left = step(str(before[0])), step(str(before[1]))
            if left != before:
                counts[name] += 1
            if None in left:
                break
        else:
            yield where, str(left[0]), str(left[1])


def changing(steps: Sequence[Clean]) -> dict[str, Any]:
    """For a description of inputs: the steps that make another text of one, which what is asked
    goes through as well; the others choose rows to learn from."""
    kept = [{step.key: step.value} for step in steps if step.key in CHANGING]
    return {"clean": kept} if kept else {}


def as_trained(text: str, inputs: Mapping[str, Any]) -> str:
    """What a person asks, as the rows were that the model learned from.

    >>> as_trained("<b>win</b> &amp; lose", {"clean": [{"strip": "html"}]}).split()
    ['win', '&', 'lose']
    """
    for step in inputs.get("clean", ()):
        ((key, value),) = step.items()
        text = STEPS[key](value)(text) or ""
    return text


class Placed(list[str]):
    """Tokens, the text that they are of, and where in it each begins and ends, in characters."""

    def __init__(self, text: str, tokens: Iterable[str], places: Iterable[tuple[int, int]]) -> None:
        super().__init__(tokens)
        self.text, self.places = text, list(places)


def placed(text: str, form: Form, pattern: re.Pattern[str]) -> Placed:
    """What a pattern finds in a text's normal form, with its places in the text as it came.

    >>> found = placed("２００８年 ﬁn", "NFKC", re.compile("[0-9]+|[^ ]"))
    >>> found, found.places
    (['2008', '年', 'f', 'i', 'n'], [(0, 4), (4, 5), (6, 7), (6, 7), (7, 8)])
    """
    begins, ends, whole = list[int](), list[int](), ""
    for begin, end in _pieces(text, form):
        own = unicodedata.normalize(form, text[begin:end])
        begins += [begin] * len(own)
        ends += [end] * len(own)
        whole += own
    found = list(pattern.finditer(whole))
    tokens = [unicodedata.normalize("NFKC", one[0]) for one in found]
    places = [(begins[one.start()], ends[one.end() - 1]) for one in found]
    return Placed(text, tokens, places)


def _pieces(text: str, form: Form) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of the shortest pieces whose normal forms, side by side, are the whole's:
    what is written on a letter belongs to it, and so does what joins it."""
    start = 0
    for place, character in enumerate(text):
        before = text[start:place]
        if not before or unicodedata.combining(unicodedata.normalize("NFKD", character)[0]):
            continue
        apart = unicodedata.normalize(form, before) + unicodedata.normalize(form, character)
        if apart == unicodedata.normalize(form, before + character):
            yield start, place
            start = place
    if text:
        yield start, len(text)


def findings(counts: dict[str, int]) -> list[Finding]:
    """What the steps did, for the gate's report: each to the rows that those before it left."""
    rows, found = counts.get(ROWS, 0), []
    for name, number in counts.items():
        if name == ROWS:
            continue
        if name.partition(":")[0] in CHANGING:
            text = f"{name}: {number:,} rows changed, of {rows:,}"
        else:
            text = f"{name}: {number:,} rows left out, {rows - number:,} of {rows:,} kept"
            rows -= number
        found.append(Finding("cleaned", number, text))
    return found


def _normalize(form: str) -> Step:
    return lambda text: unicodedata.normalize(form, text)  # type: ignore[arg-type]


def _strip(what: str) -> Step:
    if what == "mail_headers":  # everything up to the first empty line
        return lambda text: (
            _BLANK_LINE.split(text, maxsplit=1)[-1] or text if _HEADER.match(text) else text
        )
    return lambda text: html.unescape(_TAG.sub(" ", text))


def _shortest(characters: int) -> Step:
    return lambda text: text if len(text) >= characters else None


def _longest(characters: int) -> Step:
    return lambda text: text if len(text) <= characters else None


def _script(name: str) -> Step:
    """Rows of which most letters belong to a script, by the Unicode names of the characters."""
    begins = _NAMES.get(name, (name.upper(),))

    def step(text: str) -> str | None:
        letters = [character for character in text if character.isalpha()]
        own = sum(unicodedata.name(one, "").startswith(begins) for one in letters)
        return text if 2 * own > len(letters) else None

    return step


def _language(code: str) -> Step:
    """Rows that a classifier over runs of bytes takes for a language's; the shorter, the less sure.

    Source: Lui, Baldwin 2011, "Cross-domain Feature Selection for Language Identification".
    """
    identifier = _identifier()
    if code not in identifier.labels:
        raise ConfigError(
            f"data.clean: language: {code!r} is no language that is told from others",
            expected=did_you_mean(code, identifier.labels),
        )
    return lambda text: text if identifier.classify(text)[0] == code else None


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtra("py3langid", "text", "data.clean: language") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _drop(what: str) -> Step:
    if what == "near_duplicates":
        near = NearTexts()
        return lambda text: text if near.add(text) is None else None
    seen: set[bytes] = set()

    def step(text: str) -> str | None:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in seen:
            return None
        seen.add(digest)
        return text

    return step


CHANGING = ("normalize", "strip")  # make another text of one; the others choose rows
# key of the recipe's step -> the function of its value that makes it
STEPS: dict[str, Callable[..., Step]] = {
    "normalize": _normalize,
    "strip": _strip,
    "shortest": _shortest,
    "longest": _longest,
    "script": _script,
    "language": _language,
    "drop": _drop,
}

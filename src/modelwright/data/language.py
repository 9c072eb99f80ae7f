"""Text as one long stream: cut into tokens and windows of them (text_stream.py reads it).

`prepare` makes of each part's text ids and, for each place, the id that comes next. The vocabulary
is learned from train alone. Id 0 is padding, 1 a token that train lacks.
Source of the pairs of bytes: Sennrich et al. 2015, arXiv:1508.07909; over bytes as in Radford et
al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError, MissingExtra
from modelwright.core.progress import counted, say
from modelwright.data.opening import utf8
from modelwright.data.rows import PARTS, Array, Column, Prepared, Ragged, Rows
from modelwright.data.shared import Windows
from modelwright.data.text import NOTHING, UNKNOWN

SUFFIXES = (".txt", ".gz")
TOKENS = "tokens.json"  # in the data's and in the model's folder
WINDOW = 128  # tokens that are looked back at, where the recipe does not say
STRIDE = 4  # windows of train begin at every such part of a window
VOCAB_SIZE = 30_000  # ids at most, where the recipe does not say
FEWEST_BPE = 258  # padding, unknown, and each byte
_CHUNK = 2**17  # characters that are cut into pairs of bytes at once
_REPLACEMENT = "\ufffd"  # what an unknown token is shown as

# tokens and ids


class Tokens:
    """Texts to ids and back.

    Args:
        unit: "characters", "bytes" or "bpe".
        labels: the text of each id; a token that is only a part of a character holds its bytes as
            lone surrogates (PEP 383), so that `label_bytes` gives them back.
        bpe: of pairs of bytes, the JSON that the library `tokenizers` writes.
    """

    def __init__(self, unit: str, labels: Sequence[str], bpe: str = "") -> None:
        self.unit, self.labels, self.bpe = unit, list(labels), bpe
        if unit == "characters":
            points = np.array([ord(label) for label in self.labels[2:]], np.uint32)
            order = np.argsort(points)
            self._points, self._ids = points[order], (order + 2).astype(np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """(tokens,); UNKNOWN for what train does not hold.

        Raises: MissingExtra for pairs of bytes without the library.
        """
        if self.unit == "bytes":
            return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 2
        if self.unit == "bpe":
            each = counted(_pieces(text), "data: pieces of text made ids", _number(text))
            pieces = [self._tokenizer.encode(piece).ids for piece in each]
            return np.concatenate([np.zeros(0, np.int32), *(np.int32(ids) for ids in pieces)]) + 2
        found = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        place = np.minimum(np.searchsorted(self._points, found), len(self._points) - 1)
        return np.where(self._points[place] == found, self._ids[place], np.int32(UNKNOWN))

    def encode_many(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """The ids of each text, as `encode` gives them; pairs of bytes on several threads."""
        if self.unit != "bpe":
            return [self.encode(text) for text in texts]
        return [np.array(one.ids, np.int32) + 2 for one in self._tokenizer.encode_batch(texts)]

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return _library().Tokenizer.from_str(self.bpe)

    def decode(self, ids: Sequence[int] | Array) -> str:
        """The text; bytes that are no whole character become a replacement character."""
        own = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return b"".join([self._bytes[one] for one in own]).decode("utf-8", "replace")

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        return [label_bytes(label) for label in self.labels]

    def to_bytes(self) -> bytes:
        return json.dumps({"unit": self.unit, "labels": self.labels, "bpe": self.bpe}).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Tokens":
        return cls(**json.loads(content))


def label_bytes(label: str) -> bytes:
    """What a token stands for.

    >>> label_bytes("ä"), label_bytes("\\udcc3")
    (b'\\xc3\\xa4', b'\\xc3')
    """
    return label.encode("utf-8", "surrogateescape")


def learn(text: str, unit: str, size: int) -> Tokens:
    """The tokens of a text: its characters, every byte, or its most common runs of bytes.

    Args:
        size: most ids, those of padding and of unknown tokens among them.
    Raises: ConfigError for too few ids for all bytes; MissingExtra.
    """
    known = ["", _REPLACEMENT]
    if unit == "bytes":
        return Tokens(unit, known + [_label(bytes([value])) for value in range(256)])
    if unit == "bpe":
        return _learn_bpe(text, size, known)
    points, counts = np.unique(
        np.frombuffer(text.encode("utf-32-le"), np.uint32), return_counts=True
    )
    kept = np.sort(points[np.argsort(-counts, kind="stable")][: size - 2])
    return Tokens("characters", known + [chr(point) for point in kept.tolist()])


def _learn_bpe(text: str, size: int, known: list[str]) -> Tokens:
    if size < FEWEST_BPE:
        raise ConfigError(
            f"data.tokens.vocab_size is {size}",
            expected=f"at least {FEWEST_BPE} for pairs of bytes, one for each byte and two more",
        )
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    byte_level = library.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=size - 2, initial_alphabet=sorted(byte_level.alphabet()), show_progress=False
    )
    each = counted(_pieces(text), "data: pieces of text read for bpe", _number(text))
    tokenizer.train_from_iterator(each, trainer)
    written = {character: byte for byte, character in enumerate(_alphabet())}
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    labels = [_label(bytes(written[character] for character in token)) for token, _ in by_id]
    return Tokens("bpe", known + labels, tokenizer.to_str())


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra("tokenizers", "text", 'data.tokens.unit: "bpe"') from error
    return tokenizers


def _number(text: str) -> int:
    """About how many pieces there are."""
    return 1 + len(text) // _CHUNK


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that end with a line's end, where there is one."""
    start = 0
    while start < len(text):
        end = min(start + _CHUNK, len(text))
        if end < len(text):
            end = (text.rfind("\n", start, end) + 1) or end
        yield text[start:end]
        start = end


def _alphabet() -> list[str]:
    """The character that the library writes for each byte, as GPT-2 did."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def _label(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


# rows


def prepare(parts: dict[str, Rows], section: recipe.Data, answer: str) -> Prepared:
    """Ids of every part, and what comes next at each place.

    Windows of train overlap. Those of valid and test do not, and the last may be short: each token
    but the part's first is predicted exactly once.

    Raises: DataError if train is no longer than a window.
    """
    window = section.window or WINDOW
    unit = "characters" if section.tokens.unit == "auto" else section.tokens.unit
    texts = {part: rows.origins[0] for part, rows in parts.items()}
    known = learn(texts["train"], unit, section.tokens.vocab_size or VOCAB_SIZE)
    made = {}
    for part in PARTS:
        ids = known.encode(texts[part])
        strange = int((ids == UNKNOWN).sum())
        if strange:
            say(
                f"data: {strange:,} of {len(ids):,} {unit} of {part} have no id of their own; each "
                "costs the likelihood some 14 nats, since it could be any"
            )
        make = _overlapping if part == "train" else _side_by_side
        made[part] = make(ids, window, known)
    inputs = {
        "kind": "stream",
        "vocab_size": len(known),
        "features": 1,
        "length": window,
        "max_length": window,
        "unit": unit,
        "overlap": window / _stride(window),  # rows of train that hold the same place
    }
    answers = {"num_classes": len(known), "labels": known.labels}
    return Prepared(made, inputs, answers, {TOKENS: known.to_bytes()})


def _stride(window: int) -> int:
    return max(1, window // STRIDE)


def _overlapping(ids: Array, window: int, known: Tokens) -> Rows:
    starts = np.arange(0, len(ids) - window, _stride(window))
    if not len(starts):
        raise DataError(
            f"the train part has {len(ids):,} {known.unit}, and data.window is {window:,}",
            expected=f"more than {window:,}",
            repair="bring more text, or shorten data.window",
        )
    inputs: dict[str, Column] = {"ids": Windows(ids[:, None], starts, window)}
    return Rows(inputs, Windows(ids, starts + 1, window), [""] * len(starts))


def _side_by_side(ids: Array, window: int, known: Tokens) -> Rows:
    number = len(ids) - 1
    offsets = np.append(np.arange(0, number, window), number)
    inputs: dict[str, Column] = {"ids": Ragged(ids[:-1, None], offsets)}
    starts = counted(offsets[:-1].tolist(), "data: windows written out", len(offsets) - 1)
    shown = [known.decode(ids[start : start + window]) for start in starts]
    return Rows(inputs, Ragged(ids[1:], offsets), shown)


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to a text before the graph, for the manifest."""
    return {
        "unit": inputs["unit"], "tokens": TOKENS, "window": inputs["max_length"],
        "ids": f"{NOTHING} is padding, {UNKNOWN} unknown",
    }  # fmt: skip


def read_input(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, npt.NDArray[Any]]:
    """The last tokens of a text, as many as a window has, as a batch of one.

    Raises: DataError if it is empty or not UTF-8.
    """
    ids = tokens_of(files).encode(prompt(content))[-inputs["max_length"] :]
    return {"ids": ids.astype(np.int64)[None, :, None]}


def prompt(content: bytes) -> str:
    """What a person wrote.

    Raises: DataError if it is empty or not UTF-8.
    """
    text = utf8(content)
    if not text:
        raise DataError("the text is empty", expected="something to be continued")
    return text


def tokens_of(files: Mapping[str, bytes]) -> Tokens:
    """The tokens of a model, from the files that travel with it."""
    return _tokens(files[TOKENS])


@functools.lru_cache(maxsize=4)
def _tokens(content: bytes) -> Tokens:
    return Tokens.from_bytes(content)

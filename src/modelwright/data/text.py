"""Text: tables of texts with labels, files of tagged words, and the ids that a model takes.

A text is cut into tokens, words or characters; each token is several features (itself, the pair
with the one before, its ending …), and each feature that train holds often enough has an id. The
vector of a place is the sum of its features' vectors (models/embed.py).
Source of the idea: Joulin et al. 2016, arXiv:1607.01759 (pairs); Bojanowski et al. 2016,
arXiv:1607.04606 (parts of words).
"""

import functools
import itertools
import json
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError, did_you_mean
from modelwright.core.progress import counted, say
from modelwright.data.clean import Form, Record, as_trained, changing, cleaned, findings, placed
from modelwright.data.dividing import WORD, divide, shape
from modelwright.data.opening import utf8
from modelwright.data.rows import Finding, Loaded, Prepared, Ragged, Rows, ragged
from modelwright.data.tables import records, rows_of, table_suffix

STARTER_ROWS = 200  # that a starter recipe looks at
PART_NAMES = {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test",)}
_PART = re.compile(  # training, validation, testset, testb too; not validated, not testimonials
    r"(?:(?P<train>train)|(?P<valid>valid|val|dev)|(?P<test>test))"
    r"(?:ing|ation|elopment|set|data|[abs])?(?![^\W\d_])",
    re.IGNORECASE,
)
VOCABULARY = "vocabulary.json"  # in the data's and in the model's folder
NOTHING, UNKNOWN = 0, 1  # ids of padding and of a token that train does not hold
VOCAB_SIZE = 30_000  # ids of each kind of feature, where the recipe does not say
LEAST_SEEN = 2  # times in train, from which a feature has an id
JOINT = "\x1f"  # the unit separator: before each of words that came divided, and stay so
# of each unit the form that a text is brought into, and what is a token of it
UNITS: dict[str, tuple[Form, re.Pattern[str]]] = {
    "words": ("NFKC", re.compile(rf"{WORD}(?:['’]{WORD})*|[^\w\s]")),
    "given": ("NFC", re.compile(r"\S+")),
    "characters": ("NFC", re.compile(r"\S")),
    "divided": ("NFC", re.compile(rf"[^{JOINT}]*\S[^{JOINT}]*")),
}
# scripts that put no blanks between words: Chinese, Japanese, Thai, Lao, Burmese, Khmer
_UNSPACED = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)

# files


def starter(path: Path) -> dict[str, Any]:
    """The columns of a table whose names don't say which they are: the text is the longest, the
    label has the fewest values in the first rows. Numbers where the first line has no names."""
    try:
        file = part_files(path, recipe.Data(source=str(path)))["train"]
        rows = [row for _, row in itertools.islice(rows_of(file, False), STARTER_ROWS)]
    except DataError:
        return {}  # reading it says what is wrong
    by_number = bool(rows) and 0 in rows[0]
    body = rows[1:] if by_number else rows
    fields = {key: [str(row.get(key)) for row in body] for key in rows[0]} if body else {}
    if len(fields) < 2:
        return {}
    text = max(fields, key=lambda key: sum(map(len, fields[key])))
    label = min(fields.keys() - {text}, key=lambda key: (len(set(fields[key])), str(key)))
    named = by_number and rows[0][label] not in fields[label]
    names = rows[0] if named else {key: key for key in fields}
    if {"text", "label"} <= set(names.values()):
        return {}
    return {"columns": {"text": names[text], "label": names[label]}}


def read_table(path: Path, section: recipe.Data) -> Loaded:
    """Texts with one label each, from CSV, TSV, TXT (tab-separated) or JSON lines, plain or .gz.

    A folder holds files whose names begin with train, valid (or dev, val) and test, unless
    data.files names them. Columns are data.columns, by name from the first line or by number.
    Rows without a text are left out and become a finding empty_texts; a label that train does not
    have becomes label_out_of_range.

    Raises: DataError naming file and line of what cannot be read.
    """
    counts: dict[str, int] = {}
    parts, labels, found = labelled_rows(
        (part, cleaned(labelled(file, section.columns), section.clean, counts))
        for part, file in part_files(path, section).items()
    )
    return parts, labels, found + findings(counts)


def labelled_rows(
    raw: Iterable[tuple[str, Iterable[Record]]], labels: Sequence[str] | None = None
) -> Loaded:
    """Rows of place, text and label; those without a text or of another label become findings.

    Args:
        raw: part by part, train first; each row is taken as it comes.
        labels: those of train if None, in order.
    """
    number = {label: index for index, label in enumerate(labels or ())}
    known = None if labels is None else list(labels)
    parts, empty, strange = {}, [], []
    for part, given in raw:
        texts, targets = [], array("q")
        for where, text, label in counted(given, f"data: texts of {part} read"):
            if known is None and label:
                number.setdefault(label, len(number))
            if not text.strip():
                empty.append(where)
            elif label not in number:
                strange.append(where)
            else:
                texts.append(text)
                targets.append(number[label])
        classes = np.array(targets, np.int64)
        if known is None:  # numbers in the order of the labels, not in that of the rows
            known = sorted(number, key=_order)
            places = {label: index for index, label in enumerate(known)}
            classes = np.array([places[label] for label in number], np.int64)[classes]
            number = places
        parts[part] = Rows({"ids": code_points(texts)}, classes, texts)
    found = [
        Finding.of(check, rows, f"{len(rows)} {what}")
        for check, rows, what in (
            ("empty_texts", empty, "rows have no text and were left out"),
            ("label_out_of_range", strange, "rows have no label, or one that train does not have"),
        )
        if rows
    ]
    return parts, known or [], found


def has_tables(path: Path) -> bool:
    """Whether the path is a table of texts, or a folder with one to train on."""
    return bool(table_suffix(path) if path.is_file() else _files_of(path, "train"))


def part_of(name: str) -> str | None:
    """The part that a file or folder is for, if its name begins with a part's, as a word.

    >>> [part_of(name) for name in ("dev.tsv", "train-clean-100", "Test2.csv", "testimonials.csv")]
    ['valid', 'train', 'test', None]
    """
    found = _PART.match(name)
    return found.lastgroup if found else None


def _files_of(folder: Path, part: str) -> list[Path]:
    """The tables in a folder that are named for a part."""
    named = (file for file in sorted(folder.iterdir()) if part_of(file.name) == part)
    return [file for file in named if table_suffix(file) and file.is_file()]


def _part_file(folder: Path, part: str) -> Path | None:
    found = _files_of(folder, part)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(
            f"{folder} has several files for the part {part}: {names}", expected="one",
            repair="name it in the recipe, such as data.files: {train: " + found[0].name + "}",
        )  # fmt: skip
    return found[0] if found else None


def part_files(path: Path, section: recipe.Data) -> dict[str, Path]:
    """The file of each part: the path itself to train on, or the files of a folder.

    Raises: ConfigError where data.files names files beside one; DataError for one that is missing.
    """
    if path.is_file():
        if section.files is not None:
            raise ConfigError(
                f"data.files names files of a folder, and {section.source!r} is a file",
                expected="either of the two",
                repair="leave data.files out, or name the folder in data.source",
            )
        return {"train": path}
    named = section.files.model_dump(exclude_none=True) if section.files else {}
    found = {
        part: path / named[part] if part in named else None if named else _part_file(path, part)
        for part in PART_NAMES
    }
    files = {part: file for part, file in found.items() if file is not None}
    for part, file in files.items():
        if not file.is_file():
            raise DataError(
                f"data.files.{part}: {file} is not there",
                expected=did_you_mean(file.name, [one.name for one in path.iterdir()]),
            )
    if "train" not in files:
        raise DataError(f"{path} has no file to train on", expected="train.csv, .tsv, .jsonl …")
    return files


def labelled(file: Path, columns: recipe.Columns) -> Iterator[tuple[str, str, str]]:
    """Place, text and label of each row."""
    texts = columns.text if isinstance(columns.text, tuple) else (columns.text,)
    for where, *values, label in records(file, (*texts, columns.label)):
        yield where, " ".join(values), label.strip()


def _order(label: str) -> tuple[int, float, str]:
    """Numbers by their size, then words."""
    return (0, float(label), label) if re.fullmatch(r"-?\d+", label) else (1, 0.0, label)


def code_points(texts: Sequence[str]) -> Ragged:
    """Texts as numbers, until the vocabulary is known: equal exactly where the texts are."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return Ragged(np.frombuffer("".join(texts).encode("utf-32-le", "replace"), np.uint32), offsets)


# tokens and ids


def between(tokens: Iterable[str]) -> str:
    """What stands between tokens: a blank, or nothing where most are single characters of scripts
    without blanks."""
    sample = list(tokens)
    single = sum(bool(_UNSPACED.fullmatch(token)) for token in sample)
    return "" if single > len(sample) / 2 else " "


def split(text: str, unit: str) -> list[str]:
    """The tokens of a text: words and punctuation, blanks between them, or characters; where it
    begins with JOINT, what stands between.

    >>> split("It's 5°!", "words")
    ["It's", '5', '°', '!']
    >>> split("好…", "characters")
    ['好', '...']
    """
    form, pattern = UNITS["divided" if text.startswith(JOINT) else unit]
    # each by itself: one token stays one, even if its plain form has several characters
    own = pattern.findall(unicodedata.normalize(form, text))
    return [unicodedata.normalize("NFKC", one) for one in own]


# name -> the feature of the token at a place; "" where there is none
FEATURES: dict[str, Callable[[Sequence[str], int], str]] = {
    "token": lambda tokens, i: tokens[i].lower(),
    "pair": lambda tokens, i: f"{tokens[i - 1]} {tokens[i]}".lower() if i else "",
    "triple": lambda tokens, i: " ".join(tokens[i - 2 : i + 1]).lower() if i > 1 else "",
    "next_pair": lambda tokens, i: (
        f"{tokens[i]} {tokens[i + 1]}".lower() if i + 1 < len(tokens) else ""
    ),
    "start": lambda tokens, i: tokens[i][:3].lower(),
    "end": lambda tokens, i: tokens[i][-3:].lower(),
    "ending": lambda tokens, i: tokens[i][-2:].lower(),
    "shape": lambda tokens, i: shape(tokens[i]),
}


class Vocabulary:
    """Features of tokens and their ids; 0 is nothing, 1 an unknown token.

    Args:
        unit: "words", "characters", or "given" where blanks divide tokens already.
        features: names of FEATURES.
        table: feature name, a colon and the feature -> id.
    """

    def __init__(self, unit: str, features: Sequence[str], table: Mapping[str, int]) -> None:
        self.unit, self.features, self.table = unit, tuple(features), dict(table)

    def __len__(self) -> int:
        return 2 + len(self.table)

    def ids(self, tokens: Sequence[str]) -> npt.NDArray[np.int64]:
        """(tokens, features); no tokens at all count as one unknown one."""
        if not tokens:
            return np.array([[UNKNOWN] + [NOTHING] * (len(self.features) - 1)], np.int64)
        rows = [
            [
                self.table.get(f"{name}:{FEATURES[name](tokens, place)}", NOTHING)
                for name in self.features
            ]
            for place in range(len(tokens))
        ]
        ids = np.array(rows, np.int64)
        ids[ids[:, 0] == NOTHING, 0] = UNKNOWN
        return ids

    def to_bytes(self) -> bytes:
        content = {"unit": self.unit, "features": self.features, "table": self.table}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Vocabulary":
        return cls(**json.loads(content))


def learn(
    tokenised: Sequence[Sequence[str]], unit: str, features: Sequence[str], size: int
) -> Vocabulary:
    """The features that train holds at least LEAST_SEEN times, at most `size` of each kind."""
    table: dict[str, int] = {}
    for name in features:
        seen: Counter[str] = Counter()
        for tokens in counted(tokenised, f"data: features counted, {name}", len(tokenised)):
            seen.update(FEATURES[name](tokens, place) for place in range(len(tokens)))
        seen.pop("", None)
        for feature, times in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:size]:
            if times >= LEAST_SEEN:
                table[f"{name}:{feature}"] = 2 + len(table)
    return Vocabulary(unit, features, table)


def prepare(parts: dict[str, Rows], section: recipe.Data, answer: str) -> Prepared:
    """Texts to ids; the vocabulary is learned from train alone."""
    asked = section.tokens
    train = parts["train"].origins
    unit = asked.unit
    if unit == "auto":
        if answer == "tags":
            whole, tags = parts["train"].inputs["ids"], parts["train"].targets
            assert isinstance(whole, Ragged) and isinstance(tags, Ragged)
            alone = np.array_equal(whole.lengths, tags.lengths)  # a tag for each character
            unit = "characters" if alone else "given"
        else:
            spaced = between(character for text in train[:1000] for character in text) == " "
            unit = "words" if spaced else "characters"
    features = asked.features or DEFAULT_FEATURES[answer == "tags", unit == "characters"]
    tagged, cut = answer == "tags", {}
    for part, rows in parts.items():
        texts = counted(rows.origins, f"data: texts of {part} cut into tokens", len(rows))
        cut[part] = [split(text.lstrip(JOINT), unit) for text in texts]
        if part == "train" or not tagged:  # all that is asked for has a tag
            cut[part] = _shortened(cut[part], asked.max_length, part)
    vocabulary = learn(cut["train"], unit, features, asked.vocab_size or VOCAB_SIZE)
    made = {}
    for part, rows in parts.items():
        own = counted(cut[part], f"data: texts of {part} made ids", len(rows))
        ids = ragged([vocabulary.ids(one) for one in own], np.zeros((0, len(features)), int))
        targets = rows.targets
        if isinstance(targets, Ragged):
            most = asked.max_length if part == "train" else None
            targets = _fitted(targets, ids, part, rows, most)
        made[part] = Rows({"ids": ids}, targets, rows.origins)
    lengths = made["train"].inputs["ids"].lengths  # type: ignore[union-attr]
    inputs = {
        "kind": "text",
        "vocab_size": len(vocabulary),
        "features": len(features),
        "length": max(8, 8 * round(float(lengths.mean()) / 8)),
        "max_length": asked.max_length,
        "unit": unit,
        "whole": tagged,
        **changing(section.clean),
    }
    if unit == "given" and tagged:  # nobody puts blanks around the commas of running text
        joined = between(token for tokens in cut["train"][:1000] for token in tokens)
        inputs["asked"] = "words" if joined else "characters"
    return Prepared(made, inputs, {}, {VOCABULARY: vocabulary.to_bytes()})


def _shortened(rows: list[list[str]], most: int, part: str) -> list[list[str]]:
    """The first tokens of each row; how many rows have more is said."""
    if longer := sum(len(one) > most for one in rows):
        say(
            f"data: {longer:,} of {len(rows):,} rows of {part} have more than {most:,} tokens, of "
            "which the first are read (data.tokens.max_length)"
        )
    return [one[:most] for one in rows]


# by whether each token has an answer, and whether tokens are characters; docs/experiments.md
DEFAULT_FEATURES = {
    (False, False): ("token", "pair"),
    (False, True): ("token", "pair", "triple"),
    (True, False): ("token", "start", "end", "ending", "shape"),
    (True, True): ("token", "pair", "next_pair"),
}


def _fitted(targets: Ragged, ids: Ragged, part: str, rows: Rows, most: int | None) -> Ragged:
    """The targets of the tokens that are left of longer rows, which have `most` of them."""
    tags = []
    for row in range(len(ids)):
        own, number = targets[row], len(ids[row])
        if len(own) != number and not (number == most and len(own) > number):
            raise DataError(
                f"{rows.name(part, row)} has {len(own)} tags and {number} tokens",
                expected="one tag for each word or character",
                repair='set data.tokens.unit: "given" for words, "characters" for characters',
            )
        tags.append(own[:number])
    return ragged(tags)


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to a text before the graph, for the manifest."""
    most = None if inputs.get("whole") else inputs["max_length"]
    return {
        "unit": inputs["unit"], "normalisation": "NFKC", "vocabulary": VOCABULARY,
        "max_length": most, "clean": inputs.get("clean", []),
    }  # fmt: skip


def read_input(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, npt.NDArray[Any]]:
    """One text as a batch of one.

    Raises: DataError if it is empty or not UTF-8.
    """
    found = tokens(content, inputs, files)
    if not found:
        raise DataError("the text is empty", expected="a word or more")
    return {"ids": _vocabulary(files[VOCABULARY]).ids(found)[None]}


@functools.lru_cache(maxsize=4)
def _vocabulary(content: bytes) -> Vocabulary:
    """Read once; it may have a hundred thousand entries."""
    return Vocabulary.from_bytes(content)


def tokens(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> list[str]:  # fmt: skip
    """What a person wrote as the model reads it; where train came tagged, words are cut here, and
    each has its place in what was written.

    Raises: DataError if it is not UTF-8.
    """
    text = as_trained(utf8(content), inputs)
    unit = inputs.get("asked", inputs["unit"])
    if not inputs.get("whole"):
        return split(text, unit)[: inputs["max_length"]]
    if text.startswith(JOINT):
        return split(text, unit)
    form, pattern = UNITS[unit]
    if unit == "words" != inputs["unit"]:  # train's words came divided
        return divide(text, form, _vocabulary(files[VOCABULARY]).table)
    return placed(text, form, pattern)

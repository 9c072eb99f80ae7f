"""Parallel text: rows of a source and its target, from files line by line or from a table.

`read` gives the texts of each part, `prepare` their ids. The tokens are learned from train alone,
of both sides together or each on its own. The last id of a side is its end: it closes every row,
and what a target begins with.
Source of the tokens: Sennrich et al. 2015, arXiv:1508.07909, section 3.2 (joint ones).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.decode import MOST_MORE, MOST_TIMES
from modelwright.core.errors import ConfigError, DataError, did_you_mean
from modelwright.core.progress import counted, say
from modelwright.data import tables
from modelwright.data.clean import as_trained, changing, cleaned_pairs, findings
from modelwright.data.language import TOKENS, Tokens, learn, tokens_of
from modelwright.data.opening import utf8
from modelwright.data.rows import PARTS, Array, Finding, Loaded, Prepared, Ragged, Rows, ragged
from modelwright.data.tables import lines_of, records, table_suffix
from modelwright.data.text import NOTHING, UNKNOWN, code_points, has_tables, part_files, part_of

SOURCE_TOKENS = "source_tokens.json"  # where each side has its own
FEW = 0.01  # of the pairs of train, that nobody is told of
VOCAB_SIZE = 6000  # ids of a side, where the recipe does not say
_LANGUAGE = re.compile(r"\.([A-Za-z]{2,3}(?:[-_]\w{2,8})?)(?:\.gz)?$")

_LOOKED_AT = 50  # rows of a table whose columns are called like languages
# ISO 639-1 codes that such columns are recognised by
_CODE = re.compile(
    r"(ar|bg|bn|ca|cs|da|de|el|en|es|et|eu|fa|fi|fr|ga|gl|he|hi|hr|hu|hy|id|is|it|ja|ka|kk|km|ko|"
    r"lt|lv|mk|ms|mt|nb|nl|nn|no|pl|pt|ro|ru|sk|sl|sq|sr|sv|sw|ta|te|th|tr|uk|ur|uz|vi|zh)"
    r"([-_]\w+)?",
    re.IGNORECASE,
)
_REPAIR = "name the columns with data.columns: {source: …, target: …}"

Pair = tuple[str, str, str]  # place, source, target

# files


def is_here(path: Path) -> bool:
    """Whether the path is a folder of texts in several languages, or a table of pairs."""
    if path.is_dir() and len(_languages(path)) > 1:
        return True
    try:
        train = part_files(path, recipe.Data(source=str(path)))["train"]
        columns = recipe.Columns()
        names = {name for _, row in islice(tables.rows_of(train, named=True), 1) for name in row}
        return {columns.source, columns.target} <= names or bool(_languages_of(train))
    except (DataError, OSError):
        return False


def starter(path: Path) -> dict[str, Any]:
    """The first two languages of a folder, or of a table's columns, the one way round."""
    found = _languages(path) if path.is_dir() else []
    if len(found) > 1:
        return {"pair": found[:2]}
    table = part_files(path, recipe.Data(source=str(path)))["train"]
    columns = _languages_of(table)
    return {"columns": dict(zip(("source", "target"), columns, strict=True))} if columns else {}


def _languages(folder: Path, section: recipe.Data | None = None) -> list[str]:
    """The languages that the folder has files to train on in, be they those of data.files."""
    own = section.files if section is not None else None
    return sorted({
        language
        for stem, found in texts_of(folder).items()
        if (part_of(stem) == "train" if own is None else stem == own.train)
        for language in found
    })  # fmt: skip


def unnamed(folder: Path) -> str | None:
    """The keys of `data` for a folder of texts in two languages whose names do not say what they
    are for; None for another one."""
    for stem, found in texts_of(folder).items():
        pair = [language for language in sorted(found) if _CODE.fullmatch(language)]
        if len(pair) > 1:
            return f"pair: [{', '.join(pair[:2])}], files: {{train: {stem}}}"
    return None


def texts_of(folder: Path) -> dict[str, set[str]]:
    """The files of a folder that end like a language: name without it and .gz, and languages."""
    found: dict[str, set[str]] = {}
    for name in sorted(file.name for file in folder.iterdir()):
        if (match := _LANGUAGE.search(name)) and match[1] not in ("txt", "csv", "tsv"):
            found.setdefault(name[: match.start()], set()).add(match[1])
    return found


def _languages_of(table: Path) -> list[str]:
    """The two columns of a table that are called like languages and hold texts; none if there are
    not just two."""
    rows = [row for _, row in islice(tables.rows_of(table, named=True), _LOOKED_AT)]
    names = [name for name in rows[0] if isinstance(name, str)] if rows else []
    found = [
        name for name in names
        if _CODE.fullmatch(name)
        and all(any(map(str.isalpha, str(row.get(name)))) for row in rows)
    ]  # fmt: skip
    return found if len(found) == 2 else []


def read(path: Path, section: recipe.Data) -> Loaded:
    """Pairs of texts: `train.de` beside `train.en` and so on, plain or .gz, or a table with the
    columns data.columns.source and target.

    Raises: ConfigError where data.pair does not name two languages that are there; DataError for
        files that cannot be read or whose lines do not match.
    """
    counts: dict[str, int] = {}
    raw, empty = {}, []
    for part, pairs in _parts(path, section):
        sources, targets = [], []
        rows = cleaned_pairs(pairs, section.clean, counts)
        for where, source, target in counted(rows, f"data: pairs of {part} read"):
            if source.strip() and target.strip():
                sources.append(" ".join(source.split()))  # as it is asked later
                targets.append(target.strip())
            else:
                empty.append(where)
        points = code_points(targets)
        raw[part] = Rows({"source": code_points(sources), "target": points}, points, sources)
    found = findings(counts)
    if empty:
        text = f"{len(empty)} rows lack one of the two texts and were left out"
        found.append(Finding.of("empty_texts", empty, text))
    return raw, [], found


def _parts(path: Path, section: recipe.Data) -> Iterator[tuple[str, Iterator[Pair]]]:
    first = section.files and table_suffix(path / section.files.train)
    tabled = has_tables(path) if section.files is None else first
    if path.is_dir() and (_languages(path, section) or not tabled):
        pair = _pair(path, section)
        for side in ("source", "target"):
            if section.sets(f"columns.{side}"):
                raise ConfigError(
                    f"data.columns.{side}: {section.source!r} holds files with a text on each line",
                    expected="columns for a table only",
                    repair=f"leave data.columns.{side} out",
                )
        for part, stem in _stems(path, pair[0], section).items():
            yield part, _lines(*(_side(path, stem, language) for language in pair))
        return
    if section.pair is not None:
        raise ConfigError(
            f"data.pair: {section.source!r} is a table, whose columns are not languages",
            expected="data.columns: {source: …, target: …}",
        )
    columns = (section.columns.source, section.columns.target)
    for part, file in part_files(path, section).items():
        yield part, ((row[0], row[1], row[2]) for row in records(file, columns, _REPAIR))


def _pair(folder: Path, section: recipe.Data) -> tuple[str, str]:
    known = _languages(folder, section)
    if len(known) < 2:
        names = [stem for stem, own in texts_of(folder).items() if len(own) > 1]
        raise ConfigError(
            f"data.source: {section.source!r} has no texts in two languages to train on",
            expected="files such as train.de and train.en, of which data.files may give the name "
            "before the language",
            repair=f"write data.files: {{train: {names[0]}}}" if names else "",
        )
    if section.pair is None:
        raise ConfigError(
            f"data.pair is missing: which language of {section.source!r} becomes which?",
            expected=f"two of {', '.join(known)}, the source first",
            repair=f"write data.pair: [{known[0]}, {known[-1]}], or the other way round",
        )
    for language in section.pair:
        if language not in known:
            raise ConfigError(
                f"data.pair: {section.source!r} has no text to train on in {language!r}",
                expected=did_you_mean(language, known),
            )
    source, target = section.pair
    return source, target


def _stems(folder: Path, language: str, section: recipe.Data) -> dict[str, str]:
    """The name of each part's files without language and .gz."""
    if section.files is not None:
        return section.files.model_dump(exclude_none=True)
    found = {}
    for part in PARTS:
        every = texts_of(folder).items()
        stems = [stem for stem, own in every if language in own and part_of(stem) == part]
        if len(stems) > 1:
            raise DataError(
                f"{folder} has several texts for the part {part}: {', '.join(stems)}",
                expected="one",
                repair=f"name it in the recipe, such as data.files: {{{part}: {stems[0]}}}",
            )
        if stems:
            found[part] = stems[0]
    return found


def _side(folder: Path, stem: str, language: str) -> Path:
    for file in (folder / f"{stem}.{language}", folder / f"{stem}.{language}.gz"):
        if file.is_file():
            return file
    raise DataError(
        f"{folder} has no file {stem}.{language} or {stem}.{language}.gz",
        expected="a file for each side of data.pair, in every part",
        repair="name the parts with data.files, without language: {train: …, test: …}",
    )


def _lines(source: Path, target: Path) -> Iterator[Pair]:
    sides = [_side_lines(file) for file in (source, target)]
    for number, (ours, theirs) in enumerate(zip_longest(*sides), 1):
        if ours is None or theirs is None:
            more = number + sum(1 for side in sides for _ in side)
            counts = [number - 1 if one is None else more for one in (ours, theirs)]
            raise DataError(
                f"{source.name} has {counts[0]:,} lines and {target.name} has {counts[1]:,}",
                expected="as many lines in both, each the translation of the other's",
                repair="look for a line that was split or lost; "
                "an untranslated one can be left empty",
            )
        yield f"{source.name} line {number}", ours, theirs


def _side_lines(file: Path) -> Iterator[str]:
    """Each line, but for the empty one that stands behind the last newline."""
    place, last = 0, ""
    for place, line in enumerate(lines_of(file)):
        if place:
            yield last.removesuffix("\r")
        last = line
    if last or not place:
        yield last


# rows


def prepare(parts: dict[str, Rows], section: recipe.Data, answer: str) -> Prepared:
    """Ids of both sides; pairs of train longer than data.tokens.max_length are left out.

    Raises: DataError if none is left.
    """
    asked = section.tokens
    unit = "bpe" if asked.unit == "auto" else asked.unit
    texts = {
        part: {side: _texts(rows.inputs[side]) for side in ("source", "target")}
        for part, rows in parts.items()
    }
    size = asked.vocab_size or VOCAB_SIZE
    train = {side: "\n".join(map(spaced, own)) for side, own in texts["train"].items()}
    if asked.joint:
        source = target = learn("\n".join(train.values()), unit, size)
    else:
        source, target = (learn(train[side], unit, size) for side in ("source", "target"))
    made, longest = {}, 1
    for part in PARTS:
        sides = ids_of(texts[part]["source"], source), ids_of(texts[part]["target"], target)
        lengths = [max(map(len, pair)) for pair in zip(*sides, strict=True)]
        kept = np.arange(len(lengths))
        if part == "train":
            kept = np.flatnonzero(np.array(lengths) <= asked.max_length)
            _tell(len(lengths) - len(kept), len(lengths), asked.max_length)
            longest = max((lengths[row] for row in kept), default=1)
            _tell_of_ends([(len(sides[0][row]), len(sides[1][row])) for row in kept])
        made[part] = rows_of(
            [sides[0][row] for row in kept], [sides[1][row] for row in kept],
            len(source), len(target), [parts[part].origins[row] for row in kept],
        )  # fmt: skip
    mean = made["train"].inputs["source"].lengths.mean()  # type: ignore[union-attr]
    inputs = {
        "kind": "pairs",
        "vocab_size": len(target) + 1,
        "length": max(8, 8 * round(float(mean) / 8)),
        "max_length": longest + 1,
        "unit": unit,
        "pair": list(section.pair or ("source", "target")),
        "end": len(source),
        **changing(section.clean),
    }
    files = {TOKENS: target.to_bytes()}
    if not asked.joint:
        inputs["source_vocab_size"] = len(source) + 1
        files[SOURCE_TOKENS] = source.to_bytes()
    answers = {
        "num_classes": len(target) + 1, "labels": [*target.labels, ""], "end": len(target),
    }  # fmt: skip
    return Prepared(made, inputs, answers, files)


def _tell(left_out: int, rows: int, most: int) -> None:
    if left_out == rows:
        raise DataError(
            f"every one of the {rows:,} pairs of train is longer than {most:,} tokens",
            expected="some that are not",
            repair="raise data.tokens.max_length, or cut the texts into sentences",
        )
    if left_out:
        say(f"data: {left_out:,} of {rows:,} pairs of train have more than {most:,} tokens")


def _tell_of_ends(sizes: Sequence[tuple[int, int]]) -> None:
    """Say where a translation would end too early, as by characters from Chinese into English."""
    cut = sum(target > MOST_TIMES * (source + 1) + MOST_MORE for source, target in sizes)
    if cut > FEW * len(sizes):
        say(
            f"data: {cut:,} of {len(sizes):,} translations of train are longer than twice their "
            "source and ten tokens, where writing ends unless decode.max_new says otherwise"
        )


def spaced(text: str) -> str:
    """With a blank before the first word, so that it is the same token as within a text."""
    return f" {text}"


def ids_of(texts: Sequence[str], tokens: Tokens) -> list[npt.NDArray[np.int32]]:
    """The ids of each text, without its end."""
    return tokens.encode_many([spaced(text) for text in texts])


def rows_of(
    sources: Sequence[Array], targets: Sequence[Array], source_end: int, target_end: int,
    origins: Sequence[str],
) -> Rows:  # fmt: skip
    """A source with its end, the target behind its beginning, and what comes next there."""
    closing, opening = np.array([source_end], np.int32), np.array([target_end], np.int32)
    inputs = {
        "source": ragged([np.append(ids, closing) for ids in sources], closing),
        "target": ragged([np.append(opening, ids) for ids in targets], opening),
    }
    wanted = ragged([np.append(ids, opening) for ids in targets], opening)
    return Rows(dict(inputs), wanted, list(origins))


def _texts(column: Any) -> list[str]:
    assert isinstance(column, Ragged)
    return [column[row].tobytes().decode("utf-32-le") for row in range(len(column))]


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to a text before the graph, for the manifest."""
    return {
        "unit": inputs["unit"], "tokens": TOKENS, "pair": inputs["pair"],
        "clean": inputs.get("clean", []),
        "ids": f"{NOTHING} is padding, {UNKNOWN} unknown, the last one the end",
    }  # fmt: skip


def read_input(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, npt.NDArray[Any]]:
    """One text to translate as a batch of one, with a target that only begins.

    Raises: DataError if it is empty or not UTF-8.
    """
    text = as_trained(utf8(content), inputs).strip()
    if not text:
        raise DataError("the text is empty", expected="something to be translated")
    own = {TOKENS: files[SOURCE_TOKENS]} if SOURCE_TOKENS in files else files
    (ids,) = ids_of([" ".join(text.split())], tokens_of(own))
    source = np.append(ids, inputs["end"]).astype(np.int64)
    return {"source": source[None], "target": np.array([[inputs["vocab_size"] - 1]], np.int64)}

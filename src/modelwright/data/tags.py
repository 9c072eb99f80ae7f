"""Files of tagged words: one a line, or CSV, TSV, JSON lines and Parquet; their schemes to IOB2."""

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError
from modelwright.core.progress import counted, say
from modelwright.data.opening import UNREADABLE, open_text, unreadable
from modelwright.data.rows import PARTS, Loaded, Rows, ragged
from modelwright.data.tables import rows_of, spelled, table_suffix, tagged_rows
from modelwright.data.text import between, code_points, has_tables, part_files, part_of

SUFFIXES = (".conll", ".bio", ".iob", ".iob2")  # always a word and its tag on each line
# BIOES, BILOU and BMES -> IOB2
_IOB2 = {"B": "B", "I": "I", "M": "I", "S": "B", "U": "B", "E": "I", "L": "I"}
TAG = re.compile(rf"O|[{''.join(_IOB2)}]-\S+")
COLUMNS = ("words", "tags")  # of a table, where the recipe does not say
_LOOKED_AT = 1000  # rows or lines that tell what a file holds


def is_here(path: Path) -> bool:
    """Whether a path may be tagged words: a file of such an ending, or a folder with one to train
    on."""
    if path.is_file():
        return has_tables(path) or _is_named(path)
    return has_tables(path) or "train" in _named_files(path)


def is_sure(path: Path) -> bool:
    """Whether it is tagged words and nothing else, as its first rows or lines show."""
    if not is_here(path):
        return False
    try:
        file = _part_files(path, recipe.Data(source=str(path)))["train"]
        return _are_tagged_lines(file) or bool(tagged_columns(file))
    except (DataError, OSError):
        return False


def doubt(path: Path) -> ConfigError | None:
    """Where the columns are called otherwise than a recipe without data.columns expects."""
    file = _part_files(path, recipe.Data(source=str(path)))["train"]
    words, tags = tagged_columns(file) or COLUMNS
    if all(spelled(name, [own]) == own for name, own in zip(COLUMNS, (words, tags), strict=True)):
        return None
    return ConfigError(
        f"data.source: {str(path)!r} looks like tagged words, in columns {words!r} and {tags!r}",
        expected="a recipe that names them",
        repair=f"write task: tagging, and data.columns: {{words: {words}, tags: {tags}}}",
    )


def tagged_columns(file: Path) -> tuple[str, str] | None:
    """The names of a table's columns of words and of their tags, whatever they are; None where no
    two columns hold a tag for each word, or the file is no table.

    Raises: DataError for one that cannot be read.
    """
    if not table_suffix(file) or _are_tagged_lines(file):
        return None
    rows = [row for _, row in islice(rows_of(file, named=True), _LOOKED_AT)]
    names = [name for name in rows[0] if isinstance(name, str)] if rows else []
    ours = [spelled(name, names) for name in COLUMNS]  # of several these are meant
    parts = {
        name: [_parts(row.get(name)) for row in rows]
        for name in sorted(names, key=lambda name: name not in ours)
    }
    for tags, own in parts.items():
        if not _are_tags({tag for row in own for tag in row}):
            continue
        lengths = [len(row) for row in own]
        for words, others in parts.items():
            if words != tags and max(lengths) > 1 and lengths == list(map(len, others)):
                return words, tags
    return None


def _are_tags(found: Collection[str]) -> bool:
    return all(map(TAG.fullmatch, found)) and any(tag != "O" for tag in found)


def _parts(value: Any) -> list[str]:
    parts = value.split() if isinstance(value, str) else value
    return list(map(str, parts)) if isinstance(parts, list) else []


def _are_tagged_lines(file: Path) -> bool:
    try:
        with open_text(file) as text:
            rows = [fields for line in islice(text, _LOOKED_AT) if (fields := line.split())]
    except (*UNREADABLE, UnicodeDecodeError):
        return False
    return all(len(fields) > 1 for fields in rows) and _are_tags({row[-1] for row in rows})


def _is_named(file: Path) -> bool:
    return file.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def _named_files(folder: Path) -> dict[str, str]:
    """The file of each part that has one of SUFFIXES.

    Raises: DataError where a part has several.
    """
    found: dict[str, str] = {}
    for name in sorted(file.name for file in folder.iterdir() if _is_named(file)):
        part = part_of(name)
        if part in found:
            raise DataError(
                f"{folder} has several files for the part {part}: {found[part]}, {name}",
                expected="one",
                repair=f"name it in the recipe, such as data.files: {{{part}: {name}}}",
            )
        if part is not None:
            found[part] = name
    return found


def _part_files(path: Path, section: recipe.Data) -> dict[str, Path]:
    """The file of each part, as of tables, of SUFFIXES too."""
    if path.is_dir() and section.files is None and not has_tables(path):
        named = {part: name for part, name in _named_files(path).items() if part in PARTS}
        if "train" in named:
            section = section.model_copy(update={"files": recipe.Files(**named)})
    return part_files(path, section)


def read_tagged(path: Path, section: recipe.Data) -> Loaded:
    """Words or characters with a tag each: one a line, a blank line between sentences; or CSV, TSV,
    JSON lines or Parquet, with the columns data.columns.words and tags.

    The first field of a line is the word, the last its tag; what stands between is not read.

    Raises: DataError naming file and line of what cannot be read.
    """
    files = _part_files(path, section)
    raw = {
        part: list(counted(_tagged(file, section), f"data: sentences of {part} read"))
        for part, file in files.items()
    }
    changed = [_to_iob2(files[part], [tags for _, tags in raw[part]]) for part in raw]
    if any(changed):
        say("data: tags of the scheme BIOES are read, and answered, as IOB2 writes them")
    every = [sentence for sentences in raw.values() for sentence in sentences]
    # of all parts: a tag that train lacks can't be learned, but its rows are judged all the same
    labels = sorted({tag for _, tags in every for tag in tags}, key=_tag_order)
    number = {label: index for index, label in enumerate(labels)}
    # between words of more than a character a border would be lost
    single = all(len(word) == 1 for words, _ in every for word in words)
    joint = between(word for words, _ in raw["train"][:1000] for word in words) if single else " "
    parts = {}
    for part, sentences in raw.items():
        texts = [joint.join(words) for words, _ in sentences]
        tags = [np.array([number[tag] for tag in tags], np.int64) for _, tags in sentences]
        parts[part] = Rows({"ids": code_points(texts)}, ragged(tags), texts)
    return parts, labels, []


def _to_iob2(file: Path, sentences: Iterable[list[str]]) -> bool:
    """Tags of BIOES, BILOU and BMES as IOB2 writes them, in place: what spans are read by. Gives
    whether there were others.

    Raises: DataError naming file and sentence, for tags of no such scheme, such as parts of speech.
    """
    changed = False
    for number, tags in enumerate(sentences, 1):
        for place, tag in enumerate(tags):
            prefix, _, kind = tag.partition("-")
            if tag != "O" and not (kind and prefix in _IOB2):
                alone = tag.rstrip("-") in _IOB2  # such as B and I of a single kind
                raise DataError(
                    f"{file}, sentence {number}: the tag {tag!r} says nothing of "
                    + ("a span's kind" if alone else "where a span begins"),
                    expected="O, B-kind at a span's beginning and I-kind inside (IOB2), or BIOES",
                    repair=f"write {tag.rstrip('-')}-WORD"
                    if alone
                    else f"write B-{tag} where each word is a span of its own",
                )
            if tag != "O" and prefix != (own := _IOB2[prefix]):
                tags[place], changed = f"{own}-{kind}", True
    return changed


def _tagged(file: Path, section: recipe.Data) -> Iterator[tuple[list[str], list[str]]]:
    """Words and tags of each sentence."""
    columns = section.columns
    if is_table(file, (columns.words, columns.tags)):
        yield from tagged_rows(file, (columns.words, columns.tags))
        return
    for key in ("words", "tags"):
        if section.sets(f"columns.{key}"):
            raise ConfigError(
                f"data.columns.{key}: {file.name} has a word and its tag on each line",
                expected="columns for CSV, JSON lines, Parquet, or a TSV whose first line names "
                "them",
                repair=f"leave data.columns.{key} out",
            )
    yield from _sentences(file)


def is_table(file: Path, columns: Iterable[str | int]) -> bool:
    """Whether a row of a file is a sentence: between tabs, where its first line names the columns,
    or they are numbers.

    Raises: DataError for a file that cannot be read.
    """
    suffix = table_suffix(file)
    if suffix not in (".tsv", ".txt"):
        return bool(suffix)
    try:
        with open_text(file) as text:
            names = text.readline().rstrip("\r\n").split("\t")
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error
    return all(isinstance(one, int) or spelled(one, names) in names for one in columns)


def _sentences(file: Path) -> Iterator[tuple[list[str], list[str]]]:
    words: list[str] = []
    tags: list[str] = []
    try:
        with open_text(file) as text:
            for number, line in enumerate(text, 1):
                fields = line.split()
                if len(fields) == 1:
                    raise DataError(
                        f"{file}, line {number}: {line.strip()!r}",
                        expected="a word and its tag, or a blank line between sentences",
                    )
                if fields:
                    words.append(fields[0])
                    tags.append(fields[-1])
                elif words:
                    yield words, tags
                    words, tags = [], []
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error
    if words:
        yield words, tags


def _tag_order(tag: str) -> tuple[bool, str, str]:
    """O first, then by kind, B before I."""
    prefix, _, kind = tag.partition("-")
    return tag != "O", kind, prefix

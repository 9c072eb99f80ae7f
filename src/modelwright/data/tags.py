"""Files of tagged words: one a line, or CSV, JSON lines and Parquet; their schemes to IOB2."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError
from modelwright.core.progress import say
from modelwright.data import parquet
from modelwright.data.opening import UNREADABLE, open_text
from modelwright.data.rows import Loaded, Rows, ragged
from modelwright.data.tables import table_suffix, tagged_rows
from modelwright.data.text import between, code_points, part_files

# BIOES, BILOU and BMES -> IOB2
_IOB2 = {"B": "B", "I": "I", "M": "I", "S": "B", "U": "B", "E": "I", "L": "I"}


def read_tagged(path: Path, section: recipe.Data) -> Loaded:
    """Words or characters with a tag each: one a line, a blank line between sentences; or CSV, JSON
    lines or Parquet, with the columns data.columns.words and tags.

    The first field of a line is the word, the last its tag; what stands between is not read.

    Raises: DataError naming file and line of what cannot be read.
    """
    files = part_files(path, section)
    raw = {part: list(_tagged(file, section)) for part, file in files.items()}
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
    if table_suffix(file) in (".csv", ".jsonl", parquet.SUFFIX):
        yield from tagged_rows(file, (columns.words, columns.tags))
        return
    for key in ("words", "tags"):
        if section.sets(f"columns.{key}"):
            raise ConfigError(
                f"data.columns.{key}: {file.name} has a word and its tag on each line",
                expected="columns for a CSV, JSON lines or Parquet file only",
                repair=f"leave data.columns.{key} out",
            )
    yield from _sentences(file)


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
        raise DataError(f"{file} cannot be read: {error}", expected="UTF-8 text") from error
    if words:
        yield words, tags


def _tag_order(tag: str) -> tuple[bool, str, str]:
    """O first, then by kind, B before I."""
    prefix, _, kind = tag.partition("-")
    return tag != "O", kind, prefix

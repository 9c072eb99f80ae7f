"""KINDS: what is done to one kind of data, whatever its source. To add one: a file, a row."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import ConfigError
from modelwright.data import (
    audio,
    environment,
    folder,
    image,
    interactions,
    language,
    pairs,
    parallel,
    parquet,
    ratings,
    series,
    tables,
    text,
    transcripts,
    uses,
)
from modelwright.data.rows import Prepared, Rows


@dataclass(frozen=True)
class Kind:
    """What is done to one kind of data.

    prepare: divided rows to what a model takes; whatever is learned comes from train.
    preprocess: what the manifest says about it, from the inputs' description.
    read_input: what a person brings (a file's bytes, a text) as a batch of one.
    suffixes: of the files that hold one; lines: whether each line of a file is one.
    texts: whether what is no file is one itself.
    column: of a table with a text in each row, the key of data.columns that names it.
    columns: of a table of another sort those that the recipe names; questions: name and text of
        each question in it, by these columns; tables: the suffixes that it has.
    tokens: what a person brings, cut into what answers are about: words, items; of a picture, how
        large it is.
    keep: what of the labels must travel with the model, by name.
    ask: of a file's bytes and texts to choose from one question, whose batch has a row for each
        text; None where there is nothing to choose from.
    starter: keys of the recipe's section `data` that reading a path takes and nobody has said yet.
    """

    prepare: Callable[[dict[str, Rows], recipe.Data, str], Prepared]
    preprocess: Callable[[Mapping[str, Any]], dict[str, Any]]
    read_input: Callable[..., dict[str, npt.NDArray[Any]]]
    suffixes: tuple[str, ...]
    lines: bool = False
    texts: bool = False
    column: str = ""
    columns: Callable[[recipe.Data], list[str | int]] = lambda section: []
    questions: Callable[[Path, Sequence[str | int]], Iterator[tuple[str, str]]] | None = None
    tables: tuple[str, ...] = (".csv", ".tsv", ".jsonl", parquet.SUFFIX)
    tokens: Callable[[bytes, Mapping[str, Any], Mapping[str, bytes]], list[str]] = (
        lambda content, inputs, files: []
    )
    keep: Callable[[Sequence[str]], dict[str, bytes]] = lambda labels: {}
    ask: Callable[[bytes, Sequence[str]], bytes] | None = None

    def asked(self, content: bytes, texts: Sequence[str]) -> bytes:
        """What a person brings, with texts to choose from if any, as one question.

        Raises: ConfigError for texts that nobody chooses from, and for a choice without texts.
        """
        if bool(texts) != (self.ask is not None):
            raise ConfigError(
                "the model chooses among texts, and there are none"
                if self.ask
                else "the model has no use for texts to choose from",
                expected='--text "A TEXT", once or more' if self.ask else "no --text",
            )
        return self.ask(content, texts) if self.ask else content

    def row(self, outputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """What one question's batch gave, as answers are made of it: of one row, or of them all."""
        return {name: value if self.ask else value[0] for name, value in outputs.items()}

    starter: Callable[[Path], dict[str, Any]] = lambda path: {}


KINDS: dict[str, Kind] = {
    "audio": Kind(
        audio.prepare, audio.preprocess, audio.read_input, audio.SUFFIXES, tokens=audio.tokens
    ),
    "image_text": Kind(
        pairs.prepare,
        pairs.preprocess,
        pairs.read_input,
        folder.SUFFIXES,
        tokens=pairs.tokens,
        ask=pairs.ask,
    ),
    "items": Kind(
        interactions.prepare,
        interactions.preprocess,
        interactions.read_input,
        (".txt",),
        lines=True,
        texts=True,
        columns=interactions.columns,
        questions=interactions.questions,
        tables=tuple(one for one in uses.SUFFIXES if one != ".txt"),  # a history on each line
        tokens=interactions.tokens,
        keep=interactions.keep,
    ),
    "ratings": Kind(
        ratings.prepare,
        ratings.preprocess,
        ratings.read_input,
        (".txt",),
        lines=True,
        texts=True,
        columns=ratings.columns,
        questions=ratings.questions,
        tables=tuple(one for one in uses.SUFFIXES if one != ".txt"),
        tokens=ratings.tokens,
        keep=interactions.keep,
    ),
    "observation": Kind(
        environment.prepare,
        environment.preprocess,
        environment.read_input,
        environment.SUFFIXES,
        lines=True,
        texts=True,
    ),
    "series": Kind(
        series.prepare,
        series.preprocess,
        series.read_input,
        series.SUFFIXES,
        tokens=series.tokens,
        starter=series.starter,
    ),
    "pairs": Kind(
        parallel.prepare,
        parallel.preprocess,
        parallel.read_input,
        (".txt",),
        lines=True,
        texts=True,
        column="source",
        starter=parallel.starter,
    ),
    "stream": Kind(
        language.prepare,
        language.preprocess,
        language.read_input,
        language.SUFFIXES,
        texts=True,
    ),
    "text": Kind(
        text.prepare,
        text.preprocess,
        text.read_input,
        tables.TABLE_SUFFIXES,
        lines=True,
        texts=True,
        starter=text.starter,
        column="text",
        tokens=text.tokens,
    ),
    "image": Kind(
        image.prepare, image.preprocess, image.read_input, folder.SUFFIXES, tokens=image.tokens
    ),
}

# kind of answer -> what is done to targets that are learned, once the inputs are prepared
TARGETS: dict[str, Callable[[Prepared, recipe.Data], Prepared]] = {"letters": transcripts.letters}

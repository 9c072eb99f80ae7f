"""SOURCES: where rows come from, and how they are divided. To add one: write a file, add a row.

`load` gives a Dataset of three parts. A source gives the parts it has; what is missing is cut off:
test first, then valid from train, by class, by a seed, and never between two equal images.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError
from modelwright.data import (
    annotations,
    arrays,
    audio,
    environment,
    folder,
    interactions,
    pairs,
    parallel,
    ratings,
    series,
    tags,
    text,
    text_folder,
    text_stream,
    transcripts,
    uses,
)
from modelwright.data.kinds import KINDS, TARGETS
from modelwright.data.rows import Dataset, Loaded, Rows, dataset, row_hashes
from modelwright.data.shared import telling

NEARLY = 0.9  # of a share, that is near enough where the next group of equal rows is too large


@dataclass(frozen=True)
class Source:
    """One format of data.

    is_here: whether a path that exists looks like it; format: auto takes the first that says yes.
    read: the rows at a path.
    kind: of the inputs, a row of KINDS; answers: kinds of answers that its targets are.
    is_named: whether the recipe's source names it, so that no path has to be there.
    whole_files: whether each file of texts is one text.
    reads: keys of the recipe's section `data` that not every format reads, and this one does.
    """

    is_here: Callable[[Path], bool]
    read: Callable[[Path, recipe.Data], Loaded]
    looks_like: str
    kind: str = "image"
    answers: tuple[str, ...] = ("classes",)
    is_named: Callable[[str], bool] = lambda source: False
    whole_files: bool = False
    reads: tuple[str, ...] = ()


SOURCES: dict[str, Source] = {
    "voc": Source(
        annotations.has_voc,
        annotations.read_voc,
        "a folder with Annotations, JPEGImages and perhaps ImageSets, as Pascal VOC has them",
        answers=("boxes",),
        reads=("image_size",),
    ),
    "yolo": Source(
        annotations.has_yolo,
        annotations.read_yolo,
        "a folder with images, labels and data.yaml or classes.txt, as YOLO has them",
        answers=("boxes",),
        reads=("image_size",),
    ),
    "coco": Source(
        annotations.has_coco,
        annotations.read_coco,
        "a folder with annotations/*train*.json and pictures, as COCO has them, or one JSON file",
        answers=("boxes",),
        reads=("image_size",),
    ),
    "image_texts": Source(
        pairs.is_here,
        pairs.read,
        "a file *.jsonl with a picture's file and its captions on each line, beside the pictures",
        kind="image_text",
        answers=("vectors",),
        reads=("image_size", "clean"),
    ),
    "digits": Source(
        lambda path: False,
        arrays.read_digits,
        'the word "digits"',
        is_named=lambda source: source == "digits",
    ),
    "npz": Source(
        lambda path: path.is_file() and path.suffix == ".npz", arrays.read_npz, "a file *.npz"
    ),
    "parallel_text": Source(
        parallel.is_here,
        parallel.read,
        "a folder with train.de and train.en and the like, plain or .gz, or a table with the "
        "columns source and target",
        kind="pairs",
        answers=("sequence",),
        reads=("files", "columns.source", "columns.target", "pair", "clean"),
    ),
    "text_table": Source(
        text.has_tables,
        text.read_table,
        "a CSV, TSV or JSON lines file with the columns text and label, or a folder with train.csv "
        "and the like",
        kind="text",
        reads=("files", "columns.text", "columns.label", "clean"),
    ),
    "text_folder": Source(
        text_folder.is_here,
        text_folder.read,
        "a folder with one folder of .txt or .txt.gz files for each class",
        kind="text",
        whole_files=True,
        reads=("clean",),
    ),
    "tagged_words": Source(
        text.has_tables,
        tags.read_tagged,
        "a file with a word and its tag on each line and a blank line between sentences, a CSV, "
        "JSON lines or Parquet file with the columns words and tags, or a folder with train.txt "
        "and the like",
        kind="text",
        answers=("tags",),
        reads=("files", "columns.words", "columns.tags"),
    ),
    "interactions": Source(
        uses.is_here,
        interactions.read,
        "a CSV, TSV, DAT or JSON lines file with a user, an item and a time on each line; a first "
        "line names user and item, or the name ends in .data, .dat or .inter",
        kind="items",
        answers=("ranking",),
    ),
    "rating_table": Source(
        ratings.is_here,
        ratings.read,
        "a table with a user, an item and a rating on each line, or a folder with train.csv and "
        "the like",
        kind="ratings",
        answers=("rating",),
        reads=("files",),
    ),
    "table": Source(
        series.is_table,
        series.read,
        "a CSV, TSV, TXT or JSON lines file with a row for each point in time and a column for "
        "each series",
        kind="series",
        answers=("horizon",),
    ),
    "text_stream": Source(
        text_stream.is_here,
        text_stream.read,
        "a file *.txt or *.txt.gz of running text, a folder with train.txt and the like or of such "
        "files only, or a table with the column text and no label",
        kind="stream",
        answers=("next",),
        reads=("files", "columns.text", "clean"),
    ),
    "environment": Source(
        lambda path: False,
        environment.read,
        "gymnasium: and the id of an environment, such as gymnasium:CartPole-v1",
        kind="observation",
        answers=("actions",),
        is_named=environment.is_named,
    ),
    "idx": Source(
        lambda path: path.is_dir() and arrays.has_idx(path),
        arrays.read_idx,
        "a folder with train-images-idx3-ubyte[.gz] and its companions",
    ),
    "transcripts": Source(
        transcripts.is_here,
        transcripts.read,
        "a CSV, TSV or JSON lines file with the columns file and text, or a folder with train.csv "
        "and the like, or with *.trans.txt as LibriSpeech has them",
        kind="audio",
        answers=("letters",),
        reads=("files", "columns.file", "columns.text", "clean"),
    ),
    "audio_folder": Source(
        audio.is_here,
        audio.read,
        "a folder with one folder of WAV or FLAC files for each class",
        kind="audio",
    ),
    "folder": Source(
        lambda path: path.is_dir(),
        folder.read,
        "a folder with one folder of PNG or JPEG files for each class",
        reads=("image_size",),
    ),
}


def load(section: recipe.Data, kind: str = "image", answer: str = "classes") -> Dataset:
    """Read the rows of a recipe, divide them, and make of them what a model takes.

    The same recipe and files give the same rows in the same order. Rows with a fault are left out
    and listed in `findings`; the gate (checks.py) decides what becomes of them.

    Args:
        kind: of the inputs that the task takes, a row of KINDS.
        answer: of the task, a row of models/heads.py.
    Raises: ConfigError for a source that is not there or no known format, or a key that its format
        does not read; DataError for one that cannot be read; MissingExtra for a library that the
        format needs.
    """
    with _permitted(section.source):
        name, path = _recognise(section, kind, answer)
        _require_read(section, name)
        parts, labels, findings = SOURCES[name].read(path, section)
    if not len(parts["train"]):
        raise DataError(
            f"data.source: {section.source!r} has no usable training row",
            expected="; ".join(finding.text for finding in findings) or "rows in the train part",
        )
    parts = dict(parts)
    if "test" not in parts:
        parts["train"], parts["test"] = cut(parts["train"], section.test, section.split_seed)
    if "valid" not in parts:
        parts["train"], parts["valid"] = cut(parts["train"], section.valid, section.split_seed)
    made = KINDS[kind].prepare(parts, section, answer)
    if answer in TARGETS:
        made = TARGETS[answer](made, section)
    findings = [*findings, *made.findings]
    outputs: dict[str, Any] = {"kind": answer, **made.answers}
    if answer in ("classes", "tags", "boxes"):
        outputs |= {"num_classes": len(labels), "labels": list(labels)}
    files = {**made.files, **KINDS[kind].keep(labels)}
    return dataset(made.parts, labels, section.source, findings, made.inputs, outputs, files)


def source_of(section: recipe.Data, kind: str, answer: str) -> Source:
    """What reads a recipe's data; arguments and errors as of `load`."""
    with _permitted(section.source):
        return SOURCES[_recognise(section, kind, answer)[0]]


@contextlib.contextmanager
def _permitted(source: str) -> Iterator[None]:
    """
    Raises: DataError where a disk refuses.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"data.source: {source!r} cannot be read: {error}", expected="permission to read it"
        ) from error


def _require_read(section: recipe.Data, name: str) -> None:
    """Refuse keys that the format does not read; those of other tasks are refused before."""
    for key in dict.fromkeys(key for row in SOURCES.values() for key in row.reads):
        if key not in SOURCES[name].reads and section.sets(key):
            readers = ", ".join(own for own, row in SOURCES.items() if key in row.reads)
            raise ConfigError(
                f"data.{key}: {section.source!r} is read as {name}, which does not take it",
                expected=f"one of the formats that do: {readers}",
                repair=f"leave data.{key} out, or name another data.format",
            )


def recognise(section: recipe.Data) -> Source:
    """What the data looks like, whatever the task.

    Raises: ConfigError if it is not there or of no known format.
    """
    problem: ConfigError | None = None
    each = [(kind, row) for kind in KINDS for row in SOURCES.values() if row.kind == kind]
    # boxes first: their folders hold texts too, such as train.txt and classes.txt
    pairs_ = [("image", "boxes"), *((kind, one) for kind, row in each for one in row.answers)]
    for kind, answer in dict.fromkeys(pairs_):
        try:
            return source_of(section, kind, answer)
        except ConfigError as error:
            problem = problem or error
    assert problem is not None
    every = "; ".join(row.looks_like for row in SOURCES.values())
    raise ConfigError(problem.what, expected=every, repair=problem.repair)


def cut(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """The rows that stay and the rows cut off: `share` of each class, in their old order.

    Equal rows stay together, so that no cut makes a leak, and rows that share a picture or a text
    to translate; a class gives at least one row and keeps at least one, unless the share is 0 or 1.
    """
    told = telling(rows.inputs)
    groups: dict[bytes, list[int]] = {}
    for index, digest in enumerate(row_hashes(told)):
        groups.setdefault(digest, []).append(index)
    by_class: dict[int, list[list[int]]] = {}
    for group in groups.values():  # a group of contradicting labels counts for its first row's
        # else rows have no class to be divided by
        one = isinstance(rows.targets, np.ndarray) and told.keys() == rows.inputs.keys()
        by_class.setdefault(int(rows.classes[group[0]]) if one else 0, []).append(group)
    off = np.zeros(len(rows), np.bool_)
    for target in sorted(by_class):
        order = np.random.default_rng((seed, target)).permutation(len(by_class[target]))
        off[_take([by_class[target][i] for i in order], share)] = True
    indices = np.arange(len(rows))
    return rows.take(indices[~off]), rows.take(indices[off])


def _take(groups: Sequence[list[int]], share: float) -> npt.NDArray[np.int64]:
    """The first groups that together hold about `share` of all rows; one that is too large for
    what is missing is passed over, unless NEARLY all is there."""
    most = share * sum(map(len, groups)) + 0.5
    taken: list[list[int]] = []
    held = 0
    for group in groups:
        if held + len(group) <= most:
            taken.append(group)
            held += len(group)
        elif held >= NEARLY * most:
            break
    if 0 < share < 1:
        taken = (taken or [min(groups, key=len)])[: len(groups) - 1]
    return np.array([index for group in taken for index in group], np.int64)


def _recognise(section: recipe.Data, kind: str, answer: str) -> tuple[str, Path]:
    """The row of SOURCES and the path."""
    source, name = section.source, section.format
    known = {own: row for own, row in SOURCES.items() if row.kind == kind and answer in row.answers}
    expected = "; ".join(row.looks_like for row in known.values())
    if not source.strip():
        raise ConfigError("data.source is empty", expected=expected)
    for own, row in known.items():
        if row.is_named(source) and name in ("auto", own):
            return own, Path()
    if name != "auto" and name not in known:
        raise ConfigError(
            f"data.format: {name} does not hold what the task takes", expected=expected
        )
    if name != "auto" and SOURCES[name].is_named is not Source.is_named:
        raise ConfigError(
            f"data.format is {name}, but data.source is {source!r}", expected=expected
        )
    path = Path(source).expanduser()
    if not path.exists():
        raise ConfigError(
            f"data.source: {source!r} is not there",
            expected=expected,
            repair=f"correct the path; it is taken from {Path.cwd()}",
        )
    named = section.files is not None and path.is_dir()
    for own, row in known.items():
        here = name == "auto" and (row.is_here(path) or (named and "files" in row.reads))
        if name == own or here:
            return own, path
    raise ConfigError(
        f"data.source: {source!r} is of no kind that is known",
        expected=expected,
        repair="set data.format where the name does not show it",
    )

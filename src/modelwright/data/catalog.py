"""SOURCES: where rows come from, and how they are divided. To add one: write a file, add a row.

`load` gives a Dataset of three parts. A source gives the parts it has; what is missing is cut off:
test first, then valid from train, by class, by a seed, and never between two equal images.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
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
from modelwright.data.tables import table_suffix

LOOKED_AT, FEW = 100_000, 10  # rows of a table that show its classes, and that show nothing
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
    is_sure: whether a path is this and nothing else, whatever the task.
    doubt: why a recipe for a path that looks like it should be written by a person, if so.
    """

    is_here: Callable[[Path], bool]
    read: Callable[[Path, recipe.Data], Loaded]
    looks_like: str
    kind: str = "image"
    answers: tuple[str, ...] = ("classes",)
    is_named: Callable[[str], bool] = lambda source: False
    whole_files: bool = False
    reads: tuple[str, ...] = ()
    is_sure: Callable[[Path], bool] = lambda path: False
    doubt: Callable[[Path], ConfigError | None] = lambda path: None


def _doubt_of_texts(path: Path) -> ConfigError | None:
    """Of a table whose columns hold no texts, or no classes of several rows each."""
    file, own = text.part_files(path, recipe.Data(source=str(path)))["train"], text.starter(path)
    names = {"text": "text", "label": "label"} | own.get("columns", {})
    rows = list(islice(text.labelled(file, recipe.Columns(**names)), LOOKED_AT))
    classes, texts = {label for *_, label in rows}, [one for _, one, _ in rows]
    fewest = 2 if len(rows) < LOOKED_AT else 1  # a long table may be sorted by class
    odd = [one for one in texts if not any(map(str.isalpha, one)) or one.endswith(folder.SUFFIXES)]
    if own and 2 * len(odd) > len(texts):
        what = f"{names['text']!r} holds {odd[0]!r:.40}"
    elif FEW <= len(rows) and not fewest <= len(classes) <= len(rows) / 2:
        what = f"{names['label']!r} has {len(classes):,} values in {len(rows):,} rows"
    else:
        return None
    return ConfigError(
        f"data.source: {str(path)!r} is no table of texts with a class each: its column {what}",
        expected="a recipe that says what its columns are",
        repair="write one with task: text-classification and data.columns: {text: …, label: …}; or "
        "translation, {source: …, target: …}; language-modeling, {text: …}; tagging, {words: …, "
        "tags: …}; or forecasting, of numbers with a point; without names columns count from 0",
    )


def _doubt_of_classes(path: Path) -> ConfigError | None:
    """Of a folder with less than two folders of classes, by what lies beside them."""
    folders = [one for one in sorted(path.iterdir()) if one.is_dir() and one.name[0] != "."]
    parts = [one for one in folders if one.name.lower() in folder.PART_FOLDERS]
    inner = (one for base in parts for one in base.iterdir() if one.is_dir())
    classes = sorted({one.name for one in (inner if parts else folders)})
    tables = sorted(one for one in path.iterdir() if one.is_file() and table_suffix(one))
    pair = parallel.unnamed(path)
    if len(classes) > 1 or not (classes or tables or pair):
        return None
    said = [f"; or modelwright init {one}" for one in tables if transcripts.is_here(one)][:1]
    said += [f"; or, for translation, write data: {{source: {path}, {pair}}}"] if pair else []
    return ConfigError(
        f"data.source: {str(path)!r} has {'a single' if classes else 'no'} folder of a class"
        + "".join(f", {one}" for one in classes)
        + "".join(f"; beside it lies {one.name}, which is not read" for one in tables[:1]),
        expected="one folder for each of several classes",
        repair="put what is of one class into a folder named for it" + "".join(said),
    )


SOURCES: dict[str, Source] = {
    "voc": Source(
        annotations.has_voc,
        annotations.read_voc,
        "a folder with Annotations, JPEGImages and perhaps ImageSets, as Pascal VOC has them, or "
        "with XML files beside their pictures",
        answers=("boxes",),
        reads=("image_size",),
    ),
    "yolo": Source(
        annotations.has_yolo,
        annotations.read_yolo,
        "a folder with images, labels and data.yaml or classes.txt, as YOLO has them, or data.yaml",
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
        doubt=_doubt_of_texts,
    ),
    "text_folder": Source(
        text_folder.is_here,
        text_folder.read,
        "a folder with one folder of .txt or .txt.gz files for each class",
        kind="text",
        whole_files=True,
        reads=("clean",),
        doubt=_doubt_of_classes,
    ),
    "tagged_words": Source(
        tags.is_here,
        tags.read_tagged,
        "a file with a word and its tag on each line and a blank line between sentences, a CSV, "
        "TSV, JSON lines or Parquet file with the columns words and tags, or a folder with "
        "train.txt and the like",
        kind="text",
        answers=("tags",),
        reads=("files", "columns.words", "columns.tags"),
        is_sure=tags.is_sure,
        doubt=tags.doubt,
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
        doubt=_doubt_of_classes,
    ),
    "folder": Source(
        lambda path: path.is_dir(),
        folder.read,
        "a folder with one folder of pictures for each class",
        reads=("image_size",),
        doubt=_doubt_of_classes,
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

    Raises: ConfigError if it is not there, of no known format, or probably not what it looks like.
    """
    path = Path(section.source).expanduser()
    with _permitted(section.source):
        found = _recognised(section, path)
        if (doubt := found.doubt(path)) is not None:
            raise doubt
    return found


def _recognised(section: recipe.Data, path: Path) -> Source:
    there = section.source.strip() and path.exists()
    if there and (sure := [row for row in SOURCES.values() if row.is_sure(path)]):
        return sure[0]
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


def _says(section: recipe.Data, key: str, path: Path) -> bool:
    """Whether a key that is set says what is at the path: files of a folder, columns of a table."""
    if key in ("files", "pair"):
        return section.sets(key) and path.is_dir()
    return key.startswith("columns.") and section.sets(key) and text.has_tables(path)


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
    said = [key for row in known.values() for key in row.reads if _says(section, key, path)]
    for own, row in known.items():
        here = name == "auto" and (row.is_here(path) or not {*said}.isdisjoint(row.reads))
        if name == own or here:
            return own, path
    raise ConfigError(
        f"data.source: {source!r} is of no kind that is known",
        expected=expected,
        repair="set data.format where the name does not show it",
    )

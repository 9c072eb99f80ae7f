"""The gate: what is wrong with the data, before a second is spent on training.

Reads a Dataset and the recipe's data section; gives the Dataset that may be trained on and the
report that becomes data.json (docs/reference/run-folder.md). Blocking checks stop the run
(`refuse`) unless waived by name; the other findings are noted.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from modelwright.core import recipe
from modelwright.core.errors import DataError, MissingExtra
from modelwright.data import label_noise, similarity
from modelwright.data.image import prepare
from modelwright.data.near_texts import near_pairs
from modelwright.data.rows import (
    PARTS,
    Dataset,
    Finding,
    Images,
    Indices,
    Rows,
    dataset,
    row_hashes,
    text_hashes,
)
from modelwright.data.shared import Shared, Windows, telling

__all__ = ["CHECKS", "Finding", "check", "refuse"]

LARGEST_IMBALANCE = 10  # times; beyond it the largest class drowns the smallest


@dataclass(frozen=True)
class Subject:
    """A Dataset under examination, and what several checks need of it."""

    data: Dataset
    section: recipe.Data

    @cached_property
    def hashes(self) -> dict[str, list[bytes]]:
        """Hashes of the rows, part by part: of texts as they are written, since a model takes all
        words that train hardly knows for one."""
        if self.data.kind == "text":
            return {part: text_hashes(rows.origins) for part, rows in self.data.parts.items()}
        return {part: row_hashes(rows.inputs) for part, rows in self.data.parts.items()}

    @cached_property
    def telling(self) -> dict[str, list[bytes]]:
        """Hashes of what must not stand in two parts: the rows, or what several of them share."""
        if self.data.kind == "text":
            return self.hashes
        if self.data.kind == "pairs":  # as written too; a row is known by its source
            return {part: text_hashes(rows.origins) for part, rows in self.data.parts.items()}
        return {part: row_hashes(telling(rows.inputs)) for part, rows in self.data.parts.items()}

    def each(self) -> Iterator[tuple[str, int, bytes]]:
        """Part, index and hash of every row; train first."""
        for part, hashes in self.hashes.items():
            for index, row in enumerate(hashes):
                yield part, index, row

    @property
    def nouns(self) -> tuple[str, str]:
        """What one row is called, and several."""
        one = {"image": "image", "text": "text", "audio": "recording"}.get(self.data.kind, "row")
        return one, f"{one}s"

    def name(self, part: str, index: int) -> str:
        return self.data.parts[part].name(part, index)

    def pictures(self, part: str) -> tuple[Images, Indices]:
        """Every picture of a part once, (pictures, channels, height, width), and a row of each."""
        column = self.data.parts[part].inputs["image"]
        if isinstance(column, Shared):
            rows = column.firsts()
            return column.gather(rows), rows
        return self.data.parts[part].images, np.arange(len(column))

    def count(self, part: str) -> list[int]:
        """Rows of each class in one part."""
        if not self.has_classes:
            return []
        targets = self.data.parts[part].classes
        return [int(n) for n in np.bincount(targets, minlength=len(self.data.labels))]

    @property
    def has_classes(self) -> bool:
        return bool(self.data.outputs["kind"] == "classes")

    def applies(self, name: str) -> bool:
        """Whether a check means anything for this kind of data."""
        if name == "near_duplicates":
            return self.data.kind in ("image", "image_text", "text")
        if name == "constant_images":
            return self.data.kind in ("image", "image_text")
        if name == "constant_recordings":
            return self.data.kind == "audio"
        if name == "constant_series":
            return self.data.kind == "series"
        if name in ("repeated_uses", "short_histories", "rare_items"):
            return self.data.kind in ("items", "ratings")
        if name in ("faulty_boxes", "clipped_boxes", "crowd_boxes"):
            return bool(self.data.outputs["kind"] == "boxes")
        letters = bool(self.data.outputs["kind"] == "letters")
        if name == "empty_texts":
            return self.data.kind in ("text", "pairs", "image_text") or letters
        if name == "cleaned":
            return self.data.kind in ("text", "pairs", "image_text", "stream") or letters
        if name == "short_recordings":
            return letters
        if name == "label_noise":
            return self.section.checks.label_noise and self.has_classes
        if name in ("class_imbalance", "conflicting_labels"):
            return self.has_classes
        if name in ("duplicates_across_splits", "duplicates_within_split"):
            # rows of the former overlap by nature; equal histories and first sights are no fault
            alike = ("series", "stream", "items", "ratings", "observation")
            return self.data.kind not in alike
        return True


Check = Callable[[Subject], Finding | None]


def check(data: Dataset, section: recipe.Data) -> tuple[Dataset, dict[str, Any]]:
    """Examine the data; drop the rows of waived findings where that is possible.

    The copies of duplicates_across_splits leave train and valid, never test, and statistics and
    digest are computed again. Row numbers in the report are those of the Dataset returned, but for
    rows that are no longer in it: those of findings made while loading carry the name that the
    source gives them, those of dropped duplicates their number before.

    Returns: the Dataset to save, and the report as in data.json. Nothing is raised here; call
        `refuse(report)` before training.
    """
    started = time.perf_counter()
    subject = Subject(data, section)
    findings = list(data.findings)
    across = None
    if subject.applies("duplicates_across_splits"):
        across = duplicates_across_splits(subject)
    if across is not None:
        findings.append(across)
        if across.check in section.checks.waive:
            data = _drop_leaks(subject)
            subject = Subject(data, section)
    checked = [name for name in CHECKS if subject.applies(name)]
    found = (examine(subject) for name in checked if (examine := CHECKS[name]) is not None)
    findings += [finding for finding in found if finding is not None]
    findings.sort(key=lambda finding: checked.index(finding.check))
    report = {
        "source": data.source,
        "inputs": data.inputs,
        "outputs": data.outputs,
        "labels": data.labels,
        "digest": data.digest,
        "rows": {part: len(rows) for part, rows in data.parts.items()},
        "files": sorted(data.files),
        "bytes": sum(data.parts[part].nbytes for part in ("train", "valid")),
        "class_counts": {part: subject.count(part) for part in PARTS},
        "findings": [_entry(finding, section) for finding in findings],
        "checked": checked,
        "seconds": time.perf_counter() - started,
    }
    return data, report


def refuse(report: dict[str, Any]) -> None:
    """Stop on findings that block and are not waived.

    Raises: DataError that names each of them with its first rows, and how to accept it.
    """
    empty = [part for part, rows in report["rows"].items() if not rows]
    blocking = [f for f in report["findings"] if f["blocking"] and not f["waived"]]
    if empty:
        why = "; ".join(f["text"] for f in blocking)
        raise DataError(
            f"the data of {report['source']!r} has no rows in: {', '.join(empty)}"
            + (f" ({why})" if why else ""),
            expected="rows to train on, to choose by and to judge by",
            repair="bring more rows, or set data.valid and data.test between 0 and 1",
        )
    if not blocking:
        return
    lines = []
    for finding in blocking:
        rows = [" = ".join(entry) for entry in finding["rows"][:3]]
        more = ", …" if finding["count"] > len(rows) > 0 else ""
        where = f" ({', '.join(rows)}{more})" if rows else ""
        lines.append(f"\n    {finding['check']}: {finding['text']}{where}")
    names = ", ".join(dict.fromkeys(finding["check"] for finding in blocking))
    waived = "faulty rows, and copies of held-out rows, are then left out"
    if report["inputs"]["kind"] == "series":  # rows that are left out would shift the time
        waived = "a missing value is then the last one before it"
    raise DataError(
        f"the data of {report['source']!r} is not fit to train on:{''.join(lines)}",
        expected="none of these",
        repair=f"correct the data, or accept it as it is with data.checks.waive: [{names}]; "
        f"{waived}",
    )


def _entry(finding: Finding, section: recipe.Data) -> dict[str, Any]:
    blocking = finding.check in recipe.BLOCKING_CHECKS
    waived = blocking and finding.check in section.checks.waive
    return {
        "check": finding.check,
        "blocking": blocking,
        "waived": waived,
        "count": finding.count,
        "text": finding.text,
        "rows": [list(entry) for entry in finding.rows],
    }


def _drop_leaks(subject: Subject) -> Dataset:
    """Without the rows of train and valid that a later part holds too."""
    parts: dict[str, Rows] = {}
    later: set[bytes] = set()
    for part in reversed(PARTS):
        hashes = subject.telling[part]
        keep = [index for index, image in enumerate(hashes) if image not in later]
        parts[part] = subject.data.parts[part].take(np.array(keep, np.int64))
        later.update(hashes)
    data = subject.data
    inputs = data.inputs
    if data.kind == "image":  # statistics of the rows that are left
        inputs = prepare(parts, subject.section, data.outputs["kind"]).inputs
    return dataset(parts, data.labels, data.source, data.findings, inputs, data.outputs, data.files)


def duplicates_across_splits(subject: Subject) -> Finding | None:
    """Rows of train or valid whose very pixels stand in a later part too."""
    later: dict[bytes, str] = {}
    pairs = []
    for part in reversed(PARTS):
        hashes = subject.telling[part]
        pairs += [
            (subject.name(part, index), later[image])
            for index, image in enumerate(hashes)
            if image in later
        ]
        for index, image in enumerate(hashes):
            later.setdefault(image, subject.name(part, index))
    one, many = subject.nouns
    what = _plural(len(pairs), f"{one} of train or valid is", f"{many} of train or valid are")
    return _listed("duplicates_across_splits", pairs, f"{what} also in a part held out for judging")


def duplicates_within_split(subject: Subject) -> Finding | None:
    """Rows whose very pixels stand earlier in the same part."""
    first: dict[tuple[str, bytes], int] = {}
    pairs = []
    for part, index, image in subject.each():
        original = first.setdefault((part, image), index)
        if original != index:
            pairs.append((subject.name(part, original), subject.name(part, index)))
    one, many = subject.nouns
    what = _plural(len(pairs), f"{one} repeats", f"{many} repeat")
    return _listed("duplicates_within_split", pairs, f"{what} an earlier one of the same part")


def conflicting_labels(subject: Subject) -> Finding | None:
    """Equal pixels with different labels: one of them is wrong."""
    first: dict[bytes, tuple[str, int]] = {}
    pairs = []
    for part, index, image in subject.each():
        where = first.setdefault(image, (part, index))
        parts = subject.data.parts
        if parts[part].classes[index] != parts[where[0]].classes[where[1]]:
            pairs.append((subject.name(*where), subject.name(part, index)))
    one, many = subject.nouns
    what = _plural(len(pairs), f"{one} has", f"{many} have")
    return _listed("conflicting_labels", pairs, f"{what} another label than an equal {one}")


def noisy_labels(subject: Subject) -> Finding | None:
    """Rows whose label a quick model doubts that has not seen them."""
    labels, parts = subject.data.labels, subject.data.parts
    found = label_noise.suspects(list(parts.values()), len(labels))
    places = [(part, row) for part, rows in parts.items() for row in range(len(rows))]
    names = [
        (
            subject.name(*places[row]),
            f"labelled {labels[parts[places[row][0]].classes[places[row][1]]]}, "
            f"looks like {labels[likely]}",
        )
        for row, likely in zip(found.rows, found.likely, strict=True)
    ]
    what = _plural(len(names), "label is", "labels are")
    share = f"{len(names) / max(1, found.looked_at):.1%} of {found.looked_at:,} rows looked at"
    return _listed("label_noise", names, f"{what} doubted by a quick model, {share}")


def too_few_rows(subject: Subject) -> Finding | None:
    """Parts without a row, classes with fewer than two training rows, fewer than two classes."""
    data = subject.data
    faults = [f"the {part} part is empty" for part in PARTS if not len(data.parts[part])]
    counts = zip(data.labels, subject.count("train"), strict=subject.has_classes)
    small = [label for label, count in counts if count < 2]
    if small:
        what = _plural(len(small), "class has", "classes have")
        faults.append(f"{what} fewer than 2 training rows: {', '.join(small[:10])}")
    if subject.has_classes and len(data.labels) < 2:
        faults.append(_plural(len(data.labels), "class is too few", "classes are too few"))
    number = len(faults) - bool(small) + len(small)
    return Finding("too_few_rows", number, "; ".join(faults)) if faults else None


def constant_images(subject: Subject) -> Finding | None:
    """Images whose channels each have one value everywhere."""
    names = []
    for part in subject.data.parts:
        images, rows = subject.pictures(part)
        flat = images.reshape(*images.shape[:2], math.prod(images.shape[2:]))
        constant = (flat == flat[:, :, :1]).all(axis=(1, 2))
        names += [(subject.name(part, int(rows[index])),) for index in np.flatnonzero(constant)]
    what = _plural(len(names), "image shows", "images show")
    return _listed("constant_images", names, f"{what} one colour and nothing else")


def constant_recordings(subject: Subject) -> Finding | None:
    """Recordings that have one value throughout, such as silence."""
    names = []
    for part, rows in subject.data.parts.items():
        samples = rows.inputs["samples"]
        for index in range(len(rows)):
            if (samples[index] == samples[index][0]).all():
                names.append((subject.name(part, index),))
    what = _plural(len(names), "recording holds", "recordings hold")
    return _listed("constant_recordings", names, f"{what} one value and nothing else")


def constant_series(subject: Subject) -> Finding | None:
    """Series that have one value in all of train, so that nothing is learned of them."""
    windows = subject.data.parts["train"].inputs["window"]
    assert isinstance(windows, Windows)
    constant = np.flatnonzero((windows.values == windows.values[:1]).all(0))
    names = [(str(subject.data.inputs["channels"][place]),) for place in constant]
    what = _plural(len(names), "series has", "series have")
    return _listed("constant_series", names, f"{what} one value in all of train")


def class_imbalance(subject: Subject) -> Finding | None:
    """The largest training class against the smallest that has rows."""
    counts = dict(zip(subject.count("train"), subject.data.labels, strict=True))
    sizes = [size for size in counts if size]
    large, small = max(sizes, default=0), min(sizes, default=0)
    if large <= LARGEST_IMBALANCE * small:
        return None
    text = (
        f"the class {counts[large]} has {large:,} training rows, {large / small:.0f} times as many "
        f"as {counts[small]} with {small}, of which accuracy hardly tells: goals.f1_macro and "
        "goals.balanced_accuracy count classes alike, and so does train.class_weights: balanced"
    )
    return Finding("class_imbalance", 1, text)


def near_duplicates(subject: Subject) -> Finding | None:
    """Pairs of rows that differ, but hardly; pairs across parts first."""
    return (_near_texts if subject.data.kind == "text" else _near_images)(subject)


def _near_texts(subject: Subject) -> Finding | None:
    """Texts that share nearly all their runs of letters."""
    places = [(part, row) for part, rows in subject.data.parts.items() for row in range(len(rows))]
    texts = (subject.data.parts[part].origins[row] for part, row in places)
    try:
        pairs = [(places[one], places[other]) for one, other in near_pairs(texts, len(places))]
    except MissingExtra as error:
        return Finding("near_duplicates", 0, f"not looked for: {error.what} {error.repair}")
    across = [pair for pair in pairs if pair[0][0] != pair[1][0]]
    within = [pair for pair in pairs if pair[0][0] == pair[1][0]]
    names = [(subject.name(*one), subject.name(*other)) for one, other in across + within]
    what = _plural(len(pairs), "text is nearly", "texts are nearly")
    return _listed("near_duplicates", names, f"{what} an earlier one, {len(across)} across parts")


def _near_images(subject: Subject) -> Finding | None:
    """Images that are nearly equal when shrunk."""
    pictures = {part: subject.pictures(part) for part in subject.data.parts}
    first: dict[bytes, tuple[str, int]] = {}
    for part, (_, rows) in pictures.items():
        for index, row in enumerate(rows):
            first.setdefault(subject.telling[part][row], (part, index))
    keys = list(first.values())
    threshold = subject.section.checks.near_duplicate_similarity
    found = similarity.near_pairs(
        [
            (images, np.array([i for where, i in keys if where == part], np.int64))
            for part, (images, _) in pictures.items()
        ],
        threshold,
    )
    names = [subject.name(part, int(pictures[part][1][index])) for part, index in keys]
    pairs = tuple((names[a], names[b]) for a, b in found.pairs)
    count = found.across + found.within
    if count == 0 and found.compared == found.rows:
        return None
    what = _plural(count, "pair of images is", "pairs of images are")
    text = f"{what} nearly equal (similarity from {threshold:g}), {found.across} across parts"
    if found.compared < found.rows:
        text += f"; looked for among a sample of {found.compared:,} of {found.rows:,} images"
    return Finding("near_duplicates", count, text, pairs)


# Every check by name; None: made by the source while loading, or by `check` before the others.
CHECKS: dict[str, Check | None] = {
    "broken_files": None,
    "empty_class": None,
    "label_out_of_range": None,
    "nan_values": None,
    "duplicates_across_splits": None,
    "too_few_rows": too_few_rows,
    "faulty_boxes": None,
    "empty_texts": None,
    "cleaned": None,
    "duplicates_within_split": duplicates_within_split,
    "near_duplicates": near_duplicates,
    "constant_images": constant_images,
    "constant_recordings": constant_recordings,
    "constant_series": constant_series,
    "short_recordings": None,
    "class_imbalance": class_imbalance,
    "conflicting_labels": conflicting_labels,
    "label_noise": noisy_labels,
    "repeated_uses": None,
    "short_histories": None,
    "rare_items": None,
    "clipped_boxes": None,
    "crowd_boxes": None,
}


def _listed(name: str, rows: Sequence[tuple[str, ...]], text: str) -> Finding | None:
    return Finding.of(name, rows, text) if rows else None


def _plural(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"

"""Pictures with boxes: what every format of annotations turns into.

Each format (annotations.py) gives Pictures by part; here they become pixels of one size and
targets, and what is wrong with a box becomes a finding. Pictures are stretched to that size, as
`decode` does everywhere, and their boxes with them: how much two boxes overlap does not change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelwright.core import recipe
from modelwright.core.errors import DataError
from modelwright.data import folder, image
from modelwright.data.rows import Column, Finding, Loaded, Rows, ragged

LONGEST_SIDE = 320  # of the size chosen where the recipe names none
OUTSIDE = 1.0  # pixels that a box may stick out without a word: some formats count from 1
Box = tuple[float, float, float, float, str]  # x1, y1, x2, y2, class


@dataclass(frozen=True)
class Picture:
    """A file and what is marked in it.

    relative: whether corners are shares of the picture's sides, not pixels.
    """

    file: Path
    boxes: tuple[Box, ...]
    relative: bool = False


def loaded(
    root: Path, parts: Mapping[str, Sequence[Picture]], labels: Sequence[str],
    section: recipe.Data, findings: Sequence[Finding], broken: Mapping[Path, str] | None = None,
) -> Loaded:  # fmt: skip
    """Rows of pixels and boxes; a box without area, outside or of no known class is left out.

    Args:
        broken: annotations that cannot be read, with the reason.
    Raises: DataError without a readable picture, or without a class; as folder.pictures does.
    """
    files = [one.file for found in parts.values() for one in found]
    sizes, faulty = folder.read_each(files, image.size)
    if not sizes or not labels:
        raise DataError(
            f"{root}: {len(sizes)} of {len(files)} pictures are readable, and {len(labels)} "
            "classes are named",
            expected="pictures, and boxes with classes",
        )
    height, width = _shape(list(sizes.values()), section)
    pixels, unread = folder.pictures(sizes, height, width)
    faulty |= unread
    channels = min(map(len, pixels.values()), default=3)
    marks = _Marks(list(labels))
    made = {}
    for part, found in parts.items():
        own = [one for one in found if one.file in pixels]
        images = np.empty((len(own), channels, height, width), np.uint8)
        targets = []
        for row, one in enumerate(own):
            images[row] = pixels[one.file]
            name = folder.name_of(one.file, root)
            targets.append(marks.scaled(one, sizes[one.file], (height, width), name))
        inputs: dict[str, Column] = {"image": images}
        names = [folder.name_of(one.file, root) for one in own]
        made[part] = Rows(inputs, ragged(targets, np.zeros((0, 5), np.float32)), names)
    reasons = {
        folder.name_of(file, root): why for file, why in {**faulty, **(broken or {})}.items()
    }
    return made, list(labels), [*_broken(reasons), *findings, *marks.findings()]


class _Marks:
    """Boxes on their way to targets, and what was wrong with them."""

    def __init__(self, labels: list[str]) -> None:
        self.places = {label: place for place, label in enumerate(labels)}
        self.faulty: list[tuple[str, str]] = []
        self.clipped: list[str] = []

    def scaled(
        self, one: Picture, size: tuple[int, int], shape: tuple[int, int], name: str
    ) -> np.ndarray:
        """The sound boxes of a picture, float32 (n, 5), in pixels of the model's input."""
        if not one.boxes:
            return np.zeros((0, 5), np.float32)
        sides = np.array([size[1], size[0]] * 2, np.float64)
        scale = np.array([shape[1], shape[0]] * 2, np.float64) / sides
        labels = [label for *_, label in one.boxes]
        boxes = np.array([corners for *corners, _ in one.boxes], np.float64)
        boxes *= sides if one.relative else 1.0
        inside = np.clip(boxes, 0, sides)
        known = np.array([label in self.places for label in labels])
        finite = np.all(np.isfinite(boxes), axis=1)
        area = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        within = np.all(inside[:, 2:] > inside[:, :2], axis=1)
        sound = known & finite & area & within
        for row in np.flatnonzero(~sound).tolist():  # the first fault of each counts
            if not known[row]:
                why = f"the class {labels[row]!r} is not known"
            elif not finite[row]:
                why = "a corner is not a number"
            else:
                how = "lies outside" if area[row] else "has no area"
                why = f"a box of {labels[row]} {how}"
            self.faulty.append((name, why))
        beyond = np.abs(boxes[sound] - inside[sound]).max(1) > OUTSIDE
        self.clipped += [name] * int(beyond.sum())
        places = [self.places[labels[row]] for row in np.flatnonzero(sound).tolist()]
        return np.column_stack([inside[sound] * scale, places]).astype(np.float32)

    def findings(self) -> list[Finding]:
        found = []
        if self.faulty:
            number, (name, why) = len(self.faulty), self.faulty[0]
            boxes = "box is" if number == 1 else "boxes are"
            text = f"{number} {boxes} no box of a known class; {name}: {why}"
            found.append(Finding.of("faulty_boxes", [own for own, _ in self.faulty], text))
        if self.clipped:
            boxes = "box reaches" if len(self.clipped) == 1 else "boxes reach"
            text = f"{len(self.clipped)} {boxes} beyond the picture and were cut at its edge"
            found.append(Finding.of("clipped_boxes", self.clipped, text))
        return found


def _broken(reasons: Mapping[str, str]) -> list[Finding]:
    if not reasons:
        return []
    names = sorted(reasons)
    are = "file is" if len(names) == 1 else "files are"
    text = f"{len(names)} {are} not readable; {names[0]}: {reasons[names[0]]}"
    return [Finding.of("broken_files", names, text)]


def _shape(sizes: Sequence[tuple[int, int]], section: recipe.Data) -> tuple[int, int]:
    """Height and width that every picture will have: the typical ratio of its sides, in cells."""
    table = np.array(sizes, np.float64)
    height, width = np.median(table, 0)
    longest = section.image_size or min(max(height, width), LONGEST_SIDE)
    down, across = (round(side * longest / max(height, width)) for side in (height, width))
    for _ in range(2):  # what is rounded may have cells of another size
        cells = 2 * image.stride(down, across)  # grids are put together at half the detail
        down, across = (max(cells, cells * round(side / cells)) for side in (down, across))
    return down, across

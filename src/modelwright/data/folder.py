"""Folders with one folder of files for each class; the source "folder" is that of images.

root/cats/a.png                 cut into train, valid and test by the recipe
root/train/cats/a.png           or divided already: train, valid (or val), test

What the files hold is a Medium: IMAGES here, RECORDINGS in audio.py, TEXTS in text_folder.py.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from modelwright.core import recipe
from modelwright.core.errors import DataError
from modelwright.core.hardware import this_machine
from modelwright.core.progress import counted
from modelwright.core.units import format_bytes
from modelwright.data import image
from modelwright.data.opening import inside
from modelwright.data.rows import Column, Finding, Images, Loaded, Rows

T = TypeVar("T")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
PART_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
LARGEST_SIDE = 64  # of the size chosen where images differ; data.image_size goes beyond
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_LOOKED_AT = 20  # files that tell what a folder holds


@dataclass(frozen=True)
class Medium:
    """What the files of class folders hold.

    one, formats, suffixes: what a person calls a row, and what its file is
    read: what each readable file holds, and the reason why each other one is not
    join: of what was read, the chosen files' as inputs of Rows
    """

    one: str
    formats: str
    suffixes: tuple[str, ...]
    read: Callable[[Sequence[Path], recipe.Data], tuple[dict[Path, Any], dict[Path, str]]]
    join: Callable[[Mapping[Path, Any], Sequence[Path]], dict[str, Column]]

    @property
    def expected(self) -> str:
        """How a source looks."""
        return (
            f"one folder for each class, with {self.formats} files; "
            "or train/, valid/ and test/ of them"
        )


def read(root: Path, section: recipe.Data) -> Loaded:
    """Every readable image of an image folder; one channel if every image is grey, else three.

    Raises: DataError as read_classes does; MissingExtra without Pillow.
    """
    return read_classes(root, section, IMAGES)


def read_classes(root: Path, section: recipe.Data, medium: Medium) -> Loaded:
    """Every readable file of a folder of class folders; labels are the folder names, sorted.

    Files are taken from class folders at any depth. A file that cannot be read, or is of another
    format, becomes a finding broken_files; a class folder without a readable file becomes
    empty_class. Names that begin with a dot are not looked at.

    Raises: DataError if there is no class folder, no readable file, a mixture of part and class
        folders, or a link that leaves the folder.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", expected=medium.expected)
    part_folders = _part_folders(root)
    classes = {
        (part, folder.name): list(files_below(folder, root))
        for part, base in part_folders.items()
        for folder in _subfolders(base, root)
    }
    if not classes:
        raise DataError(f"{root} has no class folders", expected=medium.expected)
    files = [file for found in classes.values() for file in found]
    named = [file for file in files if file.name.lower().endswith(medium.suffixes)]
    contents, broken = medium.read(named, section)
    foreign = f"its name does not end in {', '.join(medium.suffixes)}"
    broken |= dict.fromkeys(set(files) - set(named), foreign)
    if not contents:
        raise DataError(
            f"{root}: none of {len(files)} files is a readable {medium.formats}",
            expected=medium.expected,
        )
    readable = {key: [f for f in found if f in contents] for key, found in classes.items()}
    labels = sorted({label for (_, label), found in readable.items() if found})
    number = {label: place for place, label in enumerate(labels)}
    parts = {}
    for part in part_folders:
        chosen = [
            (file, number[label])
            for (where, label), found in readable.items()
            if where == part
            for file in found
        ]
        inputs = medium.join(contents, [file for file, _ in chosen])
        targets = np.array([target for _, target in chosen], np.int64)
        parts[part] = Rows(inputs, targets, [name_of(file, root) for file, _ in chosen])
    empty = [
        label if part_folders[part] == root else f"{part}/{label}"
        for (part, label), found in readable.items()
        if not found
    ]
    return parts, labels, _findings(root, broken, empty, medium)


def read_each(
    files: Sequence[Path], decode: Callable[[bytes], T]
) -> tuple[dict[Path, T], dict[Path, str]]:
    """What each file holds, decoded on all cores, and the reason why each other one cannot be."""

    def attempt(file: Path) -> tuple[T | None, str]:
        try:
            return decode(file.read_bytes()), ""
        except (DataError, OSError) as error:
            return None, error.what if isinstance(error, DataError) else str(error)

    contents: dict[Path, T] = {}
    broken: dict[Path, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = counted(pool.map(attempt, files), "data: files read", len(files))
        for file, (found, reason) in zip(files, results, strict=True):
            if found is None:
                broken[file] = reason
            else:
                contents[file] = found
    return contents, broken


def holds(root: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether most of the first files below a folder, at any depth, have one of the suffixes."""
    first = list(islice(_names(root), _LOOKED_AT))
    return 2 * sum(name.lower().endswith(suffixes) for name in first) > len(first)


def _names(root: Path) -> Iterator[str]:
    for _, folders, files in os.walk(root):  # which follows no links
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from sorted(name for name in files if not name.startswith("."))


def _findings(
    root: Path, broken: dict[Path, str], empty: list[str], medium: Medium
) -> list[Finding]:
    findings = []
    if broken:
        reasons = {name_of(file, root): reason for file, reason in broken.items()}
        names = sorted(reasons)
        are = "file is" if len(names) == 1 else "files are"
        text = f"{len(names)} {are} not readable as {medium.formats}; "
        findings.append(Finding.of("broken_files", names, f"{text}{names[0]}: {reasons[names[0]]}"))
    if empty:
        have = "class folder has" if len(empty) == 1 else "class folders have"
        text = f"{len(empty)} {have} no readable {medium.one}: {', '.join(empty[:10])}"
        findings.append(Finding.of("empty_class", empty, text))
    return findings


def _part_folders(root: Path) -> dict[str, Path]:
    """Part to folder; an undivided source is one part, "train"."""
    folders = _subfolders(root, root)
    found = [folder for folder in folders if folder.name.lower() in PART_FOLDERS]
    if not found:
        return {"train": root}
    parts = {PART_FOLDERS[folder.name.lower()]: folder for folder in found}
    if len(found) != len(folders) or len(parts) != len(found) or "train" not in parts:
        raise DataError(
            f"{root} holds the folders {', '.join(folder.name for folder in folders[:12])}",
            expected="either class folders only, or train with valid (or val) and test only",
            repair="move the classes into train/, or rename the class folders",
        )
    return parts


def _subfolders(base: Path, root: Path) -> list[Path]:
    folders = [path for path in _entries(base) if path.is_dir()]
    for path in folders:
        _refuse_leaving(path, root)
    return folders


def _entries(folder: Path) -> list[Path]:
    entries = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(
        (path for path in entries if path.name.lower() not in _SYSTEM_FILES),
        key=lambda path: path.name,
    )


def files_below(folder: Path, root: Path) -> Iterator[Path]:
    """Every file at any depth, in the order of names, but for those whose name begins with a dot.

    Raises: DataError for a link to a folder or out of `root`.
    """
    for path in _entries(folder):
        _refuse_leaving(path, root)
        if path.is_dir():
            yield from files_below(path, root)
        else:
            yield path


def _refuse_leaving(path: Path, root: Path) -> None:
    if not path.is_symlink():
        return
    if path.is_dir() or not inside(path, root):
        raise DataError(
            f"{path} is a link to {path.readlink()}",
            expected="files inside the folder; links to folders or out of it are not followed",
            repair="copy what it points to, or remove the link",
        )


def _read_images(
    files: Sequence[Path], section: recipe.Data
) -> tuple[dict[Path, Images], dict[Path, str]]:
    """Pixels of one size, (1 or 3, height, width)."""
    sizes, broken = read_each(files, image.size)
    pixels, faulty = pictures(sizes, *_common_size(list(sizes.values()), section))
    return pixels, broken | faulty


def pictures(
    sizes: Mapping[Path, tuple[int, int]], height: int, width: int
) -> tuple[dict[Path, Images], dict[Path, str]]:
    """Pixels of each file, (channels, height, width), one channel if all are grey; and the reason
    why each other one has none.

    Raises: DataError if they would not fit into memory.
    """
    needed, held = 2 * 3 * height * width * len(sizes), this_machine().memory_bytes
    if needed > held:
        raise DataError(
            f"{len(sizes):,} pictures of {width} × {height} take {format_bytes(needed)} of memory "
            "to read",
            expected=f"less than this machine's {format_bytes(held)}",
            repair="set data.image_size, to which all are brought, such as 224",
        )
    decode = functools.partial(image.decode, channels=3, height=height, width=width)
    pixels, broken = read_each(list(sizes), decode)
    grey = all((p[0] == p[1]).all() and (p[0] == p[2]).all() for p in pixels.values())
    return {file: found[: 1 if grey else 3] for file, found in pixels.items()}, broken


def _join_images(found: Mapping[Path, Images], chosen: Sequence[Path]) -> dict[str, Column]:
    images = np.empty((len(chosen), *next(iter(found.values())).shape), np.uint8)
    for row, file in enumerate(chosen):
        images[row] = found[file]
    return {"image": images}


IMAGES = Medium("image", image.KNOWN, SUFFIXES, _read_images, _join_images)


def _common_size(sizes: list[tuple[int, int]], section: recipe.Data) -> tuple[int, int]:
    """Height and width that every image will have."""
    if section.image_size is not None:
        return section.image_size, section.image_size
    if len(set(sizes)) == 1:
        return sizes[0]
    median = float(np.median(np.array(sizes or [(LARGEST_SIDE, LARGEST_SIDE)])))
    side = int(min(max(4 * round(median / 4), 4), LARGEST_SIDE))
    return side, side


def name_of(file: Path, root: Path) -> str:
    """A file as people know it: its path below the source."""
    return file.relative_to(root).as_posix()

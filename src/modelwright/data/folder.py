"""The source "folder": one folder of PNG and JPEG files for each class.

root/cats/a.png                 cut into train, valid and test by the recipe
root/train/cats/a.png           or divided already: train, valid (or val), test
"""

import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from modelwright.core import recipe
from modelwright.core.errors import DataError
from modelwright.data import image
from modelwright.data.rows import Finding, Images, Loaded, Rows

SUFFIXES = (".png", ".jpg", ".jpeg")
PART_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
LARGEST_SIDE = 64  # of the size chosen where images differ; data.image_size goes beyond
_EXPECTED = "one folder for each class, with PNG or JPEG files; or train/, valid/ and test/ of them"
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")


def read(root: Path, section: recipe.Data) -> Loaded:
    """Every readable image of an image folder; labels are the folder names, sorted.

    Files are taken from class folders at any depth. A file that cannot be read, or is neither PNG
    nor JPEG, becomes a finding broken_files; a class folder without a readable image becomes
    empty_class. Names that begin with a dot are not looked at. One channel if every image is
    grey, else three.

    Raises: DataError if there is no class folder, no readable image, a mixture of part and class
        folders, or a link that leaves the folder; MissingExtra without Pillow.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", expected=_EXPECTED)
    part_folders = _part_folders(root)
    classes = {
        (part, folder.name): list(_files(folder, root))
        for part, base in part_folders.items()
        for folder in _subfolders(base, root)
    }
    if not classes:
        raise DataError(f"{root} has no class folders", expected=_EXPECTED)
    files = [file for found in classes.values() for file in found]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = dict(zip(files, pool.map(_size, files), strict=True))
        broken = {file: found for file, found in sizes.items() if isinstance(found, str)}
        height, width = _common_size([s for s in sizes.values() if not isinstance(s, str)], section)
        whole = [file for file in files if file not in broken]
        pixels: dict[Path, Images] = {}
        read_one = functools.partial(_read, height=height, width=width)
        for file, found in zip(whole, pool.map(read_one, whole), strict=True):
            if isinstance(found, str):
                broken[file] = found
            else:
                pixels[file] = found
    if not pixels:
        raise DataError(
            f"{root}: none of {len(files)} files is a readable PNG or JPEG", expected=_EXPECTED
        )
    grey = all((p[0] == p[1]).all() and (p[0] == p[2]).all() for p in pixels.values())
    channels = 1 if grey else 3
    readable = {key: [f for f in found if f in pixels] for key, found in classes.items()}
    labels = sorted({label for (_, label), found in readable.items() if found})
    parts = {}
    for part in part_folders:
        chosen = [
            (file, labels.index(label))
            for (where, label), found in readable.items()
            if where == part
            for file in found
        ]
        images = np.empty((len(chosen), channels, height, width), np.uint8)
        for row, (file, _) in enumerate(chosen):
            images[row] = pixels[file][:channels]
        targets = np.array([target for _, target in chosen], np.int64)
        parts[part] = Rows(images, targets, [_name(file, root) for file, _ in chosen])
    empty = [
        label if part_folders[part] == root else f"{part}/{label}"
        for (part, label), found in readable.items()
        if not found
    ]
    return parts, labels, _findings(root, broken, empty)


def _findings(root: Path, broken: dict[Path, str], empty: list[str]) -> list[Finding]:
    findings = []
    if broken:
        reasons = {_name(file, root): reason for file, reason in broken.items()}
        names = sorted(reasons)
        are = "file is" if len(names) == 1 else "files are"
        text = f"{len(names)} {are} not readable as PNG or JPEG; {names[0]}: {reasons[names[0]]}"
        findings.append(_finding("broken_files", names, text))
    if empty:
        have = "class folder has" if len(empty) == 1 else "class folders have"
        text = f"{len(empty)} {have} no readable image: {', '.join(empty[:10])}"
        findings.append(_finding("empty_class", empty, text))
    return findings


def _finding(check: str, names: list[str], text: str) -> Finding:
    return Finding(check, len(names), text, tuple((name,) for name in names[:100]))


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


def _files(folder: Path, root: Path) -> Iterator[Path]:
    for path in _entries(folder):
        _refuse_leaving(path, root)
        if path.is_dir():
            yield from _files(path, root)
        else:
            yield path


def _refuse_leaving(path: Path, root: Path) -> None:
    if not path.is_symlink():
        return
    if path.is_dir() or not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{path} is a link to {path.readlink()}",
            expected="files inside the folder; links to folders or out of it are not followed",
            repair="copy what it points to, or remove the link",
        )


def _size(file: Path) -> tuple[int, int] | str:
    if file.suffix.lower() not in SUFFIXES:
        return f"its name does not end in {', '.join(SUFFIXES)}"
    try:
        return image.size(file.read_bytes())
    except (DataError, OSError) as error:
        return error.what if isinstance(error, DataError) else str(error)


def _read(file: Path, height: int, width: int) -> Images | str:
    try:
        return image.decode(file.read_bytes(), 3, height, width)
    except (DataError, OSError) as error:
        return error.what if isinstance(error, DataError) else str(error)


def _common_size(sizes: list[tuple[int, int]], section: recipe.Data) -> tuple[int, int]:
    """Height and width that every image will have."""
    if section.image_size is not None:
        return section.image_size, section.image_size
    if len(set(sizes)) == 1:
        return sizes[0]
    median = float(np.median(np.array(sizes or [(LARGEST_SIDE, LARGEST_SIDE)])))
    side = int(min(max(4 * round(median / 4), 4), LARGEST_SIDE))
    return side, side


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()

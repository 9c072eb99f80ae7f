"""Formats of boxes: Pascal VOC, YOLO, COCO; each gives pictures by part (boxes.py has the rest).

VOC   root/Annotations/a.xml, root/JPEGImages/a.jpg, root/ImageSets/Main/{train,val,test}.txt;
      or both beside each other in root, or in root/train and so on
YOLO  root/images[/train]/a.jpg, root/labels[/train]/a.txt, or root/train/images and so on, or what
      root/data.yaml says; names there or in root/classes.txt
COCO  root/annotations/*train*.json with the pictures beside, root/train/_annotations.coco.json,
      or one *.json file

What these files say is data, never trusted: XML may declare no document type (no entity can then
grow), and no picture outside the folder is opened.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import yaml

from modelwright.core import recipe
from modelwright.core.errors import DataError
from modelwright.core.progress import say
from modelwright.data.boxes import Box, Picture, loaded
from modelwright.data.folder import PART_FOLDERS, SUFFIXES
from modelwright.data.opening import inside
from modelwright.data.rows import Finding, Loaded

CLASS_FILES = ("data.yaml", "dataset.yaml", "classes.txt", "labels/classes.txt")
COCO_FILE = "_annotations.coco.json"
Places = tuple[Path, Path]  # of one part: the folders of annotations and of pictures
_LONGER = {"train": "train(?:ing)?", "val": "val(?:idation)?"}  # words of files for parts


def has_voc(root: Path) -> bool:
    """Whether a folder has annotations of VOC, in a folder of their own or beside the pictures."""
    return root.is_dir() and bool(_voc_folders(root))


def read_voc(root: Path, section: recipe.Data) -> Loaded:
    """Corners are taken as they stand; `difficult` things are things. Labels: names, sorted.

    Without ImageSets/Main every annotation is a row to be divided by the recipe.

    Raises: DataError as boxes.loaded does.
    """
    parts: dict[str, list[Picture]] = {}
    broken: dict[Path, str] = {}
    for part, names, (marks, base) in _voc_parts(root):
        pictures = _voc_pictures(base)
        parts[part] = []
        for name in names:
            file = marks / f"{name}.xml"
            _inside(root, file)
            picture = pictures.get(name)
            try:
                if picture is None:
                    raise DataError(f"{base.name} has no picture {name}")
                _inside(root, picture)
                parts[part].append(Picture(picture, tuple(_voc_boxes(file.read_bytes()))))
            except (DataError, OSError) as error:
                broken[file] = error.what if isinstance(error, DataError) else str(error)
    labels = sorted({box[4] for found in parts.values() for one in found for box in one.boxes})
    return loaded(root, parts, labels, section, [], broken)


def _voc_folders(root: Path) -> dict[str, Places]:
    """Folders of annotations and of pictures: of every part, under "", or of each part."""
    for marks, pictures in product(("Annotations", "annotations"), ("JPEGImages", "images")):
        both = root / marks, root / pictures
        named = both == (root / "Annotations", root / "JPEGImages")
        if both[0].is_dir() and both[1].is_dir() and (named or any(both[0].glob("*.xml"))):
            return {"": both}
    if _voc_beside(root):
        return {"": (root, root)}
    each = {part: root / name for name, part in PART_FOLDERS.items() if _voc_beside(root / name)}
    return {part: (own, own) for part, own in each.items()} if "train" in each else {}


def _voc_beside(folder: Path) -> bool:
    """Whether a folder has an annotation beside its picture."""
    marked = {one.stem for one in folder.glob("*.xml")}
    return bool(marked) and any(
        one.stem in marked and one.suffix.lower() in SUFFIXES for one in folder.iterdir()
    )


def _voc_pictures(base: Path) -> dict[str, Path]:
    """The pictures by their names, which may have folders before them."""
    every = sorted(base.rglob("*"), reverse=True)  # of one name the first counts
    found = [one for one in every if one.suffix.lower() in SUFFIXES]
    return {one.relative_to(base).with_suffix("").as_posix(): one for one in found}


def _voc_parts(root: Path) -> Iterator[tuple[str, list[str], Places]]:
    """Each part, the names in its list and its folders; other columns of a list are not read."""
    folders = _voc_folders(root)
    known = {
        part: sorted(
            one.relative_to(base).with_suffix("").as_posix() for one in base.rglob("*.xml")
        )
        for part, (base, _) in folders.items()
    }
    found = {}
    for name, part in {"trainval": "train", **PART_FOLDERS}.items():  # train comes after trainval
        file = root / "ImageSets" / "Main" / f"{name}.txt"
        if "" in folders and file.is_file():
            text = file.read_text(encoding="utf-8-sig", errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            found[part] = [_voc_name(line, set(known[""])) for line in lines]
    if "train" in found:
        yield from ((part, names, folders[""]) for part, names in found.items())
    else:
        yield from ((part or "train", known[part], own) for part, own in folders.items())


def _voc_name(line: str, known: Collection[str]) -> str:
    """What a line names: all of it, or all but a number behind it; a name may hold blanks."""
    return next((one for one in (line, line.rpartition(" ")[0].strip()) if one in known),
                line.split()[0])  # fmt: skip


def _voc_boxes(content: bytes) -> Iterator[Box]:
    """Raises: DataError where something is no annotation."""
    for thing in xml(content).iter("object"):
        name, box = thing.findtext("name"), thing.find("bndbox")
        if not name or box is None:
            raise DataError("an object has no name or no bndbox")
        try:
            sides = [float(box.findtext(one) or "") for one in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError as error:
            raise DataError(f"a corner of {name} is no number") from error
        yield (*sides, name.strip())  # type: ignore[misc]


def xml(content: bytes) -> Element:
    """The root of an XML document that declares no document type.

    Raises: DataError for another one, and for what is no XML.
    """

    def refuse(*_: Any) -> None:
        raise DataError("it declares a document type, which an annotation has no need of")

    parser, builder = expat.ParserCreate(), TreeBuilder()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter of its encoding
        raise DataError(f"it is no XML: {error}") from error
    return builder.close()


def has_yolo(path: Path) -> bool:
    """Whether a folder has pictures and labels side by side, or a file *.yaml says where."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml") and bool(_yolo_said(path))
    return path.is_dir() and "train" in _yolo_parts(path)


def read_yolo(path: Path, section: recipe.Data) -> Loaded:
    """A line is a class's number, then centre, width and height as shares of the sides.

    Pictures are where data.yaml says, else in folders that are called so. One without a file of
    labels has no box.

    Raises: DataError where the names of the classes are not found, and as boxes.loaded does.
    """
    root = path.parent if path.is_file() else path
    labels = _yolo_names([path] if path.is_file() else [root / name for name in CLASS_FILES])
    parts: dict[str, list[Picture]] = {}
    broken: dict[Path, str] = {}
    lost: list[str] = []
    found = _yolo_parts(path, lost)
    for part, places in found.items():
        parts[part] = []
        for marks, pictures in places:
            for file in sorted(pictures.iterdir()):
                if file.suffix.lower() not in SUFFIXES:
                    continue
                _inside(root, file)
                own = marks / f"{file.stem}.txt"
                try:
                    text = own.read_text(encoding="utf-8-sig") if own.is_file() else ""
                    lines = (line for line in text.splitlines() if line.strip())
                    boxes = tuple(_yolo_box(line, labels) for line in lines)
                    parts[part].append(Picture(file, boxes, relative=True))
                except (DataError, OSError, UnicodeDecodeError) as error:
                    broken[own] = error.what if isinstance(error, DataError) else str(error)
    for one in lost:
        say(f"data: {root} has no folder {one}, of which data.yaml speaks")
    if parts.get("valid") and found["valid"] == found["train"]:  # as in COCO128
        say("data: valid is the very pictures of train; a part of train is cut off instead")
        del parts["valid"]
    return loaded(root, parts, labels, section, [], broken)


def _yolo_parts(path: Path, lost: list[str] | None = None) -> dict[str, list[Places]]:
    """Part to the folders of its labels and of its pictures."""
    if path.is_file():
        return _yolo_said(path, lost)
    for name in CLASS_FILES:
        if name.endswith(".yaml") and (said := _yolo_said(path / name, lost)):
            return said
    found: dict[str, list[Places]] = {}
    for name, part in PART_FOLDERS.items():
        years = sorted(one.name for one in (path / "images").glob(f"{name}20[0-9][0-9]"))
        for pictures in (
            *(path / "images" / one for one in (name, *years)), path / name / "images",
        ):  # fmt: skip
            if pictures.is_dir() and (marks := _yolo_marks(pictures, path)).is_dir():
                found.setdefault(part, []).append((marks, pictures))
    flat = path / "labels", path / "images"
    if not found and flat[0].is_dir() and flat[1].is_dir():
        found["train"] = [flat]
    return found if "train" in found else {}


def _yolo_marks(pictures: Path, root: Path) -> Path:
    """The folder of the labels of a folder of pictures: where it says images, labels; or itself."""
    names = [*pictures.relative_to(root).parts]
    for place in reversed(range(len(names))):
        if names[place] == "images":
            return root.joinpath(*names[:place], "labels", *names[place + 1 :])
    return pictures


def _yolo_said(file: Path, lost: list[str] | None = None) -> dict[str, list[Places]]:
    """What a file data.yaml says of the parts, as far as it is there and within the file's folder;
    nothing if it does not say where train is.

    Args:
        lost: takes what it says of folders that are not there.
    """
    root = file.parent
    try:
        held = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}  # reading the names says what is wrong
    found: dict[str, list[Places]] = {}
    for name, part in PART_FOLDERS.items() if isinstance(held, dict) else ():
        given = held.get(name) or []
        for one in given if isinstance(given, list) else [given]:
            near = re.sub(r"^(\.\./)+", "", str(one))  # Roboflow's begin in a folder beside
            bases = root / str(held.get("path") or ""), root
            places = (base / to for base in bases for to in (str(one), near))
            there = [place for place in places if place.is_dir() and inside(place, root)]
            if not there and lost is not None:
                lost.append(f"{name}: {one}")
            for place in there[:1]:
                own = root / os.path.relpath(os.path.realpath(place), os.path.realpath(root))
                if (marks := _yolo_marks(own, root)).is_dir():
                    found.setdefault(part, []).append((marks, own))
    return found if "train" in found else {}


def _yolo_names(files: Sequence[Path]) -> list[str]:
    for file in files:
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8-sig")
            if file.suffix == ".txt":
                return [line.strip() for line in text.splitlines() if line.strip()]
            names = yaml.safe_load(text)["names"]
            ordered = [names[key] for key in sorted(names)] if isinstance(names, dict) else names
            return [str(one) for one in list(ordered)]
        except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise DataError(
                f"{file} does not name the classes", expected="names: [first, second, …]"
            ) from error
    raise DataError(
        f"{files[0].parent} does not name its classes",
        expected=f"one of {', '.join(CLASS_FILES)}",
        repair="write classes.txt with the name of a class on each line, in the order of numbers",
    )


def _yolo_box(line: str, labels: list[str]) -> Box:
    try:
        number, x, y, width, height = line.split()
        place, centre = int(number), (float(x), float(y))
        half = float(width) / 2, float(height) / 2
    except ValueError as error:
        raise DataError(
            f"{line.strip()[:60]!r} is not the number of a class and four shares"
        ) from error
    label = labels[place] if 0 <= place < len(labels) else f"number {number}"
    low, high = ((centre[0] + sign * half[0], centre[1] + sign * half[1]) for sign in (-1, 1))
    return (*low, *high, label)


def has_coco(path: Path) -> bool:
    """Whether it is an annotation file of COCO, or a folder with some."""
    return path.suffix == ".json" if path.is_file() else bool(_coco_files(path))


def read_coco(path: Path, section: recipe.Data) -> Loaded:
    """Labels: the categories in the order of their ids. Regions of a crowd are left out and noted.

    Raises: DataError for a file that is no COCO annotation, and as boxes.loaded does.
    """
    root = path if path.is_dir() else path.parent
    files = _coco_files(path) if path.is_dir() else {"train": path}
    parts, names, crowds = {}, dict[int, str](), list[str]()
    for part, file in files.items():
        try:
            held = json.loads(file.read_bytes())
            names |= {int(one["id"]): str(one["name"]) for one in held["categories"]}
            parts[part] = _coco_pictures(root, file, held, names, crowds)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{file} is no COCO annotation: {type(error).__name__} {error}",
                expected="JSON with images, annotations and categories",
            ) from error
    findings = []
    if crowds:
        text = f"{len(crowds)} regions of a crowd are no single thing and were left out"
        findings.append(Finding.of("crowd_boxes", crowds, text))
    return loaded(root, parts, [names[key] for key in sorted(names)], section, findings)


def _coco_files(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, part in {**PART_FOLDERS, "trainval": "train"}.items():  # where there is no train
        if part in found:
            continue
        own = root / name / COCO_FILE
        word = re.compile(rf"(?<![a-z]){_LONGER.get(name, name)}(?![a-z])", re.IGNORECASE)
        several = [
            one
            for one in sorted((root / "annotations").glob("*.json"))
            if word.search(one.stem) and "image_info" not in one.stem  # has no boxes
        ]
        if own.is_file():
            found[part] = own
        elif several:  # "instances" before captions and the like
            found[part] = next((one for one in several if "instances" in one.name), several[0])
    return found if "train" in found else {}


def _coco_pictures(
    root: Path, file: Path, held: Mapping[str, Any], names: Mapping[int, str], crowds: list[str]
) -> list[Picture]:
    boxes: dict[Any, list[Box]] = defaultdict(list)
    files = {one["id"]: str(one["file_name"]) for one in held["images"]}
    if len(files) < len(held["images"]):
        raise DataError(
            f"{file}: two pictures have the same id",
            expected="an id of its own for each",
            repair="number the pictures of files that were put together anew",
        )
    for one in held["annotations"]:
        if one["image_id"] not in files:
            raise DataError(
                f"{file}: boxes of a picture {one['image_id']} that is not listed",
                expected="every picture that has boxes among images",
                repair="list the picture, or remove its boxes",
            )
        if one.get("iscrowd"):
            crowds.append(files.get(one["image_id"], ""))
            continue
        x, y, width, height = map(float, one["bbox"])
        label = names.get(one["category_id"], f"number {one['category_id']}")
        boxes[one["image_id"]].append((x, y, x + width, y + height, label))
    base = _coco_folder(root, file, next(iter(files.values()), ""))
    pictures = []
    for key, name in files.items():
        _inside(root, base / name)
        pictures.append(Picture(base / name, tuple(boxes[key])))
    return pictures


def _coco_folder(root: Path, file: Path, name: str) -> Path:
    """Where the pictures lie: beside the file, in images/, or in the folder of the same part."""
    part = file.stem.rpartition("_")[2]
    places = (
        file.parent, root, root / "images", root / part, root / "images" / part,
        *(root / own for own in PART_FOLDERS if own in file.stem),
        *(root / "images" / own for own in PART_FOLDERS if own in file.stem),
    )  # fmt: skip
    return next((one for one in places if (one / name).is_file()), file.parent)


def _inside(root: Path, file: Path) -> None:
    if not inside(file, root):
        raise DataError(
            f"an annotation asks for {file}, which is outside {root}",
            expected="names of files inside the folder",
            repair="copy the picture into the folder",
        )

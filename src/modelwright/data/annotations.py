"""Formats of boxes: Pascal VOC, YOLO, COCO; each gives pictures by part (boxes.py has the rest).

VOC   root/Annotations/a.xml, root/JPEGImages/a.jpg, root/ImageSets/Main/{train,val,test}.txt
YOLO  root/images[/train]/a.jpg, root/labels[/train]/a.txt, or root/train/images and so on;
      names in root/data.yaml or root/classes.txt
COCO  root/annotations/*train*.json with the pictures beside, root/train/_annotations.coco.json,
      or one *.json file

What these files say is data, never trusted: XML may declare no document type (no entity can then
grow), and no picture outside the folder is opened.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import yaml

from modelwright.core import recipe
from modelwright.core.errors import DataError
from modelwright.data.boxes import Box, Picture, loaded
from modelwright.data.folder import PART_FOLDERS, SUFFIXES
from modelwright.data.opening import inside
from modelwright.data.rows import Finding, Loaded

CLASS_FILES = ("data.yaml", "dataset.yaml", "classes.txt", "labels/classes.txt")
COCO_FILE = "_annotations.coco.json"
_LONGER = {"train": "train(?:ing)?", "val": "val(?:idation)?"}  # words of files for parts


def has_voc(root: Path) -> bool:
    """Whether a folder has the two folders of VOC."""
    return (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir()


def read_voc(root: Path, section: recipe.Data) -> Loaded:
    """Corners are taken as they stand; `difficult` things are things. Labels: names, sorted.

    Without ImageSets/Main every annotation is a row to be divided by the recipe.

    Raises: DataError as boxes.loaded does.
    """
    parts: dict[str, list[Picture]] = {}
    broken: dict[Path, str] = {}
    pictures = _voc_pictures(root)
    for part, names in _voc_parts(root).items():
        parts[part] = []
        for name in names:
            file = root / "Annotations" / f"{name}.xml"
            _inside(root, file)
            picture = pictures.get(name)
            try:
                if picture is None:
                    raise DataError(f"JPEGImages has no picture {name}")
                _inside(root, picture)
                parts[part].append(Picture(picture, tuple(_voc_boxes(file.read_bytes()))))
            except (DataError, OSError) as error:
                broken[file] = error.what if isinstance(error, DataError) else str(error)
    labels = sorted({box[4] for found in parts.values() for one in found for box in one.boxes})
    return loaded(root, parts, labels, section, [], broken)


def _voc_pictures(root: Path) -> dict[str, Path]:
    """The pictures by their names, which may have folders before them."""
    base = root / "JPEGImages"
    every = sorted(base.rglob("*"), reverse=True)  # of one name the first counts
    found = [one for one in every if one.suffix.lower() in SUFFIXES]
    return {one.relative_to(base).with_suffix("").as_posix(): one for one in found}


def _voc_parts(root: Path) -> dict[str, list[str]]:
    """The names in each part's list; the other columns of a list are not looked at."""
    base = root / "Annotations"
    known = {one.relative_to(base).with_suffix("").as_posix() for one in base.rglob("*.xml")}
    lists = root / "ImageSets" / "Main"
    found = {}
    for name, part in {"trainval": "train", **PART_FOLDERS}.items():  # train comes after trainval
        file = lists / f"{name}.txt"
        if file.is_file():
            text = file.read_text(encoding="utf-8-sig", errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            found[part] = [_voc_name(line, known) for line in lines]
    return found if "train" in found else {"train": sorted(known)}


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


def has_yolo(root: Path) -> bool:
    """Whether a folder has pictures and labels side by side."""
    return bool(root.is_dir() and _yolo_parts(root))


def read_yolo(root: Path, section: recipe.Data) -> Loaded:
    """A line is a class's number, then centre, width and height as shares of the sides.

    A picture without a file of labels has no box.

    Raises: DataError where the names of the classes are not found, and as boxes.loaded does.
    """
    labels = _yolo_names(root)
    parts: dict[str, list[Picture]] = {}
    broken: dict[Path, str] = {}
    for part, (pictures, marks) in _yolo_parts(root).items():
        parts[part] = []
        for file in sorted(pictures.iterdir()):
            if file.suffix.lower() not in SUFFIXES:
                continue
            _inside(root, file)
            own = marks / f"{file.stem}.txt"
            try:
                text = own.read_text(encoding="utf-8-sig") if own.is_file() else ""
                boxes = tuple(_yolo_box(line, labels) for line in text.splitlines() if line.strip())
                parts[part].append(Picture(file, boxes, relative=True))
            except (DataError, OSError, UnicodeDecodeError) as error:
                broken[own] = error.what if isinstance(error, DataError) else str(error)
    return loaded(root, parts, labels, section, [], broken)


def _yolo_parts(root: Path) -> dict[str, tuple[Path, Path]]:
    """Part to the folders of its pictures and of their labels."""
    found: dict[str, tuple[Path, Path]] = {}
    for name, part in PART_FOLDERS.items():
        for pair in (
            (root / "images" / name, root / "labels" / name),
            (root / name / "images", root / name / "labels"),
        ):
            if pair[0].is_dir() and pair[1].is_dir():
                found[part] = pair
    flat = (root / "images", root / "labels")
    if not found and flat[0].is_dir() and flat[1].is_dir():
        found["train"] = flat
    return found if "train" in found else {}


def _yolo_names(root: Path) -> list[str]:
    for file in (root / name for name in CLASS_FILES):
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
        f"{root} does not name its classes",
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

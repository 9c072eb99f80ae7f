"""Pictures with boxes: three formats, what is wrong with a box, and augmentation that moves it."""

import itertools
import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageFont
from torch import Generator

from modelwright.core import recipe, recipe_file
from modelwright.core.errors import ConfigError, DataError
from modelwright.core.signature import NO_TARGET
from modelwright.data import (
    annotations,
    augment_boxes,
    boxes,
    catalog,
    checks,
    drawing,
    folder,
    image,
)
from modelwright.data.draw import Draw
from modelwright.data.loader import Loader
from modelwright.data.rows import Ragged, Rows

pytest.importorskip("PIL")

SIZE = (48, 64)  # height, width


def picture(number: int) -> bytes:
    draw = np.random.default_rng(number)
    return image.encode_png(draw.integers(0, 255, (3, *SIZE), np.uint8))


def load(source: Path, **keys):
    section = recipe.Data(source=str(source), image_size=32, **keys)
    return catalog.load(section, "image", "boxes"), section


def voc(root: Path, boxes: list[tuple[str, tuple[float, ...]]], number: int = 12) -> Path:
    """A VOC folder of `number` pictures; the first has the boxes given, the others one each."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for row in range(number):
        own = boxes if row == 0 else [("cat", (8, 8, 40, 40))]
        things = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
            f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
            for label, (a, b, c, d) in own
        )
        (root / f"Annotations/{row}.xml").write_text(f"<annotation>{things}</annotation>")
        (root / f"JPEGImages/{row}.png").write_bytes(picture(row))
    lists = {"train": range(8), "val": range(8, 10), "test": range(10, number)}
    for name, rows in lists.items():
        (root / f"ImageSets/Main/{name}.txt").write_text("\n".join(map(str, rows)))
    return root


def test_voc_keeps_its_parts_and_scales_its_boxes(tmp_path):
    """Corners come in pixels of the input, whose sides have the pictures' ratio."""
    data, _ = load(voc(tmp_path, [("dog", (0, 12, 32, 48)), ("cat", (32, 0, 64, 24))]))

    assert [8, 2, 2] == [len(rows) for rows in data.parts.values()]
    assert ["cat", "dog"] == data.labels
    assert (3, 24, 32) == data.parts["train"].images.shape[1:]
    assert {"grid": [6, 8], "stride": 4} == {k: data.outputs[k] for k in ("grid", "stride")}
    assert [[0, 6, 16, 24, 1], [16, 0, 32, 12, 0]] == data.parts["train"].targets[0].tolist()


def test_yolo_and_coco_say_the_same_as_voc(tmp_path):
    """One data set in three formats is the same pictures and the same boxes."""
    boxes = [("dog", (0, 12, 32, 48)), ("cat", (32, 0, 64, 24))]
    first, _ = load(voc(tmp_path / "voc", boxes))
    yolo, coco = tmp_path / "yolo", tmp_path / "coco"
    names = {"train": range(8), "valid": range(8, 10), "test": range(10, 12)}
    (coco / "annotations").mkdir(parents=True)
    for part, rows in names.items():
        (yolo / part / "images").mkdir(parents=True)
        (yolo / part / "labels").mkdir()
        held: dict = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        }
        (coco / part).mkdir()
        for row in rows:
            own = boxes if row == 0 else [("cat", (8, 8, 40, 40))]
            for here in (yolo / part / "images", coco / part):
                (here / f"{row}.png").write_bytes(picture(row))
            held["images"].append({"id": row, "file_name": f"{row}.png"})
            lines = []
            for label, (a, b, c, d) in own:
                shares = ((a + c) / 128, (b + d) / 96, (c - a) / 64, (d - b) / 48)
                lines.append(f"{['cat', 'dog'].index(label)} " + " ".join(map(str, shares)))
                key = {"dog": 7, "cat": 3}[label]
                box = {"image_id": row, "category_id": key, "bbox": [a, b, c - a, d - b]}
                held["annotations"].append(box)
            (yolo / part / f"labels/{row}.txt").write_text("\n".join(lines))
        (coco / f"annotations/instances_{part}.json").write_text(json.dumps(held))
    (yolo / "data.yaml").write_text("names: {0: cat, 1: dog}")
    for root in (yolo, coco):
        data, _ = load(root)
        assert first.labels == data.labels
        for part, rows in first.parts.items():
            np.testing.assert_array_equal(rows.images, data.parts[part].images)
            np.testing.assert_allclose(rows.targets.values, data.parts[part].targets.values)


@pytest.mark.parametrize(
    ("box", "check", "word"),
    [
        ((10, 10, 10, 30), "faulty_boxes", "no area"),
        ((70, 10, 90, 30), "faulty_boxes", "outside"),
        ((float("nan"), 10, 90, 30), "faulty_boxes", "not a number"),
        ((50, 10, 80, 30), "clipped_boxes", "cut at its edge"),
    ],
)
def test_faulty_boxes_are_findings(tmp_path, box, check, word):
    """The box is named and left out or cut; the picture and its other boxes stay."""
    data, section = load(voc(tmp_path, [("cat", (0, 0, 20, 20)), ("cat", box)]))
    _, report = checks.check(data, section)
    found = {one["check"]: one for one in report["findings"]}

    assert word in found[check]["text"]
    assert "JPEGImages/0.png" in found[check]["rows"][0][0]
    assert (2 if check == "clipped_boxes" else 1) == len(data.parts["train"].targets[0])
    if check == "faulty_boxes":
        with pytest.raises(DataError, match="faulty_boxes"):
            checks.refuse(report)


def test_a_picture_without_boxes_is_a_row(tmp_path):
    """Nothing to find is an answer too; such rows pass the gate and can be loaded."""
    data, section = load(voc(tmp_path, []))
    data, report = checks.check(data, section)
    checks.refuse(report)
    batch = Loader(data.parts["train"], batch_size=8, seed=0, num_classes=1).batch(0)

    assert 0 == len(data.parts["train"].targets[0])
    assert (8, 8, 5) == tuple(batch.targets.shape)
    assert 7 == int((batch.targets[..., 4] >= 0).any(1).sum())


def test_xml_with_entities_is_refused():
    """A document type, with which a small file could grow without end, is no annotation."""
    bomb = b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
    with pytest.raises(DataError, match="document type"):
        annotations.xml(bomb)
    with pytest.raises(DataError, match="no XML"):
        annotations.xml(b"<annotation>")


def test_a_broken_annotation_leaves_its_row_out(tmp_path):
    """It is a finding broken_files with the reason; the other rows are read."""
    root = voc(tmp_path, [("cat", (0, 0, 20, 20))])
    (root / "Annotations/3.xml").write_text("<annotation>")
    data, _ = load(root)

    assert 7 == len(data.parts["train"])
    assert "Annotations/3.xml" in data.findings[0].text


def test_names_never_leave_the_folder(tmp_path):
    """An annotation that asks for a picture elsewhere is refused."""
    root = voc(tmp_path / "in", [("cat", (0, 0, 20, 20))])
    (root / "ImageSets/Main/train.txt").write_text("../../secret\n")
    with pytest.raises(DataError, match="outside"):
        load(root)


def test_coco_that_asks_for_a_file_elsewhere_is_refused(tmp_path):
    """An absolute path in the file is no picture of the folder."""
    held = {
        "images": [{"id": 1, "file_name": "/etc/passwd"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(held))
    with pytest.raises(DataError, match="outside"):
        load(tmp_path / "a.json")


def coco(root: Path, names: dict[str, range], **changes) -> Path:
    """A COCO folder with pictures of one cat each; changes are made in every file."""
    for name in ("annotations", "images"):
        (root / name).mkdir(exist_ok=True)
    for name, rows in names.items():
        for row in rows:
            (root / f"images/{row}.png").write_bytes(picture(row))
        held = {
            "images": [{"id": row, "file_name": f"{row}.png"} for row in rows],
            "annotations": [{"image_id": row, "category_id": 1, "bbox": [8, 8, 32, 32]}
                            for row in rows],
            "categories": [{"id": 1, "name": "cat"}],
        }  # fmt: skip
        (root / f"annotations/{name}.json").write_text(json.dumps(held | changes))
    return root


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        ({"instances_trainval2017": range(12)}, [9, 1, 2]),  # valid and test are cut off
        ({"instances_trainval": range(10), "instances_test": range(10, 12)}, [9, 1, 2]),
        ({"instances_train": range(8), "instances_trainval": range(10),
          "instances_val": range(8, 10), "instances_test": range(10, 12)}, [8, 2, 2]),
    ],
)  # fmt: skip
def test_coco_trainval_is_train_where_there_is_no_train(tmp_path, names, counts):
    """It is no file of the part valid, whose name it holds; each picture stands in one part."""
    data, section = load(coco(tmp_path, names))
    checks.refuse(checks.check(data, section)[1])

    assert counts == [len(rows) for rows in data.parts.values()]


def test_coco_files_without_boxes_are_no_part(tmp_path):
    """Where only names of test pictures are published, a test part is cut from train."""
    root = coco(tmp_path, {"instances_train2017": range(12)})
    info = {"images": [{"id": 99, "file_name": "99.png"}], "categories": []}
    (root / "annotations/image_info_test2017.json").write_text(json.dumps(info))
    data, _ = load(root)

    assert [9, 1, 2] == [len(rows) for rows in data.parts.values()]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": [{"id": 1, "file_name": f"{row}.png"} for row in (1, 2)]},
         "two pictures have the same id"),
        ({"annotations": [{"image_id": 77, "category_id": 1, "bbox": [8, 8, 32, 32]}]},
         "boxes of a picture 77 that is not listed"),
    ],
)  # fmt: skip
def test_coco_that_does_not_hold_together_is_refused(tmp_path, changes, words):
    """Boxes would go to another picture, or to none, without a word."""
    with pytest.raises(DataError, match=rf"instances_train\.json: {words}"):
        load(coco(tmp_path, {"instances_train": range(12)}, **changes))


@pytest.mark.parametrize("held", ["[]", "{", '{"images": 3}', '{"images": [], "categories": [3]}'])
def test_json_that_is_no_coco_is_refused(tmp_path, held):
    (tmp_path / "a.json").write_text(held)
    with pytest.raises(DataError, match="no COCO annotation"):
        load(tmp_path / "a.json")


@pytest.mark.parametrize("line", ["0 0.5 0.5", "cat 0.5 0.5 0.1 0.1", "0 a b c d"])
def test_a_faulty_line_of_yolo_is_named(tmp_path, line):
    """The file is left out as a finding, with what stands there."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text("cat\n")
    for row in range(12):
        (tmp_path / f"images/{row}.png").write_bytes(picture(row))
        (tmp_path / f"labels/{row}.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "labels/3.txt").write_text(line)
    data, _ = load(tmp_path)

    assert 11 == sum(len(rows) for rows in data.parts.values())
    assert line in data.findings[0].text


@pytest.mark.parametrize(
    ("task", "step"),
    [
        ("detection", "rotate: 5"),
        ("detection", "mixup: 0.2"),
        ("image-classification", "mosaic: 1"),
    ],
)
def test_the_recipe_refuses_steps_of_other_tasks(tmp_path, task, step):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"task: {task}\ndata: {{source: x}}\ntrain: {{augment: [{{{step}}}]}}\n")
    with pytest.raises(ConfigError, match=r"train\.augment"):
        recipe_file.read(path)


def test_yolo_without_names_says_how_to_name_them(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "images/a.png").write_bytes(picture(0))
    with pytest.raises(DataError, match=r"classes\.txt"):
        load(tmp_path)


# a bright box on black: wherever the step moves it, the target must go along
def boxed(number: int = 16, height: int = 40, width: int = 48):
    draw = np.random.default_rng(0)
    images, targets = (
        torch.zeros(number, 1, height, width),
        torch.full((number, 8, 5), NO_TARGET * 1.0),
    )
    for row in range(number):
        x, y = draw.integers(8, 24, 2)
        images[row, :, y : y + 12, x : x + 10] = 255
        targets[row, 0] = torch.tensor([x, y, x + 10, y + 12, row % 3])
    return images, targets


STEPS = [{"flip": "both"}, {"shift": 0.1}, {"zoom": 0.2}, {"mosaic": 1.0}, {"erase": 0.1}]


@pytest.mark.parametrize("step", STEPS, ids=[next(iter(one)) for one in STEPS])
def test_boxes_go_where_the_pixels_go(step):
    """Inside each box it is bright, and what is bright lies in a box or was cut too small."""
    images, targets = boxed()
    steps = [recipe.Augment(**step)]
    moved, boxes = augment_boxes.apply(images, targets, steps, Draw(Generator().manual_seed(1)))
    real = boxes[..., 4] >= 0
    assert real.any(1).float().mean() > 0.8
    for row in range(len(moved)):
        for x1, y1, x2, y2, _ in boxes[row][real[row]].tolist():
            inside = moved[row, 0, int(y1 + 1) : int(y2 - 1), int(x1 + 1) : int(x2 - 1)]
            assert inside.numel() == 0 or float((inside > 127).float().mean()) > 0.6
        if "mosaic" not in step and "erase" not in step and real[row].any():
            x1, y1, x2, y2, _ = boxes[row][real[row]][0].tolist()
            bright = (moved[row, 0] > 127).nonzero()
            assert abs(float(bright[:, 0].min()) - y1) < 1.5
            assert abs(float(bright[:, 1].max()) + 1 - x2) < 1.5


def test_the_batch_of_a_step_is_a_function_of_seed_and_step(tmp_path):
    """Twice the same step gives the same pixels and boxes; the next step gives others."""
    images, targets = boxed()
    values = targets[:, 0].numpy()
    rows = Rows(
        {"image": images.to(torch.uint8).numpy()},
        Ragged(values, np.arange(len(values) + 1)),
        [""] * len(values),
    )
    steps = [recipe.Augment(mosaic=0.5), recipe.Augment(flip="both"), recipe.Augment(zoom=0.1)]
    first, second = (
        Loader(rows, batch_size=8, seed=3, augment=steps, num_classes=3) for _ in range(2)
    )
    first.batch(4)
    one, two = first.batch(5), second.batch(5)

    assert torch.equal(one.inputs["image"], two.inputs["image"])
    assert torch.equal(one.targets, two.targets)
    assert not torch.equal(one.inputs["image"], first.batch(6).inputs["image"])


def test_steps_that_boxes_cannot_follow_are_refused():
    with pytest.raises(ConfigError, match="rotate does not move boxes"):
        augment_boxes.check([recipe.Augment(rotate=5.0)])


def rgb(kind, kinds):
    color = drawing.color(kind, kinds)
    return tuple(int(color[place : place + 2], 16) for place in (1, 3, 5))


def pixels(png):
    return np.asarray(image.upright(png))


@pytest.mark.parametrize(("size", "scale"), [(400, 1), (64, 10), (48, 13)])
def test_boxes_are_drawn_where_they_are(tmp_path, size, scale):
    """A frame in the label's colour, on a small picture that is enlarged; a second picture gets a
    second name."""
    found = [{"label": "cat", "score": 0.9, "box": [10.0, 20.0, 30.0, 40.0]}]
    png = drawing.boxes(
        image.encode_png(np.zeros((3, size, size), np.uint8)), found, ["ape", "cat"]
    )
    first, second = (drawing.write(tmp_path, "a.jpg", ".png", png) for _ in range(2))
    drawn = pixels(first.read_bytes())

    assert (size * scale, size * scale, 3) == drawn.shape
    assert rgb("cat", ["ape", "cat"]) == tuple(drawn[40 * scale, 20 * scale])
    assert {"a.png", "a-1.png"} == {first.name, second.name}


def test_each_kind_of_box_has_a_colour_of_its_own():
    """By its place among the kinds that the model knows, or among those that were found."""
    kinds = ["PER", "ORG", "VP", "PP", "ADJP", "NP"]
    box = {"score": 0.9, "box": [10.0, 20.0, 40.0, 40.0]}
    one, other = (drawing.boxes(picture(0), [{"label": own, **box}], kinds) for own in kinds[:2])
    both = drawing.boxes(picture(0), [{"label": own, **box} for own in ("b", "a")])

    def shows(png, kind, among):
        return (pixels(png) == rgb(kind, among)).all(-1).any()

    assert 6 == len({drawing.color(kind, kinds) for kind in kinds})
    assert shows(one, "PER", kinds) and not shows(other, "PER", kinds)
    assert shows(both, "a", "ab") and shows(both, "b", "ab")


def test_labels_cover_neither_each_other_nor_a_small_picture():
    """Of two things at one place both labels can be read, and most of the picture is still seen."""
    kinds = [str(n) for n in range(6)]
    box = {"score": 0.9, "box": [5.0, 5.0, 30.0, 40.0]}
    black = image.encode_png(np.zeros((3, 48, 64), np.uint8))
    drawn = pixels(drawing.boxes(black, [{"label": own, **box} for own in kinds], kinds))
    labels = [(drawn == rgb(kind, kinds)).all(-1).sum() for kind in kinds]

    assert min(labels) > 300  # pixels around its letters
    assert (drawn == 0).all(-1).mean() > 0.9


def test_a_box_beyond_the_picture_is_drawn_at_its_edge():
    """Of a thing that is cut off the frame is seen on all sides."""
    kinds, box = ["cat"], {"score": 0.9, "box": [-3.0, 10.0, 64.0, 70.0]}
    black = image.encode_png(np.zeros((3, 48, 64), np.uint8))
    drawn = pixels(drawing.boxes(black, [{"label": "cat", **box}], kinds))

    for row, column in ((240, 0), (240, -1), (-1, 320), (100, 320)):
        assert rgb("cat", kinds) == tuple(drawn[row, column])


@pytest.mark.parametrize("fonts", [("DejaVuSans.ttf",), ()])
def test_labels_of_any_script_are_told_apart(fonts, monkeypatch, capsys):
    """By a font of the system that has their letters, or else by numbers that are told once."""
    monkeypatch.setattr(drawing, "FONTS", fonts)
    monkeypatch.setattr(drawing, "_numbers", itertools.count(1))
    drawing._written.cache_clear()
    box = {"score": 0.9, "box": [10.0, 20.0, 40.0, 40.0]}
    labels = ("cat", "猫", "犬", "猫")
    one, two, three, again = (
        drawing.boxes(picture(0), [{"label": own, **box}], [own]) for own in labels
    )
    said = capsys.readouterr().err
    drawing._written.cache_clear()

    assert (3, two) == (len({one, two, three}), again)
    assert 2 == len(said.splitlines())
    assert "'猫': it is drawn as #1" in said


def test_letters_that_a_font_of_the_system_has_are_written():
    """Pillow's own font has Latin letters alone."""
    try:
        ImageFont.truetype("DejaVuSans.ttf")
    except OSError:
        pytest.skip("DejaVu Sans is not on this machine")

    assert [("cat", ""), ("собака", "DejaVuSans.ttf")] == [
        drawing._written(label) for label in ("cat", "собака")
    ]


@pytest.mark.parametrize(("task", "folder", "words"), [
    ("tagging", "new", "expected: a model for forecasting or detection"),
    ("detection", "taken", "taken is a file, and drawings go into a folder"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused_before_anything_is_answered(tmp_path, task, folder, words):
    """A task without drawings, and a file where the folder should be."""
    (tmp_path / "taken").touch()

    with pytest.raises(ConfigError, match=words):
        drawing.require(task, ["forecasting", "detection"], tmp_path / folder)


@pytest.mark.parametrize("ratio", [(3, 4), (2, 3), (1, 1), (9, 16)])
def test_grids_of_every_size_fit_their_pictures(ratio):
    """Both sides are whole cells at half the detail, whatever size is asked for."""
    for size in range(32, 700):
        height, width = boxes._shape([(ratio[0] * 100, ratio[1] * 100)], recipe.Data(
            source="x", image_size=size))  # fmt: skip
        cells = 2 * image.stride(height, width)
        assert (0, 0) == (height % cells, width % cells), (size, height, width)


def test_files_of_voc_may_have_any_name(tmp_path):
    """Blanks in a name, and an ending in capitals; a number behind a name is no part of it."""
    root = voc(tmp_path, [("cat", (0, 0, 20, 20))])
    for kind, old, new in (("Annotations", "3.xml", "my photo.xml"),
                           ("JPEGImages", "3.png", "my photo.PNG")):  # fmt: skip
        (root / kind / old).rename(root / kind / new)
    (root / "ImageSets/Main/train.txt").write_text("0 1\nmy photo -1\n1  -1\n")
    data, _ = load(root)

    assert ["JPEGImages/0.png", "JPEGImages/my photo.PNG", "JPEGImages/1.png"] == (
        data.parts["train"].origins
    )
    assert [] == data.findings


@pytest.mark.parametrize("encoding", ["gb2312", "nonsense"])
def test_xml_in_an_encoding_that_is_not_read_is_no_annotation(encoding):
    """The parser says so with errors of other types."""
    content = f'<?xml version="1.0" encoding="{encoding}"?><annotation/>'.encode()
    with pytest.raises(DataError, match="no XML"):
        annotations.xml(content)


def test_a_class_that_no_list_names_is_none_that_is_called_so(tmp_path):
    """Class number 6 is not the class that is called 6; a byte order mark is no part of a name."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text("6\n5\n", encoding="utf-8-sig")
    for row in range(12):
        (tmp_path / f"images/{row}.png").write_bytes(picture(row))
        (tmp_path / f"labels/{row}.txt").write_text(
            f"{6 if row == 3 else 0} 0.5 0.5 0.5 0.5", encoding="utf-8-sig"
        )
    data, _ = load(tmp_path)

    assert ["6", "5"] == data.labels
    (found,) = data.findings
    assert "faulty_boxes" == found.check and "the class 'number 6' is not known" in found.text


def test_pictures_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    """Before one of them is decoded."""
    root = voc(tmp_path, [("cat", (0, 0, 20, 20))])
    monkeypatch.setattr(folder, "this_machine", lambda: types.SimpleNamespace(memory_bytes=1000))
    with pytest.raises(DataError, match=r"12 pictures of 32 × 24 take .* of memory"):
        load(root)

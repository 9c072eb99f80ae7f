"""Detection: average precision against pycocotools, loss and assignment, suppression, answers."""

import contextlib
import io

import numpy as np
import pytest
import torch

from modelwright.core.signature import NO_TARGET
from modelwright.measure.quality import bootstrap
from modelwright.tasks import boxes, detect
from modelwright.tasks.catalog import TASKS

CLASSES, CELLS = 3, 60


def made(rows: int = 20, seed: int = 0):
    """Scores, boxes and targets in which some things are found, some missed, some made up."""
    draw = np.random.default_rng(seed)
    scores = np.full((rows, CELLS, CLASSES), -20, np.float32)
    where = np.zeros((rows, CELLS, 4), np.float32)
    targets = np.full((rows, 16, 5), NO_TARGET, np.float32)
    for row in range(rows):
        for cell in range(CELLS):
            corner, side = draw.uniform(0, 200, 2), draw.uniform(10, 80, 2)
            where[row, cell] = [*corner, *(corner + side)]
            kind = int(draw.integers(CLASSES))
            if cell < draw.integers(0, 12):
                targets[row, cell] = [*where[row, cell], kind]
                where[row, cell] += draw.normal(0, 4, 4)
                scores[row, cell, kind if draw.random() < 0.9 else 0] = draw.normal(0, 2)
            elif draw.random() < 0.3:
                scores[row, cell, kind] = draw.normal(-1, 2)
    return {"scores": scores, "boxes": where}, targets


def test_parts_of_a_batch_add_up_to_its_loss():
    """As several passes or processes see them, a part without things among them."""
    outputs, targets = made(6)
    targets[4:] = NO_TARGET
    draw = torch.Generator().manual_seed(0)
    centres = torch.from_numpy(outputs["boxes"]).unflatten(-1, (2, 2)).mean(-2)
    found = torch.cat(
        [
            torch.randn(6, CELLS, CLASSES, generator=draw),
            torch.from_numpy(outputs["boxes"]),
            centres,
        ],
        dim=-1,
    )
    wanted = torch.from_numpy(targets)
    whole = detect.loss(found, wanted) * detect.weight(wanted)
    parts = [
        detect.loss(*part) * detect.weight(part[1])
        for part in zip(*(one.split([3, 1, 2]) for one in (found, wanted)), strict=True)
    ]

    assert 6 + (targets[..., 4] >= 0).sum() == detect.weight(wanted)
    assert float(whole) == pytest.approx(float(sum(parts)), rel=1e-6)
    assert 0 < float(parts[2])


def test_average_precision_is_that_of_pycocotools():
    """The COCO average on the same boxes, all classes and overlaps together and at 0.5 alone."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluator = pytest.importorskip("pycocotools.cocoeval")
    outputs, targets = made()
    truth: dict = {
        "images": [],
        "annotations": [],
        "categories": [{"id": kind} for kind in range(CLASSES)],
    }
    found = []
    for row, own in enumerate(targets, 1):
        truth["images"].append({"id": row})
        for x1, y1, x2, y2, kind in own[own[:, 4] >= 0].tolist():
            size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": row,
                    "category_id": int(kind),
                    "iscrowd": 0,
                    **size,
                }
            )
        for kind, score, box in zip(
            *detect.found(outputs["scores"][row - 1], outputs["boxes"][row - 1]), strict=True
        ):
            x1, y1, x2, y2 = box.tolist()
            found.append(
                {
                    "image_id": row,
                    "category_id": int(kind),
                    "score": float(score),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = truth
        known.createIndex()
        judge = evaluator.COCOeval(known, known.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    table = detect.statistics(outputs, targets)
    values = detect.values_of_rows(table)

    assert judge.stats[0] == pytest.approx(values["ap"], abs=1e-9)
    assert judge.stats[1] == pytest.approx(values["ap50"], abs=0.01)  # 101 points of the same curve
    assert 0.1 < values["ap50"] < 0.9


def test_ap50_is_the_area_under_the_interpolated_curve():
    """Right, wrong, right of three things: 1/3 at precision 1, then 1/3 at 2/3."""
    recall, precision = boxes.curve(np.array([True, False, True]), np.ones(3), 3)

    assert 1 / 3 + 1 / 3 * 2 / 3 == pytest.approx(boxes.area(recall, precision))


def test_weights_are_rows_said_again():
    """A row of weight two is that row twice, and one of weight zero is not there."""
    outputs, targets = made(6)
    table = detect.statistics(outputs, targets)
    weights = np.array([2, 0, 1, 3, 1, 0])
    again = np.repeat(table, weights, axis=0)

    assert detect.values_of_rows(again) == pytest.approx(detect.values_of_rows(table, weights))


def test_rows_without_things_or_boxes_count():
    """Nothing there and nothing found is no fault; a thing not found is."""
    outputs, targets = made(4)
    outputs["scores"][:] = -20
    nothing = np.full_like(targets, NO_TARGET)

    assert 0.0 == detect.values_of_rows(detect.statistics(outputs, targets))["ap50"]
    assert 0.0 == detect.values_of_rows(detect.statistics(outputs, nothing))["ap50"]


def test_the_interval_is_affordable():
    """A thousand resamples of 72 pictures take seconds, and enclose the value."""
    outputs, targets = made(72)
    table = detect.statistics(outputs, targets)
    task = TASKS["detection"]
    low, high = bootstrap(len(table), lambda counts: task.values(table, counts)[task.metric])

    assert low < task.values(table)["ap50"] < high


def raw(seed: int = 0):
    """What BoxHead gives while training, over a grid of 6 x 8 cells of 4 pixels."""
    torch.manual_seed(seed)
    down, across = (4 * (torch.arange(size) + 0.5) for size in (6, 8))
    centres = torch.cartesian_prod(down, across).flip(1)[None].repeat(2, 1, 1)
    reach = 3 + 3 * torch.rand(2, 48, 4)
    logits = torch.randn(2, 48, 2)
    made = [logits, centres - reach[..., :2], centres + reach[..., 2:], centres]
    return torch.cat(made, -1).requires_grad_()


THINGS = torch.tensor([[[2.0, 2, 12, 12, 0], [16, 8, 30, 20, 1]], [[5.0, 5, 6, 6, 1], [-100] * 5]])


def test_padding_of_targets_changes_no_loss():
    """More places that hold nothing leave loss and gradients as they are."""
    first, second = raw(), raw()
    wide = torch.cat([THINGS, torch.full((2, 14, 5), float(NO_TARGET))], 1)
    one, two = detect.loss(first, THINGS), detect.loss(second, wide)
    one.backward()
    two.backward()

    assert one.item() == pytest.approx(two.item(), rel=1e-6)
    torch.testing.assert_close(first.grad, second.grad)


def test_every_thing_has_a_cell():
    """Also one that lies between the centres of cells; nothing else is wanted anywhere."""
    outputs = raw().detach()
    scores, where, centres = outputs[..., :2].sigmoid(), outputs[..., 2:6], outputs[..., 6:]
    wanted, which = detect._assigned(scores, where, centres, THINGS)

    assert {0, 1} == set(which[0][wanted[0].sum(-1) > 0].tolist())
    assert 1 == int((wanted[1].sum(-1) > 0).sum())
    assert float(wanted.max()) <= 1.0


def test_a_batch_without_a_thing_has_a_loss():
    loss = detect.loss(outputs := raw(), torch.full((2, 8, 5), float(NO_TARGET)))
    loss.backward()

    assert torch.isfinite(loss)
    assert torch.isfinite(outputs.grad).all()


def test_agreement_counts_boxes_that_both_forms_see():
    """A form agrees with itself; without one of its boxes, that one is missed."""
    outputs, _ = made(4)
    same, total = detect.agreement(outputs, outputs)
    less = {**outputs, "scores": outputs["scores"].copy()}
    row = int(outputs["scores"].max((1, 2)).argmax())
    less["scores"][row] = -20
    fewer, _ = detect.agreement(outputs, less)

    assert same == total > 0
    assert fewer < same


def test_answers_are_in_the_pictures_own_pixels():
    outputs = {"scores": np.array([[2.0, -9], [-9, -9]]), "boxes": np.array([[1.0, 2, 3, 4]] * 2)}
    said = detect.answer(outputs, ["cat", "dog"], ["2.0", "0.5"])

    assert "1 cat" == said["answer"]
    assert [2.0, 1.0, 6.0, 2.0] == said["boxes"][0]["box"]
    assert (
        "nothing"
        == detect.answer({**outputs, "scores": outputs["scores"] - 9}, ["cat", "dog"])["answer"]
    )

"""Augmentation of pictures with their boxes: the steps of augment.py that boxes can follow.

images: uint8 or float32 (batch, channels, height, width); boxes: float32 (batch, places, 5), x1,
y1, x2, y2, class in pixels, NO_TARGET at padding. A box is cut at the picture's edge, and left out
where too little of it is left to be known.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import STEPS_OF_BOXES, Augment
from modelwright.core.signature import NO_TARGET
from modelwright.data import augment
from modelwright.data.draw import Draw

LEAST_LEFT = 0.25  # share of a box's area that must stay in the picture
MIDDLE = (0.3, 0.7)  # where the four pictures of a mosaic may meet, as shares of the sides
Both = tuple[Tensor, Tensor]


def flip(images: Tensor, boxes: Tensor, which: str, draw: Draw) -> Both:
    """Mirror each picture with probability 1/2, "both" along each side independently."""
    for dim, low, names in ((3, 0, ("horizontal", "both")), (2, 1, ("vertical", "both"))):
        if which not in names:
            continue
        chosen = draw.uniform(len(images)) < 0.5
        images = torch.where(chosen[:, None, None, None], images.flip(dim), images)
        turned = boxes.clone()
        turned[..., low] = images.shape[dim] - boxes[..., low + 2]
        turned[..., low + 2] = images.shape[dim] - boxes[..., low]
        boxes = torch.where(chosen[:, None, None] & _real(boxes)[..., None], turned, boxes)
    return images, boxes


def mosaic(images: Tensor, boxes: Tensor, share: float, draw: Draw) -> Both:
    """That share of the pictures become four that meet at a point, each cut out of its own.

    Source: Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.3, but at their own scale.
    """
    number, _, height, width = images.shape
    every = draw.whole.uniform(number) < share
    partners = draw.others(number, 4)
    partners[:, 0] = torch.arange(len(partners))
    # the others stay as they are, and look at none
    partners = draw.beside(torch.where(every[:, None], partners, partners[:, :1]))
    chosen, (low, high) = draw.own(every), MIDDLE
    meet = low + (high - low) * draw.uniform(number, 2)
    places = draw.uniform(number, 4, 2)
    mixed, targets = images.clone(), []
    for row in range(number):
        if not chosen[row]:
            targets.append(boxes[row][_real(boxes[row])])
            continue
        x, y = round(float(meet[row, 0]) * width), round(float(meet[row, 1]) * height)
        corners = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
        parts = []
        for part, (x1, y1, x2, y2) in enumerate(corners):
            other = int(partners[row, part])
            left = int(places[row, part, 0] * (width - (x2 - x1) + 1))
            top = int(places[row, part, 1] * (height - (y2 - y1) + 1))
            mixed[row, :, y1:y2, x1:x2] = images[
                other, :, top : top + y2 - y1, left : left + x2 - x1
            ]
            own = boxes[other][_real(boxes[other])].clone()
            own[:, :4] += torch.tensor([x1 - left, y1 - top] * 2)
            cut = _cut(own, (x1, y1, x2, y2))
            parts.append(cut[_real(cut)])
        targets.append(torch.cat(parts))
    return mixed, _padded(targets)


def _unmoved(
    step: Callable[[Tensor, Any, Draw], Tensor],
) -> Callable[[Tensor, Tensor, Any, Draw], Both]:
    return lambda images, boxes, value, draw: (step(images, value, draw), boxes)


STEPS: dict[str, Callable[[Tensor, Tensor, Any, Draw], Both]] = {
    "flip": flip,
    "mosaic": mosaic,
    "erase": _unmoved(augment.erase),
}
MIX_STEPS = ("mosaic",)  # of them, those after which a picture shows others too
STRAIGHT = ("shift", "zoom")  # affine steps after which a box is a box


def check(steps: Sequence[Augment]) -> None:
    """Raises: ConfigError for a step that boxes cannot follow."""
    for step in steps:
        key, _ = augment.key_and_value(step)
        if key not in STEPS_OF_BOXES:
            raise ConfigError(
                f"train.augment: {key} does not move boxes",
                expected=f"for pictures with boxes: {', '.join(STEPS_OF_BOXES)}",
                repair=f"leave {key} out" + (", or write shift" if key == "crop" else ""),
            )


def apply(images: Tensor, boxes: Tensor, steps: Sequence[Augment], draw: Draw) -> Both:
    """The batch after its steps, in the order written; shift and zoom are one interpolation."""
    todo = [augment.key_and_value(step) for step in steps]
    size = (images.shape[2], images.shape[3])
    moved = False
    for key, value in todo:
        if key in STEPS:
            images, boxes = STEPS[key](images, boxes, value, draw)
        elif not moved:
            moved = True
            inverse = torch.eye(3).repeat(len(images), 1, 1)
            for name, number in todo:
                if name in STRAIGHT:
                    step = augment.AFFINE_STEPS[name](len(images), size, number, draw)
                    inverse = inverse @ step
            images, boxes = augment.warp(images, inverse), _moved(boxes, inverse, size)
    return images, boxes


def _moved(boxes: Tensor, inverse: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes after the map that `inverse` (batch, 3, 3) turns back, in pixels from the centre."""
    height, width = size
    middle = torch.tensor([width / 2, height / 2] * 2)
    scale = torch.stack([inverse[:, 0, 0], inverse[:, 1, 1]] * 2, -1)[:, None]
    offset = torch.stack([inverse[:, 0, 2], inverse[:, 1, 2]] * 2, -1)[:, None]
    turned = boxes.clone()
    turned[..., :4] = (boxes[..., :4] - middle - offset) / scale + middle
    turned = torch.where(_real(boxes)[..., None], turned, boxes)
    return _cut(turned, (0, 0, width, height))


def _cut(boxes: Tensor, edges: tuple[int, int, int, int]) -> Tensor:
    """Boxes cut at the edges; NO_TARGET where too little is left."""
    x1, y1, x2, y2 = edges
    limits = [torch.tensor([a, b] * 2, dtype=boxes.dtype) for a, b in ((x1, y1), (x2, y2))]
    inside = torch.minimum(torch.maximum(boxes[..., :4], limits[0]), limits[1])
    left, before = ((one[..., 2:4] - one[..., :2]).clamp_min(0).prod(-1) for one in (inside, boxes))
    keep = _real(boxes) & (left > 0) & (left >= LEAST_LEFT * before)
    return torch.where(keep[..., None], torch.cat([inside, boxes[..., 4:]], -1), NO_TARGET)


def _real(boxes: Tensor) -> Tensor:
    return boxes[..., 4] >= 0


def _padded(rows: Sequence[Tensor]) -> Tensor:
    width = max(1, *(len(one) for one in rows))
    out = torch.full((len(rows), width, 5), float(NO_TARGET))
    for row, one in enumerate(rows):
        out[row, : len(one)] = one
    return out

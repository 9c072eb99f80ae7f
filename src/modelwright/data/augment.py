"""Augmentation of whole batches as tensor operations, one row a step.

Every image is uint8 or float32 (batch, channels, height, width) on the 0–255 scale; what comes in
from outside the image is 0. Random numbers come from the draw given, on the CPU, so that the same
draw gives the same batch, or some rows of it (data/draw.py). Pixel steps keep uint8; affine and
mixup interpolate and give float32.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Augment
from modelwright.data.draw import Draw


@dataclass(frozen=True)
class Mixed:
    """A batch after its steps, or those rows of it that are made.

    partner: int64 (batch,): which of them was mixed into each, or None.
    share: of the row itself; 1.0 where nothing was mixed.
    """

    images: Tensor
    partner: Tensor | None = None
    share: float = 1.0


def flip(images: Tensor, which: str, draw: Draw) -> Tensor:
    """Mirror each image with probability 1/2, "both" along each side independently."""
    for dim, names in ((3, ("horizontal", "both")), (2, ("vertical", "both"))):
        if which in names:
            chosen = draw.uniform(len(images), 1, 1, 1) < 0.5
            images = torch.where(chosen.to(images.device), images.flip(dim), images)
    return images


def crop(images: Tensor, pad: int, draw: Draw) -> Tensor:
    """Pad every side by `pad` zeros and cut the old size back at a random place of each image.

    Raises: ConfigError if some place would leave nothing of the image.
    Source: He et al. 2015, arXiv:1512.03385, section 4.2 (on CIFAR-10, pad 4).
    """
    batch, channels, height, width = images.shape
    if pad >= min(height, width):
        raise ConfigError(
            f"train.augment: crop: {pad} can cut a {height} × {width} image away whole",
            expected=f"fewer pixels than its shorter side, {min(height, width)}",
            repair=f"write crop: {max(1, min(height, width) // 8)}, or leave it out",
        )
    padded = F.pad(images, (pad, pad, pad, pad)).flatten(2)
    top, left = (draw.integers(2 * pad + 1, batch, 1) for _ in range(2))
    rows = (top + torch.arange(height)) * (width + 2 * pad)
    index = (rows[:, :, None] + (left + torch.arange(width))[:, None, :]).view(batch, 1, -1)
    cut = padded.gather(2, index.to(images.device).expand(-1, channels, -1))
    return cut.view(batch, channels, height, width)


def erase(images: Tensor, share: float, draw: Draw) -> Tensor:
    """Set one square of each image to 0, wholly inside, its side `share` of the shorter side.

    Source: DeVries and Taylor 2017, arXiv:1708.04552 (Cutout), but without cutting it off at the
    border.
    """
    batch, _, height, width = images.shape
    side = max(1, round(share * min(height, width)))
    top = draw.integers(height - side + 1, batch, 1)
    left = draw.integers(width - side + 1, batch, 1)
    rows, columns = torch.arange(height) - top, torch.arange(width) - left
    inside_rows = (rows >= 0) & (rows < side)
    inside_columns = (columns >= 0) & (columns < side)
    square = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return images.masked_fill(square.to(images.device), 0)


# Affine steps give the inverse map, output place to input place, as float32 (batch, 3, 3), in
# pixels from the centre, x to the right and y down.


def shift(batch: int, size: tuple[int, int], share: float, draw: Draw) -> Tensor:
    """A move by up to `share` of each side, both ways, uniform."""
    matrix = torch.eye(3).repeat(batch, 1, 1)
    for row, side in ((0, size[1]), (1, size[0])):
        matrix[:, row, 2] = _uniform(batch, share * side, draw)
    return matrix


def rotate(batch: int, size: tuple[int, int], degrees: float, draw: Draw) -> Tensor:
    """A turn about the centre by up to `degrees`, both ways, uniform."""
    angle = _uniform(batch, math.radians(degrees), draw)
    matrix = torch.eye(3).repeat(batch, 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 0, 1] = angle.sin()
    matrix[:, 1, 0] = -angle.sin()
    return matrix


def shear(batch: int, size: tuple[int, int], degrees: float, draw: Draw) -> Tensor:
    """A horizontal slant by up to `degrees`, both ways, uniform in the angle."""
    matrix = torch.eye(3).repeat(batch, 1, 1)
    matrix[:, 0, 1] = _uniform(batch, math.radians(degrees), draw).tan()
    return matrix


def zoom(batch: int, size: tuple[int, int], share: float, draw: Draw) -> Tensor:
    """A scale about the centre by 1 - `share` to 1 + `share`, uniform."""
    scale = 1 + _uniform(batch, share, draw)
    matrix = torch.eye(3).repeat(batch, 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scale
    return matrix


def mixup(images: Tensor, partner: Tensor, share: float, draw: Draw) -> Mixed:
    """Each image blended with its partner: `share` of itself.

    Source: Zhang et al. 2017, arXiv:1710.09412.
    """
    wide = images.float()
    return Mixed(wide[partner].lerp_(wide, share), partner, share)


def cutmix(images: Tensor, partner: Tensor, share: float, draw: Draw) -> Mixed:
    """One rectangle, the same in each image, replaced by the partner's.

    It covers 1 - `share` of the image before the border cuts it; the share given back is the true
    one.
    Source: Yun et al. 2019, arXiv:1905.04899, algorithm A1.
    """
    edges = []
    for side in images.shape[2:]:
        half = side * math.sqrt(1 - share) / 2
        centre = draw.share() * side
        edges.append((max(0, round(centre - half)), min(side, round(centre + half))))
    (top, bottom), (left, right) = edges
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    area = images.shape[2] * images.shape[3]
    return Mixed(mixed, partner, 1 - (bottom - top) * (right - left) / area)


# The keys of recipe.Augment, by what they do to a batch.
PIXEL_STEPS: dict[str, Callable[[Tensor, Any, Draw], Tensor]] = {
    "flip": flip,
    "crop": crop,
    "erase": erase,
}
AFFINE_STEPS: dict[str, Callable[[int, tuple[int, int], float, Draw], Tensor]] = {
    "shift": shift,
    "rotate": rotate,
    "shear": shear,
    "zoom": zoom,
}
MIX_STEPS: dict[str, Callable[[Tensor, Tensor, float, Draw], Mixed]] = {
    "mixup": mixup,
    "cutmix": cutmix,
}


def check(steps: Sequence[Augment]) -> None:
    """Raises: ConfigError for a step that would change nothing, or is none for whole pictures."""
    for key, _ in map(key_and_value, steps):
        if key not in {**PIXEL_STEPS, **AFFINE_STEPS, **MIX_STEPS}:
            raise ConfigError(
                f"train.augment: {key} is for pictures with boxes",
                expected=f"one of {', '.join((*PIXEL_STEPS, *AFFINE_STEPS, *MIX_STEPS))}",
                repair=f"leave {key} out",
            )


def apply(images: Tensor, steps: Sequence[Augment], draw: Draw) -> Mixed:
    """The batch after its steps, in the order written.

    images: uint8 or float32 (batch, channels, height, width)

    All affine steps are composed, in their order, into one interpolation that stands where the
    first of them does. Of several mixing steps one is drawn for the batch; it comes last.
    """
    todo = [key_and_value(step) for step in steps]
    affine = [(key, value) for key, value in todo if key in AFFINE_STEPS]
    mixing = [(key, value) for key, value in todo if key in MIX_STEPS]
    moved = False
    for key, value in todo:
        if key in PIXEL_STEPS:
            images = PIXEL_STEPS[key](images, value, draw)
        elif key in AFFINE_STEPS and not moved:
            moved = True
            size = (images.shape[2], images.shape[3])
            inverse = torch.eye(3).repeat(len(images), 1, 1)
            for name, number in affine:  # inverse of (last · … · first)
                inverse = inverse @ AFFINE_STEPS[name](len(images), size, number, draw)
            images = warp(images, inverse)
    if not mixing:
        return Mixed(images)
    key, alpha = mixing[draw.one(len(mixing))]
    partner = draw.beside(draw.order(len(images))).to(images.device)
    share = random.Random(draw.one(2**62)).betavariate(alpha, alpha)
    return MIX_STEPS[key](images, partner, share, draw)


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """float32 images read, bilinearly, where `inverse` says.

    images: (batch, channels, height, width); inverse: float32 (batch, 3, 3), in pixels from the
    centre; what lies outside is 0
    """
    height, width = images.shape[2:]
    half = torch.tensor([width / 2, height / 2, 1.0])  # grid_sample measures in half sides
    scaled = (inverse * half / half[:, None])[:, :2].to(images.device)
    grid = F.affine_grid(scaled, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="zeros", align_corners=False)


def key_and_value(step: Augment) -> tuple[str, Any]:
    """The one key of a step and its value (a text for flip).

    Raises: ConfigError for a value of 0 or none, which would change nothing.
    """
    key, value = step.key, getattr(step, step.key)
    if not value:
        raise ConfigError(
            f"train.augment: {key}: {value} changes nothing",
            expected="a value above 0",
            repair=f"leave {key} out, or give it a value",
        )
    return key, value


def _uniform(batch: int, limit: float, draw: Draw) -> Tensor:
    return (2 * draw.uniform(batch) - 1) * limit

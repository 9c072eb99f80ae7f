"""Augmentation steps, each against what it says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import SOUND_STEPS, STEPS_OF_BOXES, STEPS_OF_TASK, Augment
from modelwright.data import augment, augment_boxes, augment_rows, augment_sound
from modelwright.data.augment import apply, warp
from modelwright.data.draw import Draw

from .conftest import noise


def seeded(seed: int = 0) -> Draw:
    return Draw(torch.Generator().manual_seed(seed))


def batch(rows: int = 16, shape: tuple[int, ...] = (2, 6, 8)) -> torch.Tensor:
    return torch.from_numpy(noise(rows, shape))


PICTURES = {**augment.PIXEL_STEPS, **augment.AFFINE_STEPS, **augment.MIX_STEPS}


def test_every_key_of_the_recipe_is_a_step():
    """The tables together hold exactly the recipe's augmentation keys."""
    assert set(Augment.model_fields) == {
        *PICTURES, *augment_boxes.STEPS, *augment_sound.STEPS, *augment_rows.STEPS
    }  # fmt: skip
    assert set(SOUND_STEPS) == set(augment_sound.STEPS)
    assert set(Augment.model_fields) == {one for steps in STEPS_OF_TASK.values() for one in steps}
    assert set(STEPS_OF_BOXES) == {*augment_boxes.STEPS, *augment_boxes.STRAIGHT}


@pytest.mark.parametrize("key", PICTURES)
def test_every_step_changes_the_batch(key):
    """No step is without effect, and each keeps the shape, the range and a float or byte."""
    value = {"flip": "horizontal", "crop": 2, "rotate": 20, "shear": 20}.get(key, 0.5)
    images = batch()
    out = apply(images, [Augment(**{key: value})], seeded()).images

    assert images.shape == out.shape
    assert not torch.equal(images.float(), out.float())
    assert out.min() >= 0 and out.max() <= 255.01
    assert (key in {"flip", "crop", "erase", "cutmix"}) == (out.dtype == torch.uint8)
    assert torch.equal(batch(), images)


@pytest.mark.parametrize(("which", "dims"), [("horizontal", [3]), ("vertical", [2])])
def test_flip_mirrors_about_half(which, dims):
    """Each image is itself or its mirror image, and both occur."""
    images = batch(64)
    out = augment.flip(images, which, seeded())
    same = (out == images).flatten(1).all(dim=1)
    mirrored = (out == images.flip(dims)).flatten(1).all(dim=1)

    assert (same ^ mirrored).all()
    assert 16 < int(same.sum()) < 48


def test_crop_is_a_window_of_the_padded_image():
    """Every cropped image stands, whole, in the one padded by zeros; several places occur."""
    images = batch(32)
    out = augment.crop(images, 2, seeded())
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    places = set()
    for row in range(32):
        fits = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(padded[row, :, y : y + 6, x : x + 8], out[row])
        ]
        assert fits
        places.add(fits[0])

    assert len(places) > 10


@pytest.mark.parametrize("pad", [6, 500])
def test_crop_leaves_something_of_the_image(pad):
    """A pad from the shorter side on could cut the image away whole: refused with the sizes."""
    with pytest.raises(ConfigError, match=f"crop: {pad} can cut a 6 × 8 image") as caught:
        apply(batch(), [Augment(crop=pad)], seeded())

    assert "fewer pixels than its shorter side, 6" == caught.value.expected


def test_erase_sets_one_square_to_zero():
    """A square of the share asked for is 0 and the rest is as before."""
    images = batch().clamp(min=1)
    out = augment.erase(images, 0.5, seeded())

    assert [2 * 3 * 3] * 16 == (0 == out).flatten(1).sum(dim=1).tolist()
    assert torch.equal(images[out != 0], out[out != 0])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 3), channels=st.sampled_from([1, 3]), height=st.integers(1, 17),
    width=st.integers(1, 17), seed=st.integers(0, 99),
)  # fmt: skip
def test_identity_leaves_the_image(rows, channels, height, width, seed):
    """The affine identity gives the pixels back, to a hundredth of a grey level."""
    images = torch.from_numpy(noise(rows, (channels, height, width), seed))
    out = warp(images, torch.eye(3).repeat(rows, 1, 1))

    assert torch.allclose(images.float(), out, atol=0.02)


@settings(max_examples=25, deadline=None)
@given(down=st.integers(-3, 3), right=st.integers(-3, 3))
def test_whole_shifts_move_pixels(down, right):
    """A shift by whole pixels moves the image and lets zeros in, on sides of any ratio."""
    images = batch(1)
    inverse = torch.eye(3)[None].clone()
    inverse[0, :2, 2] = torch.tensor([-right, -down])
    padded = torch.nn.functional.pad(images, (3, 3, 3, 3))
    expected = padded[:, :, 3 - down : 9 - down, 3 - right : 11 - right]

    assert torch.allclose(expected.float(), warp(images, inverse), atol=0.02)


def test_a_quarter_turn_is_exact(monkeypatch):
    """A turn by 90 degrees is the turned image: the matrix is a rotation in pixels."""
    monkeypatch.setattr(augment, "_uniform", lambda number, limit, _: torch.full((number,), limit))
    images = batch(2, (1, 7, 7))
    out = apply(images, [Augment(rotate=90)], seeded()).images

    assert torch.allclose(images.rot90(-1, (2, 3)).float(), out, atol=0.02)


def test_affine_steps_compose_in_their_order(monkeypatch):
    """Shift then turn is one interpolation that equals the two, one after the other."""
    monkeypatch.setattr(augment, "_uniform", lambda number, limit, _: torch.full((number,), limit))
    images = torch.zeros(1, 1, 9, 9)
    images[0, 0, 4, 4] = 200
    shift, turn = Augment(shift=2 / 9), Augment(rotate=90)
    at_once = apply(images, [shift, turn], seeded()).images
    one_by_one = apply(apply(images, [shift], seeded()).images, [turn], seeded()).images

    assert torch.allclose(one_by_one, at_once, atol=0.05)
    swapped = apply(images, [turn, shift], seeded()).images
    assert not torch.allclose(swapped, at_once, atol=1)


def test_zoom_above_one_enlarges(monkeypatch):
    """A zoom of +1 half makes a centred square of 4 pixels 6 wide."""
    monkeypatch.setattr(augment, "_uniform", lambda number, limit, _: torch.full((number,), limit))
    images = torch.zeros(1, 1, 12, 12)
    images[0, 0, 4:8, 4:8] = 100
    out = apply(images, [Augment(zoom=0.5)], seeded()).images

    assert 6 == int((out[0, 0, 6] > 50).sum())


def test_shear_slants_by_its_angle(monkeypatch):
    """At 45 degrees a row moves sideways by its distance from the centre."""
    monkeypatch.setattr(augment, "_uniform", lambda number, limit, _: torch.full((number,), limit))
    images = torch.zeros(1, 1, 9, 9)
    images[0, 0, :, 4] = 100
    out = apply(images, [Augment(shear=45)], seeded()).images

    assert list(range(9)) == sorted(out[0, 0].argmax(dim=1).tolist())


def test_mixup_blends_with_the_partner():
    """Every image is the stated share of itself and the rest of its partner."""
    images = batch()
    out = apply(images, [Augment(mixup=1.0)], seeded())
    expected = out.share * images.float() + (1 - out.share) * images[out.partner].float()

    assert 0 < out.share < 1
    assert torch.allclose(expected, out.images, atol=1e-3)


def test_cutmix_share_is_the_area_kept():
    """The share is the true area of the image's own pixels, the rest is the partner's."""
    images = torch.arange(16, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 20, 30).clone()
    for seed in range(8):
        out = apply(images, [Augment(cutmix=1.0)], seeded(seed))
        own = (out.images == images).flatten(1).double().mean(dim=1)
        moved = out.partner != torch.arange(16)

        assert torch.allclose(own[moved], torch.tensor(out.share).double(), atol=1e-6)
        assert ((out.images == images) | (out.images == images[out.partner])).all()


def test_of_two_mixing_steps_one_is_drawn():
    """With mixup and cutmix listed each batch has one of them, and both occur."""
    steps = [Augment(mixup=1.0), Augment(cutmix=1.0)]
    kinds = {apply(batch(), steps, seeded(seed)).images.dtype for seed in range(12)}

    assert {torch.uint8, torch.float32} == kinds


def test_rotation_angle_stays_in_its_limit():
    """Angles are uniform within both limits."""
    matrix = augment.rotate(500, (6, 6), 30, seeded())
    angles = torch.atan2(matrix[:, 0, 1], matrix[:, 0, 0]).rad2deg()

    assert -30 <= angles.min() < -25 and 25 < angles.max() <= 30
    assert torch.allclose(torch.linalg.det(matrix), torch.ones(500), atol=1e-5)
    assert math.isclose(0, float(angles.mean()), abs_tol=3)

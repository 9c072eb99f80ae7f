"""Answers that are means over a picture and its mirror image."""

import pytest
import torch

from modelwright.models.catalog import ModelSpec, build

IMAGE = {"kind": "image", "shape": [3, 8, 8], "mean": [100.0] * 3, "std": [50.0] * 3}
CLASSES = {"kind": "classes", "num_classes": 4}


@pytest.fixture(params=["cnn", "rnn", "transformer"])
def pair(request):
    """The plain and the mirrored model with the same weights, and pictures."""
    models = []
    for args in ({}, {"mirror": True}):
        torch.manual_seed(0)
        models.append(build(ModelSpec(request.param, "tiny", IMAGE, CLASSES, args)))
    draw = torch.Generator().manual_seed(1)
    return *models, torch.randint(0, 256, (5, 3, 8, 8), generator=draw, dtype=torch.uint8)


def test_the_answer_is_the_mean_over_both(pair):
    """Of the plain model's answers to the picture and to what a mirror shows of it."""
    plain, mirrored, images = (one.eval() if hasattr(one, "eval") else one for one in pair)
    first, second = plain(images), plain(images.flip(3))

    assert not torch.allclose(first, second, atol=1e-3)
    torch.testing.assert_close(mirrored(images), (first + second) / 2)
    assert list(plain.state_dict()) == list(mirrored.state_dict())


def test_a_step_of_training_sees_each_picture_once(pair):
    """As the plain model does."""
    plain, mirrored, images = pair

    torch.testing.assert_close(mirrored(images), plain(images))

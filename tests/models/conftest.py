"""Every family and size, on four shapes of data."""

import pytest
import torch

from modelwright.models.catalog import MODELS, ModelSpec

LADDER = [(family, size) for family, row in MODELS.items() for size in row.ladders["image"].sizes]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 28)]


def spec(family: str, size: str = "tiny", shape=(1, 8, 8), num_classes: int = 10) -> ModelSpec:
    channels = shape[0]
    image = {"kind": "image", "shape": list(shape), "mean": [120.0] * channels,
             "std": [60.0] * channels}  # fmt: skip
    return ModelSpec(family, size, image, {"kind": "classes", "num_classes": num_classes})


def pictures(number: int, shape, seed: int = 0) -> torch.Tensor:
    """images: (number, *shape), uint8 noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, *shape), dtype=torch.uint8, generator=generator)


@pytest.fixture(autouse=True)
def _one_seed_one_thread():
    """Weights are the same in every run, and small models do not fight over cores."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

"""Small generated data in each format."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modelwright.core import recipe
from modelwright.data import image
from modelwright.data.rows import Dataset, Rows, dataset

torch.set_num_threads(1)


def noise(rows: int, shape: tuple[int, ...] = (1, 6, 6), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, *shape), np.uint8)


def rows(number: int, classes: int = 2, seed: int = 0, shape: tuple[int, ...] = (1, 6, 6)) -> Rows:
    images = noise(number, shape, seed)
    return Rows({"image": images}, np.arange(number) % classes, [""] * number)


def sound() -> dict[str, Rows]:
    """Three parts of two classes without a fault."""
    return {"train": rows(12, seed=1), "valid": rows(4, seed=2), "test": rows(6, seed=3)}


def of(parts: dict[str, Rows], labels: tuple[str, ...] = ("a", "b")) -> Dataset:
    made = image.prepare(parts, section(), "classes")
    outputs = {"kind": "classes", "num_classes": len(labels), "labels": list(labels)}
    return dataset(made.parts, labels, "made", [], made.inputs, outputs)


def section(source: Any = "made", **keys: Any) -> recipe.Data:
    return recipe.Data.model_validate({"source": str(source), **keys})


def file_of(pixels: np.ndarray, form: str = "PNG", **keys: Any) -> bytes:
    """An image file of (height, width) or (height, width, 3) pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **keys)
    return buffer.getvalue()


def write_folder(root: Path, names: list[str], size: tuple[int, int] = (6, 6)) -> None:
    """A grey noise PNG under each name."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(file_of(noise(1, size, seed)[0]))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two classes with ten grey images each."""
    root = tmp_path / "images"
    write_folder(root, [f"{label}/{n:02}.png" for label in ("cats", "dogs") for n in range(10)])
    return root

"""Inputs that real data rarely holds, by kind of data: parity must hold on them as well."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from modelwright.data.rows import Column, Rows, ragged
from modelwright.models.catalog import ModelSpec

Description = Mapping[str, Any]


def edge_inputs(spec: ModelSpec) -> Rows:
    """The edge inputs of a model's kind of data; their names are the origins, targets mean nothing.

    >>> image = {"kind": "image", "shape": (1, 2, 2)}
    >>> edge_inputs(ModelSpec("cnn", "tiny", image, {})).origins
    ['zeros', 'full', 'noise', 'bright_pixel', 'checkerboard']
    """
    made = EDGES[spec.inputs["kind"]](spec.inputs)
    columns: dict[str, Column] = {}
    for name, rows in made.items():
        values = list(rows.values())
        same = len({value.shape for value in values}) == 1
        columns[name] = np.stack(values) if same and not spec.has_time else ragged(values)
    names = list(next(iter(made.values())))
    return Rows(columns, np.zeros(len(names), np.int64), names)


Made = dict[str, dict[str, np.ndarray]]  # by input, by edge


def _images(own: Description) -> Made:
    shape = tuple(own["shape"])
    zeros = np.zeros(shape, np.uint8)
    bright = zeros.copy()
    bright[..., shape[-2] // 2, shape[-1] // 2] = 255
    squares = (np.indices(shape[-2:]).sum(0) % 2 * 255).astype(np.uint8)
    return {"image": {
        "zeros": zeros,
        "full": np.full(shape, 255, np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        "bright_pixel": bright,
        "checkerboard": np.broadcast_to(squares, shape).copy(),
    }}  # fmt: skip


def _texts(own: Description) -> Made:
    vocab, length, features = own["vocab_size"], own["max_length"], own["features"]
    noise = np.random.default_rng(0).integers(1, vocab, (length, features))
    return {"ids": {
        "one_token": np.full((1, features), vocab - 1),
        "unknown": np.ones((5, features), np.int64),
        "one_token_again_and_again": np.full((length, features), vocab // 2 + 1),
        "noise": noise,
        "short_noise": noise[:3],
    }}  # fmt: skip


def _pairs(own: Description) -> Made:
    """Sources as texts have them; each target begins, and may go on with noise."""
    length, end = own["max_length"], own["vocab_size"] - 1
    texts = {**own, "vocab_size": own.get("source_vocab_size", own["vocab_size"]), "features": 1}
    sources = {name: ids[:, 0] for name, ids in _texts(texts)["ids"].items()}
    noise = np.random.default_rng(1).integers(1, end + 1, length)
    lengths = dict(zip(sources, (1, 5, length, 2, length), strict=True))
    targets = {name: np.append(end, noise[: size - 1]) for name, size in lengths.items()}
    return {"source": sources, "target": targets}


def _sounds(own: Description) -> Made:
    length = own["length"]
    click = np.zeros(length, np.int16)
    click[length // 2] = 32767
    noise = np.random.default_rng(0).integers(-32768, 32767, (length,), np.int16)
    tone = (20000 * np.sin(np.arange(length) * 0.3)).astype(np.int16)
    return {"samples": {
        "silence": np.zeros(length, np.int16),
        "click": click,
        "loud_noise": noise,
        "tone": tone,
        "very_short": noise[:200],
    }}  # fmt: skip


def _windows(own: Description) -> Made:
    shape = (own["length"], len(own["channels"]))
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ramp = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None], shape)
    jump = np.zeros(shape, np.float32)
    jump[shape[0] // 2 :] = 5
    return {
        "window": {"noise": noise, "ramp": ramp.copy(), "jump": jump, "large": 100 * noise + 50}
    }


EDGES: dict[str, Callable[[Description], Made]] = {
    "image": _images,
    "text": _texts,
    "pairs": _pairs,
    "stream": _texts,
    "items": _texts,
    "audio": _sounds,
    "series": _windows,
}

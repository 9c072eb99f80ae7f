"""Inputs that real data rarely holds, by kind of data: parity must hold on them as well."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from modelwright.data.rows import Column, Rows, ragged
from modelwright.models.catalog import ModelSpec
from modelwright.models.embed import EMBEDS

Description = Mapping[str, Any]


def edge_inputs(spec: ModelSpec) -> Rows:
    """The edge inputs of a model's kind of data; their names are the origins, targets mean nothing.

    >>> image = {"kind": "image", "shape": (1, 2, 2)}
    >>> edge_inputs(ModelSpec("cnn", "tiny", image, {})).origins
    ['zeros', 'full', 'noise', 'bright_pixel', 'checkerboard']
    """
    made = EDGES[spec.inputs["kind"]](spec.inputs)
    inputs = EMBEDS[spec.inputs["kind"]].inputs(spec.inputs)
    over_time = {one.name for one in inputs if one.over_time}
    columns: dict[str, Column] = {}
    for name, edges in made.items():
        values = list(edges.values())
        columns[name] = ragged(values, values[0]) if name in over_time else np.stack(values)
    names = [" + ".join(dict.fromkeys(one)) for one in zip(*made.values(), strict=True)]
    return Rows(columns, np.zeros(len(names), np.int64), names)


Edges = dict[str, dict[str, np.ndarray]]  # by input, then by what makes it rare


def _images(own: Description) -> Edges:
    shape = tuple(own["shape"])
    zeros = np.zeros(shape, np.uint8)
    bright = zeros.copy()
    bright[..., shape[-2] // 2, shape[-1] // 2] = 255
    squares = (np.indices(shape[-2:]).sum(0) % 2 * 255).astype(np.uint8)
    made = {
        "zeros": zeros,
        "full": np.full(shape, 255, np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        "bright_pixel": bright,
        "checkerboard": np.broadcast_to(squares, shape).copy(),
    }
    return {"image": made}


def _texts(own: Description) -> Edges:
    vocab, length, features = own["vocab_size"], own["max_length"], own["features"]
    noise = np.random.default_rng(0).integers(1, vocab, (length, features))
    made = {
        "one_token": np.full((1, features), vocab - 1),
        "unknown": np.ones((5, features), np.int64),
        "one_token_again_and_again": np.full((length, features), vocab // 2 + 1),
        "noise": noise,
        "short_noise": noise[:3],
    }
    return {"ids": made}


def _image_texts(own: Description) -> Edges:
    """One of each, side by side; there are as many."""
    return {**_images(own["image"]), **_texts(own["text"])}


def _pairs(own: Description) -> Edges:
    """Sources as texts have them; each target begins, and may go on with noise."""
    length, end = own["max_length"], own["vocab_size"] - 1
    texts = {**own, "vocab_size": own.get("source_vocab_size", own["vocab_size"]), "features": 1}
    sources = {name: ids[:, 0] for name, ids in _texts(texts)["ids"].items()}
    noise = np.random.default_rng(1).integers(1, end + 1, length)
    lengths = dict(zip(sources, (1, 5, length, 2, length), strict=True))
    targets = {name: np.append(end, noise[: size - 1]) for name, size in lengths.items()}
    return {"source": sources, "target": targets}


def _sounds(own: Description) -> Edges:
    length = own["length"]
    click = np.zeros(length, np.int16)
    click[length // 2] = 32767
    noise = np.random.default_rng(0).integers(-32768, 32767, (length,), np.int16)
    tone = (20000 * np.sin(np.arange(length) * 0.3)).astype(np.int16)
    made = {
        "silence": np.zeros(length, np.int16),
        "click": click,
        "loud_noise": noise,
        "tone": tone,
        "very_short": noise[:200],
    }
    return {"samples": made}


def _windows(own: Description) -> Edges:
    shape = (own["length"], len(own["channels"]))
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ramp = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None], shape)
    jump = np.zeros(shape, np.float32)
    jump[shape[0] // 2 :] = 5
    made = {"noise": noise, "ramp": ramp.copy(), "jump": jump, "large": 100 * noise + 50}
    return {"window": made}


def _observations(own: Description) -> Edges:
    shape = (own["length"], own["features"])
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    mean, std = (np.array(own[name], np.float32) for name in ("mean", "std"))
    return {
        "observation": {
            "zeros": np.zeros(shape, np.float32),
            "noise": mean + std * noise,
            "highest": np.broadcast_to(mean + std, shape).copy(),
            "lowest": np.broadcast_to(mean - std, shape).copy(),
            "far_off": mean + 10 * std * noise,
        }
    }


EDGES: dict[str, Callable[[Description], Edges]] = {
    "image": _images,
    "image_text": _image_texts,
    "text": _texts,
    "pairs": _pairs,
    "stream": _texts,
    "items": _texts,
    "ratings": _texts,
    "audio": _sounds,
    "series": _windows,
    "observation": _observations,
}

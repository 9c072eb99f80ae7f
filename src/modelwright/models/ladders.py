"""LADDERS: the sizes of each family, by kind of input or of answer, and how they are trained.

Figures, no code: a size is a row of arguments for the family's builder (assemble.py). What an
experiment chose stands in docs/experiments.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMES = ("tiny", "small", "base", "large")


@dataclass(frozen=True)
class Ladder:
    """A family over one kind of input.

    Args:
        sizes: arguments of each size, from tiny to large.
        train: defaults of the recipe's train section.
    """

    sizes: dict[str, dict[str, Any]]
    train: dict[str, Any]


def _ladder(
    names: str, *sizes: Sequence[Any], every: Mapping[str, Any] | None = None, **train: Any
) -> Ladder:
    """A ladder from one row of arguments a size, and those that `every` size has."""
    rows = [{**dict(zip(names.split(), size, strict=True)), **(every or {})} for size in sizes]
    return Ladder(dict(zip(NAMES, rows, strict=True)), train)


CONVOLUTIONS = "dim inner dropout"
RECURRENCE = "embed_dim hidden_dim num_layers dropout"
PAIRED_RECURRENCE = "dim hidden_dim num_layers dropout"
ATTENTION = "dim num_layers dropout"

LADDERS: dict[str, dict[str, Ladder]] = {
    "cnn": {
        "image": _ladder(
            "widths",
            ((8, 16),),
            ((16, 32, 64),),
            ((64, 128, 256),),
            ((128, 256, 512),),
            learning_rate=0.003,
            weight_decay=0.05,
            warmup_steps=50,
            decay=0.7,
        ),
        "text": _ladder(
            CONVOLUTIONS,
            (32, (32,), 0.0),
            (96, (128,), 0.3),
            (128, (192, 192), 0.3),
            (256, (384, 384, 384), 0.3),
            learning_rate=0.003,
            weight_decay=0.05,
            warmup_steps=50,
            decay=0.7,
        ),
        "tags": _ladder(
            CONVOLUTIONS,
            (32, (32,), 0.0),
            (96, (128,), 0.15),
            (128, (192, 192), 0.15),
            (256, (384, 384, 384), 0.15),
            learning_rate=0.003,
            weight_decay=0.05,
            warmup_steps=50,
            decay=0.7,
        ),
        "audio": _ladder(
            CONVOLUTIONS,
            (32, (32,), 0.0),
            (96, (128, 128), 0.2),
            (192, (256, 256, 256), 0.2),
            (384, (512, 512, 512, 512), 0.2),
            learning_rate=0.003,
            weight_decay=0.05,
            warmup_steps=50,
            decay=0.7,
        ),
        "stream": _ladder(
            CONVOLUTIONS,
            (32, (32,), 0.0),
            (128, (128, 128, 128, 128), 0.05),
            (192, (256, 256, 256, 256, 256), 0.05),
            (320, (384, 384, 384, 384, 384, 384), 0.1),
            batch_size=32,
            learning_rate=0.002,
            weight_decay=0.05,
            warmup_steps=100,
            decay=0.7,
        ),
        "items": _ladder(
            CONVOLUTIONS,
            (32, (32,), 0.0),
            (96, (128, 128), 0.3),
            (128, (192, 192), 0.4),
            (192, (256, 256, 256), 0.4),
            learning_rate=0.005,
            weight_decay=0.1,
            warmup_steps=50,
            decay=0.7,
        ),
        "pairs": _ladder(
            CONVOLUTIONS,
            (32, (32, 32), 0.0),
            (128, (256,) * 4, 0.1),
            (256, (384,) * 6, 0.2),
            (512, (768,) * 8, 0.3),
            learning_rate=0.002,
            weight_decay=0.05,
            warmup_steps=200,
            decay=0.7,
        ),
        "series": _ladder(
            CONVOLUTIONS,
            (16, (16,), 0.0),
            (32, (32,), 0.1),
            (64, (64, 64), 0.3),
            (128, (128, 128), 0.3),
            learning_rate=0.001,
            weight_decay=0.05,
            warmup_steps=50,
            decay=0.9,
        ),
    },
    "rnn": {
        "image": _ladder(
            "embed_dim hidden_dim num_layers",
            (32, 16, 1),
            (96, 48, 1),
            (192, 96, 2),
            (384, 192, 2),
            learning_rate=0.002,
            weight_decay=0.01,
            warmup_steps=50,
            decay=0.5,
        ),
        "text": _ladder(
            RECURRENCE,
            (32, 16, 1, 0.0),
            (96, 64, 1, 0.3),
            (128, 128, 1, 0.3),
            (256, 256, 2, 0.3),
            learning_rate=0.002,
            weight_decay=0.05,
            warmup_steps=50,
            decay=0.7,
        ),
        "tags": _ladder(
            RECURRENCE,
            (32, 16, 1, 0.0),
            (96, 64, 1, 0.15),
            (128, 128, 1, 0.15),
            (256, 256, 2, 0.15),
            learning_rate=0.002,
            weight_decay=0.05,
            warmup_steps=50,
            decay=0.7,
        ),
        "audio": _ladder(
            RECURRENCE,
            (32, 16, 1, 0.0),
            (96, 64, 1, 0.2),
            (192, 128, 2, 0.2),
            (384, 256, 2, 0.2),
            learning_rate=0.002,
            weight_decay=0.01,
            warmup_steps=50,
            decay=0.5,
        ),
        "stream": _ladder(
            RECURRENCE,
            (32, 16, 1, 0.0),
            (64, 192, 1, 0.0),
            (96, 384, 1, 0.05),
            (128, 512, 2, 0.1),
            batch_size=32,
            learning_rate=0.002,
            weight_decay=0.01,
            warmup_steps=100,
            decay=0.7,
        ),
        "items": _ladder(
            RECURRENCE,
            (32, 16, 1, 0.0),
            (96, 96, 1, 0.4),
            (128, 128, 1, 0.4),
            (192, 192, 2, 0.4),
            learning_rate=0.005,
            weight_decay=0.1,
            warmup_steps=50,
            decay=0.7,
        ),
        "pairs": _ladder(
            PAIRED_RECURRENCE,
            (32, 16, 1, 0.0),
            (128, 128, 1, 0.2),
            (256, 256, 2, 0.3),
            (512, 512, 2, 0.3),
            learning_rate=0.002,
            weight_decay=0.05,
            warmup_steps=200,
            decay=0.7,
        ),
        "series": _ladder(
            RECURRENCE,
            (16, 16, 1, 0.0),
            (32, 24, 1, 0.3),
            (64, 48, 1, 0.5),
            (128, 96, 1, 0.5),
            learning_rate=0.0005,
            weight_decay=0.05,
            warmup_steps=50,
            decay=0.9,
        ),
    },
    "transformer": {
        "image": _ladder(
            "dim num_layers",
            (32, 1),
            (64, 3),
            (128, 4),
            (256, 6),
            learning_rate=0.001,
            weight_decay=0.1,
            warmup_steps=60,
            decay=0.5,
        ),
        "text": _ladder(
            ATTENTION,
            (32, 1, 0.0),
            (96, 1, 0.3),
            (128, 2, 0.3),
            (256, 4, 0.3),
            learning_rate=0.001,
            weight_decay=0.1,
            warmup_steps=100,
            decay=0.7,
        ),
        "tags": _ladder(
            ATTENTION,
            (32, 1, 0.0),
            (96, 1, 0.15),
            (128, 2, 0.15),
            (256, 4, 0.15),
            learning_rate=0.001,
            weight_decay=0.1,
            warmup_steps=100,
            decay=0.7,
        ),
        "audio": _ladder(
            ATTENTION,
            (32, 1, 0.0),
            (96, 2, 0.2),
            (192, 3, 0.2),
            (384, 4, 0.2),
            learning_rate=0.001,
            weight_decay=0.1,
            warmup_steps=60,
            decay=0.5,
        ),
        "stream": _ladder(
            ATTENTION,
            (32, 1, 0.0),
            (128, 4, 0.0),
            (192, 5, 0.05),
            (320, 6, 0.1),
            every={"mlp_ratio": 4, "activation": "relu2", "qk_norm": True, "zero_init": True},
            optimizer="muon",
            batch_size=32,
            learning_rate=5e-3,
            weight_decay=0.1,
            warmup_steps=100,
            decay=0.7,
        ),
        "items": _ladder(
            ATTENTION,
            (32, 1, 0.0),
            (64, 2, 0.3),
            (96, 2, 0.4),
            (128, 3, 0.4),
            learning_rate=0.005,
            weight_decay=0.1,
            warmup_steps=100,
            decay=0.7,
        ),
        "pairs": _ladder(
            ATTENTION,
            (32, 2, 0.0),
            (128, 2, 0.1),
            (256, 3, 0.2),
            (512, 4, 0.3),
            learning_rate=0.0015,
            weight_decay=0.05,
            warmup_steps=300,
            decay=0.7,
        ),
        "series": _ladder(
            ATTENTION,
            (16, 1, 0.2),
            (32, 1, 0.2),
            (64, 2, 0.3),
            (128, 3, 0.3),
            learning_rate=0.0005,
            weight_decay=0.1,
            warmup_steps=60,
            decay=0.9,
        ),
    },
}

"""What each part of the recipe for small language models is worth, at equal tokens.

Each variant differs from the transformer's own defaults in one thing, and trains through the
product's Trainer for as many steps of as many tokens. Valid is judged whole, on the averaged
weights: nats a character of tinyshakespeare by characters, bits a byte of english_novels by BPE.

    python benchmarks/ablations.py --data FOLDER-OF-DATA-SETS [--texts characters,bpe]
        [--variants defaults,adamw] [--seeds 0,1,2] [--steps 200] [--json] [--quick]
"""

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench import Row, arguments, finish
from modelwright.core import recipe
from modelwright.data import catalog as data_catalog
from modelwright.models.catalog import ModelSpec, count_params, fresh_model
from modelwright.tasks.catalog import TASKS
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget, fill_in

TASK = TASKS["language-modeling"]
SIZE: dict[str, Any] = {"dim": 64, "num_layers": 2}  # twice tiny in both
WINDOW, BATCH = 128, 32
QUICK = {"steps": 20, "valid": 4_000}


@dataclass(frozen=True)
class Text:
    """A text, how it is cut into tokens, and what its likelihood is counted by."""

    data: dict[str, Any]
    metric: str


@dataclass(frozen=True)
class Variant:
    """What differs from the defaults: arguments of the model, keys of the train section."""

    args: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


TEXTS: dict[str, Text] = {
    "characters": Text(
        {"source": "tinyshakespeare/input.txt", "valid": 0.02, "test": 0.1}, "nats_per_char"
    ),
    # as many characters as the model has parameters: 300 steps are eleven times through
    "few characters": Text(
        {"source": "tinyshakespeare/input.txt", "split_rows": [110_000, 22_000, 1_000]},
        "nats_per_char",
    ),
    "bpe": Text(
        {"source": "english_novels", "tokens": {"unit": "bpe", "vocab_size": 1024}},
        "bits_per_byte",
    ),
}

VARIANTS: dict[str, Variant] = {
    "defaults": Variant(),
    # optimizers, the first two at the best of three and two rates
    "adamw": Variant(train={"optimizer": "adamw", "learning_rate": 6e-3}),
    "adafactor": Variant(train={"optimizer": "adafactor", "learning_rate": 0.05}),
    "sgd": Variant(train={"optimizer": "sgd"}),
    # the model
    "embedding skip": Variant({"embed_skip": True}),
    "soft cap 15": Variant({"soft_cap": 15.0}),
    "plain queries and keys": Variant({"qk_norm": False}),
    "gelu": Variant({"activation": "gelu"}),
    "swiglu": Variant({"activation": "swiglu", "mlp_dims": [168] * SIZE["num_layers"]}),
    "learned positions": Variant({"positions": "learned"}),
    "no zero init": Variant({"zero_init": False}),
    # the training
    "cautious decay": Variant(train={"cautious": True}),
    "dropout 0.05": Variant({"dropout": 0.05}),
    "dropout 0.1": Variant({"dropout": 0.1}),
    "dropout 0.2": Variant({"dropout": 0.2}),
    "weight decay 0.3": Variant(train={"weight_decay": 0.3}),
    "weight decay 1": Variant(train={"weight_decay": 1.0}),
    "cosine": Variant(train={"schedule": "cosine"}),
    "clip 1.0": Variant(train={"clip_norm": 1.0}),
    "no ema": Variant(train={"ema": 0.0}),
}


@dataclass(frozen=True)
class Data:
    """A text's rows and what a model has to know of them."""

    text: Text
    parts: dict[str, Any]
    inputs: dict[str, Any]
    outputs: dict[str, Any]


def read(name: str, folder: Path, valid: int | None) -> Data:
    """A text as the gate would leave it; of valid only so many tokens, if that is asked for."""
    text = TEXTS[name]
    section = recipe.Data.model_validate(
        {**text.data, "source": str(folder / text.data["source"]), "window": WINDOW}
    )
    loaded = data_catalog.load(section, TASK.inputs, TASK.outputs)
    parts = dict(loaded.parts)
    if valid is not None:
        parts["valid"] = parts["valid"].take(range(max(1, valid // WINDOW)))
    return Data(text, parts, loaded.inputs, loaded.outputs)


def measure(data: Data, variant: Variant, seed: int, steps: int) -> tuple[float, int]:
    """The metric on valid after `steps`, and the model's parameters."""
    spec = ModelSpec("transformer", "small", data.inputs, data.outputs, {**SIZE, **variant.args})
    section = recipe.Train.model_validate(
        {"seed": seed, "batch_size": BATCH, "keep": "last", **variant.train}
    )
    budget = Budget(steps=steps)
    settings = fill_in(section, spec, "bf16-mixed", budget)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            fresh_model(spec, seed), spec, TASK, data.parts["train"], data.parts["valid"],
            settings, budget, Path(folder),
        )  # fmt: skip
        trainer.evaluations = 1  # nothing is looked at before the end
        trainer.run()
        values = trainer.evaluate(thorough=False).values
    return values[data.text.metric], count_params(trainer.model)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--texts", default=",".join(TEXTS))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    steps = QUICK["steps"] if given.quick else given.steps
    seeds = [0] if given.quick else [int(seed) for seed in given.seeds.split(",")]
    rows, figures = [], []
    for name in given.texts.split(","):
        data = read(name, given.data, QUICK["valid"] if given.quick else None)
        for variant in given.variants.split(","):
            found = [measure(data, VARIANTS[variant], seed, steps) for seed in seeds]
            values = [value for value, _ in found]
            spread = stdev(values) if len(values) > 1 else 0.0
            figures.append(
                {
                    "text": name, "variant": variant, "metric": data.text.metric,
                    "values": values, "mean": mean(values), "sd": spread,
                    "params": found[0][1], "steps": steps, "tokens": steps * BATCH * WINDOW,
                }
            )  # fmt: skip
            print(json.dumps(figures[-1]), file=sys.stderr, flush=True)
            rows.append(Row(f"{name}: {variant}", f"{mean(values):.4f} ± {spread:.4f}"))
    finish(rows, as_json=given.json, figures=figures)


if __name__ == "__main__":
    main()

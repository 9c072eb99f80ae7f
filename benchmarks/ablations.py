"""What each part of the recipe for small language models is worth, at equal tokens.

Each variant differs from the transformer's own defaults in one thing, and trains through the
product's Trainer on as many tokens, on one thread, in the precision
that is faster here. Valid is judged whole, on the averaged weights: nats a character of
tinyshakespeare by characters, bits a byte of english_novels by BPE. Trainings that are in --out
already are not made again; two lanes share the work of two cores:

    python benchmarks/ablations.py --data FOLDER-OF-DATA-SETS --out FOLDER --lane 1/2 &
    python benchmarks/ablations.py --data FOLDER-OF-DATA-SETS --out FOLDER --lane 2/2; wait
    python benchmarks/ablations.py --data FOLDER-OF-DATA-SETS --out FOLDER [--texts characters,bpe]
        [--variants defaults,adamw] [--seeds 0,1,2] [--steps 400] [--json] [--quick]
"""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from bench import Row, arguments, finish
from modelwright.core import recipe
from modelwright.core.files import write_json
from modelwright.data import catalog as data_catalog
from modelwright.models.catalog import ModelSpec, count_params, fresh_model
from modelwright.tasks.catalog import TASKS
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget, fill_in
from nanogpt import faster_precision

TASK = TASKS["language-modeling"]
SIZE: dict[str, Any] = {"dim": 64, "num_layers": 2}  # twice tiny in both
WINDOW, BATCH = 128, 32
QUICK = {"steps": 24, "valid": 4_000}


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
    # Muon, ReLU², normed queries and keys, rotary, zero init, short convolutions, averages
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
    "no short convolutions": Variant({"short_conv": 0}),
    "short convolutions of 3": Variant({"short_conv": 3}),
    "short convolutions of 8": Variant({"short_conv": 8}),
    # the training
    "cautious decay": Variant(train={"cautious": True}),
    "decay to nothing": Variant(train={"weight_decay_end": 0.0}),
    "decay of 0.2 to nothing": Variant(train={"weight_decay": 0.2, "weight_decay_end": 0.0}),
    "dropout 0.05": Variant({"dropout": 0.05}),
    "dropout 0.1": Variant({"dropout": 0.1}),
    "dropout 0.2": Variant({"dropout": 0.2}),
    "weight decay 0.3": Variant(train={"weight_decay": 0.3}),
    "weight decay 1": Variant(train={"weight_decay": 1.0}),
    "cosine": Variant(train={"schedule": "cosine"}),
    "clip 1.0": Variant(train={"clip_norm": 1.0}),
    "no ema": Variant(train={"ema": 0.0}),
}
# what grows does so in these shares of the training, in whole eighths of steps
GROWING = {
    "batch warmup": ("batch_warmup_steps", 0.4),
    "window warmup": ("window_warmup_steps", 0.5),
}


def variants_of(steps: int) -> dict[str, Variant]:
    """All of them, for a training of so many whole batches."""
    grown = {
        name: Variant(train={key: 8 * round(share * steps / 8)})
        for name, (key, share) in GROWING.items()
    }
    return VARIANTS | grown


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
        parts["valid"] = parts["valid"].take(np.arange(max(1, valid // WINDOW)))
    return Data(text, parts, loaded.inputs, loaded.outputs)


def measure(data: Data, variant: Variant, seed: int, steps: int) -> dict[str, Any]:
    """The metric on valid after the tokens of so many whole batches, and the model's parameters."""
    spec = ModelSpec("transformer", "small", data.inputs, data.outputs, {**SIZE, **variant.args})
    section = recipe.Train.model_validate(
        {"seed": seed, "batch_size": BATCH, "keep": "last", **variant.train}
    )
    # of what a growing batch leaves out, a quarter and then a half for as long: 5 of 8 parts
    budget = Budget(steps=steps + 5 * section.batch_warmup_steps // 8)
    settings = fill_in(section, spec, "32-true", budget)
    settings = replace(settings, precision=faster_precision(spec, "language-modeling", settings))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            fresh_model(spec, seed), spec, TASK, data.parts["train"], data.parts["valid"],
            settings, budget, Path(folder),
        )  # fmt: skip
        trainer.evaluations = 1  # nothing is looked at before the end
        trainer.run()
        values = trainer.evaluate(thorough=False).values
    tokens = trainer.examples_before(trainer.step) * WINDOW
    assert tokens == steps * BATCH * WINDOW, tokens
    return {"value": values[data.text.metric], "params": count_params(trainer.model)}


@dataclass(frozen=True)
class Job:
    """One training."""

    text: str
    variant: str
    seed: int

    def file(self, out: Path, steps: int) -> Path:
        return out / f"{self.text}-{self.variant}-{self.seed}-{steps}.json".replace(" ", "_")


def make(jobs: list[Job], folder: Path, out: Path, steps: int, valid: int | None) -> None:
    """Train what is not in `out` yet; a text is read for the first that needs it."""
    missing = [job for job in jobs if not job.file(out, steps).is_file()]
    variants = variants_of(steps)
    for text in dict.fromkeys(job.text for job in missing):
        data = read(text, folder, valid)
        for job in missing:
            if job.text == text:
                found = measure(data, variants[job.variant], job.seed, steps)
                print(json.dumps(asdict(job) | found), file=sys.stderr, flush=True)
                write_json(job.file(out, steps), found)


def told(values: list[float]) -> str:
    """
    >>> told([1.0, 2.0])
    '1.5000 ± 0.7071'
    """
    return f"{mean(values):.4f} ± {stdev(values) if len(values) > 1 else 0.0:.4f}"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--texts", default="characters,bpe")
    parser.add_argument("--variants", default=",".join(variants_of(0)))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, help="where each training's figures are kept")
    parser.add_argument(
        "--lane", help="1/2 makes every other training and no table, 2/2 the others; for --out"
    )
    given = parser.parse_args()
    if given.lane and not given.out:
        parser.error("--lane needs --out, which the lanes have in common")
    torch.set_num_threads(1)  # so that two lanes do not disturb each other
    steps = QUICK["steps"] if given.quick else given.steps
    seeds = [0] if given.quick else [int(seed) for seed in given.seeds.split(",")]
    texts, variants = given.texts.split(","), given.variants.split(",")
    # seed by seed, so that a run that is cut off has whole rows of the first ones
    jobs = [Job(*one) for seed in seeds for one in product(texts, variants, [seed])]
    with tempfile.TemporaryDirectory() as temporary:
        out = given.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        number, lanes = map(int, given.lane.split("/")) if given.lane else (1, 1)
        valid = QUICK["valid"] if given.quick else None
        make(jobs[number - 1 :: lanes], given.data, out, steps, valid)
        if given.lane:
            return
        found = {job: json.loads(job.file(out, steps).read_text()) for job in jobs}
    rows = []
    for text, variant in product(texts, variants):
        values = [found[Job(text, variant, seed)]["value"] for seed in seeds]
        shown = told(values)
        if variant != "defaults" and "defaults" in variants:  # with the same batches, seed by seed
            apart = [
                value - found[Job(text, "defaults", seed)]["value"]
                for value, seed in zip(values, seeds, strict=True)
            ]
            shown += f", less the defaults {told(apart)}"
        params = found[Job(text, variant, seeds[0])]["params"]
        rows.append(Row(f"{text}: {variant}, {TEXTS[text].metric}", f"{shown}, {params:,} params"))
    more = {"steps": steps, "tokens": steps * BATCH * WINDOW, "seeds": seeds}
    figures = [asdict(job) | one for job, one in found.items()]
    finish(rows, as_json=given.json, figures=figures, **more)


if __name__ == "__main__":
    main()

"""Bits a byte of English novels after so many minutes: the recipe's defaults beside plain AdamW.

The other side is nanoGPT's block and training (nanogpt.py): AdamW, GELU, learned positions, layer
norm, a cosine over the minutes; as wide and as deep as the recipe's model, with as many windows of
the same length a step, in the same precision and with the same threads. Ours is the product's own
training, so where four minutes or more are left it may go through torch.compile, if it finds that
to pay; the other side never does. Its rate is the published one, doubled for as long as that is
better on valid with the first seed. Only training, a try of torch.compile included, counts for the
minutes; then all of valid is judged, by the same code. Trainings that are in --out already are not
made again. With three seeds and two texts there are 14 to 18 of them: of each text ours with every
seed, the other side at two to four rates with the first, and at the best of these with the others.

    python benchmarks/novels.py --data FOLDER-OF-DATA-SETS [--texts characters,bpe] [--minutes 5]
        [--seeds 0,1,2] [--threads 2] [--out FOLDER]
"""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import Row, arguments, at_least, finish
from cases import NOVELS
from modelwright.core import recipe_file
from modelwright.core.files import write_json
from modelwright.core.recipe import Recipe
from modelwright.data.rows import Dataset
from modelwright.measure.quality import Quality, evaluate
from modelwright.models.catalog import ModelSpec, count_params, fresh_model
from modelwright.runtime.torch_session import TorchSession
from modelwright.stages import load
from modelwright.tasks.catalog import TASKS
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget, Settings, fill_in
from nanogpt import (
    LEARNING_RATE,
    RECIPE,
    WARMUP,
    Baseline,
    Shape,
    faster_precision,
    spec_of,
    streams,
)

METRIC, BETTER = "bits_per_byte", 1.05
TEXTS = {"characters": NOVELS, "bpe": {**NOVELS, "data.tokens": "{unit: bpe, vocab_size: 4096}"}}
QUICK_MINUTES, QUICK_ROWS = 0.1, 40
MOST_DOUBLINGS = 4


class Ids(nn.Module):
    """nanoGPT's model over rows as the product has them: (batch, time, 1)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Any:
        return self.model(ids[..., 0])


def result(model: nn.Module, found: Quality, steps: int, tokens: int) -> dict[str, Any]:
    return {METRIC: found.values[METRIC], "steps": steps, "tokens": steps * tokens,
            "params": count_params(model)}  # fmt: skip


def ours(
    recipe: Recipe, data: Dataset, spec: ModelSpec, settings: Settings, seconds: float
) -> dict[str, Any]:
    """The product's training; averaged weights are judged."""
    budget = Budget(seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            fresh_model(spec, settings.seed), spec, TASKS[recipe.task], data.parts["train"],
            data.parts["valid"], settings, budget, Path(folder),
        )  # fmt: skip
        trainer.evaluations = 1  # nothing is looked at before the end: all minutes are training
        trainer.run()
        trainer.weights.gather()
        found = trainer.evaluate(thorough=False)
    tokens = settings.batch_size * data.inputs["length"]
    return result(trainer.result, found, trainer.step, tokens)


def plain(
    data: Dataset, spec: ModelSpec, settings: Settings, seconds: float, learning_rate: float
) -> dict[str, Any]:
    """nanoGPT's, as large."""
    size = spec.arguments
    shape = Shape(size["num_layers"], size["dim"] // size["head_dim"], size["dim"],
                  data.inputs["length"], settings.batch_size)  # fmt: skip
    train, _ = streams(data)
    baseline = Baseline(
        shape, data.inputs["vocab_size"], train, settings.seed, learning_rate=learning_rate,
        precision=settings.precision,
    )  # fmt: skip
    step, warm, spent, began = 0, 0.0, 0.0, time.perf_counter()
    while spent < seconds:
        baseline.step(step, (spent - warm) / (seconds - warm))
        step, spent = step + 1, time.perf_counter() - began
        warm = spent if step <= WARMUP else warm
    session = TorchSession(Ids(baseline.model), spec, torch.get_num_threads())
    found = evaluate(session, data.parts["valid"], TASKS["language-modeling"],
                     data.outputs["labels"], thorough=False)  # fmt: skip
    return result(baseline.model, found, step, baseline.tokens)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in the file, or what `make` gives, which is in it from then on."""
    if not path.is_file():
        write_json(path, make())
    return dict(json.loads(path.read_text()))


def measure(
    name: str, folder: Path, out: Path, seeds: list[int], minutes: float, *, quick: bool
) -> list[Row]:
    """One text: both sides with every seed."""
    keys = {"data.source": str(folder / "english_novels"), **TEXTS[name]}
    words = [f"{key}={value}" for key, value in keys.items()]
    recipe = recipe_file.read(RECIPE, recipe_file.parse_overrides(words))
    data = load(recipe)
    if quick:
        data.parts["valid"] = data.parts["valid"].take(np.arange(QUICK_ROWS))
    spec, seconds, budget = spec_of(recipe, data), 60 * minutes, Budget(seconds=60 * minutes)
    kind = f"{name}-{minutes:g}-minutes-{torch.get_num_threads()}-threads"
    first = fill_in(recipe.train, spec, "32-true", budget)
    precision = faster_precision(spec, recipe.task, first)

    def settings(seed: int) -> Settings:
        section = recipe.train.model_copy(update={"seed": seed})
        return fill_in(section, spec, precision, budget)

    def other(seed: int, rate: float) -> dict[str, Any]:
        return kept(
            out / f"{kind}-adamw-{rate:g}-{seed}.json",
            lambda: plain(data, spec, settings(seed), seconds, rate),
        )

    mine = [
        kept(
            out / f"{kind}-ours-{seed}.json",
            partial(ours, recipe, data, spec, settings(seed), seconds),
        )
        for seed in seeds
    ]
    tried = {LEARNING_RATE: other(seeds[0], LEARNING_RATE)}
    for doubling in range(1, 1 if quick else MOST_DOUBLINGS):
        rate = LEARNING_RATE * 2**doubling
        tried[rate] = other(seeds[0], rate)
        if tried[rate][METRIC] >= tried[rate / 2][METRIC]:
            break
    best = min(tried, key=lambda rate: tried[rate][METRIC])
    others = [other(seed, best) for seed in seeds]
    ratio = mean(one[METRIC] for one in others) / mean(one[METRIC] for one in mine)
    title = f"{name}: bits a byte of AdamW over ours"
    rates = ", ".join(f"{rate:g}: {one[METRIC]:.4f}" for rate, one in tried.items())
    rows = [
        Row(title, round(ratio, 4)) if quick else at_least(title, ratio, BETTER),
        Row(f"{name}: bits a byte by AdamW's rate, seed {seeds[0]}", rates),
        Row(f"{name}: precision", precision),
    ]
    for side, runs in (("ours", mine), (f"AdamW at {best:g}", others)):
        values = [run[METRIC] for run in runs]
        spread = stdev(values) if len(values) > 1 else 0.0
        rows += [
            Row(f"{name}, {side}: bits a byte", f"{mean(values):.4f} ± {spread:.4f}"),
            Row(f"{name}, {side}: each seed", ", ".join(f"{value:.4f}" for value in values)),
            Row(f"{name}, {side}: tokens", ", ".join(f"{run['tokens']:,}" for run in runs)),
            Row(f"{name}, {side}: parameters", f"{runs[0]['params']:,}"),
        ]
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--texts", default=",".join(TEXTS))
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, help="of torch; all if not given")
    parser.add_argument("--out", type=Path, help="where the trainings' figures are kept")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    minutes = QUICK_MINUTES if asked.quick else asked.minutes
    seeds = [0] if asked.quick else [int(seed) for seed in asked.seeds.split(",")]
    rows = [Row("minutes of each training", minutes), Row("threads", torch.get_num_threads())]
    with tempfile.TemporaryDirectory() as temporary:
        out = asked.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        for name in asked.texts.split(","):
            rows += measure(name, asked.data, out, seeds, minutes, quick=asked.quick)
    finish(rows, as_json=asked.json)


if __name__ == "__main__":
    main()

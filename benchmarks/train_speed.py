"""Speed of training beside a bare loop, Lightning, the Hugging Face Trainer and nanoGPT's recipe.

Three questions, each side of which trains the same class of model on the same rows, with the same
threads, in one process and in turns of short blocks, so that other work on the machine hits all:

- overhead: what the loop adds to a step, beside a hand-written one that gathers a batch, takes its
  gradient and moves the weights, and does nothing else;
- others: steps a second beside Lightning and the Hugging Face Trainer with everything switched off
  that can be; both are optional here (`pip install lightning transformers accelerate`);
- tokens: tokens and seconds until a loss on tinyshakespeare, beside nanogpt.py.

A block's time goes from one forward pass to another, taken by a hook on the model, so it holds
whatever a framework does in between and nothing of how it starts.

    python benchmarks/train_speed.py [--only overhead,others] [--data input.txt] [--threads 1]
"""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nanogpt
from bench import Row, arguments, at_least, at_most, finish
from modelwright.core.hardware import has, version
from modelwright.core.recipe import Train
from modelwright.data.rows import Rows, Windows
from modelwright.models.catalog import ModelSpec, fresh_model
from modelwright.plan.choose import BF16_MARGIN
from modelwright.plan.time import step_seconds
from modelwright.tasks.catalog import TASKS
from modelwright.train.loop import Trainer
from modelwright.train.precision import Precision
from modelwright.train.settings import Budget, Settings, fill_in

BLOCK, WINDOW, VOCAB_SIZE, CHARACTERS = 12, 64, 65, 1_000_000  # nanoGPT's batch on CPUs
IMAGES, CLASSES, IMAGE_BATCH = 60_000, 10, 128  # as many as MNIST trains on
WARM = 3  # steps of a block that are not counted: caches still hold what the other side left
LEARNING_RATE = 1e-3
WHOLE = Budget(steps=20_000)  # of a training that the blocks are cut from
MOST_OVERHEAD, WANTED_OVERHEAD = 0.03, 0.01
FROM_CATALOG = {"optimizer": "adamw", "learning_rate": LEARNING_RATE, "ema": 0, "keep": "last"}

Block = Callable[[int], Any]  # trains for that many steps
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A model and rows to train it on.

    Args:
        gather: inputs and targets of the rows with these numbers, as a bare loop takes them.
        item: those of one row, as a loader asks for them.
    """

    name: str
    spec: ModelSpec
    task: str
    rows: Rows
    batch_size: int
    steps: int  # of a block
    gather: Callable[[Tensor], Batch]
    item: Callable[[int], Batch]

    def settings(self, precision: Precision, **keys: Any) -> Settings:
        section = Train.model_validate({**FROM_CATALOG, "batch_size": self.batch_size, **keys})
        return fill_in(section, self.spec, precision, WHOLE)

    def model(self) -> nn.Module:
        model = fresh_model(self.spec, 0).train()
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def gpt() -> Case:
    """Four layers, four heads, 128 features: nanoGPT's model for CPUs, on as many characters."""
    ids = torch.randint(VOCAB_SIZE, (CHARACTERS,), generator=torch.Generator().manual_seed(0))
    starts = torch.arange(0, CHARACTERS - WINDOW - 1, 16)

    def gather(rows: Tensor) -> Batch:
        found = ids[starts[rows][:, None] + torch.arange(WINDOW + 1)]
        return found[:, :-1, None], found[:, 1:]

    def item(row: int) -> Batch:
        found = ids[16 * row : 16 * row + WINDOW + 1]
        return found[:-1, None], found[1:]

    inputs = {"kind": "stream", "vocab_size": VOCAB_SIZE, "features": 1, "length": WINDOW,
              "max_length": WINDOW, "unit": "characters", "overlap": 4.0}  # fmt: skip
    spec = ModelSpec("transformer", "small", inputs, {"kind": "next", "num_classes": VOCAB_SIZE})
    kept, first = ids.numpy().astype(np.int32), starts.numpy()
    rows = Rows(
        {"ids": Windows(kept[:, None], first, WINDOW)}, Windows(kept, first + 1, WINDOW),
        [""] * len(first),
    )  # fmt: skip
    return Case("GPT", spec, "language-modeling", rows, BLOCK, 30, gather, item)


def cnn() -> Case:
    """The smallest convolution net of the catalog, on 28 x 28 pixels in memory."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, 1, 28, 28), np.uint8)
    targets = random.integers(0, CLASSES, IMAGES)
    inputs = {"kind": "image", "shape": [1, 28, 28], "mean": [128.0], "std": [74.0]}
    spec = ModelSpec("cnn", "tiny", inputs, {"kind": "classes", "num_classes": CLASSES})
    pixels, labels = torch.from_numpy(images), torch.from_numpy(targets)
    rows = Rows({"image": images}, targets, [""] * IMAGES)
    return Case("CNN", spec, "image-classification", rows, IMAGE_BATCH, 60,
                lambda rows: (pixels.index_select(0, rows), labels.index_select(0, rows)),
                lambda row: (pixels[row], labels[row]))  # fmt: skip


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


# sides: each gives the model whose forward passes are counted, and what trains it


def bare(case: Case) -> tuple[nn.Module, Block]:
    """A loop as one writes it by hand."""
    model = case.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    number = len(case.rows)

    def train(steps: int) -> None:
        for _ in range(steps):
            inputs, targets = case.gather(torch.randint(number, (case.batch_size,)))
            loss = loss_of(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return model, train


def ours(case: Case, folder: Path, precision: Precision) -> tuple[nn.Module, Block]:
    """The product's loop, curves and checkpoints included, without averaged weights."""
    folder.mkdir()
    smoothing = TASKS[case.task].logic.LABEL_SMOOTHING and 0.0
    trainer = Trainer(
        case.model(), case.spec, TASKS[case.task], case.rows, case.rows.take(np.arange(1)),
        case.settings(precision, label_smoothing=smoothing), WHOLE, folder,
        metrics=folder / "metrics.jsonl",
    )  # fmt: skip
    return trainer.model, lambda steps: trainer.run(until=Budget(steps=trainer.step + steps))


class Items(torch.utils.data.Dataset[Batch]):
    """Rows one by one, as loaders ask for them."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __len__(self) -> int:
        return len(self.case.rows)

    def __getitem__(self, row: int) -> Batch:
        return self.case.item(row)


class Bulk(Items):
    """A whole batch at once, through the door that torch's loader has for it."""

    def __getitems__(self, rows: list[int]) -> Batch:
        return self.case.gather(torch.tensor(rows))


def as_it_is(batch: Batch) -> Batch:
    return batch


def loader_of(items: Items, workers: int, collate: Callable[[Any], Any] | None = None) -> Any:
    if isinstance(items, Bulk):
        collate = as_it_is
    return torch.utils.data.DataLoader(
        items, items.case.batch_size, shuffle=True, num_workers=workers, drop_last=True,
        collate_fn=collate, persistent_workers=workers > 0,
    )  # fmt: skip


def lightning(items: Items, workers: int) -> tuple[nn.Module, Block]:
    """Lightning with `barebones`: no logger, bar, checkpoint, summary or check of any kind."""
    import lightning as L

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(L.LightningModule):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Batch, index: int) -> Tensor:
            inputs, targets = batch
            return loss_of(self.model(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=LEARNING_RATE, fused=True)

    module, loader = Module(items.case.model()), loader_of(items, workers)

    def train(steps: int) -> None:
        runner = L.Trainer(
            max_steps=steps, barebones=True, accelerator="cpu", devices=1, precision="32-true"
        )
        runner.fit(module, loader)

    return module.model, train


def hugging_face(items: Items, workers: int) -> tuple[nn.Module, Block]:
    """The Trainer of transformers, without logs, checkpoints, bar, clipping or schedule."""
    import transformers

    transformers.logging.set_verbosity_error()

    class Wrapped(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": loss_of(self.model(inputs), labels)}

    def named(batch: Any) -> dict[str, Tensor]:
        inputs, labels = torch.utils.data.default_collate(batch) if one_by_one else batch
        return {"inputs": inputs, "labels": labels}

    one_by_one = not isinstance(items, Bulk)
    wrapped = Wrapped(items.case.model())

    def train(steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            told = transformers.TrainingArguments(
                folder, max_steps=steps, per_device_train_batch_size=items.case.batch_size,
                optim="adamw_torch_fused", learning_rate=LEARNING_RATE, max_grad_norm=0.0,
                lr_scheduler_type="constant", logging_strategy="no", save_strategy="no",
                report_to="none", disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
                dataloader_num_workers=workers, dataloader_pin_memory=False,
                dataloader_drop_last=True, logging_nan_inf_filter=False,
                dataloader_persistent_workers=workers > 0,
            )  # fmt: skip
            runner = transformers.Trainer(wrapped, told, data_collator=named, train_dataset=items)
            runner.remove_callback(transformers.PrinterCallback)
            runner.train()

    return wrapped.model, train


OTHERS = {
    "Lightning": (lightning, ("lightning",)),
    "HF Trainer": (hugging_face, ("transformers", "accelerate")),
}

# timing


def step_s(model: nn.Module, train: Block, steps: int, clock: Callable[[], float]) -> float:
    """Mean seconds from one forward pass to the next."""
    stamps: list[float] = []
    hook = model.register_forward_pre_hook(lambda *_: stamps.append(clock()))
    try:
        train(WARM + steps + 1)
    finally:
        hook.remove()
    return (stamps[-1] - stamps[WARM]) / (len(stamps) - 1 - WARM)


def in_turns(
    sides: dict[str, tuple[nn.Module, Block]], turns: int, steps: int, clock: Callable[[], float]
) -> dict[str, np.ndarray]:
    """Seconds a step of every block, one block a turn for every side; the order is turned round
    each time."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for name in sides:
        step_s(*sides[name], 2, clock)  # whatever the first call sets up
    for turn in range(turns):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            found[name].append(step_s(*sides[name], steps, clock))
    return {name: np.array(values) for name, values in found.items()}


def ratio(one: np.ndarray, other: np.ndarray) -> tuple[float, str]:
    """Ratio of the medians, and the middle half of the turns' own ratios."""
    low, high = np.percentile(one / other, [25, 75])
    return float(np.median(one) / np.median(other)), f"{low:.3f} to {high:.3f}"


def ms(values: np.ndarray) -> float:
    return round(1e3 * float(np.median(values)), 3)


# the questions


def overhead(case: Case, folder: Path, turns: int, clock: Callable[[], float]) -> list[Row]:
    sides = {"bare": bare(case), "ours": ours(case, folder / f"{case.name}-overhead", "32-true")}
    found = in_turns(sides, turns, case.steps, clock)
    value, spread = ratio(found["ours"], found["bare"])
    return [
        at_most(f"{case.name}: overhead over a bare loop", value - 1, MOST_OVERHEAD),
        Row(f"{case.name}: overhead wanted", WANTED_OVERHEAD),
        Row(f"{case.name}: ours over bare, middle half of turns", spread),
        Row(f"{case.name}: ms a step, bare and ours", f"{ms(found['bare'])}, {ms(found['ours'])}"),
    ]


def faster_precision(spec: ModelSpec, task: str, settings: Settings) -> Precision:
    """What the product's plan takes where the recipe says `precision: auto`."""
    precisions: tuple[Precision, Precision] = ("32-true", "bf16-mixed")
    full, mixed = (step_seconds(spec, task, replace(settings, precision=one)) for one in precisions)
    return "bf16-mixed" if full / mixed >= BF16_MARGIN else "32-true"


def beside(
    case: Case, folder: Path, turns: int, clock: Callable[[], float], workers: Sequence[int],
    bounds: dict[str, float],
) -> list[Row]:  # fmt: skip
    """Steps a second of ours over those of others; `bounds` by side of ours."""
    auto = faster_precision(case.spec, case.task, case.settings("32-true"))
    sides = {"at 32-true": ours(case, folder / f"{case.name}-32", "32-true")}
    if auto != "32-true":
        sides["automatic"] = ours(case, folder / f"{case.name}-auto", auto)
    rows = [Row(f"{case.name}: automatic precision", auto)]
    others: dict[str, str] = {}
    for name, (make, needs) in OTHERS.items():
        if not has(needs):
            rows.append(Row(f"{case.name}: {name}", "not installed, not measured"))
            continue
        tried = {number: make(Items(case), number) for number in workers}
        seconds = {number: step_s(*side, case.steps, clock) for number, side in tried.items()}
        best = min(seconds, key=lambda number: seconds[number])
        label = f"{name} {version(needs[0])}"
        sides[label], others[label] = tried[best], f"{best} workers"
        sides[f"{label}, whole batches"] = make(Bulk(case), 0)
    found = in_turns(sides, turns, case.steps, clock)
    for name, values in found.items():
        said = f", {others[name]}" if name in others else ""
        rows.append(Row(f"{case.name}: ms a step, {name}{said}", ms(values)))
    for label in others:
        for side, bound in bounds.items():
            value, spread = ratio(found[label], found.get(side, found["at 32-true"]))
            rows += [
                at_least(f"{case.name}: speed {side} over {label}", value, bound),
                Row(f"{case.name}: the same, middle half of turns", spread),
            ]
            if side == "at 32-true":
                value, _ = ratio(found[f"{label}, whole batches"], found[side])
                rows.append(Row(f"{case.name}: the same, its loader given whole batches",
                                round(value, 3)))  # fmt: skip
    return rows


QUESTIONS = ("overhead", "others", "tokens")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default=",".join(QUESTIONS), help="questions, with commas")
    parser.add_argument("--data", type=Path, help="tinyshakespeare's input.txt, for `tokens`")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, help="blocks of each side; 20, or 5 if quick")
    parser.add_argument("--seeds", type=int, help="of `tokens`; 3, or 1 if quick")
    parser.add_argument(
        "--cpu-time", action="store_true",
        help="count the processor's seconds: for a machine where other work runs",
    )  # fmt: skip
    asked = parser.parse_args()
    names = asked.only.split(",")
    if unknown := [name for name in names if name not in QUESTIONS]:
        parser.error(f"no question {', '.join(unknown)}; there are {', '.join(QUESTIONS)}")
    if "tokens" in names and asked.data is None:
        parser.error("`tokens` needs --data, or leave it out with --only overhead,others")
    torch.set_num_threads(asked.threads)
    turns = asked.turns or (5 if asked.quick else 20)
    seeds = asked.seeds or (1 if asked.quick else 3)
    clock = time.process_time if asked.cpu_time else time.perf_counter
    workers = (0,) if asked.cpu_time else (0, 2)  # other processes' seconds are not seen
    rows = [Row("clock", "processor" if asked.cpu_time else "wall"), Row("threads", asked.threads)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for case in (gpt(), cnn()):
            if "overhead" in names:
                rows += overhead(case, folder, turns, clock)
            if "others" in names:
                bounds = {"at 32-true": 2.0} if case.name == "CNN" else {
                    "at 32-true": 1.0, "automatic": 1.3}  # fmt: skip
                rows += beside(case, folder, turns, clock, workers, bounds)
        if "tokens" in names:
            rows += nanogpt.race(asked.data, folder, range(seeds), clock, faster_precision,
                                 quick=asked.quick)  # fmt: skip
    finish(rows, as_json=asked.json)


if __name__ == "__main__":
    main()

"""Speed of training beside a bare loop, Lightning, the Hugging Face Trainer and nanoGPT's recipe.

Three questions, each side of which trains the same class of model on the same rows, with the same
threads, in one process and in turns of short blocks, so that other work on the machine hits all:

- overhead: what the loop adds to a step, beside a hand-written one that gathers a batch, takes its
  gradient and moves the weights, and does nothing else;
- others: steps a second beside Lightning and the Hugging Face Trainer with everything switched off
  that can be, and a DataLoader that hands out rows one by one, as their documentation has it: with
  no workers and with two that stay, the faster of which counts; both are optional here
  (`pip install lightning transformers accelerate`);
- tokens: tokens and seconds until a loss on tinyshakespeare, beside nanogpt.py; with --out the
  trainings that are done are not done again. About an hour a seed on one core;
- gpu-settings: the same beside nanoGPT's larger model, only where it is asked for: on CPUs it takes
  hours.

In `overhead` and `others` no side compiles; in the races to a loss ours does where the product's
training decides for it, nanoGPT's does not. In `others` all but ours train in 32-true, their own
default: also beside ours in the automatic precision, which is bf16-mixed where that is faster here.
Speed beside a loader that is given whole batches, which nobody's documentation proposes, is told
without a bound: it is what is left where the data path is the same.

A block's time goes from one forward pass to another, taken by a hook on the model, so it holds
whatever a framework does in between and nothing of how it starts.

    python benchmarks/train_speed.py [--only overhead,others] [--cases LeNet] [--threads 1]
        [--data input.txt] [--out FOLDER]
"""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nanogpt
from bench import Row, arguments, at_least, at_most, finish
from modelwright.core.hardware import has, version
from modelwright.core.recipe import Precision
from modelwright.tasks.catalog import TASKS
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget
from speed_cases import LEARNING_RATE, WHOLE, Batch, Case, cnn_tiny, gpt, lenet

WARM = 3  # steps of a block that are not counted: caches still hold what the other side left
MOST_OVERHEAD, WANTED_OVERHEAD = 0.03, 0.01
# speed over others by case and side of ours; where nothing stands, it is told without a bound
AT_LEAST = {
    "GPT": {"at 32-true": 1.0, "automatic": 1.3},
    "LeNet": {"at 32-true": 2.0},  # data that fits memory: there the data path decides
    "cnn-tiny": {},
}

Block = Callable[[int], Any]  # trains for that many steps


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
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return model, train


def ours(case: Case, folder: Path, precision: Precision) -> tuple[nn.Module, Block]:
    """The product's loop, curves and checkpoints included, without averaged weights."""
    folder.mkdir()
    smoothing = TASKS[case.task].logic.LABEL_SMOOTHING and 0.0
    trainer = Trainer(
        case.product_model(), case.spec, TASKS[case.task], case.rows, case.rows.take(np.arange(1)),
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

    class Module(L.LightningModule):  # type: ignore[misc]
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


def beside(
    case: Case, folder: Path, turns: int, clock: Callable[[], float], workers: Sequence[int]
) -> list[Row]:
    """Steps a second of ours over those of others."""
    bounds = AT_LEAST[case.name]
    sides = {"at 32-true": ours(case, folder / f"{case.name}-32", "32-true")}
    rows: list[Row] = []
    if "automatic" in bounds:
        auto = nanogpt.faster_precision(case.spec, case.task, case.settings("32-true"))
        rows.append(Row(f"{case.name}: automatic precision", auto))
        if auto != "32-true":
            sides["automatic"] = ours(case, folder / f"{case.name}-auto", auto)
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
        rows.append(
            Row(f"{case.name}: ms a step by workers, first look, {name}",
                ", ".join(f"{number}: {1e3 * s:.3f}" for number, s in seconds.items()))
        )  # fmt: skip
        sides[f"{label}, whole batches"] = make(Bulk(case), 0)
    found = in_turns(sides, turns, case.steps, clock)
    for name, values in found.items():
        said = f", {others[name]}" if name in others else ""
        rows.append(Row(f"{case.name}: ms a step, {name}{said}", ms(values)))
    for label in others:
        for side in {"at 32-true": None, **bounds}:
            value, spread = ratio(found[label], found.get(side, found["at 32-true"]))
            theirs = "" if side == "at 32-true" else " at 32-true"
            name = f"{case.name}: speed {side} over {label}{theirs}"
            rows += [
                at_least(name, value, bounds[side]) if side in bounds else Row(name, value),
                Row(f"{case.name}: the same, middle half of turns", spread),
            ]
            if side == "at 32-true":
                value, _ = ratio(found[f"{label}, whole batches"], found[side])
                rows.append(Row(f"{case.name}: the same, its loader given whole batches",
                                round(value, 3)))  # fmt: skip
    return rows


QUESTIONS = ("overhead", "others", "tokens")
TO_LOSS = {"tokens": "nanoGPT", "gpu-settings": "nanoGPT, settings for GPUs"}
CASES = {"GPT": gpt, "LeNet": lenet, "cnn-tiny": cnn_tiny}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default=",".join(QUESTIONS), help="questions, with commas")
    parser.add_argument("--cases", default=",".join(CASES), help="models, with commas")
    parser.add_argument("--data", type=Path, help="tinyshakespeare's input.txt, for `tokens`")
    parser.add_argument("--out", type=Path, help="where trainings of `tokens` are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, help="blocks of each side; 20, or 5 if quick")
    parser.add_argument("--seeds", type=int, help="of `tokens`; 3, or 1 if quick")
    parser.add_argument(
        "--cpu-time", action="store_true",
        help="count the processor's seconds: for a machine where other work runs",
    )  # fmt: skip
    asked = parser.parse_args()
    names, cases = asked.only.split(","), asked.cases.split(",")
    known = {*QUESTIONS, *TO_LOSS, *CASES}
    if unknown := [name for name in (*names, *cases) if name not in known]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if TO_LOSS.keys() & set(names) and asked.data is None:
        parser.error("`tokens` needs --data, or leave it out with --only overhead,others")
    torch.set_num_threads(asked.threads)
    turns = asked.turns or (5 if asked.quick else 20)
    seeds = asked.seeds or (1 if asked.quick else 3)
    clock = time.process_time if asked.cpu_time else time.perf_counter
    workers = (0,) if asked.cpu_time else (0, 2)  # other processes' seconds are not seen
    rows = [Row("clock", "processor" if asked.cpu_time else "wall"), Row("threads", asked.threads)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in cases if {"overhead", "others"} & set(names) else ():
            case = CASES[name]()
            if "overhead" in names:
                rows += overhead(case, folder, turns, clock)
            if "others" in names:
                rows += beside(case, folder, turns, clock, workers)
        for name, other in TO_LOSS.items():
            if name in names:
                out = asked.out or folder
                out.mkdir(parents=True, exist_ok=True)
                rows += nanogpt.race(asked.data, out, range(seeds), clock,
                                     other=other, quick=asked.quick)  # fmt: skip
    finish(rows, as_json=asked.json)


if __name__ == "__main__":
    main()

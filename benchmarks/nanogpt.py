"""Tokens and seconds until a loss on tinyshakespeare: the product beside nanoGPT's recipe.

The other side is written here after github.com/karpathy/nanoGPT: model.py, train.py, and the
settings that its README gives for CPUs, with as many iterations as the loss takes instead of 2,000.
Both sides learn from the same characters, and after every stretch of steps both are judged on the
whole valid part, in windows of their own length side by side, so that every character counts once;
the time that this takes is counted for neither. The schedule of either follows the number of steps,
which has to be chosen beforehand: of a few doublings the first one that gets there counts, and
those that did not are no cost to anybody.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import Row, at_least
from modelwright.core import recipe_file
from modelwright.core.recipe import Recipe
from modelwright.data.rows import Dataset, Ragged, Windows
from modelwright.models.catalog import ModelSpec, fresh_model
from modelwright.stages import load
from modelwright.tasks.catalog import TASKS
from modelwright.train.loop import Trainer
from modelwright.train.precision import Precision
from modelwright.train.settings import Budget, Settings, fill_in

RECIPE = Path(__file__).parents[1] / "recipes" / "shakespeare.yaml"
TARGET, QUICK_TARGET = 1.60, 2.40  # nats a character on the valid part
FEWER_TOKENS, LESS_TIME = 3.0, 2.5

# lengths of schedules to try; 500 steps ended above the target (docs/numbers.md), and so do the
# 2,000 iterations that nanoGPT publishes
OUR_STEPS, OUR_STRETCH = (1000, 2000), 50
ITERATIONS, STRETCH = (8000, 16_000, 32_000), 250

# of nanoGPT's README, section "quick start", for a laptop's CPU; the rest is train.py's default
NUM_LAYERS, NUM_HEADS, DIM, WINDOW, BATCH = 4, 4, 128, 64, 12
LEARNING_RATE, LOWEST_RATE, WARMUP = 1e-3, 1e-4, 100
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.99), 0.1, 1.0

Clock = Callable[[], float]
Chooser = Callable[[ModelSpec, str, Settings], Precision]


@dataclass(frozen=True)
class Reached:
    """What one training had used up when the valid loss was low enough."""

    tokens: int
    seconds: float
    loss: float
    steps: int
    of: int  # steps that its schedule was made for


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(DIM, bias=False) for _ in range(2))
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.out = nn.Linear(DIM, DIM, bias=False)
        self.up = nn.Linear(DIM, 4 * DIM, bias=False)
        self.down = nn.Linear(4 * DIM, DIM, bias=False)

    def forward(self, sequence: Tensor) -> Tensor:
        parts = self.qkv(self.attention_norm(sequence)).split(DIM, dim=2)
        heads = (part.unflatten(2, (NUM_HEADS, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        sequence = sequence + self.out(mixed.transpose(1, 2).flatten(2))
        return sequence + self.down(F.gelu(self.up(self.mlp_norm(sequence))))


class GPT(nn.Module):
    """ids: (batch, time) int64 -> logits (batch, time, vocab_size)"""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, DIM)
        self.positions = nn.Embedding(WINDOW, DIM)
        self.blocks = nn.Sequential(*(Block() for _ in range(NUM_LAYERS)))
        self.norm = nn.LayerNorm(DIM, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                last = name.endswith(("out.weight", "down.weight"))  # onto the residual
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * NUM_LAYERS) if last else 1))

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        features = self.blocks(self.tokens(ids) + self.positions(places))
        return F.linear(self.norm(features), self.tokens.weight)


def rate(step: int, steps: int) -> float:
    """Warmup, then a cosine down to a tenth.

    >>> [round(1e4 * rate(step, 1000), 2) for step in (0, 99, 550, 1000)]
    [0.1, 9.9, 5.5, 1.0]
    """
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / (WARMUP + 1)
    share = (step - WARMUP) / (steps - WARMUP)
    return LOWEST_RATE + 0.5 * (1 + math.cos(math.pi * share)) * (LEARNING_RATE - LOWEST_RATE)


def judged(model: GPT, ids: Tensor) -> float:
    """Nats a character, each but the first predicted once."""
    total = 0.0
    with torch.inference_mode():
        whole = (len(ids) - 1) // WINDOW * WINDOW
        for start, end, window in ((0, whole, WINDOW), (whole, len(ids) - 1, len(ids) - 1 - whole)):
            if end > start:
                inputs, targets = ids[start:end], ids[start + 1 : end + 1]
                logits = model(inputs.view(-1, window))
                total += F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum").item()
    return total / (len(ids) - 1)


def theirs(
    train: Tensor, valid: Tensor, steps: int, seed: int, target: float, clock: Clock
) -> Reached | None:
    """nanoGPT's training; None where the loss stays above the target."""
    torch.manual_seed(seed)
    model = GPT(int(train.max()) + 1)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}],
        lr=LEARNING_RATE, betas=BETAS, fused=True,
    )  # fmt: skip
    places = torch.arange(WINDOW + 1)
    seconds, step = 0.0, 0
    while step < steps:
        began = clock()
        for _ in range(STRETCH):
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps)
            batch = train[torch.randint(len(train) - WINDOW, (BATCH, 1)) + places]
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            step += 1
        seconds += clock() - began
        if (now := judged(model, valid)) <= target:
            return Reached(step * BATCH * WINDOW, seconds, now, step, steps)
    return None


def ours(
    recipe: Recipe, data: Dataset, precision: Chooser, steps: int, seed: int, target: float,
    folder: Path, clock: Clock,
) -> Reached | None:  # fmt: skip
    """The recipe's training of a model of that size, averaged weights judged."""
    spec = ModelSpec("transformer", "small", data.inputs, data.outputs)
    budget, section = Budget(steps=steps), recipe.train.model_copy(update={"seed": seed})
    settings = fill_in(section, spec, "32-true", budget)
    settings = fill_in(section, spec, precision(spec, recipe.task, settings), budget)
    folder.mkdir()
    trainer = Trainer(
        fresh_model(spec, seed), spec, TASKS[recipe.task], data.parts["train"], data.parts["valid"],
        settings, budget, folder, metrics=folder / "metrics.jsonl",
    )  # fmt: skip
    seconds = 0.0
    while trainer.step < steps:
        began = clock()
        trainer.run(until=Budget(steps=trainer.step + OUR_STRETCH))
        seconds += clock() - began
        if (now := trainer.evaluate(thorough=False).value) <= target:
            tokens = trainer.step * settings.batch_size * data.inputs["length"]
            return Reached(tokens, seconds, now, trainer.step, steps)
    return None


def streams(data: Dataset) -> tuple[Tensor, Tensor]:
    """The ids of train and of valid, one after the other."""
    train, valid = data.parts["train"].inputs["ids"], data.parts["valid"]
    assert isinstance(train, Windows) and isinstance(valid.targets, Ragged)
    ids = valid.inputs["ids"]
    assert isinstance(ids, Ragged)
    known, more = torch.from_numpy(ids.values[:1, 0]), torch.from_numpy(valid.targets.values)
    return torch.from_numpy(train.values[:, 0]).long(), torch.cat([known, more]).long()


def race(
    text: Path, folder: Path, seeds: Iterable[int], clock: Clock, precision: Chooser,
    *, quick: bool = False,
) -> list[Row]:  # fmt: skip
    """Both sides, seed by seed.

    Args:
        precision: gives the one that is faster here, of a model, a task and settings.
    """
    target = QUICK_TARGET if quick else TARGET
    recipe = recipe_file.read(RECIPE, {"data.source": str(text)})
    data = load(recipe)
    train, valid = streams(data)
    pairs: list[tuple[Reached, Reached]] = []
    for seed in seeds:
        tried = (
            ours(recipe, data, precision, steps, seed, target, folder / f"{seed}-{steps}", clock)
            for steps in OUR_STEPS
        )
        mine = next(filter(None, tried), None)
        tried = (theirs(train, valid, steps, seed, target, clock) for steps in ITERATIONS)
        other = next(filter(None, tried), None)
        if mine is None or other is None:
            side = "ours" if mine is None else f"nanoGPT within {ITERATIONS[-1]:,} iterations"
            return [Row(f"{target} nats a character, seed {seed}", f"not reached by {side}",
                        "reached", False)]  # fmt: skip
        pairs.append((mine, other))
    tokens, more_tokens = (mean(pair[side].tokens for pair in pairs) for side in (0, 1))
    seconds, longer = (mean(pair[side].seconds for pair in pairs) for side in (0, 1))
    rows = [Row("nats a character to reach on valid", target)]
    for name, value, bound in (
        ("tokens of nanoGPT over ours", more_tokens / tokens, FEWER_TOKENS),
        ("seconds of nanoGPT over ours", longer / seconds, LESS_TIME),
    ):  # the bounds are about the whole way, not its easy beginning
        rows.append(Row(name, round(value, 3)) if quick else at_least(name, value, bound))
    for seed, pair in zip(seeds, pairs, strict=True):
        for name, one in zip(("ours", "nanoGPT"), pair, strict=True):
            rows.append(
                Row(f"seed {seed}, {name}: steps (of), tokens, seconds",
                    f"{one.steps:,} ({one.of:,}), {one.tokens:,}, {one.seconds:.1f}")
            )  # fmt: skip
    return rows

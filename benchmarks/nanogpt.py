"""Tokens and seconds until a loss on tinyshakespeare: the product beside nanoGPT's recipe.

The other side is written here after github.com/karpathy/nanoGPT: model.py, train.py, and the
settings that its README gives for CPUs, or those of config/train_shakespeare_char.py for GPUs, with
as many iterations as the loss takes. Ours is recipes/shakespeare.yaml with `model.size: small`, as
large as nanoGPT's model and sooner at this loss than the recipe's own. Both learn from the first
nine tenths of the text and are judged on the rest, which is nanoGPT's own division, in float32
there, as nanoGPT computes on CPUs, and in the precision that the product chooses here.

After every stretch of as many tokens both are judged on the whole valid part, in windows of their
own length side by side, so that every character counts once; the time that this takes is counted
for neither. The schedule of either follows the number of steps, which has to be chosen beforehand:
of trainings of growing length, each side's own (OUR_LENGTHS, `lengths` of SETTINGS), the first one
that gets there counts, and those that did not are no cost to anybody. Each is kept in a file of its
own, so what was cut off goes on with the training that it was in; the files are of one machine and
one recipe.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import Row, at_least
from modelwright.core import recipe_file
from modelwright.core.files import write_json
from modelwright.core.recipe import Data, Precision, Recipe
from modelwright.data.rows import Dataset, Ragged
from modelwright.data.shared import Windows
from modelwright.models.catalog import ModelSpec, fresh_model
from modelwright.plan.choose import BF16_MARGIN
from modelwright.plan.time import step_seconds
from modelwright.stages import load
from modelwright.tasks.catalog import TASKS
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget, Settings, fill_in

RECIPE = Path(__file__).parents[1] / "recipes" / "shakespeare.yaml"
TARGET, QUICK_TARGET = 1.60, 2.40  # nats a character on the valid part
FEWER_TOKENS, LESS_TIME = 3.0, 2.5
TRAIN_SHARE = 0.9  # data/shakespeare_char/prepare.py
OUR_SIZE, OUR_LENGTHS, OUR_STRETCH = "small", (500, 750, 1000, 1500, 2000), 25

# train.py's defaults, and what both configurations set
LEARNING_RATE, LOWEST_SHARE, WARMUP = 1e-3, 0.1, 100
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.99), 0.1, 1.0

Clock = Callable[[], float]


@dataclass(frozen=True)
class Shape:
    """A model of nanoGPT's and what it is trained with.

    Args:
        lengths: of schedules to try, in iterations; stretch: between two looks at valid.
    """

    num_layers: int
    num_heads: int
    dim: int
    window: int
    batch: int
    dropout: float = 0.0
    lengths: Sequence[int] = ()
    stretch: int = 0


SETTINGS = {
    # README, "quick start", for a laptop's CPU: there 2,000 iterations, which end at 1.88;
    # 4,000 ended at 1.73 here
    "nanoGPT": Shape(4, 4, 128, 64, 12, 0.0, (6000, 8000, 10_000, 12_000), 250),
    # config/train_shakespeare_char.py, there 5,000: hours on a few cores
    "nanoGPT, settings for GPUs": Shape(6, 6, 384, 256, 64, 0.2, (1000, 2000, 5000), 25),
}


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        dim, self.num_heads, self.share = shape.dim, shape.num_heads, shape.dropout
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(dim, bias=False) for _ in range(2))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(4 * dim, dim, bias=False)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, sequence: Tensor) -> Tensor:
        parts = self.qkv(self.attention_norm(sequence)).chunk(3, dim=2)
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        dropped = self.share if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=True)
        sequence = sequence + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        added: Tensor = self.dropout(self.down(F.gelu(self.up(self.mlp_norm(sequence)))))
        return sequence + added


class GPT(nn.Module):
    """ids: (batch, time) int64 -> logits (batch, time, vocab_size)"""

    def __init__(self, vocab_size: int, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, shape.dim)
        self.positions = nn.Embedding(shape.window, shape.dim)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.num_layers)))
        self.norm = nn.LayerNorm(shape.dim, bias=False)
        small = math.sqrt(2 * shape.num_layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                last = name.endswith(("out.weight", "down.weight"))  # onto the residual
                nn.init.normal_(parameter, std=0.02 / (small if last else 1))

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        features = self.blocks(self.dropout(self.tokens(ids) + self.positions(places)))
        return F.linear(self.norm(features), self.tokens.weight)


def rate_share(step: int, share: float) -> float:
    """Of the full rate: warmup, then a cosine down to a tenth.

    Args:
        share: of what lies behind the warmup.

    >>> [round(rate_share(*at), 3) for at in ((0, 0.0), (99, 0.0), (550, 0.5), (1000, 1.0))]
    [0.01, 0.99, 0.55, 0.1]
    """
    if step < WARMUP:
        return (step + 1) / (WARMUP + 1)
    return LOWEST_SHARE + 0.5 * (1 + math.cos(math.pi * min(1.0, share))) * (1 - LOWEST_SHARE)


class Baseline:
    """nanoGPT's training of one model, step by step.

    Args:
        train: ids, (characters,) int64.
        precision: of the products; nanoGPT has 32-true on CPUs.
    """

    def __init__(
        self, shape: Shape, vocab_size: int, train: Tensor, seed: int, *,
        learning_rate: float = LEARNING_RATE, precision: Precision = "32-true",
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        self.shape, self.model, self.train = shape, GPT(vocab_size, shape), train
        self.learning_rate, self.mixed = learning_rate, precision == "bf16-mixed"
        matrices = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]
        rest = [parameter for parameter in self.model.parameters() if parameter.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY},
             {"params": rest, "weight_decay": 0.0}],
            lr=learning_rate, betas=BETAS, fused=True,
        )  # fmt: skip
        self._places = torch.arange(shape.window + 1)

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.shape.batch * self.shape.window

    def step(self, step: int, share: float) -> None:
        """One step; `share` as of `rate_share`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * rate_share(step, share)
        starts = torch.randint(len(self.train) - self.shape.window, (self.shape.batch, 1))
        batch = self.train[starts + self._places]
        with torch.autocast("cpu", torch.bfloat16) if self.mixed else nullcontext():
            logits = self.model(batch[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()

    def judged(self, ids: Tensor) -> float:
        """Nats a character, each but the first predicted once."""
        window, total = self.shape.window, 0.0
        self.model.eval()
        with torch.inference_mode():
            whole = (len(ids) - 1) // window * window
            for part, length in ((ids[: whole + 1], window), (ids[whole:], len(ids) - 1 - whole)):
                if len(part) < 2:
                    continue
                rows = zip(
                    torch.split(part[:-1].view(-1, length), 64),
                    torch.split(part[1:], 64 * length),
                    strict=True,
                )
                for inputs, targets in rows:
                    logits = self.model(inputs).flatten(0, 1)
                    total += F.cross_entropy(logits, targets, reduction="sum").item()
        self.model.train()
        return total / (len(ids) - 1)


@dataclass(frozen=True)
class Tried:
    """What one training had used up when the valid loss was low enough, or at its end.

    Args:
        of: steps that its schedule was made for; loss: on valid, then.
    """

    reached: bool
    steps: int
    of: int
    tokens: int
    seconds: float
    loss: float

    def __str__(self) -> str:
        end = "" if self.reached else f", not reached: {self.loss:.4f}"
        return f"{self.steps:,} ({self.of:,}), {self.tokens:,}, {self.seconds:.1f}{end}"


def theirs(
    shape: Shape, train: Tensor, valid: Tensor, steps: int, seed: int, target: float, clock: Clock
) -> Tried:
    """nanoGPT's training, until the target or the end of its schedule."""
    baseline = Baseline(shape, int(train.max()) + 1, train, seed)
    seconds, step, loss = 0.0, 0, math.inf
    while step < steps and loss > target:
        began = clock()
        for _ in range(shape.stretch):
            baseline.step(step, (step - WARMUP) / (steps - WARMUP))
            step += 1
        seconds += clock() - began
        loss = baseline.judged(valid)
    return Tried(loss <= target, step, steps, step * baseline.tokens, seconds, loss)


def faster_precision(spec: ModelSpec, task: str, settings: Settings) -> Precision:
    """What the product's plan takes where the recipe says `precision: auto`."""
    precisions: tuple[Precision, Precision] = ("32-true", "bf16-mixed")
    full, mixed = (step_seconds(spec, task, replace(settings, precision=one)) for one in precisions)
    return "bf16-mixed" if full / mixed >= BF16_MARGIN else "32-true"


def spec_of(recipe: Recipe, data: Dataset) -> ModelSpec:
    """The model that the recipe names."""
    asked = recipe.model
    return ModelSpec.asked(asked.family, asked.size, data.inputs, data.outputs, asked.options)


class Reached(Exception):
    """A look at valid was good enough."""


class Racing(Trainer):
    """A whole training of the product, torch.compile included where it decides for it; every
    OUR_STRETCH steps averaged weights are judged on all of valid, which nobody counts.

    seconds: spent on training; value: of the last look.
    Raises: Reached at the first look that is no worse than `target`.
    """

    target, began, seconds, value = 0.0, 0.0, 0.0, math.inf
    clock: Clock = staticmethod(time.perf_counter)

    def _look_due(self) -> bool:
        return self.step % OUR_STRETCH == 0

    def _look(self) -> None:
        self.seconds += self.clock() - self.began
        self.weights.gather()
        self.value = self.evaluate(thorough=False).value
        if self.value <= self.target:
            raise Reached
        self.began = self.clock()

    def race(self, target: float, clock: Clock) -> bool:
        """Whether it gets there before its schedule ends."""
        self.target, self.clock, self.began = target, clock, clock()
        try:
            self.run()
        except Reached:
            return True
        return False


def ours(
    recipe: Recipe, data: Dataset, steps: int, seed: int, target: float, clock: Clock
) -> Tried:
    """The recipe's training of the recipe's model."""
    spec = spec_of(recipe, data)
    budget, section = Budget(steps=steps), recipe.train.model_copy(update={"seed": seed})
    settings = fill_in(section, spec, "32-true", budget)
    precision = faster_precision(spec, recipe.task, settings)
    settings = fill_in(section, spec, precision, budget)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Racing(
            fresh_model(spec, seed), spec, TASKS[recipe.task], data.parts["train"],
            data.parts["valid"], settings, budget, Path(folder),
            metrics=Path(folder) / "metrics.jsonl",
        )  # fmt: skip
        reached = trainer.race(target, clock)
        trainer._saver.wait()  # its folder goes
    tokens = trainer.examples_before(trainer.step) * data.inputs["length"]
    return Tried(reached, trainer.step, steps, tokens, trainer.seconds, trainer.value)


def streams(data: Dataset) -> tuple[Tensor, Tensor]:
    """The ids of train and of valid, one after the other."""
    train, valid = data.parts["train"].inputs["ids"], data.parts["valid"]
    assert isinstance(train, Windows) and isinstance(valid.targets, Ragged)
    ids = valid.inputs["ids"]
    assert isinstance(ids, Ragged)
    known, more = torch.from_numpy(ids.values[:1, 0]), torch.from_numpy(valid.targets.values)
    return torch.from_numpy(train.values[:, 0]).long(), torch.cat([known, more]).long()


def divided(text: Path) -> list[int]:
    """data.split_rows of nanoGPT's division; a test part has two characters at least."""
    number = len(text.read_text(encoding="utf-8-sig"))
    train = int(number * TRAIN_SHARE)
    return [train, number - train - 2, 2]


def first_to_reach(
    name: str, lengths: Sequence[int], train: Callable[[int], Tried], out: Path
) -> Tried:
    """Of trainings of growing length the first that gets there, or the longest; those that are in
    `out` already are not made again."""
    for steps in lengths:
        path = out / f"{name}-{steps}.json"
        if path.is_file():
            found = Tried(**json.loads(path.read_text()))
        else:
            found = train(steps)
            write_json(path, asdict(found))
        if found.reached:
            break
    return found


def race(
    text: Path, out: Path, seeds: Iterable[int], clock: Clock,
    *, other: str = "nanoGPT", quick: bool = False,
) -> list[Row]:  # fmt: skip
    """Both sides, seed by seed.

    Args:
        out: where each training's figures are kept.
        other: a row of SETTINGS.
    """
    target = QUICK_TARGET if quick else TARGET
    # in place of the shares that the recipe divides a text by
    shares = {f"data.{part}": Data.model_fields[part].default for part in ("valid", "test")}
    changed = {"model.size": OUR_SIZE, "data.split_rows": divided(text), **shares}
    recipe = recipe_file.read(RECIPE, {"data.source": str(text), **changed})
    data, shape = load(recipe), SETTINGS[other]
    train, valid = streams(data)
    kind = f"{target}-{torch.get_num_threads()}-threads"
    pairs = [
        (
            first_to_reach(
                f"{kind}-ours-{seed}", OUR_LENGTHS,
                partial(ours, recipe, data, seed=seed, target=target, clock=clock),
                out,
            ),
            first_to_reach(
                f"{kind}-{other}-{seed}", shape.lengths,
                partial(theirs, shape, train, valid, seed=seed, target=target, clock=clock),
                out,
            ),
        )
        for seed in seeds
    ]  # fmt: skip
    rows = [
        Row("nats a character to reach on valid", target),
        Row("characters of valid", len(valid)),
    ]
    # where they never got there, what they had used up by then: the ratio is larger
    atleast = "" if all(pair[1].reached for pair in pairs) else ", at the least"
    for name, key, bound in (("tokens", "tokens", FEWER_TOKENS), ("seconds", "seconds", LESS_TIME)):
        mine, more = (mean(getattr(pair[side], key) for pair in pairs) for side in (0, 1))
        name = f"{name} of {other} over ours{atleast}"
        if not all(pair[0].reached for pair in pairs):
            rows.append(Row(name, "not reached by ours", f">= {bound:g}", met=False))
        elif quick:  # the bounds are about the whole way, not its easy beginning
            rows.append(Row(name, round(more / mine, 3)))
        else:
            rows.append(at_least(name, more / mine, bound))
    for seed, pair in zip(seeds, pairs, strict=True):
        for name, one in zip(("ours", other), pair, strict=True):
            rows.append(Row(f"seed {seed}, {name}: steps (of), tokens, seconds", str(one)))
    return rows

"""One training step and the loop around it, readable top to bottom.

Every step is a function of the weights, the seed and the step's number: batch, augmentation and
dropout draw from counters, never from a stream. Resume is exact because nothing else is carried.
The budget is a number of steps or of seconds; the schedule follows the share of it that is spent.
"""

import copy
import functools
import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.core.goals import METRICS
from modelwright.core.hardware import keep_freed_memory
from modelwright.core.progress import say
from modelwright.core.units import format_seconds
from modelwright.data.loader import Batch, Loader
from modelwright.data.rows import Rows
from modelwright.measure.quality import Quality, evaluate
from modelwright.models.catalog import ModelSpec, build
from modelwright.runtime.torch_session import TorchSession
from modelwright.tasks.catalog import Task
from modelwright.train import checkpoint
from modelwright.train.gradient import Gradient, Loss
from modelwright.train.guards import StopRequested, catch_signals, require_finite
from modelwright.train.journal import Journal
from modelwright.train.optimizers import learning_rate_factor, make_optimizer
from modelwright.train.parallel import ALONE, World, local
from modelwright.train.pipes import Pipe
from modelwright.train.precision import autocast
from modelwright.train.settings import Budget, Settings

TWO_SIDED_95 = 1.96  # standard errors on each side of a 95 % interval
CURVE_ROWS = 2000  # valid rows looked at while training; the last evaluation takes all of them
EVALUATIONS = 8  # over the whole budget


class Trainer:
    """A model in training: its state, one step, the loop, save and resume.

    Where rows are no batches but episodes, train/reinforce.py says where a gradient comes from.

    Args:
        folder: of the checkpoints; the newest one there is resumed.
        metrics: the file for the curves, or None.
        world: the processes that train together; the first one looks at valid, notes and saves.
    Raises: ConfigError for a layout that task, batch or model don't fit.
    """

    evaluations, curve_rows = EVALUATIONS, CURVE_ROWS

    def __init__(
        self,
        model: nn.Module,
        spec: ModelSpec,
        task: Task,
        train: Rows,
        valid: Rows,
        settings: Settings,
        budget: Budget,
        folder: Path,
        *,
        metrics: Path | None = None,
        world: World = ALONE,
    ) -> None:
        keep_freed_memory()
        self.settings, self.budget, self.folder = settings, budget, folder
        self.world = world
        self.journal = Journal(metrics if world.first else None, budget, settings.batch_size)
        self.task, self.spec = task, spec
        self.valid = valid
        self._begin(train)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.model) if settings.ema else self.model
        # what comes out: the averaged weights, whole
        self.result = self.averaged if world.size == 1 else copy.deepcopy(self.model)
        world.place(self.model)
        if settings.ema:
            world.place(self.averaged)
        self.result.eval()
        self.optimizer = make_optimizer(
            self.model,
            settings.optimizer,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self._loss: Loss = task.logic.loss
        if task.logic.LABEL_SMOOTHING is not None:
            own = settings.label_smoothing
            smoothing = task.logic.LABEL_SMOOTHING if own is None else own
            self._loss = functools.partial(task.logic.loss, label_smoothing=smoothing)
        self.step, self.elapsed, self.evaluation_seconds = 0, 0.0, 0.0
        self.looked_s = 0.0  # at valid, by this process
        self.loss, self.went_back = 0.0, False
        self.looks: list[tuple[float, float]] = []  # of the race: budget spent, valid metric
        self._saved_step, self._saved_at, self._evaluated_at = 0, 0.0, 0.0
        self._saved_looks = 0
        self.best_value: float | None = None  # of the metric, at the looks while training
        self._best: dict[str, Tensor] = {}  # the averaged weights then
        self._average_pairs = _pairs(self.averaged, self.model) if settings.ema else None
        make = Pipe if world.layout.pipeline > 1 else Gradient
        self._gradient: Callable[[Batch], float] = make(
            self.model, self._loss, task.weight, micro_batch_size=settings.micro_batch_size,
            precision=settings.precision, world=world,
        )  # fmt: skip
        self.resumed = self._resume()

    def _begin(self, train: Rows) -> None:
        """Make what steps are made from."""
        self.loader = Loader(
            train,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            augment=self.settings.augment,
            num_classes=self.spec.outputs.get("num_classes"),
            rate=self.spec.inputs.get("rate"),
        )

    # one step

    def train_step(self) -> float:
        """Forward, backward, update; gives the mean loss of the batch, in nats."""
        settings = self.settings
        progress = self.budget.progress(self.step, self.elapsed)
        factor = learning_rate_factor(
            self.step, progress, warmup_steps=settings.warmup_steps, decay=settings.decay
        )
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        # dropout's draw: of each reader its own, of one alone the first's
        _seed_draws(settings.seed * 1_000_003 + self.step + (self.world.reader << 40))
        if not self.model.training:
            self.model.train()
        loss = self.world.total(self._backward(progress))
        require_finite(loss, self.step, settings.learning_rate * factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self._average_pairs is not None:  # a young average forgets faster
            decay = min(settings.ema, self.step / (self.step + 9))
            torch._foreach_lerp_(*self._average_pairs, 1 - decay)
        return loss

    def _backward(self, progress: float) -> float:
        """Put the gradient of this step's batch into the parameters; gives its loss."""
        return self._gradient(self.loader.batch(self.step))

    @property
    def cycle(self) -> int:
        """Steps until what a step does repeats itself."""
        return 1

    @property
    def steps_per_epoch(self) -> int:
        """Steps until as many rows as train has were learned from."""
        return self.loader.steps_per_epoch

    # the loop

    def run(self, until: Budget | None = None, *, title: str = "train") -> None:
        """Train until the budget is spent, or until the trainer has spent `until` in all.

        Raises: StopRequested after a signal, the state saved; TrainingFailed on a NaN loss.
        """
        limit = until or self.budget
        started = time.perf_counter() - self.elapsed
        first_step, first_elapsed = self.step, self.elapsed
        self.journal.begin(first_step, first_elapsed)
        with catch_signals() as signals:
            while not self._spent(limit, first_step, first_elapsed):
                self.loss = self.train_step()
                self.elapsed = self.world.told(time.perf_counter() - started)
                self.journal.step(
                    title,
                    limit,
                    self.step,
                    self.elapsed,
                    loss=self.loss,
                    learning_rate=self.optimizer.param_groups[0]["lr"],
                    observed=self._observed(),
                )
                progress = self.budget.progress(self.step, self.elapsed)
                if until is None and progress - self._evaluated_at >= 1 / self.evaluations:
                    self._evaluated_at = progress
                    if progress < 1 - 0.5 / self.evaluations:
                        self._look()
                received = self.world.largest(int(signals.received or 0))
                if received or self._save_due():
                    self.save()
                if received:
                    raise StopRequested(signal.Signals(received).name)
                self.elapsed = self.world.told(time.perf_counter() - started)
            if received := self.world.largest(
                int(signals.received or 0)
            ):  # it came with the last step
                self.save()
                raise StopRequested(signal.Signals(received).name)

    def evaluate(self, rows: int | None = None, *, thorough: bool = True) -> Quality:
        """Metrics of the averaged weights on (the first `rows` of) the valid part; those of one
        call of the model unless `thorough`. Several processes have to `gather` before."""
        started = time.perf_counter()
        part = self.valid.take(np.arange(min(rows or len(self.valid), len(self.valid))))
        session = TorchSession(self.result, self.spec, torch.get_num_threads())
        with autocast(self.settings.precision):
            # no more rows at once than in a step: of long ones, 256 took twice a step's memory
            labels, number = self.spec.outputs.get("labels", ()), self.settings.micro_batch_size
            found = evaluate(session, part, self.task, labels, batch_size=number, thorough=thorough)
        seconds = time.perf_counter() - started
        self.evaluation_seconds = seconds * len(self.valid) / len(part)
        self.looked_s += seconds
        return found

    def gather(self) -> None:
        """Put the averaged weights together in `result`; every process has to call it."""
        if self.result is not self.averaged:
            self.result.load_state_dict(self.world.whole(self.averaged.state_dict()))

    def _look(self) -> None:
        """The first process judges the weights of now."""
        self.gather()
        if self.world.first:
            self._consider(self.evaluate(self.curve_rows, thorough=False))
        self.evaluation_seconds = self.world.told(self.evaluation_seconds)

    def _consider(self, found: Quality) -> None:
        """Note a look's metrics; keep its weights if none were better so far."""
        self.journal.write(self.step, self.elapsed, _named(found))
        if self.settings.keep == "best" and self._better(found.value, self.best_value):
            self.best_value = found.value
            weights = self.result.state_dict()
            self._best = {name: value.clone() for name, value in weights.items()}

    def _better(self, value: float, than: float | None) -> bool:
        error = METRICS[self.task.look].error
        return than is None or error(value) < error(than)

    def look(self, rows: int) -> None:
        """Note the valid metric now; the time it takes is spent from the budget."""
        started = time.perf_counter()
        value = self.evaluate(rows, thorough=False).value
        self.elapsed += time.perf_counter() - started
        spent = self.step if self.budget.steps is not None else self.elapsed
        self.looks.append((float(spent), value))

    def finish(self) -> dict[str, float]:
        """The last look, at every valid row, and the last checkpoint; gives what the first process
        saw, and nothing to the others."""
        started = time.perf_counter()
        self.gather()
        values: dict[str, float] = {}
        if self.world.first:
            values = _named(self._chosen(self.evaluate(thorough=False)))
        self.elapsed += self.world.told(time.perf_counter() - started)
        if values:
            self.journal.write(self.step, self.elapsed, values)
        self.save()
        return values

    def _chosen(self, found: Quality) -> Quality:
        """Which weights come out (`result`), and how good they are on all of valid.

        Those of an earlier look come back if they were better by more than one standard error of
        the last ones' metric: smaller leads are mostly chance.
        """
        if self.best_value is not None:
            seen = found.statistics[: self.curve_rows]  # the rows of every look
            standard_error = (found.high - found.low) / (2 * TWO_SIDED_95)
            standard_error *= math.sqrt(found.rows / len(seen))
            error = METRICS[self.task.look].error
            now = error(self.task.values(seen)[self.task.look])
            if now - error(self.best_value) > standard_error:
                self.result.load_state_dict(self._best)
                self.went_back = True
                found = self.evaluate(thorough=False)
        return found

    def _spent(self, limit: Budget, first_step: int, first_elapsed: float) -> bool:
        if limit.steps is not None:
            return self.step >= limit.steps
        # half a step is the smallest error one can make; the last evaluation needs its time
        steps = self.step - first_step
        half_step = (self.elapsed - first_elapsed) / steps / 2 if steps else 0.0
        assert limit.seconds is not None
        return self.elapsed + half_step + self.evaluation_seconds >= limit.seconds

    # save and resume

    def save(self) -> None:
        """A checkpoint of this step, unless there is one."""
        if self.world.size > 1:
            return  # TODO
        if (self._saved_step, self._saved_looks) != (self.step, len(self.looks)):
            checkpoint.save(
                self.folder,
                step=self.step,
                model=self.model,
                average=self._average_state(),
                best=self._best,
                optimizer=self.optimizer,
                position={
                    "best_value": self.best_value,
                    "elapsed": self.elapsed,
                    "evaluation_seconds": self.evaluation_seconds,
                    "evaluated_at": self._evaluated_at,
                    "looks": self.looks,
                    "settings": _plain(self.settings),
                    **self._position(),
                },
                more=self._tensors(),
            )
        self._saved_step, self._saved_at = self.step, self.elapsed
        self._saved_looks = len(self.looks)

    def _resume(self) -> bool:
        record = checkpoint.newest(self.folder)
        if record is None:
            return False
        position = record["position"]
        if position["settings"] != _plain(self.settings):
            raise ConfigError(
                f"{self.folder} holds a checkpoint of other settings than the recipe's",
                expected="the settings that the training was started with",
                repair="start a new run, or go back to the old recipe",
            )
        self._best, more = checkpoint.restore(
            self.folder,
            record,
            model=self.model,
            average=self._average_state(),
            optimizer=self.optimizer,
        )
        self.step, self.elapsed = int(record["step"]), float(position["elapsed"])
        self.evaluation_seconds = float(position["evaluation_seconds"])
        self._evaluated_at = float(position["evaluated_at"])
        self.best_value = position["best_value"]
        self.looks = [(float(spent), float(value)) for spent, value in position["looks"]]
        self._saved_step, self._saved_at = self.step, self.elapsed
        self._saved_looks = len(self.looks)
        self._take_up(position, more)
        self.journal.drop_after(self.step)
        return True

    def _position(self) -> dict[str, Any]:
        """What else a checkpoint has to hold, as plain JSON."""
        return {}

    def _tensors(self) -> dict[str, Tensor]:
        """The same, as tensors."""
        return {}

    def _take_up(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from what `_position` and `_tensors` gave."""

    def _average_state(self) -> dict[str, Tensor]:
        return dict(self.averaged.state_dict()) if self.settings.ema else {}

    def _save_due(self) -> bool:
        if self.settings.checkpoint_steps is not None:
            return self.step - self._saved_step >= self.settings.checkpoint_steps
        return self.elapsed - self._saved_at >= self.settings.checkpoint_seconds

    def _observed(self) -> dict[str, float]:
        """What else the curves show."""
        return {}


def _named(found: Quality) -> dict[str, float]:
    return {f"valid_{name}": value for name, value in found.values.items()}


def _seed_draws(seed: int) -> None:
    """torch.manual_seed at every step, without the devices that nothing runs on: asking those costs
    as much as a small layer (docs/experiments.md)."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def fresh_model(spec: ModelSpec, seed: int) -> nn.Module:
    """The model that a seed gives, whatever was drawn before."""
    torch.manual_seed(seed)
    return build(spec)


def announce(trainer: Trainer, title: str) -> None:
    """Say whether training starts or continues."""
    if trainer.resumed:
        say(f"{title}: continues at step {trainer.step} ({format_seconds(trainer.elapsed)} spent)")


def _pairs(averaged: nn.Module, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Averaged and current tensors, side by side; counters such as a norm's step are left out."""
    current = model.state_dict()
    floats = [
        (local(value), local(current[name]))
        for name, value in averaged.state_dict().items()
        if value.dtype.is_floating_point
    ]
    return [pair[0] for pair in floats], [pair[1] for pair in floats]


def _plain(settings: Settings) -> Any:
    value = asdict(settings)
    value["augment"] = [step.model_dump(exclude_none=True) for step in settings.augment]
    for name in ("checkpoint_seconds", "checkpoint_steps"):  # when to save changes no weight
        value.pop(name)
    return json.loads(json.dumps(value))

"""The loop around the steps of a training (train/step.py), readable top to bottom.

Every step is a function of the weights, the seed and the step's number: batch, augmentation and
dropout draw from counters, never from a stream. Resume is exact because nothing else is carried.
The budget is a number of steps or of seconds; the schedule follows the share of it that is spent.
"""

import contextlib
import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.core.files import storage
from modelwright.core.goals import METRICS
from modelwright.core.hardware import keep_freed_memory
from modelwright.core.progress import say
from modelwright.data.loader import Loader
from modelwright.data.rows import Rows
from modelwright.measure.quality import Quality, evaluate
from modelwright.models.catalog import ModelSpec
from modelwright.models.later import Later
from modelwright.runtime.torch_session import TorchSession
from modelwright.tasks.catalog import Task
from modelwright.train import checkpoint, keep, state
from modelwright.train.compiling import Compiling
from modelwright.train.device import Batches, of_process
from modelwright.train.gradient import Gradient, loss_of
from modelwright.train.guards import Guard, Signals, State, StopRequested, catch_signals, cut_short
from modelwright.train.journal import Journal, Record
from modelwright.train.optimizers import make_optimizer
from modelwright.train.out_of_memory import MicroBatch
from modelwright.train.parallel import ALONE, World
from modelwright.train.pipes import Pipe
from modelwright.train.precision import PRODUCTS, LossScale, autocast
from modelwright.train.saver import Saver
from modelwright.train.settings import Budget, Settings
from modelwright.train.step import AHEAD, Steps
from modelwright.train.weights import Weights

CURVE_ROWS = 2000  # valid rows looked at while training; the last look mostly takes all of them
SEEN = "looked_at"  # in checkpoints


class Trainer:
    """A model in training: its state, one step, the loop, save and resume.

    Where rows are no batches but episodes, train/reinforce.py says where a gradient comes from.

    Args:
        folder: of the checkpoints; the newest one there is resumed.
        metrics: the file for the curves, or None.
        record: where else it is written down, and what is known of it beforehand.
        asked: a file that a person touches to have a checkpoint now, or None.
        world: the processes that train together; the first one looks at valid and takes notes.
    Raises: ConfigError for a layout that task, batch or model don't fit.
    """

    evaluations, curve_rows = 8, CURVE_ROWS  # looks over the whole budget
    cycle = 1  # steps until what a step does repeats itself

    def __init__(
        self, model: nn.Module | Later, spec: ModelSpec, task: Task, train: Rows, valid: Rows,
        settings: Settings, budget: Budget, folder: Path, *, metrics: Path | None = None,
        record: Record | None = None, asked: Path | None = None, world: World = ALONE,
    ) -> None:  # fmt: skip
        keep_freed_memory()
        self.settings, self.budget, self.folder, self.world = settings, budget, folder, world
        record, metrics = record or Record(), metrics if world.first else None
        self.journal = Journal(metrics, budget, self.examples_before, record)
        self._saver, self._asked = Saver(folder, settings.keep_checkpoints), asked
        self.task, self.spec, self.valid = task, spec, valid
        self._begin(train)
        self.device = of_process(settings.device, world.local_rank)
        self.weights = weights = Weights(model, settings, self.device, world)
        self.model, self.averaged, self.result = weights.model, weights.averaged, weights.result
        self.optimizer = make_optimizer(
            self.model, settings.optimizer, learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay, cautious=settings.cautious, seed=settings.seed,
            products=PRODUCTS[settings.precision],
        )  # fmt: skip
        self.micro = MicroBatch(
            settings, self.model, folder, whole=task.whole_batches, planned=record.planned,
            note=self.journal.note, world=world,
        )  # fmt: skip
        held = State(self.model, self.averaged, self.optimizer)
        self.guard = Guard(settings, held, self.journal.note)
        self._loss = loss_of(task, settings, train, self.device)
        self.scale = LossScale(settings.precision == "16-mixed")
        given = (self.optimizer, self.guard, self.scale, self.micro, world)
        self.steps = Steps(settings, weights, *given)
        self.elapsed, self.evaluation_seconds, self.looked_s = 0.0, 0.0, 0.0  # this process's looks
        self.looks: list[tuple[float, float]] = []  # of the race: budget spent, valid metric
        self._saved, self._saved_at, self._evaluated_at = (0, 0), 0.0, 0.0  # step, looks; seconds
        self.best_value: float | None = None  # of the metric, at the looks while training
        self._best: dict[str, Tensor] = {}  # the averaged weights then
        self._seen: np.ndarray | None = None  # what each row added then; the first process alone
        self._gradient: Gradient = (Pipe if world.layout.pipeline > 1 else Gradient)(
            self.model, self._loss, task.weight, micro_batch_size=settings.micro_batch_size,
            precision=settings.precision, scale=self.scale, world=world, device=self.device,
        )  # fmt: skip
        self.compiling = Compiling(
            settings.compile, self.model, self._gradient, self.device, self.journal,
            dynamic=any(one.over_time for one in spec.signature.inputs),
            world=world, from_s=spec.ladder.compile_from_s,
        )  # fmt: skip
        self.went_back, self.resumed = False, self._resume()

    def _begin(self, train: Rows) -> None:
        """Make what steps are made from."""
        settings, spec, world = self.settings, self.spec, self.world
        self.loader = Loader(
            train, batch_size=settings.batch_size, seed=settings.seed, augment=settings.augment,
            num_classes=spec.outputs.get("num_classes"), rate=spec.inputs.get("rate"),
            batch_steps=settings.batch_warmup_steps, window_steps=settings.window_warmup_steps,
        )  # fmt: skip
        self._batches = Batches(self.loader, settings.device, world.reader, world.layout.readers)

    def train_step(self) -> float:
        """One step; gives the mean loss, in nats, of the last that is known (train/step.py)."""
        self.steps.begin()
        progress = self.budget.progress(self.step, self.elapsed)
        passes = self._passes(progress)
        self.world.at(self.step, waiting=True)  # its rows are here before others wait for it
        self.steps.take(passes, progress)
        return self.steps.last.loss

    def _passes(self, progress: float) -> Callable[[], Tensor]:
        """What puts the gradient of this step's batch into the parameters, and gives its loss."""
        with self.micro.enough(f"while the batch of step {self.step} was made"):
            batch = self._batches(self.step)

        def passes() -> Tensor:
            self._gradient.micro_batch_size = self.micro.size * self.loader.window_parts(self.step)
            return self._gradient(batch)

        return passes

    @property
    def step(self) -> int:
        """The number of the next one; of those taken so far."""
        return self.steps.number

    @property
    def steps_per_epoch(self) -> int:
        """Steps until as many rows as train has were learned from."""
        return self.loader.steps_per_epoch

    def examples_before(self, step: int) -> int:
        """Rows of train that the steps before it learned from."""
        return self.loader.rows_before(step)

    def run(self, until: Budget | None = None, *, title: str = "train") -> None:
        """Train until the budget is spent, or until the trainer has spent `until` in all.

        Raises: StopRequested after a signal, the state saved if there was time for it;
            TrainingFailed as the guards say; StorageError if a save failed.
        """
        limit = until or self.budget
        first_step, first_elapsed = self.step, self.elapsed
        self.journal.begin(title, first_step, first_elapsed)
        started = time.perf_counter() - self.elapsed
        with catch_signals() as signals, self._saver.closing(), self.journal.watched():
            hear = functools.partial(self._hear, signals, started, title)
            try:
                if until is None and self.resumed and self._look_due():
                    self._look()  # stopped before it came to that
                while not self._over(limit, first_step, first_elapsed):
                    self.world.at(self.step)
                    if until is None and self.compiling.due(self.step - first_step):
                        pace_s = (self.elapsed - first_elapsed) / max(1, self.step - first_step)
                        left_s = self.budget.seconds_left(self.step, self.elapsed, pace_s)
                        settle = functools.partial(self.compiling.settle, self._passes(0.0), left_s)
                        self.micro.fitting(settle, "while torch.compile was tried", together=False)
                    self.steps.ahead = AHEAD[self.device.type]
                    self.train_step()
                    if self._between_steps(limit, hear(), title, whole=until is None):
                        hear()  # it took time
            except StopRequested:
                self._note_steps(limit)  # the step that was in hand
                raise
            self._note_steps(limit)
            self.steps.ahead = 0
            hear()  # a signal came with the last step

    def _between_steps(self, limit: Budget, asked: bool, title: str, *, whole: bool) -> bool:
        """Notes, looks and saves that are due; gives whether there were any but notes.

        Args:
            asked: for a checkpoint, by a person; whole: it is the whole budget that is spent.
        """
        self._note_steps(limit)
        self._saver.check()
        look, save = whole and self._look_due(), self._save_due()
        if not (look or save or asked):
            return False
        if not self._sound():  # all of it stays due
            self.guard.broken(self.step)
            return True
        if look:
            self._look()
        if save:
            self.save(wait=False)
        if asked:
            assert self._asked is not None
            self.save()
            with storage(self._asked):
                self._asked.unlink(missing_ok=True)
            say(f"{title}: step {self.step} is saved, as {self._asked.name} asked")
        return True

    def _sound(self) -> bool:
        """Whether every weight is a number, in all processes, after all steps handed over."""
        self.steps.look_back()
        return self.world.all(self.weights.finite())

    def _hear(self, signals: Signals, started: float, title: str) -> bool:
        """Agree on the time, and on what people and schedulers want; gives whether a checkpoint is
        asked for.

        Raises: StopRequested if a signal came, to any process.
        """
        told = (time.perf_counter() - started, bool(self._asked and self._asked.exists()))
        self.elapsed, asked, received = self.world.heard(told, [float(signals.received or 0)])
        if received:
            self._stop(int(received), title)
        return bool(asked)

    def _note_steps(self, limit: Budget) -> None:
        """In the curves, and for who watches: what came of the last steps."""
        self.journal.steps(limit, self.steps.known, self.elapsed, self._observed())

    def _over(self, limit: Budget, first_step: int, first_elapsed: float) -> bool:
        """Whether the budget is spent, and no step of it has to be taken again."""
        if not self._spent(limit, first_step, first_elapsed):
            return False
        self.steps.look_back()
        return self._spent(limit, first_step, first_elapsed)

    def evaluate(self, rows: int | None = None, *, thorough: bool = True) -> Quality:
        """How good averaged weights, gathered before, are on valid or `rows` of it."""
        started, doing = time.perf_counter(), f"looking at valid after step {self.step}"
        session = TorchSession(self.result, self.spec, torch.get_num_threads())
        part = self.valid.take(keep.looked_at(len(self.valid), rows))
        labels, what = self.spec.outputs.get("labels", ()), f"{self.journal.title}: valid judged"

        def judge() -> Quality:
            size = self.micro.size  # of more long rows, 256 took twice a step's memory
            return evaluate(session, part, self.task, labels, size, thorough=thorough, what=what)

        with autocast(self.settings.precision, self.device.type):
            found = self.micro.fitting(judge, doing, together=False)
        seconds = time.perf_counter() - started
        self.evaluation_seconds = seconds * len(self.valid) / len(part)
        self.looked_s += seconds
        return found

    def _look_due(self) -> bool:
        """Whether it is time to look at valid; the last time is `finish`."""
        progress = self.budget.progress(self.step, self.elapsed)
        due = progress - self._evaluated_at >= 1 / self.evaluations
        return due and progress < 1 - 0.5 / self.evaluations

    def _look(self) -> None:
        """The first process judges the weights of now; if none were better, they are saved. A look
        that a signal breaks off stays due."""
        before, found = self._best, None
        if not self._evaluated_at:  # the first one
            steps = self.step / self.budget.progress(self.step, self.elapsed)
            own = type(self).curve_rows, steps, self.settings.batch_size, self.evaluations
            self.curve_rows = keep.rows_looked_at(self.task, *own)
        judge = functools.partial(self.evaluate, self.curve_rows, thorough=False)
        with self.micro.enough(f"around the look at valid after step {self.step}"):
            self.weights.gather()
            if self.world.first and (found := cut_short(judge)) is not None:
                self._consider(found)
                known = self.evaluation_seconds, self.budget, self.task, self.journal.note
                self.valid, self.evaluation_seconds = keep.spared(self.valid, found.rows, *known)
        self.evaluation_seconds = self.world.told(self.evaluation_seconds, patient=True)
        self.micro.asked = int(self.world.told(self.micro.asked))
        if not self.world.told(float(found is not None)):
            return
        self._evaluated_at = self.budget.progress(self.step, self.elapsed)
        if self.world.told(float(self._best is not before)):
            self.save(wait=False, best=True)

    def _consider(self, found: Quality) -> None:
        """Note a look's metrics; keep its weights if none were better so far."""
        self.journal.write(self.step, self.elapsed, keep.valid_values(found))
        if self.settings.keep == "best" and self._better(found.value, self.best_value):
            self.best_value = found.value
            self._best, self._seen = keep.copied(self.result), found.statistics

    def _better(self, value: float, than: float | None) -> bool:
        error = METRICS[self.task.look].error
        return than is None or error(value) < error(than)

    def look(self, rows: int) -> None:
        """Note the valid metric now; the time it takes is spent from the budget."""
        started = time.perf_counter()
        if not self._sound():
            self.guard.judge_weights(self.step)
        self.weights.gather()
        value = self.evaluate(rows, thorough=False).value
        self.elapsed += time.perf_counter() - started
        self.looks.append((self.budget.spent(self.step, self.elapsed), value))

    def finish(self, *, title: str = "train") -> dict[str, float]:
        """The last checkpoint and look; gives the others nothing.

        Raises: StopRequested after a signal; TrainingFailed if the weights are no numbers.
        """
        with catch_signals() as signals, self._saver.closing():
            while not self._sound():
                self.guard.judge_weights(self.step)
            self.save()  # what comes now may take long
            if received := self.world.largest(int(signals.received or 0)):
                self._stop(received, title)
        started, values = time.perf_counter(), dict[str, float]()
        # who waits for the first one is ended as ever: no handler runs within a collective
        with catch_signals(at_once=True) if self.world.first else contextlib.nullcontext():
            if signals.received:  # since then
                raise StopRequested(signals.received.name)
            self.weights.gather()
            if self.world.first:
                values = keep.valid_values(self._chosen(self.evaluate(thorough=False)))
            self.elapsed += self.world.told(time.perf_counter() - started, patient=True)
        if self.world.first:
            self.journal.write(self.step, self.elapsed, values)
            self.result.to("cpu")  # from here on it is handed over
        return values

    def _chosen(self, found: Quality) -> Quality:
        """Which weights come out (`result`), and how good they are on valid.

        Those of an earlier look come back if they were clearly better.
        """
        judged = functools.partial(self.evaluate, thorough=False)
        if self._seen is not None and keep.was_clearly_better(self._seen, found, self.task, judged):
            self.result.load_state_dict(self._best)
            self.went_back = True
            found = judged()
        return found

    def _spent(self, limit: Budget, first_step: int, first_elapsed: float) -> bool:
        if limit.steps is not None:
            return self.step >= limit.steps
        # half a step is the smallest error one can make; the look at valid to come needs its time
        steps = self.step - first_step
        half_step = (self.elapsed - first_elapsed) / steps / 2 if steps else 0.0
        share = 1.0 if limit is self.budget else min(1.0, self.curve_rows / len(self.valid))
        assert limit.seconds is not None
        look_s = share * self.evaluation_seconds
        if limit is self.budget and not (self._evaluated_at or self.task.acting):  # to be settled
            look_s = min(look_s, keep.LOOKING * limit.seconds)
        return self.elapsed + half_step + look_s >= limit.seconds

    def save(self, *, wait: bool = True, best: bool = False) -> None:
        """A checkpoint of this step, unless there is one.

        Args:
            best: it is better on valid than all before, and stays.
            wait: until it is on the disk; if not, the loop goes on as soon as the state is copied.
        Raises: StorageError if this save failed, or the one before.
        """
        self.steps.look_back()
        moment = self.step, len(self.looks)
        if self._saved != moment or best or self._saver.failed:
            tensors = state.gather(
                self.model, self.optimizer, average=self.weights.average(), best=self._best,
                more=self._tensors(),
            )  # fmt: skip
            position, doing = self._position(), f"while step {self.step} was copied to be saved"
            with self.micro.enough(doing):
                self._saver.begin(step=self.step, tensors=tensors, position=position, best=best)
            self._saved, self._saved_at = moment, self.elapsed
        if wait:
            self._saver.wait()

    def _stop(self, received: int, title: str) -> None:
        """Save within the time of grace, and stop; if there was too little, say so."""
        grace, found = self.settings.grace_seconds, "is saved"
        if not self._sound():
            self._saver.wait(grace)  # an earlier one may be on its way
            found = "is not saved: its weights are no numbers"
        elif not self._saver.within(grace, self.world, lambda: self.save(wait=False)):
            found = f"could not be saved in train.grace_seconds: {grace:g}"
        say(f"{title}: step {self.step} {found}")
        raise StopRequested(signal.Signals(received).name)

    def _resume(self) -> bool:
        record = checkpoint.newest(self.folder)
        if record is None:  # nothing was saved of a start that was killed
            self.journal.drop_after(-1)
            return False
        position = record["position"]
        self.settings.require_same(position["settings"], self.folder)
        average, first = self.weights.average(), self.world.first
        tensors = state.make_room(record, self.model, self.optimizer, average=average, first=first)
        checkpoint.restore(record, tensors)
        self._best = state.part("best", tensors)
        self.steps.number = int(record["step"])
        self.elapsed, self.best_value = float(position["elapsed"]), position["best_value"]
        look = position.get("look", (0.0, 0.0, self.curve_rows, len(self.valid)))
        self._evaluated_at, self.evaluation_seconds, self.curve_rows, left = look
        self.valid = keep.shortened(self.valid, left)
        self.looks = [(float(spent), float(value)) for spent, value in position["looks"]]
        self._saved, self._saved_at = (self.step, len(self.looks)), self.elapsed
        self._take_up(position, state.part("more", tensors))
        self.journal.drop_after(self.step)
        return True

    def _position(self) -> dict[str, Any]:
        """What a checkpoint has to hold beside tensors, as plain JSON."""
        return {
            "best_value": self.best_value, "elapsed": self.elapsed, "looks": self.looks,
            "look": [self._evaluated_at, self.evaluation_seconds, self.curve_rows, len(self.valid)],
            "settings": self.settings.plain(), "guard": self.guard.position(),
            "micro_batch_size": self.micro.asked, "scale": self.scale.position(),
            "compiled": self.compiling.taken,
        }  # fmt: skip

    def _tensors(self) -> dict[str, Tensor]:
        """What else it has to hold, as tensors."""
        seen = {} if self._seen is None else {SEEN: torch.from_numpy(self._seen)}
        return seen | self.guard.tensors()

    def _take_up(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from what `_position` and `_tensors` gave."""
        self.guard.take_up(position["guard"], tensors)
        self._seen = tensors[SEEN].numpy() if self.world.first and SEEN in tensors else None
        self.micro.take_up(int(position["micro_batch_size"]))
        self.scale.take_up(position["scale"])
        self.compiling.take_up(position["compiled"])

    def _save_due(self) -> bool:
        if self.settings.checkpoint_steps is not None:
            return self.step - self._saved[0] >= self.settings.checkpoint_steps
        return self.elapsed - self._saved_at >= self.settings.checkpoint_seconds

    def _observed(self) -> dict[str, float]:
        """What else the curves show."""
        return self.scale.observed()

"""What people and the report see of a training: a line while it runs, and its curves on disk."""

import json
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelwright.core.files import storage, write_bytes
from modelwright.core.progress import Beat, say, show, shown, telling
from modelwright.core.units import format_bytes, format_count, format_seconds
from modelwright.train.loggers import Logger
from modelwright.train.peak import peak_memory_bytes
from modelwright.train.settings import Budget

if TYPE_CHECKING:
    from modelwright.train.step import Known

LINES = 400  # of the curves, over the whole budget


def _nowhere(text: str) -> None:
    """Of trainings that belong to no run."""


@dataclass(frozen=True)
class Record:
    """Where a training is written down besides its curves, and what is known of it beforehand.

    note: writes to the ledger what was not done as asked, and what was done instead.
    decision: writes to the ledger what was left to the training, and how it decided.
    planned: the memory that the plan predicted, in words.
    flops_per_example: forward and backward; None where nobody counted.
    peak_flops_per_s: of matrix products on this machine, measured; None where nobody did.
    tokens_per_example: the mean; None where rows are no tokens.
    """

    note: Callable[[str], None] = _nowhere
    decision: Callable[[str], None] = _nowhere
    loggers: tuple[Logger, ...] = ()
    planned: str = ""
    flops_per_example: float | None = None
    peak_flops_per_s: float | None = None
    tokens_per_example: float | None = None

    def speeds(self, examples_per_s: float) -> dict[str, float]:
        """Sustained rates, as far as they can be known: examples, tokens, FLOPs, and the last as a
        share of what the machine's matrix products reach (MFU).

        Source of MFU: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.

        >>> Record(flops_per_example=2e6, peak_flops_per_s=1e10).speeds(1000)
        {'examples_per_s': 1000, 'flops_per_s': 2000000000.0, 'mfu': 0.2}
        """
        found = {"examples_per_s": examples_per_s}
        if self.tokens_per_example is not None:
            found["tokens_per_s"] = examples_per_s * self.tokens_per_example
        if self.flops_per_example is not None:
            found["flops_per_s"] = examples_per_s * self.flops_per_example
            if self.peak_flops_per_s:
                found["mfu"] = found["flops_per_s"] / self.peak_flops_per_s
        return found


class Journal:
    """Curves as JSON lines and in loggers, the line that people see, and what went otherwise.

    Loggers are opened when a training begins, before its clock runs, and written to by a thread;
    what fails there is said by the training's own.

    Args:
        path: of the curves, or None.
        examples: of all steps before one.
    """

    def __init__(
        self, path: Path | None, budget: Budget, examples: Callable[[int], int],
        record: Record | None = None,
    ) -> None:  # fmt: skip
        self.path, self.budget, self.examples = path, budget, examples
        self.record = record or Record()
        self._loggers = list(self.record.loggers)
        self._writing = ThreadPoolExecutor(1) if self._loggers else None
        self._failed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.title = "train"
        self._newest: Callable[[], str] | None = None  # the last line, as it would be now
        self._beat = Beat()
        self._first_step, self._first_elapsed, self._rate = 0, 0.0, 0.0

    def begin(self, title: str, step: int, elapsed: float) -> None:
        """Loggers are open now, and rates count from here."""
        self.title, self._newest = title, None
        self._each(lambda one: one.open())
        self._await()
        self._beat = Beat()
        self._first_step, self._first_elapsed = step, elapsed

    def steps(
        self, limit: Budget, known: "deque[Known]", elapsed: float, observed: Mapping[str, float]
    ) -> None:
        """`step` of each that is known, the oldest first; none is left."""
        while known:
            one = known.popleft()
            self.step(
                limit, one.number + 1, elapsed, loss=one.loss, learning_rate=one.learning_rate,
                observed={**observed, "grad_norm": one.grad_norm},
            )  # fmt: skip

    def step(
        self,
        limit: Budget,
        step: int,
        elapsed: float,
        *,
        loss: float,
        learning_rate: float,
        observed: dict[str, float],
    ) -> None:
        """Note a step: on disk if its turn has come, on screen if the last line is old."""
        self._rate = (step - self._first_step) / max(1e-9, elapsed - self._first_elapsed)
        whole = self.budget.steps or self._rate * (self.budget.seconds or 0.0)
        due = step % max(1, int(whole / LINES)) == 0 and math.isfinite(loss)
        if due and (self.path is not None or self._loggers):
            values = {
                "loss": loss,
                "learning_rate": learning_rate,
                **self._speeds(step, elapsed),
                "memory_bytes": peak_memory_bytes(),
                **observed,  # the norm of a step that was skipped may be no number
            }
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            self.write(step, elapsed, finite)
        if self._beat.due() and shown():  # a line costs a look at the memory
            noted = time.monotonic()
            self._newest = lambda: self._line(limit, step, elapsed, time.monotonic() - noted, loss)
            show(self._newest())

    def watched(self) -> AbstractContextManager[None]:
        """Around steps: where one takes long, the line of the last goes on."""

        def line(spent: float) -> str:
            first = f"{self.title}  first step: {format_seconds(round(spent))}"
            return first if self._newest is None else self._newest()

        return telling(line)

    def note(self, text: str) -> None:
        """Say what was not done as asked and what was done instead, to people and the ledger."""
        say(f"{self.title}: {text}")
        self.record.note(f"{self.title}: {text}")

    def decide(self, text: str) -> None:
        """Say how something was decided that the recipe leaves open, to people and the ledger."""
        say(f"{self.title}: {text}")
        self.record.decision(text)

    def close(self, finished: bool) -> None:
        """Let the loggers write what they still hold, and wait for it."""
        self._each(lambda one: one.close(finished))
        self._await()

    def write(self, step: int, elapsed: float, values: dict[str, float]) -> None:
        """One line of the curves."""
        self._each(lambda one: one.log(step, values))
        self._tell()
        if self.path is None:
            return
        entry = {
            "step": step,
            "seconds": round(elapsed, 3),
            "progress": round(self.budget.progress(step, elapsed), 5),
            **values,
        }
        with storage(self.path), open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def _each(self, act: Callable[[Logger], None]) -> None:
        """Let every logger do it behind what it was given before."""
        if self._writing is not None:
            self._writing.submit(self._or_without, act)

    def _or_without(self, act: Callable[[Logger], None]) -> None:
        """A logger that fails is left out from here on: no training ends for it."""
        for logger in list(self._loggers):
            try:
                act(logger)
            except Exception as error:  # whatever a library or a server makes of a bad day
                self._loggers.remove(logger)
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._failed.put(f"{logger.name} is not written to any longer ({reason})")

    def _await(self) -> None:
        """Until loggers have done all that they were given."""
        if self._writing is not None:
            self._writing.submit(lambda: None).result()
        self._tell()

    def _tell(self) -> None:
        """Say which loggers have failed since it was last said."""
        while not self._failed.empty():
            self.note(f"{self._failed.get()}; training goes on")

    def drop_after(self, step: int) -> None:
        """Forget what was noted later than the step that training goes on from."""
        self._each(lambda one: one.drop_after(step))
        if self.path is None or not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, TypeError, KeyError):  # cut short by a kill
                continue
        write_bytes(self.path, "".join(kept).encode())

    def _speeds(self, step: int, elapsed: float) -> dict[str, float]:
        """Since the training, or this part of it, began."""
        examples = self.examples(step) - self.examples(self._first_step)
        return self.record.speeds(examples / max(1e-9, elapsed - self._first_elapsed))

    def _line(
        self, limit: Budget, step: int, elapsed: float, since: float, loss: float
    ) -> str:  # fmt: skip
        """Of a step that was noted `since` seconds ago."""
        left = limit.seconds_left(step, elapsed, 1 / max(self._rate, 1e-9)) - since
        speeds = self._speeds(step, elapsed)
        shown = [f"{speeds['examples_per_s']:,.0f} examples/s"]
        if "tokens_per_s" in speeds:
            shown = [f"{speeds['tokens_per_s']:,.0f} tokens/s"]
        if "flops_per_s" in speeds:
            shown.append(f"{format_count(speeds['flops_per_s'])}FLOP/s")
        if "mfu" in speeds:
            shown.append(f"MFU {speeds['mfu']:.0%}")
        return (
            f"{self.title}  step {step}  loss {loss:.3f}  {'  '.join(shown)}  "
            f"{format_bytes(peak_memory_bytes())}" + f"  {format_seconds(left)} left" * (left > 0)
        )

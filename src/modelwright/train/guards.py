"""What stops training: a signal; a loss or a gradient that is no number; a loss far too high.
Detected, explained, nothing lost; or, if the recipe says so, the state before it comes back and
training goes on.

A step's loss and gradient are judged before they move a weight. Going back means: the weights of at
most SNAPSHOT_STEPS steps ago, copied in memory, and the batches since then are not learned from.
The number of the step goes on, so which batch a step takes is still a function of the step alone.
Sources: Chowdhery et al. 2022, arXiv:2204.02311, section 5.1 (go back, skip the batches around a
spike); Groeneveld et al. 2024, arXiv:2402.00838 (spikes while OLMo was trained).
"""

import contextlib
import math
import signal
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modelwright.core.errors import TrainingFailed
from modelwright.train.settings import Settings
from modelwright.train.state import SNAPSHOT, gather

Found = TypeVar("Found")
WINDOW, FEWEST = 128, 32  # losses that a spike is judged by; with fewer, nothing is one
FAR = 10.0  # times the usual spread above the median
LEAST_SHARE, LEAST_NATS = 0.05, 0.01  # of the spread, where losses hardly differ
SNAPSHOT_STEPS = 50  # between copies of the weights; arXiv:2204.02311 went back about 100
MOST_RETURNS, PERIOD = 3, 1000  # returns in so many steps; one more stops
# signals that ask to stop: of people, of schedulers, and what `sbatch --signal` is mostly told
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopRequested(Exception):
    """One of ASKING arrived, and training ended as it asked."""


class Signals:
    """Remembers that the process was asked to stop, so that the step in hand ends well.

    Args:
        at_once: nothing has to end well: it stops where it is.
    """

    def __init__(self, at_once: bool) -> None:
        self.at_once = at_once
        self.received: signal.Signals | None = None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.at_once:
            raise StopRequested(signal.Signals(number).name)
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C: the person means now
        self.received = signal.Signals(number)


@contextlib.contextmanager
def catch_signals(*, at_once: bool = False) -> Iterator[Signals]:
    """ASKING are noted in what this gives instead of ending the process.

    Raises: StopRequested where one comes, if `at_once`.
    """
    caught = Signals(at_once)
    try:
        before = {n: signal.signal(n, caught._remember) for n in ASKING}
    except ValueError:  # not the main thread: signals are not ours to catch
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cut_short(act: Callable[[], Found]) -> Found | None:
    """What `act` gives; or None if one of ASKING broke it off, which is heard again behind it."""
    try:
        with catch_signals(at_once=True):
            return act()
    except StopRequested as asked:
        signal.raise_signal(signal.Signals[str(asked)])
        return None


def spike_bound(losses: Sequence[float]) -> float:
    """Above what a loss is a spike, judged by the finite losses of the steps before it.

    Median plus FAR times the spread, which is 1.4826 times the median absolute deviation (the
    standard deviation of normal noise), but at least LEAST_SHARE of the median and LEAST_NATS.
    Infinite with fewer than FEWEST losses.
    Source: Iglewicz, Hoaglin 1993, "How to detect and handle outliers" (median and MAD).

    >>> spike_bound([2.0, 2.2] * 50), spike_bound([2.0] * 10)
    (3.5826, inf)
    """
    if len(losses) < FEWEST:
        return math.inf
    middle = statistics.median(losses)
    spread = 1.4826 * statistics.median(abs(loss - middle) for loss in losses)
    return round(middle + FAR * max(spread, LEAST_SHARE * abs(middle), LEAST_NATS), 9)


@dataclass
class State:
    """All that a step changes, by reference: what a snapshot is taken of and put back into."""

    model: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name of its own: weights, averaged weights, moments."""
        average = {} if self.averaged is self.model else self.averaged.state_dict()
        return gather(self.model, self.optimizer, average=average, best={}, more={})

    @torch.no_grad()
    def put_back(self, snapshot: Mapping[str, Tensor]) -> None:
        """Give every tensor the value that it had; a moment that there was none of is zero."""
        for name, value in self.tensors().items():
            value.copy_(snapshot[name]) if name in snapshot else value.zero_()


class Guard:
    """Judges each step's loss before the weights move, and knows the way back.

    Its state (`position`, `tensors`) belongs into a checkpoint: with it a resumed training judges
    and goes back as one that was never stopped. Several ranks judge alike, each for itself: loss
    and norm are sums over all of them, and each keeps a copy of what lies on it.

    Args:
        note: told what was done differently, in a sentence.
    """

    def __init__(self, settings: Settings, state: State, note: Callable[[str], None]) -> None:
        self.settings, self.state, self.note = settings, state, note
        self.losses: list[float] = []  # the last WINDOW that were taken
        self.returns: list[list[int]] = []  # the first and the last step that each threw away
        self._snapshot: dict[str, Tensor] = {}
        self._snapshot_step, self._broken_step = -1, -1

    def passes(self, loss: float, grad_norm: float, step: int, learning_rate: float) -> bool:
        """Whether the gradient of `step` (from 0) may move the weights; if not, they are those of
        an earlier step again, and the gradient has to be dropped.

        Args:
            loss: of the whole batch, the same on every rank; so is the gradient's norm.
        Raises: TrainingFailed if the recipe says to stop, or has skipped often enough.
        """
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        bound = math.inf
        if finite and self.settings.on_spike != "ignore":
            bound = spike_bound(self.losses)
        if finite and loss <= bound:
            if self.settings.on_spike != "ignore":
                self.losses = [*self.losses, loss][-WINDOW:]
            self._keep(step)
            return True
        if finite:
            what = f"the loss rose to {loss:.4g} at step {step}, where {bound:.4g} is far"
        elif math.isfinite(loss):
            what = f"the gradient's norm became {grad_norm} at step {step}, of a loss of {loss:.4g}"
        else:
            what = f"the loss became {loss} at step {step}"
        self._refuse(f"{what} (learning rate {learning_rate:.3g})", step, finite)
        return False

    def broken(self, step: int) -> None:
        """`step` steps left weights that are no numbers. The loss of the next one should say so; if
        they stay unseen, such as a row of an embedding, it is the second time here that does.

        Raises: TrainingFailed as `passes`.
        """
        if self._broken_step == step - 1:
            self.judge_weights(step)
        self._broken_step = step

    def judge_weights(self, step: int) -> None:
        """Of weights that are no numbers, and that no step comes behind to show it: those of an
        earlier step again.

        Raises: TrainingFailed as `passes`.
        """
        self._refuse(f"the weights were no numbers after {step} steps", step - 1, finite=False)

    def _refuse(self, what: str, step: int, finite: bool) -> None:
        if (self.settings.on_spike if finite else self.settings.on_nan) != "skip":
            raise _failed(what, finite, self.settings)
        self._go_back(what, step, finite)

    def patient(self, step: int) -> bool:
        """Whether the verdict on a step may come after those behind it: no loss bounds the next
        ones, and there is nothing to copy."""
        return self.settings.on_spike == "ignore" and not self._copy_due(step)

    def _copy_due(self, step: int) -> bool:
        due = not self._snapshot or step - self._snapshot_step >= SNAPSHOT_STEPS
        return due and step > 0 and self.settings.goes_back  # at step 0 there are no moments yet

    def _keep(self, step: int) -> None:
        """A copy of the state every so often: of weights that have just given a sound loss."""
        if self._copy_due(step):
            tensors = self.state.tensors()
            self._snapshot = {
                name: one.detach().to("cpu", copy=True) for name, one in tensors.items()
            }
            self._snapshot_step = step

    def _go_back(self, what: str, step: int, finite: bool) -> None:
        if not self._snapshot:
            what += ", before there were weights to go back to"
            raise _failed(what, finite, self.settings)
        recent = [one for one in self.returns if one[1] > step - PERIOD]
        if len(recent) >= MOST_RETURNS:
            what += f", after {len(recent)} returns to earlier weights in {PERIOD:,} steps"
            raise _failed(what, finite, self.settings)
        self.state.put_back(self._snapshot)
        self.returns.append([self._snapshot_step, step])
        self.note(
            f"{what}: the weights are those of step {self._snapshot_step} again, and the batches "
            f"{self._snapshot_step} to {step} are skipped "
            f"({len(recent) + 1} of at most {MOST_RETURNS} times in {PERIOD:,} steps)"
        )

    def position(self) -> dict[str, Any]:
        """What a checkpoint has to hold, as plain JSON."""
        step = self._snapshot_step
        return {"losses": self.losses, "returns": self.returns, "snapshot_step": step}

    def tensors(self) -> dict[str, Tensor]:
        """The same, as tensors: the snapshot, where there is one."""
        return {f"{SNAPSHOT}{name}": value for name, value in self._snapshot.items()}

    def take_up(self, position: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `position` and `tensors` gave."""
        self.losses = [float(loss) for loss in position["losses"]]
        self.returns = [[int(first), int(last)] for first, last in position["returns"]]
        self._snapshot_step = int(position["snapshot_step"])
        self._snapshot = {
            name.removeprefix(SNAPSHOT): value
            for name, value in tensors.items()
            if name.startswith(SNAPSHOT)
        }


def _failed(what: str, finite: bool, settings: Settings) -> TrainingFailed:
    key, asked = ("on_spike", settings.on_spike) if finite else ("on_nan", settings.on_nan)
    repairs = ["lower train.learning_rate"]
    if not finite and settings.precision != "32-true":
        repairs.append("set train.precision: 32-true")
    if asked != "skip":
        repairs.append(f"pass over such batches with train.{key}: skip")
    return TrainingFailed(
        f"train: {what}",
        expected="a loss near the last ones" if finite else "a finite loss and gradient",
        repair=f"{', or '.join(repairs)}; the newest checkpoint from before this step is kept",
    )

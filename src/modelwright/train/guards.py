"""What stops training: a loss that is no number, a signal. Detected, explained, nothing lost."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from modelwright.core.errors import TrainingFailed


class StopRequested(Exception):
    """SIGTERM or Ctrl-C arrived; the state was saved."""


class Signals:
    """Remembers that the process was asked to stop, so that the step in hand ends well."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C: the person means now
        self.received = signal.Signals(number)


@contextlib.contextmanager
def catch_signals() -> Iterator[Signals]:
    """SIGTERM and SIGINT are noted in what this gives instead of ending the process."""
    caught = Signals()
    try:
        before = {n: signal.signal(n, caught._remember) for n in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are not ours to catch
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def require_finite(loss: float, step: int, learning_rate: float) -> None:
    """
    Raises: TrainingFailed if the loss is NaN or infinite.
    """
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise TrainingFailed(
            f"train: the loss became {loss} at step {step} (learning rate {learning_rate:.3g})",
            expected="a finite loss",
            repair="lower train.learning_rate, or set train.precision: 32-true; the newest "
            "checkpoint from before this step is kept",
        )

"""Saving while training goes on: the loop waits for a copy of the state, a thread for the disk."""

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from modelwright.core.errors import ModelwrightError
from modelwright.core.progress import say
from modelwright.train import checkpoint, ranks
from modelwright.train.guards import StopRequested
from modelwright.train.parallel import World


class Saver:
    """Checkpoints of one training, one at a time.

    A save that failed raises when the next one begins, or somebody waits; alone already at `check`,
    which a loop may call at each step. With several processes each of them has to do the same.

    Args:
        keep: how many of the newest checkpoints stay.

    failed: whether the last save has raised.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self.failed = False
        self._name = f"checkpoint {folder.resolve()}"
        for thread in threading.enumerate():
            if thread.name == self._name:  # of a training that was interrupted in this process
                thread.join()

    def begin(
        self, *, step: int, tensors: Mapping[str, Tensor], position: Mapping[str, Any],
        best: bool = False,
    ) -> None:  # fmt: skip
        """Copy the state, and write it in the background; arguments as of `checkpoint.commit`.

        Raises: what the save before raised, once that has ended.
        """
        self.wait()
        ranks.channel()
        taken, then = checkpoint.take(tensors), copy.deepcopy(dict(position))

        def write() -> None:
            try:
                checkpoint.commit(
                    self.folder, taken, step=step, position=then, keep=self.keep, best=best
                )
            except Exception as error:  # whatever it is: the loop raises it
                self._failure = error

        self.failed = False
        # a daemon: whoever stops without waiting has given up on it
        self._thread = threading.Thread(target=write, name=self._name, daemon=True)
        self._thread.start()

    def within(self, seconds: float, world: World, save: Callable[[], None]) -> bool:
        """Whether a save of now is on every process's disk in that time, by the first one's clock.

        Args:
            save: begins it, once the one in flight has ended.
        """
        deadline = time.monotonic() + seconds
        if not world.all(self.wait(seconds)):
            return False
        save()
        return world.all(self.wait(world.told(max(0.0, deadline - time.monotonic()))))

    def check(self) -> None:
        """
        Raises: what the last save raised, if it has failed already; nothing with several
            processes, which would learn of it at different steps.
        """
        if self._failure is not None and ranks.place()[1] == 1:
            self.wait()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Around what may fail: the save in flight ends first, since what was good before is kept;
        that it has failed too is said. After StopRequested nobody waits any more."""
        try:
            yield
        except StopRequested:
            raise
        except Exception:
            try:
                self.wait()
            except ModelwrightError as error:
                say(f"the last save failed too: {error.what}")
            raise

    def wait(self, seconds: float | None = None) -> bool:
        """Whether the save in flight has ended, within that time if one is given.

        Raises: what it raised.
        """
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
        self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            self.failed = True
            raise failure
        return True

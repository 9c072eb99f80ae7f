"""Memory that ends while training: fewer rows at once, the same batch.

A step is tried again with half the rows in each pass through the model, and the gradient is still
that of the whole batch. What this cannot reach is a kill by the system: on Linux memory is often
promised first and refused by SIGKILL; then the newest checkpoint is where training goes on.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from modelwright.core.errors import TrainingFailed
from modelwright.core.hardware import give_back_freed_memory

Found = TypeVar("Found")

# what torch's and oneDNN's allocators on the CPU say, in errors without a type of their own
SAID = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory",
        "std::bad_alloc", "could not create a memory object")  # fmt: skip
# all that oneDNN says when its own buffers can't be had (an operation that it has not, it names)
SAID_ALONE = ("could not create a primitive", "could not execute a primitive")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and (str(error) in SAID_ALONE or any(one in str(error) for one in SAID))
    )


def smaller(micro_batch_size: int, batch_size: int) -> int:
    """The largest divisor of the batch that is at most half the micro batch; 0 if none is left.

    >>> smaller(128, 128), smaller(25, 100), smaller(1, 16)
    (64, 10, 0)
    """
    half = range(micro_batch_size // 2, 0, -1)
    return next((size for size in half if batch_size % size == 0), 0)


class MicroBatch:
    """How many rows pass through the model at once: as many as asked for, or as memory allows.

    Args:
        whole: rows of a batch are compared with each other: it cannot be split.
        planned: what the plan predicted, in words; empty where there was no plan.
        note: told what was done differently, in a sentence.
        several: processes train together: one can't change its passes while others wait for it.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        model: nn.Module,
        *,
        whole: bool,
        planned: str,
        note: Callable[[str], None],
        several: bool = False,
    ) -> None:
        self.size, self.batch_size, self.model = size, batch_size, model
        self.whole, self.planned, self.note, self.several = whole, planned, note, several
        self._shrunk = False

    def fitting(self, act: Callable[[], Found], doing: str) -> Found:
        """What `act` gives, tried again with a smaller `size` while memory does not suffice.

        Gradients that a failed try left are dropped.

        Raises: TrainingFailed if a single row at once is too much.
        """
        while True:
            found: Found | None = None
            short = ""
            try:
                found = act()
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is the former
                if not out_of_memory(error):
                    raise
                short = _first_line(error)
            # from here on no traceback holds the tensors of the try
            if not short:
                return found  # type: ignore[return-value]
            found = None
            if self.several:
                raise TrainingFailed(
                    f"train: {self._told(doing, short)}",
                    expected="memory for the passes of every process",
                    repair="lower train.micro_batch_size, or spread the model over more processes",
                )
            self._halve(short, doing)

    @contextlib.contextmanager
    def enough(self, doing: str) -> Iterator[None]:
        """Around what fewer rows at once would not help.

        Raises: TrainingFailed where memory ends.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise exhausted(self._told(doing, _first_line(error))) from error

    def _told(self, doing: str, short: str) -> str:
        return f"memory ended {doing} ({short})" + (f"; {self.planned}" if self.planned else "")

    def _halve(self, short: str, doing: str) -> None:
        self.model.zero_grad(set_to_none=True)
        give_back_freed_memory()  # libraries map memory of their own, past the allocator
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        before, size = self.size, 0 if self.whole else smaller(self.size, self.batch_size)
        rows = "1 row" if before == 1 else f"{before} rows"
        what = self._told(f"{doing}, with {rows} at once", short)
        if not size:
            raise exhausted(what, self.whole)
        if self._shrunk:  # the plan's words were in the first note
            what = what.removesuffix(f"; {self.planned}")
        self.size, self._shrunk = size, True
        norm = any(isinstance(module, _BatchNorm) for module in self.model.modules())
        self.note(
            f"{what}: it is tried again with train.micro_batch_size {size}; "
            f"the batch stays at {self.batch_size}"
            + (", but batch norm now sees groups of that size" if norm else "")
        )


def exhausted(what: str, whole: bool = False) -> TrainingFailed:
    """The error where fewer rows at once are no way out."""
    smaller_model = "choose a smaller model.size, shorter rows or smaller pictures"
    return TrainingFailed(
        f"train: {what}",
        expected="memory for one batch, whose rows this task compares with each other"
        if whole
        else "memory for the weights, their moments and one row",
        repair=f"lower train.batch_size, or {smaller_model}"
        if whole
        else f"{smaller_model}, or free memory; budget.memory_gb lets the plan choose",
    )


def _first_line(error: BaseException) -> str:
    """What the allocator said, without its place in torch's source."""
    text = (str(error).splitlines() or [""])[0] or type(error).__name__
    return text.rpartition("DefaultCPUAllocator: ")[2].strip()

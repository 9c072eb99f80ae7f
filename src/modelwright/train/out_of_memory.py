"""Memory that ends while training: fewer rows at once, the same batch.

A step is tried again with half the rows in each pass through the model, and the gradient is still
that of the whole batch. Of several processes whose passes wait for no other (plain data parallel)
all are asked behind every try, before gradients travel, and all go on with the same smaller size.

Where passes need the others (pieces of parameters, cut matrices, dealt out blocks or places, batch
norms over all rows), these can't be asked: they wait for what the short process was about to send,
and a collective that one has left can't be taken back, by gloo nor by NCCL, without making all
groups anew, which the laid out model holds on to. So all stop, with the same words, and the next
start takes the smaller size, be it a person's or the launcher's. What this cannot reach is a kill
by the system: on Linux memory is often promised first and refused by SIGKILL; then the newest
checkpoint is where training goes on.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from modelwright.core.errors import StorageError, TrainingFailed
from modelwright.core.files import write_json
from modelwright.core.hardware import give_back_freed_memory
from modelwright.models.layers import has_batch_norms
from modelwright.train.parallel import ALONE, World
from modelwright.train.pipes import PIECES
from modelwright.train.settings import Settings

Found = TypeVar("Found")
LEFT = "micro-batch.json"  # in a training's folder: what one process found too much for its memory

# what torch's and oneDNN's allocators on the CPU and CUDA's libraries say, in errors without a type
# of their own
SAID = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory",
        "std::bad_alloc", "could not create a memory object", "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")  # fmt: skip
# all that oneDNN says when its own buffers can't be had (an operation that it has not, it names)
SAID_ALONE = ("could not create a primitive", "could not execute a primitive")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, or one that it comes of.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    return _shortage(error) is not None


def _shortage(error: BaseException | None) -> BaseException | None:
    """The error that says so; a stage of torch's pipeline wraps it in one of its own."""
    while error is not None and not (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or (
            isinstance(error, RuntimeError)
            and (str(error) in SAID_ALONE or any(one in str(error) for one in SAID))
        )
    ):
        error = error.__cause__
    return error


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
        folder: of the training, where a smaller size is left for the next start.
        whole: rows of a batch are compared with each other: it cannot be split.
        planned: what the plan predicted, in words; empty where there was no plan. The first process
            knows it.
        note: told what was done differently, in a sentence.
        world: the processes that train together.

    asked: by the recipe, or by memory that ended.
    """

    def __init__(
        self,
        settings: Settings,
        model: nn.Module,
        folder: Path,
        *,
        whole: bool,
        planned: str,
        note: Callable[[str], None],
        world: World = ALONE,
    ) -> None:
        self.batch_size, self.model, self.world = settings.batch_size, model, world
        self.whole, self.planned, self.note = whole, world.told_text(planned), note
        pieces, pipeline = world.layout.readers, world.layout.pipeline
        if pipeline > 1:
            pieces *= PIECES * pipeline
        self.rows = -(-self.batch_size // pieces)  # that one process could put through at once
        self._left, self._shrunk = folder / LEFT, False
        # checkpoints hold this, not `size`: another number of processes has other shares
        self.asked = settings.micro_batch_size
        if world.size > 1:
            self.take_up(self.asked)

    @property
    def size(self) -> int:
        """Rows at once: no more than this process has of a batch."""
        return min(self.asked, self.rows)

    def take_up(self, asked: int) -> None:
        """Go on with what a checkpoint says, or with a smaller size that was left since then."""
        found = self._found()
        left = asked if found is None else int(found["micro_batch_size"])
        left = -self.world.largest(-left)  # a file system may not show it to all of them yet
        known, self.asked = self.asked, min(asked, left)
        if self.asked == left < min(asked, self.rows) and known != left:
            self.note(f"memory ended with more rows at once: train.micro_batch_size is {left} now")

    def fitting(self, act: Callable[[], Found], doing: str, *, together: bool = True) -> Found:
        """What `act` gives, tried again with a smaller `size` while memory does not suffice.

        Gradients that a failed try left are dropped.

        Args:
            together: every process does it, not the first one alone.
        Raises: TrainingFailed if a single row at once is too much, or the others can't be asked.
        """
        asked = together and self.world.size > 1 and self.world.passes_alone(self.model)
        while True:
            found: Found | None = None
            short = ""
            try:
                found = act()
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is the former
                if not out_of_memory(error):
                    self._stop_as_others_do(error)
                    raise
                short = _first_line(error)
            # from here on no traceback holds the tensors of the try
            if asked and (rank := self.world.largest(self.world.rank + 1 if short else 0)):
                short = f"rank {rank - 1}" + (f": {short}" if short else "")
            if not short:
                return found  # type: ignore[return-value]
            found = None
            self._halve(short, doing, stop=together and self.world.size > 1 and not asked)

    def _found(self) -> dict[str, Any] | None:
        """What one process left behind that had too little memory."""
        return json.loads(self._left.read_bytes()) if self._left.is_file() else None

    def _stop_as_others_do(self, error: Exception) -> None:
        """
        Raises: TrainingFailed if this error comes of another process's lack of memory: the words
            that it has left since this one began.
        """
        found = self._found() if self.world.size > 1 else None
        if found is not None and int(found["micro_batch_size"]) < self.asked:
            raise _stopped(str(found["why"]), int(found["micro_batch_size"])) from error

    @contextlib.contextmanager
    def enough(self, doing: str) -> Iterator[None]:
        """Around what fewer rows at once would not help.

        Raises: TrainingFailed where memory ends.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                self._stop_as_others_do(error)
                raise
            raise exhausted(self._told(doing, _first_line(error))) from error

    def _told(self, doing: str, short: str) -> str:
        return f"memory ended {doing} ({short})" + (f"; {self.planned}" if self.planned else "")

    def _halve(self, short: str, doing: str, *, stop: bool) -> None:
        self.model.zero_grad(set_to_none=True)
        give_back_freed_memory()  # libraries map memory of their own, past the allocator
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        before, size = self.size, 0 if self.whole else smaller(self.size, self.rows)
        rows = "1 row" if before == 1 else f"{before} rows"
        what = self._told(f"{doing}, with {rows} at once", short)
        if not size:
            raise exhausted(what, self.whole)
        if stop:
            what = f"rank {self.world.rank}: {what}"
            with contextlib.suppress(StorageError):  # another rank, as short, may be at it too
                write_json(self._left, {"micro_batch_size": size, "why": what})
            raise _stopped(what, size)
        if self._shrunk:  # the plan's words were in the first note
            what = what.removesuffix(f"; {self.planned}")
        self.asked, self._shrunk = size, True
        norms = has_batch_norms(self.model)
        self.note(
            f"{what}: it is tried again with train.micro_batch_size {size}; "
            f"the batch stays at {self.batch_size}"
            + (", but batch norm now sees groups of that size" if norms else "")
        )


def _stopped(what: str, size: int) -> TrainingFailed:
    return TrainingFailed(
        f"train: {what}",
        expected="memory for the passes of every process",
        repair="run the same command again, as torchrun --max-restarts does by itself: it goes on "
        f"from the newest checkpoint with train.micro_batch_size {size}, and the same batch",
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
    error = _shortage(error) or error
    text = (str(error).splitlines() or [""])[0] or type(error).__name__
    return text.rpartition("DefaultCPUAllocator: ")[2].strip()

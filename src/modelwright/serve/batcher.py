"""Rows from many clients in one call of the model; each gets its own answer back.

Knows nothing of HTTP. All bookkeeping happens on the event loop, so there is no lock; one daemon
thread runs the model, so a model that hangs can hold up neither the loop nor the exit.

The batch is whatever came in while the model was busy. A lone row is never kept waiting; only
under load a batch waits up to `wait_s` for as many rows as the last one had.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


class BatcherError(Exception):
    """Base of what `submit` and its future raise on the batcher's own account."""


class QueueFull(BatcherError):
    """No room for these rows now."""


class Closed(BatcherError):
    """The batcher is draining, or gave up on this row when its grace ended."""


class DeadlinePassed(BatcherError):
    """The answer did not come in time."""


class _Job:
    """One request: inputs of equal row count, and the future that its client awaits."""

    __slots__ = ("arrived", "future", "inputs", "key", "rows", "timer")

    def __init__(
        self, inputs: Arrays, key: object, rows: int, future: "asyncio.Future[Arrays]", now: float
    ) -> None:
        self.inputs, self.key, self.rows, self.future = inputs, key, rows, future
        self.arrived = now
        self.timer: asyncio.TimerHandle | None = None


class Batcher:
    """A bounded queue in front of one model.

    Args:
        run: named arrays in, named arrays out; axis 0 of each is the row.
        batch_rows: most rows in one call; a request that brings more runs alone.
        wait_s: longest wait for company, under load only.
        queue_rows: most rows that wait; beyond that `submit` raises QueueFull.
        joins: False for a model with a fixed first axis: every request then runs alone.
    """

    def __init__(
        self,
        run: Callable[[Arrays], Arrays],
        *,
        batch_rows: int,
        wait_s: float,
        queue_rows: int,
        joins: bool = True,
    ) -> None:
        self._run, self._joins = run, joins
        self._batch_rows, self._wait_s, self._queue_rows = batch_rows, wait_s, queue_rows
        self._queue: dict[_Job, None] = {}  # ordered, and a job can leave from the middle
        self._queued_rows = 0
        self._running: list[_Job] = []
        self._crowd = 1  # requests in the last batch
        self._last_batch = 0.0
        self._scheduled: asyncio.Handle | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._work: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.batches = self.rows = 0  # computed so far

    def start(self) -> None:
        """Start the thread; call it on the running event loop."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._worker, name="batcher", daemon=True).start()

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    @property
    def closed(self) -> bool:
        return self._closed

    def submit(
        self, inputs: Arrays, *, deadline_s: float, beyond_limit: bool = False
    ) -> "asyncio.Future[Arrays]":
        """Queue one request; cancel the future to take it back.

        Args:
            beyond_limit: for the canary, which must get through a full queue.
        Raises: QueueFull, Closed; the future raises DeadlinePassed, Closed or the model's error.
        """
        assert self._loop is not None, "start() comes first"
        if self._closed:
            raise Closed
        rows = next(iter(inputs.values())).shape[0]
        if self._queued_rows + rows > self._queue_rows and not beyond_limit:
            raise QueueFull
        key: object = object()
        if self._joins:
            key = tuple((name, a.dtype.str, a.shape[1:]) for name, a in sorted(inputs.items()))
        job = _Job(inputs, key, rows, self._loop.create_future(), self._loop.time())
        job.timer = self._loop.call_later(deadline_s, _expire, job.future)
        self._queue[job] = None
        self._queued_rows += rows
        self._idle.clear()
        job.future.add_done_callback(lambda _: self._leave(job))
        # On the next turn of the loop: whatever arrives in this one shares the batch. While the
        # model is busy nothing is due; while a batch waits for company, only its last member is.
        waits = isinstance(self._scheduled, asyncio.TimerHandle)
        complete = len(self._queue) >= self._crowd
        if not self._running and (self._scheduled is None or (waits and complete)):
            self._schedule(0.0)
        return job.future

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, finish what is queued; after `grace_s` the rest gets Closed."""
        self._closed = True
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            for job in [*self._queue, *self._running]:
                if not job.future.done():
                    job.future.set_exception(Closed())
        self._work.put(None)

    def _leave(self, job: _Job) -> None:
        """A job is answered, cancelled or too late: free what it holds."""
        if job.timer is not None:
            job.timer.cancel()
        if job in self._queue:
            self._unqueue(job)
            self._check_idle()

    def _unqueue(self, job: _Job) -> None:
        del self._queue[job]
        self._queued_rows -= job.rows

    def _check_idle(self) -> None:
        if not self._queue and not self._running:
            self._idle.set()

    def _schedule(self, delay: float) -> None:
        assert self._loop is not None
        if self._scheduled is not None:
            self._scheduled.cancel()
        if delay > 0:
            self._scheduled = self._loop.call_later(delay, self._dispatch)
        else:
            self._scheduled = self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Hand the next batch to the thread, unless it is busy or company is on its way."""
        self._scheduled = None
        if self._running or not self._queue:
            return
        assert self._loop is not None
        now = self._loop.time()
        under_load = self._crowd > 1 and now - self._last_batch <= self._wait_s
        if under_load and len(self._queue) < self._crowd and self._queued_rows < self._batch_rows:
            left = next(iter(self._queue)).arrived + self._wait_s - now
            if left > 0:
                self._schedule(left)
                return
        self._running = self._take()
        self._crowd = len(self._running)
        self._work.put(self._running)

    def _take(self) -> list[_Job]:
        """The oldest job and those behind it that can share its batch."""
        first = next(iter(self._queue))
        batch, rows = [first], first.rows
        for job in self._queue:
            if rows >= self._batch_rows:
                break
            if job is not first and job.key == first.key and rows + job.rows <= self._batch_rows:
                batch.append(job)
                rows += job.rows
        for job in batch:
            self._unqueue(job)
        return batch

    def _worker(self) -> None:
        assert self._loop is not None
        while (batch := self._work.get()) is not None:
            results = self._compute(batch)
            try:
                self._loop.call_soon_threadsafe(self._deliver, batch, results)
            except RuntimeError:  # the loop is closed: nobody is left to hear the answer
                return

    def _compute(self, batch: Sequence[_Job]) -> list[Any]:
        """An answer or an exception for each job; runs on the thread."""
        try:
            outputs = self._run(_join(batch))
            return _split(outputs, batch) if self._joins else [outputs]
        except Exception as error:
            if len(batch) == 1:
                return [error]
        # One row spoiled the batch: alone, only the guilty one fails.
        return [None if job.future.done() else self._compute([job])[0] for job in batch]

    def _deliver(self, batch: Sequence[_Job], results: Sequence[Any]) -> None:
        assert self._loop is not None
        self.batches += 1
        self.rows += sum(job.rows for job in batch)
        for job, result in zip(batch, results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        self._running = []
        self._last_batch = self._loop.time()
        self._check_idle()
        if self._queue:
            self._dispatch()


def _expire(future: "asyncio.Future[Arrays]") -> None:
    if not future.done():
        future.set_exception(DeadlinePassed())


def _join(batch: Sequence[_Job]) -> Arrays:
    if len(batch) == 1:
        return batch[0].inputs
    names = batch[0].inputs
    return {name: np.concatenate([job.inputs[name] for job in batch]) for name in names}


def _split(outputs: Arrays, batch: Sequence[_Job]) -> list[Arrays]:
    """Give each job its rows.

    Raises: ValueError if the model gave another number of rows than it got.
    """
    total = sum(job.rows for job in batch)
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise ValueError(f"output {name!r} has shape {array.shape} for {total} rows")
    answers: list[Arrays] = []
    start = 0
    for job in batch:
        stop = start + job.rows
        answers.append({name: array[start:stop] for name, array in outputs.items()})
        start = stop
    return answers

"""One model being served: what requests ask of it, and what each may take of its time.

Knows nothing of routes: app.py has those.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request

from modelwright.core.errors import ConfigError
from modelwright.core.signature import Signature
from modelwright.serve.answers import Answers
from modelwright.serve.batcher import Arrays, Batcher, Closed, DeadlinePassed, QueueFull
from modelwright.serve.limits import Intake, Limits, Refused, busy

T = TypeVar("T")
LOG = logging.getLogger("modelwright.serve")
SONG_PLACES = 8  # of the canary's row, where its size is free and nothing says how long rows are


def on_thread(work: Callable[[], T]) -> "asyncio.Future[T]":
    """What a function comes to on a thread of its own, a daemon as the batcher's: one that hangs
    holds up neither the loop nor the end of the process, as one of asyncio.to_thread would."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[T] = loop.create_future()

    def settle(act: Callable[[], None]) -> None:
        if not found.done():
            act()

    def run() -> None:
        try:
            act = partial(found.set_result, work())
        except BaseException as error:
            act = partial(found.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody is left to hear of it
            loop.call_soon_threadsafe(settle, act)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return found


@dataclass
class Served:
    """One model being served: what it is, what runs it, what it knew at the start."""

    name: str
    version: str
    signature: Signature
    batcher: Batcher
    limits: Limits
    intake: Intake
    page: dict[str, Any]
    answers: Answers | None  # for the page; None where nobody knows what the model takes
    decoding: asyncio.Semaphore  # files and large bodies being unpacked, which fills much memory
    searching: asyncio.Semaphore  # answers being read off outputs: a wide search takes minutes
    ids: Mapping[str, int] = field(default_factory=dict)  # how many each input of them may hold
    session: Any = None  # for texts of the model's own, beside the batcher
    writing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    expected: Arrays | None = None  # the canary's answer at the start
    canary: asyncio.Task[bool] | None = None

    async def start(self) -> None:
        """Start the thread that runs the model, and keep what it answers to the first canary.

        Raises: ConfigError if it gives no answer, or none within `start_s`.
        """
        self.batcher.start()
        try:
            self.expected = await self._sing(self.limits.start_s)
        except DeadlinePassed:
            raise ConfigError(
                f"the model gave no answer to one row within {self.limits.start_s:g} s",
                expected="an answer before the first request",
                repair="give it more --threads, or serve a smaller model",
            ) from None
        except Exception as error:  # a runtime's own errors share no base class
            raise ConfigError(
                f"the model fails on one row: {type(error).__name__}: {error}",
                expected="an answer before the first request",
                repair="make the folder again with: modelwright export",
            ) from error

    async def compute(self, request: Request, inputs: Arrays) -> Arrays:
        """One answer through the queue; a client that hangs up takes its rows out of it.

        Raises: Refused 413, 500, 503 or 504; ClientDisconnect.
        """
        rows, most = len(next(iter(inputs.values()))), self.limits.queue_rows
        if rows > most:  # at no other time is there more room
            raise Refused(413, f"{rows} rows, where at most {most} can wait: send fewer")
        try:
            answer = self.batcher.submit(inputs, deadline_s=self.limits.deadline_s)
        except QueueFull:
            raise busy("the queue is full: try again") from None
        except Closed:
            raise busy("the server is stopping") from None
        watch = asyncio.ensure_future(request.receive())  # after the body: only a disconnect
        watch.add_done_callback(lambda _: answer.cancel())
        try:
            return await answer
        except DeadlinePassed:
            raise Refused(504, "no answer within the deadline: try again later") from None
        except Closed:
            raise busy("the server is stopping") from None
        except asyncio.CancelledError:
            if watch.done() and not watch.cancelled():
                raise ClientDisconnect from None
            raise
        except Exception:  # a runtime's own errors share no base class; the log has the traceback
            raise _model_failed() from None
        finally:
            answer.cancel()
            watch.cancel()

    async def write(self, inputs: Arrays, how: dict[str, Any]) -> Arrays:
        """The ids that the model writes for one row; one text after the other.

        how: over what the model was shipped with, as in the recipe's section decode.
        Raises: Refused 500, 503 or 504.
        """
        if self.batcher.closed:
            raise busy("the server is stopping")
        until = asyncio.get_running_loop().time() + self.limits.deadline_s
        write = partial(self.session.write, inputs, **how)
        return {"written": np.array(await self.aside(self.writing, write, until))}

    async def aside(self, room: asyncio.Semaphore, work: Callable[[], T], until: float) -> T:
        """What a function comes to on a thread of its own, once there is room for one more.

        until: on the loop's clock
        Raises: Refused 500 or 504.
        """
        try:
            async with asyncio.timeout_at(until):
                await room.acquire()
                running = on_thread(work)
                # a thread cannot be stopped: its room is kept until its end, whoever still listens
                running.add_done_callback(partial(_leave, room))
                return await asyncio.shield(running)
        except TimeoutError:
            raise Refused(504, "no answer within the deadline: try again later") from None
        except Exception:  # a runtime's own errors share no base class; the log has the traceback
            raise _model_failed() from None

    async def pieces(self, found: Iterator[str]) -> AsyncGenerator[str]:
        """A text that goes on, piece by piece; one text after the other.

        Raises: Refused 500, 503, or 504 where it is not at its end within the deadline.
        """
        if self.batcher.closed:
            raise busy("the server is stopping")
        until = asyncio.get_running_loop().time() + self.limits.deadline_s
        try:
            async with asyncio.timeout_at(until):
                await self.writing.acquire()
        except TimeoutError:
            raise _too_long() from None
        work: asyncio.Future[str | None] | None = None
        try:
            while True:
                # one piece at a time: a thread cannot be stopped within a long text
                async with asyncio.timeout_at(until):
                    work = on_thread(partial(next, found, None))
                    piece = await asyncio.shield(work)
                if piece is None:
                    return
                yield piece
        except TimeoutError:
            raise _too_long() from None
        except Exception:  # a runtime's own errors share no base class; the log has the traceback
            raise _model_failed() from None
        finally:
            if work is None or work.done():
                self.writing.release()
            else:
                work.add_done_callback(partial(_leave, self.writing))

    async def ready(self) -> bool:
        """Whether the model answers a canary as it did at the start; askers share one canary."""
        if self.batcher.closed:
            return False
        if self.canary is None or self.canary.done():
            self.canary = asyncio.create_task(self._sings_as_before())
        return await asyncio.shield(self.canary)

    async def _sings_as_before(self) -> bool:
        try:
            outputs = await self._sing(self.limits.ready_s)
        except Exception as error:
            LOG.error("the canary failed: %s", type(error).__name__)
            return False
        return all(
            np.allclose(value, outputs[name], rtol=1e-3, atol=1e-4)
            for name, value in (self.expected or {}).items()
        )

    async def _sing(self, deadline_s: float) -> Arrays:
        return await self.batcher.submit(self._song(), deadline_s=deadline_s, beyond_limit=True)

    def _song(self) -> Arrays:
        """One row that any model can answer: black, silent, or one token again and again."""
        inputs = self.answers.inputs if self.answers else {}
        places = int(inputs.get("length", SONG_PLACES))
        values = {"lengths": places}
        song = {}
        for spec in self.signature.inputs:
            free = [1] + [places] * len(spec.shape)
            shape = [
                size if isinstance(size, int) else own
                for size, own in zip(spec.shape, free, strict=False)
            ]
            one = int(spec.dtype == "int64")  # an id that is no padding
            song[spec.name] = np.full(shape, values.get(spec.name, one), spec.dtype)
        return song


def _leave(room: asyncio.Semaphore, work: "asyncio.Future[Any]") -> None:
    room.release()
    if not work.cancelled():
        work.exception()  # of one that nobody waits for any more, asked for to be no warning


def _model_failed() -> Refused:
    """What a client hears of an error inside the model; called where it is handled."""
    LOG.exception("the model failed on a request")
    return Refused(500, "the model failed on this request")


def _too_long() -> Refused:
    return Refused(504, "no end within the deadline: ask for fewer tokens with max_new")

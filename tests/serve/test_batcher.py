"""The queue in front of the model, without HTTP."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest

from modelwright.serve.batcher import Batcher, Closed, DeadlinePassed, QueueFull

Arrays = Mapping[str, np.ndarray]


def row(value: float, width: int = 2, rows: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.full((rows, width), value, dtype=np.float64)}


class Model:
    """Doubles its input; can be held back, and fails on a row of 13."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.batches: list[list[float]] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        self.batches.append(inputs["x"][:, 0].tolist())
        assert self.go.wait(5)
        if (inputs["x"] == 13).any():
            raise RuntimeError("unlucky")
        return {"y": inputs["x"] * 2}


def play(
    act: Callable[[Batcher, Model], Awaitable[Any]], run: Any = None, **settings: Any
) -> tuple[Any, Model]:
    """Run one scene with a started batcher; give what it returned, and the model."""
    model = Model()

    async def scene() -> Any:
        batcher = Batcher(
            run or model, **{"batch_rows": 8, "wait_s": 0.001, "queue_rows": 10_000} | settings
        )
        batcher.start()
        result = await act(batcher, model)
        await batcher.drain(2)
        assert batcher.queued_rows == 0
        return result

    return asyncio.run(scene()), model


async def running(model: Model) -> None:
    """Wait until the thread is inside the model."""
    while not model.batches:
        await asyncio.sleep(0.001)


def test_every_request_gets_its_own_answer():
    """Of 3,000 requests of three widths and several rows, each answer is its own input doubled."""

    async def act(batcher: Batcher, _: Model) -> int:
        async def one(tag: int) -> bool:
            inputs = row(tag + 20, width=1 + tag % 3, rows=1 + tag % 4)
            outputs = await batcher.submit(inputs, deadline_s=10)
            return np.array_equal(outputs["y"], inputs["x"] * 2)

        return sum(await asyncio.gather(*[one(tag) for tag in range(3000)]))

    right, model = play(act)

    assert right == 3000
    assert max(map(len, model.batches)) == 8


def test_what_arrives_while_the_model_is_busy_shares_a_batch():
    """A lone row starts at once; the rows that come during it run together."""

    async def act(batcher: Batcher, model: Model) -> None:
        model.go.clear()
        first = batcher.submit(row(1), deadline_s=5)
        await running(model)
        rest = [batcher.submit(row(tag), deadline_s=5) for tag in (2, 3, 4)]
        model.go.set()
        await asyncio.gather(first, *rest)

    _, model = play(act)

    assert model.batches == [[1], [2, 3, 4]]


def test_a_request_larger_than_a_batch_runs_alone():
    """Rows of one request are never torn apart."""

    async def act(batcher: Batcher, _: Model) -> Any:
        big, small = (batcher.submit(row(v, rows=r), deadline_s=5) for v, r in ((1, 20), (2, 1)))
        return (await big)["y"].shape, (await small)["y"].tolist()

    answer, model = play(act)

    assert answer == ((20, 2), [[4, 4]])
    assert [len(batch) for batch in model.batches] == [20, 1]


def test_a_model_with_a_fixed_first_axis_gets_one_request_at_a_time():
    """joins=False keeps every request in a batch of its own."""

    async def act(batcher: Batcher, _: Model) -> None:
        await asyncio.gather(*[batcher.submit(row(tag), deadline_s=5) for tag in (1, 2)])

    _, model = play(act, joins=False)

    assert model.batches == [[1], [2]]


def test_a_failing_row_fails_alone():
    """A row that breaks its batch gets the error; its neighbours get their answers."""

    async def act(batcher: Batcher, _: Model) -> list[Any]:
        jobs = [batcher.submit(row(tag), deadline_s=5) for tag in (1, 13, 2)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        after = await batcher.submit(row(3), deadline_s=5)
        return [*results, after]

    (one, unlucky, two, after), _ = play(act)

    assert isinstance(unlucky, RuntimeError)
    assert [2, 4, 6] == [answer["y"][0, 0] for answer in (one, two, after)]


def test_a_model_that_gives_another_number_of_rows_is_an_error():
    """Rows that do not add up are never handed out."""

    async def act(batcher: Batcher, _: Model) -> Any:
        return await asyncio.gather(
            *[batcher.submit(row(tag), deadline_s=5) for tag in (1, 2)], return_exceptions=True
        )

    answers, _ = play(act, run=lambda inputs: {"y": np.zeros((3, 2))})

    assert [ValueError, ValueError] == [type(answer) for answer in answers]


def test_a_full_queue_refuses_at_once_and_lets_the_canary_through():
    """Rows beyond the bound raise QueueFull; beyond_limit passes."""

    async def act(batcher: Batcher, model: Model) -> None:
        model.go.clear()
        jobs = [batcher.submit(row(1), deadline_s=5)]
        await running(model)
        jobs += [batcher.submit(row(tag), deadline_s=5) for tag in (2, 3)]
        with pytest.raises(QueueFull):
            batcher.submit(row(4), deadline_s=5)
        jobs.append(batcher.submit(row(5), deadline_s=5, beyond_limit=True))
        model.go.set()
        await asyncio.gather(*jobs)

    play(act, queue_rows=2)


def test_a_cancelled_request_frees_its_rows_and_is_not_computed():
    """What its client gave up on leaves the queue before the model sees it."""

    async def act(batcher: Batcher, model: Model) -> list[int]:
        model.go.clear()
        first = batcher.submit(row(1), deadline_s=5)
        await running(model)
        gone, stays = (batcher.submit(row(tag), deadline_s=5) for tag in (2, 3))
        before = batcher.queued_rows
        gone.cancel()
        await asyncio.sleep(0)
        after = batcher.queued_rows
        model.go.set()
        await asyncio.gather(first, stays)
        return [before, after]

    queued, model = play(act)

    assert queued == [2, 1]
    assert model.batches == [[1], [3]]


def test_a_passed_deadline_frees_the_rows_and_the_next_request_is_answered():
    """DeadlinePassed comes while the model hangs, and the row is not computed later."""

    async def act(batcher: Batcher, model: Model) -> float:
        model.go.clear()
        first = batcher.submit(row(1), deadline_s=5)
        await running(model)
        with pytest.raises(DeadlinePassed):
            await batcher.submit(row(2), deadline_s=0.02)
        assert batcher.queued_rows == 0
        model.go.set()
        await first
        return float((await batcher.submit(row(3), deadline_s=5))["y"][0, 0])

    answer, model = play(act)

    assert answer == 6
    assert model.batches == [[1], [3]]


def test_drain_finishes_what_is_queued_and_takes_nothing_new():
    """Queued rows are answered; a new one raises Closed."""

    async def act(batcher: Batcher, model: Model) -> list[float]:
        model.go.clear()
        jobs = [batcher.submit(row(tag), deadline_s=5) for tag in (1, 2)]
        await running(model)
        drain = asyncio.create_task(batcher.drain(5))
        await asyncio.sleep(0)
        with pytest.raises(Closed):
            batcher.submit(row(3), deadline_s=5)
        model.go.set()
        await drain
        return [job.result()["y"][0, 0] for job in jobs]

    assert play(act)[0] == [2, 4]


def test_drain_gives_up_when_its_grace_ends():
    """A model that hangs cannot hold up the end: what waits gets Closed."""

    async def act(batcher: Batcher, model: Model) -> list[Any]:
        model.go.clear()
        jobs = [batcher.submit(row(1), deadline_s=5)]
        await running(model)
        jobs.append(batcher.submit(row(2), deadline_s=5))
        await batcher.drain(0.02)
        results = await asyncio.gather(*jobs, return_exceptions=True)
        model.go.set()
        return results

    answers, _ = play(act)

    assert [Closed, Closed] == [type(answer) for answer in answers]


def test_rows_of_unequal_length_run_apart():
    """What waits is grouped by its shape beyond the rows; nothing is padded or cut."""

    async def act(batcher: Batcher, model: Model) -> list[Any]:
        model.go.clear()
        jobs = [batcher.submit(row(1), deadline_s=5)]
        await running(model)
        jobs += [batcher.submit(row(tag, width=tag % 2 + 2), deadline_s=5) for tag in (2, 3, 4, 5)]
        model.go.set()
        return [answer["y"].shape for answer in await asyncio.gather(*jobs)]

    shapes, model = play(act)

    assert shapes == [(1, 2), (1, 2), (1, 3), (1, 2), (1, 3)]
    assert model.batches == [[1], [2, 4], [3, 5]]

"""Several processes go by one clock: the first one's, whatever the others' say."""

import os
import signal
import time
from types import SimpleNamespace

from modelwright.train import checkpoint, loop, saver
from modelwright.train.guards import StopRequested
from modelwright.train.settings import Budget

from .conftest import trainer_of, world_of
from .processes import run_ranks


def train_by_the_clock(rank, folder):
    """A second's training, then one that is stopped by a signal to the second rank in its third
    step, whose clock runs a thousand times as fast; gives the steps and what was saved."""
    pace = 1 + 999 * rank
    clock = SimpleNamespace(
        perf_counter=lambda: pace * time.perf_counter(), monotonic=lambda: pace * time.monotonic()
    )
    loop.time = saver.time = clock
    world = world_of(rank, data=2)
    whole = trainer_of(folder / "whole", "transformer", world=world, budget=Budget(seconds=1))
    whole.run()
    part = trainer_of(folder / "part", "transformer", world=world)
    if rank == 1:
        part.model.register_forward_hook(
            lambda *_: os.kill(os.getpid(), signal.SIGTERM) if part.step == 2 else None
        )
    try:
        part.run()
    except StopRequested as stop:
        return (
            whole.step,
            whole.elapsed,
            str(stop),
            part.step,
            checkpoint.newest(part.folder)["step"],
        )


def test_a_fast_clock_parts_nobody(tmp_path):
    """Budget and time of grace end for all ranks at the same step."""
    first, second = run_ranks(tmp_path, 2, train_by_the_clock, tmp_path)

    assert first == second
    assert first[0] > 3 and 0.5 < first[1] < 5
    assert ("SIGTERM", 3, 3) == first[2:]

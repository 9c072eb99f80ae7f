"""A training's processes, as forks of the test's own: torch is loaded already."""

import multiprocessing
import os
import signal
import traceback
from pathlib import Path

import torch.distributed as dist


def run_ranks(folder: Path, number: int, act, *arguments):
    """What `act(rank, *arguments)` gives on each of so many ranks of a gloo group, in order.

    A rank that was killed gives None; one that raised fails the test with its traceback.
    """
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / f".meeting-{os.urandom(4).hex()}"
    context = multiprocessing.get_context("fork")
    ends, processes = [], []
    for rank in range(number):
        own, other = context.Pipe(duplex=False)
        process = context.Process(
            target=_rank, args=(other, meeting, rank, number, act, arguments), daemon=True
        )
        process.start()
        other.close()
        ends.append(own)
        processes.append(process)
    found = []
    for end, process in zip(ends, processes, strict=True):
        try:
            good, value = end.recv()
        except EOFError:
            good, value = True, None
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        assert good and (killed or value is not None or process.exitcode == 0), value
        found.append(value)
    return found


def _rank(end, meeting, rank, number, act, arguments):
    try:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank,
                                world_size=number)  # fmt: skip
        found = True, act(rank, *arguments)
    except BaseException:
        found = False, traceback.format_exc()
    end.send(found)
    end.close()
    os._exit(0)  # pytest's own ending is not ours

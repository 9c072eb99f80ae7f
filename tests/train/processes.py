"""A training's processes, as forks of the test's own: torch is loaded already."""

import multiprocessing
import os
import signal
import time
import traceback
from pathlib import Path

import torch._dynamo  # noqa: F401 - DTensors load it at their first use: once here, not in each fork
import torch.distributed as dist


class Job:
    """The processes of one training; `shared` is a number that they can set."""

    def __init__(self, folder: Path, number: int, act, *arguments, shared=False):
        folder.mkdir(parents=True, exist_ok=True)
        meeting = folder / f".meeting-{os.urandom(4).hex()}"
        context = multiprocessing.get_context("fork")
        self.shared = context.Value("q", 0)
        self.ends, self.processes = [], []
        given = (*arguments, self.shared) if shared else arguments
        for rank in range(number):
            own, other = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank, args=(other, meeting, rank, number, act, given), daemon=True
            )
            process.start()
            other.close()
            self.ends.append(own)
            self.processes.append(process)

    def alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def kill(self, rank: int | None) -> None:
        """kill -9 of one process, or of all; one alone first, the others a little later."""
        if rank is not None:
            self.processes[rank].kill()
            time.sleep(0.02)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


def start_ranks(folder: Path, number: int, act, *arguments) -> Job:
    """`act(rank, *arguments, shared)` on each of so many ranks of a gloo group; alone, of none."""
    return Job(folder, number, act, *arguments, shared=True)


def run_ranks(folder: Path, number: int, act, *arguments):
    """What `act(rank, *arguments)` gives on each of so many ranks of a gloo group, in order.

    A rank that was killed gives None; one that raised fails the test with its traceback.
    """
    job, found = Job(folder, number, act, *arguments), []
    for end, process in zip(job.ends, job.processes, strict=True):
        try:
            good, value = end.recv()
        except EOFError:
            good, value = True, None
        process.join()
        assert good and (value is not None or process.exitcode in (0, -signal.SIGKILL)), value
        found.append(value)
    return found


def _rank(end, meeting, rank, number, act, arguments):
    try:
        if number > 1:
            where = f"file://{meeting}"
            dist.init_process_group("gloo", init_method=where, rank=rank, world_size=number)
        found = True, act(rank, *arguments)
    except BaseException:
        found = False, traceback.format_exc()
    end.send(found)
    end.close()
    os._exit(0)  # pytest's own ending is not ours

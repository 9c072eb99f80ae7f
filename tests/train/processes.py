"""A training's processes, as forks of the test's own: torch is loaded already."""

import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch._dynamo  # noqa: F401 - DTensors load it at their first use: once here, not in each fork
import torch.distributed as dist

from modelwright import cli
from modelwright.train import checkpoint
from modelwright.train.saver import Saver


def save_now(folder, *, tensors, **given):
    """A checkpoint, without a thread in the background."""
    checkpoint.commit(folder, checkpoint.take(tensors), **given)


class Job:
    """The processes of one training; `shared` is a number that they can set.

    group: whether they are in a gloo group before they act.
    """

    def __init__(self, folder: Path, number: int, act, *arguments, shared=False, group=True):
        folder.mkdir(parents=True, exist_ok=True)
        meeting = folder / f".meeting-{os.urandom(4).hex()}" if group and number > 1 else None
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

    def until(self, value: int) -> bool:
        """Wait until `shared` is at least so; whether it came to that before a process ended."""
        while self.shared.value < value:
            if not self.alive():
                return self.shared.value >= value
            time.sleep(0.0005)
        return True

    def kill(self, rank: int | None) -> None:
        """kill -9 of one process, or of all."""
        for process in self.processes if rank is None else [self.processes[rank]]:
            process.kill()

    def ends_with(self):
        """What each process gave, in order; None of those that were killed.

        One that raised fails the test with its traceback.
        """
        found, errors = [], []
        for end, process in zip(self.ends, self.processes, strict=True):
            try:
                good, value = end.recv()
            except EOFError:
                good, value = True, None
            process.join()
            killed = process.exitcode in (0, -signal.SIGKILL)
            (found if good and (value is not None or killed) else errors).append(value)
        assert not errors, "\n".join(map(str, errors))
        return found


def free_port() -> int:
    """One on this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start_command(folder: Path, number: int, *words, before=None) -> Job:
    """`modelwright WORDS` in each of so many processes, told by the environment who they are, as
    torchrun does it. What rank 0 says is in `said-0.txt`, and so on; `shared` is the newest step
    whose save has begun.

    before: called with the rank in each process, ahead of the command.
    """
    given = (number, free_port(), folder, [str(word) for word in words], before)
    return Job(folder, number, _command, *given, shared=True, group=False)


def _command(rank, number, port, folder, words, before, shared):
    if number > 1:
        who = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {key: str(one) for key, one in who.items()}
    sys.stderr = sys.stdout = open(folder / f"said-{rank}.txt", "w")  # noqa: SIM115 - until it ends
    begin = Saver.begin

    def noted(saver, *, step, **more):
        begin(saver, step=step, **more)
        shared.value = max(step, shared.value)

    Saver.begin = noted
    if before is not None:
        before(rank)
    try:
        return cli.call(words)
    finally:
        sys.stderr.flush()


def run_ranks(folder: Path, number: int, act, *arguments):
    """What `act(rank, *arguments)` gives on each of so many ranks of a gloo group, in order; of a
    rank that was killed, None."""
    return Job(folder, number, act, *arguments).ends_with()


def _rank(end, meeting, rank, number, act, arguments):
    try:
        if meeting is not None:
            where = f"file://{meeting}"
            dist.init_process_group("gloo", init_method=where, rank=rank, world_size=number)
        found = True, act(rank, *arguments)
    except BaseException:
        found = False, traceback.format_exc()
    end.send(found)
    end.close()
    os._exit(0)  # pytest's own ending is not ours

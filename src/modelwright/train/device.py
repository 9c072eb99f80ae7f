"""Which device trains: the CPU, or one CUDA GPU for each process. The only file that asks for it.

Batches are made on the CPU and moved; what processes tell each other stays there, over gloo; what
is exported, certified and served runs on the CPU whatever trained it.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import torch

from modelwright.core.errors import ConfigError
from modelwright.data.loader import Batch, Loader
from modelwright.train import ranks

Kind = Literal["cpu", "cuda"]
FP8_FROM = (8, 9)  # compute capability; NVIDIA's Ada generation


def resolved(asked: Literal["auto", "cpu", "cuda"], *, acting: bool = False) -> Kind:
    """The kind of device to train on; `auto` takes a GPU where torch sees one.

    Args:
        acting: a task that acts calls a small model at every step of an episode, on the CPU.
    Raises: ConfigError for a GPU that is not there, or that the task can't use.
    """
    if acting:
        if asked == "cuda":
            raise ConfigError(
                "train.device: a task that acts is trained on the CPU",
                expected="auto or cpu",
                repair="leave train.device out",
            )
        return "cpu"
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        built = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
        raise ConfigError(
            "train.device: cuda, and torch sees no GPU here"
            + ("" if built else f" (torch {torch.__version__} is built without CUDA)"),
            expected="an NVIDIA GPU, its driver, and a torch that is built for them",
            repair="set train.device: cpu, or auto, which takes what there is",
        )
    return "cuda" if asked == "cuda" or (asked == "auto" and there) else "cpu"


def of_process(kind: Kind, local_rank: int) -> torch.device:
    """The device of one of the processes on this machine, made its current one.

    Where each sees one GPU alone, as `srun --gpus-per-task=1` has it, that is its own;
    `require_own` says so if it is not.

    Raises: ConfigError if there are more processes than GPUs.
    """
    if kind == "cpu":
        return torch.device("cpu")
    number = torch.cuda.device_count()
    index = local_rank if number > 1 else 0
    if index >= number:
        raise ConfigError(
            f"train.device: process {local_rank} of this machine has no GPU of its own; "
            f"torch sees {number}",
            expected="no more processes than GPUs",
            repair=f"torchrun --nproc-per-node {number}, or train.device: cpu",
        )
    torch.cuda.set_device(index)
    torch.backends.cudnn.allow_tf32 = False  # 32-true means it; products of matrices are so already
    return torch.device("cuda", index)


def require_own(device: torch.device) -> None:
    """Every process calls it, with its device.

    Raises: ConfigError, in all of them, if two have the same GPU.
    """
    if device.type == "cpu":
        return
    taken = ranks.share(str(torch.cuda.get_device_properties(device).uuid))
    for rank, one in enumerate(taken):
        if (other := taken.index(one)) < rank:
            raise ConfigError(
                f"train.device: processes {other} and {rank} would share a GPU",
                expected="a GPU for each process",
                repair="srun --gpus-per-task=1, or torchrun --nproc-per-node with the number of "
                "GPUs, or train.device: cpu",
            )


def name_of(kind: Kind) -> str:
    """For tables and as a part of what a measurement depends on."""
    return torch.cuda.get_device_name() if kind == "cuda" else "cpu"


def has_fp8(kind: Kind) -> bool:
    """Whether products of eight-bit floats have hardware of their own there."""
    return kind == "cuda" and torch.cuda.get_device_capability() >= FP8_FROM


def wait_for(device: torch.device) -> None:
    """Until all that was asked of the device is done: what a clock needs."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Batches:
    """A loader's batches for a device. For a GPU a thread makes the next one, in pinned memory,
    while the device computes; which batch a step has is the loader's business alone.

    Args:
        part, parts: of every batch, as Loader.batch has it.
    """

    def __init__(self, loader: Loader, kind: Kind, part: int = 0, parts: int = 1) -> None:
        self._loader, self._part = loader, (part, parts)
        self._thread = ThreadPoolExecutor(1) if kind == "cuda" else None
        self._next: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        """This process's rows of `step`, still on the CPU."""
        if self._thread is None:
            return self._loader.batch(step, *self._part)
        # all are made by the one thread: a loader keeps the order of an epoch
        there = self._next is not None and self._next[0] == step
        found = self._next[1] if there and self._next else self._thread.submit(self._make, step)
        batch = found.result()
        self._next = step + 1, self._thread.submit(self._make, step + 1)
        return batch

    def _make(self, step: int) -> Batch:
        return self._loader.batch(step, *self._part).pinned()

"""What the processes of one training tell each other: plain JSON, over a gloo group of its own.

The group is apart from the training's, so that a thread may use it while the loop computes. Bytes
travel as tensors: torch's own collectives for objects would pickle. Alone, nothing is sent.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from modelwright.core import errors
from modelwright.core.errors import ModelwrightError, StorageError

T = TypeVar("T")


_alone = False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Around what this process does without the others, such as a race: nothing is shared."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def place() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) alone."""
    if not _alone and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class Lost(StorageError):
    """Another process has ended, or does not answer."""


def channel() -> Any:
    """The group of all processes; None alone. Every rank calls it first in its main thread, before
    another thread shares."""
    return _group(dist.group.WORLD) if place()[1] > 1 else None


def share(value: Any) -> list[Any]:
    """Every rank's value, in order of rank; each has to call it.

    Args:
        value: plain JSON.
    Raises: Lost.
    """
    own, world_size = place()
    if world_size == 1:
        return [value]
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    group = _group(dist.group.WORLD)
    try:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size)]
        dist.all_gather(lengths, torch.tensor([len(content)]), group=group)
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(content)] = content
        found = [torch.empty_like(padded) for _ in range(world_size)]
        dist.all_gather(found, padded, group=group)
    except RuntimeError as error:
        raise Lost(
            f"rank {own} lost another process of this training at a checkpoint: {error}",
            expected=f"all {world_size} processes; what was saved before is intact",
            repair="run the same command again",
        ) from error
    return [
        json.loads(one[: int(length)].numpy().tobytes())
        for one, length in zip(found, lengths, strict=True)
    ]


def together(act: Callable[[], T]) -> list[T]:
    """Do `act` on every rank; gives what each made, plain JSON, or raises on all of them.

    Raises: this rank's own error, or else the first other one's, with its rank.
    """
    failure: Exception | None = None
    told: dict[str, Any] = {}
    try:
        told = {"made": act()}
    except ModelwrightError as error:
        failure = error
        told = {"error": [type(error).__name__, error.what, error.expected, error.repair]}
    except Exception as error:  # a bug: the others must not wait for it
        failure = error
        told = {"error": [ModelwrightError.__name__, repr(error), "", ""]}
    everyone = share(told)
    if failure is not None:
        raise failure
    for rank, one in enumerate(everyone):
        if "error" in one:
            name, what, expected, repair = one["error"]
            kind: type[ModelwrightError] = getattr(errors, name, ModelwrightError)
            raise kind(f"rank {rank}: {what}", expected=expected, repair=repair)
    return [one["made"] for one in everyone]


@functools.cache
def _group(world: Any) -> Any:
    """One for each group of all processes, which a test may make anew."""
    return dist.new_group(backend="gloo")

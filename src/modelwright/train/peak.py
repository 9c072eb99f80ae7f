"""The most memory that a training has held: of a GPU if it computes on one, or of the process."""

import contextlib
import gc
import resource
from pathlib import Path

import torch


def reset_peak_memory() -> None:
    """Forget the peak so far, where the system can (Linux); elsewhere it stays that of the life."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()  # models tried before hang in cycles, and would count
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes() -> int:
    """The most since `reset_peak_memory`, in bytes: what torch has reserved on the GPU, where it
    has; else the process's largest resident memory."""
    if torch.cuda.is_initialized() and (  # type: ignore[no-untyped-call]
        reserved := torch.cuda.max_memory_reserved()
    ):
        return int(reserved)
    with contextlib.suppress(OSError, IndexError):
        _, _, behind = Path("/proc/self/status").read_bytes().partition(b"VmHWM:")
        return int(behind[:32].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

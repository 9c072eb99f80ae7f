"""This machine: what it has, and a small cache of what was measured on it.

Instruction sets are read from /proc/cpuinfo where there is one; elsewhere they are unknown, and
said to be.
"""

import contextlib
import ctypes
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from modelwright.core.errors import StorageError
from modelwright.core.files import write_json
from modelwright.core.progress import say

# cpuinfo flag -> what people call it; those that decide what is fast here
INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX-BF16",
    "amx_int8": "AMX-INT8",
    "asimddp": "ARM dot product",
    "bf16": "ARM BF16",
}


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


# glibc's mallopt: what to set, and to what
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Let this process keep what it frees for the next step, instead of giving it back each time.

    Otherwise every large tensor is fresh memory from the system, page by page: LSTM steps took
    half as long again to twice as long, and varied from process to process (docs/experiments.md).
    What is taken first comes in large pages too. Nothing happens where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = _libc()
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_TOP_PAD, 64 * 2**20)
        _take_large_pages()


_RESERVED, _LARGE_PAGE, _MADV_HUGEPAGE = 1000 * 2**20, 2 * 2**20, 14  # below _MMAP_THRESHOLD


@cache
def _take_large_pages() -> None:
    """Let the next gigabyte that is used come in pages of 2 MB, where the system leaves that to
    programs: a language model's steps took a tenth less time (docs/experiments.md).

    The memory is freed again at once, untouched; what was set holds for its addresses.
    """
    libc = _libc()
    libc.malloc.restype = ctypes.c_void_p
    place = libc.malloc(ctypes.c_size_t(_RESERVED))
    if place is not None:
        start = -(-place // _LARGE_PAGE) * _LARGE_PAGE
        size = (place + _RESERVED - start) // _LARGE_PAGE * _LARGE_PAGE
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_HUGEPAGE)
        libc.free(ctypes.c_void_p(place))


def give_back_freed_memory() -> None:
    """Let the system have what this process has freed and keeps, as far as it can be spared."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        _libc().malloc_trim(0)


BUSY_CORES, BUSY_S = 0.25, 600.0  # of other processes; how long what they slowed down is believed
BUSY_SPREAD = 1.5  # median over minimum; on a quiet machine it is below 1.2


@dataclass(frozen=True)
class Machine:
    """One computer, as far as models are concerned."""

    cpu: str
    cores: int
    memory_bytes: int
    instruction_sets: tuple[str, ...]
    system: str

    @property
    def has_int8(self) -> bool:
        """Whether 8-bit products are faster than float32 here."""
        return any("VNNI" in s or "INT8" in s or "dot" in s for s in self.instruction_sets)

    @property
    def lacks_bf16(self) -> bool:
        """Whether bf16 is known to be computed through float32 here, so more slowly."""
        return bool(self.instruction_sets) and not any("BF16" in s for s in self.instruction_sets)

    @property
    def name(self) -> str:
        """For tables: processor, cores and system."""
        return f"{self.cpu}, {self.cores} cores, {self.system}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def this_machine() -> Machine:
    """Read what this machine has; cores are those that this process may use."""
    cpu, flags = platform.processor() or platform.machine(), set[str]()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                cpu = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags |= set(value.split())
    usable = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    return Machine(
        cpu=cpu,
        cores=len(usable),
        memory_bytes=psutil.virtual_memory().total,
        instruction_sets=tuple(name for flag, name in INSTRUCTION_SETS.items() if flag in flags),
        system=f"{platform.system()} {platform.machine()}",
    )


def cache_folder() -> Path:
    """$MODELWRIGHT_CACHE, else $XDG_CACHE_HOME/modelwright, else ~/.cache/modelwright."""
    if own := os.environ.get("MODELWRIGHT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelwright"


def measured_once(
    what: dict[str, Any], measure: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """A measurement of this machine, taken now or read from the cache.

    Args:
        what: everything that the result depends on, besides the machine.
        measure: gives the figures; one named "spread" above BUSY_SPREAD says that other work
            disturbed it, and that it is not to be kept. Where other processes left no core
            idle, it is kept for BUSY_S only.
    """
    machine = this_machine()
    key = json.dumps({"machine": machine.to_json(), "what": what}, sort_keys=True)
    path = cache_folder() / "measured" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        entry = json.loads(path.read_bytes())
        if entry["key"] == key and time.time() < float(entry["until"]):
            return {name: float(value) for name, value in entry["result"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # nothing there yet, or not readable: measure
    before, started = _core_seconds(), time.perf_counter()
    result = measure()
    seconds = max(0.1, time.perf_counter() - started)  # the system counts in hundredths
    others, idle = (
        (now - then) / seconds for now, then in zip(_core_seconds(), before, strict=True)
    )
    if result.get("spread", 1.0) > BUSY_SPREAD:
        return result
    disturbed = others > BUSY_CORES and idle < BUSY_CORES
    until = time.time() + BUSY_S if disturbed else math.inf
    try:
        write_json(path, {"key": key, "until": str(until), "result": result})
    except StorageError as error:
        say(f"not kept for the next time: {error.what}")
    return result


def _core_seconds() -> tuple[float, float]:
    """Since the machine started: those that other processes took, and those that nobody did."""
    every, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy = every.user + every.system + getattr(every, "nice", 0.0) + getattr(every, "steal", 0.0)
    return busy - own.user - own.system, every.idle + getattr(every, "iowait", 0.0)


def version(library: str) -> str | None:
    """Of an installed library; None where it is missing."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def has(modules: Sequence[str]) -> bool:
    """Whether all of them can be imported."""
    return all(importlib.util.find_spec(module) is not None for module in modules)

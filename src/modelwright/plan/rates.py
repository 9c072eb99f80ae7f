"""What this machine does per second: products of matrices, bytes moved."""

import time
from collections.abc import Callable

import torch

from modelwright.core.hardware import BUSY_SPREAD, measured_once

REPEATS = 7


def matmul_flops_per_s(dtype: torch.dtype) -> float:
    """Rate of a 1024 x 1024 matrix product, in FLOP/s, best of a few."""

    def measure() -> dict[str, float]:
        a, b = (torch.randn(1024, 1024, dtype=torch.float32).to(dtype) for _ in range(2))
        return _best(lambda: a @ b, 2 * 1024**3)

    return _once("matmul", str(dtype), measure)


def memory_bytes_per_s() -> float:
    """Rate of copying 256 MB, counting what is read and what is written."""

    def measure() -> dict[str, float]:
        source = torch.zeros(64_000_000, dtype=torch.float32)
        target = torch.empty_like(source)
        return _best(lambda: target.copy_(source), 2 * source.nbytes)

    return _once("copy", "float32", measure)


def _once(kind: str, detail: str, measure: Callable[[], dict[str, float]]) -> float:
    what = {"kind": kind, "of": detail, "torch": torch.__version__,
            "threads": torch.get_num_threads()}  # fmt: skip
    return measured_once(what, measure)["rate"]


def _best(act: Callable[[], object], amount: float) -> dict[str, float]:
    act()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    spread = sorted(seconds)[REPEATS // 2] / min(seconds)
    return {"rate": amount / min(seconds), "spread": min(spread, BUSY_SPREAD)}

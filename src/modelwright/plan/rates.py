"""What this machine does per second: products of matrices, bytes moved."""

import time
from collections.abc import Callable

import torch

from modelwright.core.hardware import BUSY_SPREAD, measured_once
from modelwright.train import device as devices

REPEATS = 7
SIDES: dict[devices.Kind, int] = {"cpu": 1024, "cuda": 8192}  # enough to fill it


def matmul_flops_per_s(dtype: torch.dtype, kind: devices.Kind = "cpu") -> float:
    """Rate of a square matrix product on the CPU or GPU, in FLOP/s, best of a few."""
    side = SIDES[kind]

    def measure() -> dict[str, float]:
        device = devices.of_process(kind, 0)
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

        def multiply() -> None:
            a @ b
            devices.wait_for(device)

        return _best(multiply, 2 * side**3)

    return _once("matmul", f"{dtype} on {devices.name_of(kind)}", measure)


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

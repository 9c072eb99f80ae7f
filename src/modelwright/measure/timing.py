"""How long one call takes, how sure that is, and how noisy the machine was meanwhile.

Reads Sessions and one batch; gives a Latency, or a Pair of them with their ratio.

Treatment of repeats, the same everywhere: calls run in short blocks that belong in turn to two
halves (A B B A A B B A …), so that a slow drift of the machine falls on both alike. Every call of
a measurement counts; none is dropped as an outlier, because the slow calls are what p99 is about.
Only a whole measurement gives way to a quieter one (`least_disturbed`). On a shared
machine p99 therefore includes the neighbours' noise: `control_ratio`, the ratio that the same
session has to itself, and the intervals say how much of a difference is believable.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from modelwright.core.errors import ConfigError
from modelwright.core.goals import Goal
from modelwright.core.progress import say
from modelwright.runtime.catalog import Session

Batch = Mapping[str, np.ndarray]
BLOCK_CALLS = 20
WARM_UP_CALLS = 10
WARM_UP_SECONDS = 0.05
HISTOGRAM_BINS = 40
# times of the median that a call of a fixed graph hardly takes by itself; measurements then
DISTURBED, MOST_TIMES = 5.0, 3
Timed = TypeVar("Timed")


@dataclass(frozen=True)
class Latency:
    """Percentiles of the time of one call, in milliseconds, from all timed calls.

    *_low_ms, *_high_ms: 95 % interval by order statistics. It takes calls as independent; None
        where too few calls were made to bound that side (p99 from above needs 368).
    control_ratio: median of one half of the calls over that of the other, the A/A control;
        1 on a quiet machine.
    throughput_per_s: examples per second over all timed calls, one call after the other.
    histogram_edges_ms: one more than histogram_counts, growing by a constant factor, because
        the slowest call is often ten times the median.
    """

    p50_ms: float
    p50_low_ms: float | None
    p50_high_ms: float | None
    p95_ms: float
    p95_low_ms: float | None
    p95_high_ms: float | None
    p99_ms: float
    p99_low_ms: float | None
    p99_high_ms: float | None
    mean_ms: float
    throughput_per_s: float
    calls: int
    control_ratio: float
    histogram_edges_ms: tuple[float, ...]
    histogram_counts: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As certificate.json holds it."""
        quantiles = {
            f"{name}{end}_ms": getattr(self, f"{name}{end}_ms")
            for name in ("p50", "p95", "p99")
            for end in ("", "_low", "_high")
        }
        return {
            **quantiles,
            "mean_ms": self.mean_ms,
            "throughput_per_s": self.throughput_per_s,
            "calls": self.calls,
            "control_ratio": self.control_ratio,
            "histogram": {
                "edges_ms": list(self.histogram_edges_ms),
                "counts": list(self.histogram_counts),
            },
        }


@dataclass(frozen=True)
class Pair:
    """Two sessions timed in turns.

    ratio: time of the first over time of the second, median over pairs of neighbouring blocks:
        2 says that the second is twice as fast.
    ratio_low, ratio_high: 95 % interval of that median; None with fewer than six pairs.
    """

    first: Latency
    second: Latency
    ratio: float
    ratio_low: float | None
    ratio_high: float | None


def measure_latency(
    session: Session,
    batch: Batch,
    *,
    min_calls: int = 200,
    max_calls: int = 2000,
    max_seconds: float = 3.0,
) -> Latency:
    """Time calls of one session on one batch, warm.

    As many calls as fit into `max_seconds`, but at least `min_calls`, even if they take longer:
    a percentile of fewer is no percentile.

    Raises: ConfigError if the number of calls cannot be met.
    """
    _check_bounds(min_calls, max_calls)
    call_seconds = _warm_up(session, batch)
    calls = _number_of_calls(call_seconds, min_calls, max_calls, max_seconds)
    blocks = _timed_blocks([session, session], batch, calls)
    return _latency(blocks[0] + blocks[1], blocks[0], blocks[1], _rows(batch))


def measure_pair(
    a: Session,
    b: Session,
    batch: Batch,
    *,
    min_calls: int = 200,
    max_calls: int = 2000,
    max_seconds: float = 3.0,
) -> Pair:
    """Time two sessions in turns on the same batch, for a fair ratio.

    The numbers of calls are per session, `max_seconds` for both together. Each one's control
    ratio compares its odd blocks to its even ones.

    Raises: ConfigError if the number of calls cannot be met.
    """
    _check_bounds(min_calls, max_calls)
    call_seconds = _warm_up(a, batch) + _warm_up(b, batch)
    calls = 2 * _number_of_calls(call_seconds, min_calls, max_calls, max_seconds)
    blocks = _timed_blocks([a, b], batch, calls)
    ratios = [
        float(np.median(first) / np.median(second)) for first, second in zip(*blocks, strict=True)
    ]
    ratio, low, high = quantile_interval(np.array(ratios), 0.5)
    first, second = (_latency(own, own[::2], own[1::2], _rows(batch)) for own in blocks)
    return Pair(first, second, ratio, low, high)


def least_disturbed(
    measure: Callable[[], Timed], bounds: Sequence[Goal], of: Callable[[Timed], Latency]
) -> tuple[Timed, int]:
    """What `measure` finds, and how often it was asked: up to MOST_TIMES, while a percentile misses
    its bound and lies so far above the median as other work on the machine puts it. That makes
    calls slower and none faster, so the least p99 counts. If it stays so, that is said.
    """
    found: list[Timed] = []
    while len(found) < MOST_TIMES:
        found.append(measure())
        late = _disturbed(of(found[-1]), bounds)
        if not late:
            break
    else:
        say(
            f"latency: in {MOST_TIMES} measurements calls took up to {late:,.0f} times the median, "
            "as where other work runs; a machine of its own would tell whether the goal is met"
        )
    return min(found, key=lambda one: of(one).p99_ms), len(found)


def _disturbed(found: Latency, bounds: Sequence[Goal]) -> float:
    """How many times the median the worst percentile is that misses its bound; 0 where that is no
    more than calls differ by themselves."""
    missed = [
        value
        for goal in bounds
        if goal.name.startswith("latency_") and goal.met_by(found.p50_ms)
        and not goal.met_by(value := getattr(found, goal.name.removeprefix("latency_")))
    ]  # fmt: skip
    worst = max(missed, default=0.0) / found.p50_ms
    return worst if worst >= DISTURBED else 0.0


def quantile_interval(
    values: np.ndarray, quantile: float, *, confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """A quantile of independent values with its distribution-free interval.

    The ends are the order statistics between which the true quantile falls with at least
    `confidence`: how many of n values lie below it is binomial(n, quantile). None is an end that
    n values cannot bound.

    Source: Hahn and Meeker 1991, Statistical Intervals, section 5.2.

    >>> quantile_interval(np.arange(1.0, 101.0), 0.5)
    (50.5, 40.0, 61.0)
    >>> quantile_interval(np.arange(1.0, 101.0), 0.99)[2] is None
    True
    """
    ordered = np.sort(np.asarray(values, np.float64))
    total = len(ordered)
    outside = (1 - confidence) / 2
    # P(at most k of them below the true quantile), for k = 0 … total
    counts = np.arange(total + 1, dtype=np.float64)
    steps = np.log((total - counts[:-1]) / counts[1:]) + np.log(quantile / (1 - quantile))
    log_mass = np.concatenate([[0.0], np.cumsum(steps)]) + total * np.log1p(-quantile)
    at_most = np.minimum(np.cumsum(np.exp(log_mass)), 1.0)
    # ordered[low] lies above the quantile iff at most `low` values lie below it
    low = int(np.searchsorted(at_most, outside, side="right")) - 1
    high = int(np.searchsorted(at_most, 1 - outside, side="left"))
    return (
        float(np.quantile(ordered, quantile)),
        float(ordered[low]) if low >= 0 else None,
        float(ordered[high]) if high < total else None,
    )


def _warm_up(session: Session, batch: Batch) -> float:
    """Call until caches and clocks have settled; the median seconds of a call."""
    seconds: list[float] = []
    total = 0.0
    while len(seconds) < WARM_UP_CALLS or total < WARM_UP_SECONDS:
        start = time.perf_counter_ns()
        session(batch)
        seconds.append((time.perf_counter_ns() - start) / 1e9)
        total += seconds[-1]
        if len(seconds) >= 3 and total > 1:  # a slow model is warm after three calls
            break
    return float(np.median(seconds))


def _check_bounds(min_calls: int, max_calls: int) -> None:
    if not 2 <= min_calls <= max_calls:
        raise ConfigError(
            f"latency: between {min_calls} and {max_calls} calls",
            expected="at least 2 calls, and a maximum that is not below the minimum",
        )


def _number_of_calls(
    call_seconds: float, min_calls: int, max_calls: int, max_seconds: float
) -> int:
    affordable = int(max_seconds / max(call_seconds, 1e-9))
    return max(min_calls, min(max_calls, affordable))


def _timed_blocks(
    sessions: list[Session], batch: Batch, calls: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Nanoseconds of `calls` calls or a few more, in blocks that take turns as A B B A."""
    half = -(-calls // 2)
    num_blocks = max(2, round(half / BLOCK_CALLS))
    num_blocks += num_blocks % 2  # each half of a session gets as many blocks as the other
    block_calls = max(1, -(-half // num_blocks))
    blocks: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    with _no_garbage_collection():
        for side in _turns(num_blocks):
            blocks[side].append(_time_block(sessions[side], batch, block_calls))
    return blocks


def _turns(num_blocks: int) -> Iterable[int]:
    for index in range(num_blocks):
        yield from (0, 1) if index % 2 == 0 else (1, 0)


def _time_block(
    call: Callable[[Batch], object],
    batch: Batch,
    calls: int,
) -> np.ndarray:
    clock = time.perf_counter_ns
    times = np.empty(calls, np.int64)
    call(batch)  # whoever ran before left the caches cold
    for index in range(calls):
        start = clock()
        call(batch)
        times[index] = clock() - start
    return times


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _latency(
    blocks: list[np.ndarray], half: list[np.ndarray], other: list[np.ndarray], rows: int
) -> Latency:
    times = np.concatenate(blocks) / 1e6
    quantiles: dict[str, Any] = {}
    for name, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        value, low, high = quantile_interval(times, quantile)
        quantiles |= {f"{name}_ms": value, f"{name}_low_ms": low, f"{name}_high_ms": high}
    edges = np.geomspace(times.min() * 0.999, times.max() * 1.001, HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(times, edges)
    control = np.median(np.concatenate(half)) / np.median(np.concatenate(other))
    return Latency(
        **quantiles,
        mean_ms=float(times.mean()),
        throughput_per_s=float(rows * len(times) / (times.sum() / 1e3)),
        calls=len(times),
        control_ratio=float(control),
        histogram_edges_ms=tuple(edges.tolist()),
        histogram_counts=tuple(counts.tolist()),
    )


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))

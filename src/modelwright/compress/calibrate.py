"""What range of values each activation takes, and where to cut it for eight bits.

One pass finds minima and maxima, a second fills histograms; both stream over the rows, so that
memory does not grow with them. Four rules then choose a range from the same histogram.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from modelwright.data.rows import Rows
from modelwright.runtime.onnx_session import inference_session, run

BINS = 2048
LEVELS = 256
BATCH_ROWS = 64
MOST_COUNTED = 2**18  # of a tensor's values in a batch; a text's window has millions
MOST_BYTES = 2**28  # of what is seen of a batch at once
PERCENTILE = 99.99
SHRINKS = np.linspace(1.0, 0.2, 65)  # shares of the full range that "mse" and "entropy" try


@dataclass(frozen=True)
class Histogram:
    """Counts of one tensor's values over equal bins from low to high."""

    low: float
    high: float
    counts: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (np.arange(len(self.counts)) + 0.5)


Range = tuple[float, float]


def observe(
    graph: onnx.ModelProto, rows: Rows, only: Collection[str] | None = None
) -> dict[str, Histogram]:
    """Histograms of the float values in the graph over real rows.

    Ends are of all numbers; of a batch in which a value has more than MOST_COUNTED, so many are
    drawn and counted, always the same.

    Args:
        only: names of values; None for every one.
    """
    exposed, names = _with_outputs(graph, only)
    session = inference_session(exposed.SerializeToString(), threads=2)

    longest = 0 if rows.lengths is None else int(rows.lengths.argmax())
    seen = run(session, rows.batch(np.array([longest])), names).values()
    batch_rows = max(1, min(BATCH_ROWS, MOST_BYTES // max(1, sum(one.nbytes for one in seen))))

    def values() -> Iterator[tuple[str, np.ndarray]]:
        for start in range(0, len(rows), batch_rows):
            batch = rows.batch(np.arange(start, min(start + batch_rows, len(rows))))
            found = run(session, batch, names)
            yield from ((name, value) for name, value in found.items() if value.size)

    low = dict.fromkeys(names, np.inf)
    high = dict.fromkeys(names, -np.inf)
    for name, value in values():
        low[name] = min(low[name], float(value.min()))
        high[name] = max(high[name], float(value.max()))
    for name in names:  # a value that never changes still needs bins of some width
        high[name] = max(high[name], low[name] + max(1e-9, 1e-6 * abs(low[name])))
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    draws = np.random.default_rng(0)
    for name, value in values():
        if value.size > MOST_COUNTED:
            value = value.reshape(-1)[draws.integers(0, value.size, MOST_COUNTED)]
        ends = (low[name], high[name])
        counts[name] += np.histogram(value.astype(np.float64), bins=BINS, range=ends)[0]
    return {name: Histogram(low[name], high[name], counts[name]) for name in names}


def _with_outputs(
    graph: onnx.ModelProto, only: Collection[str] | None
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of the graph that also gives the float values between its nodes, and their names."""
    inferred = onnx.shape_inference.infer_shapes(graph)
    made = {name for node in inferred.graph.node for name in node.output}
    between = [value for value in inferred.graph.value_info if value.name in made]
    known = {value.name: value for value in [*between, *inferred.graph.output]}
    wanted = [
        value
        for name, value in known.items()
        if _is_float(value) and (only is None or name in only)
    ]
    del inferred.graph.output[:]
    inferred.graph.output.extend(wanted)
    return inferred, [value.name for value in wanted]


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def minmax(histogram: Histogram) -> Range:
    """Everything that was seen."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram) -> Range:
    """All but the outermost 0.01 % of the values, half of it on each side."""
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    outside = (1 - PERCENTILE / 100) / 2
    first = int(np.searchsorted(share, outside, side="right"))
    last = int(np.searchsorted(share, 1 - outside, side="left"))
    width = (histogram.high - histogram.low) / len(share)
    # a tensor that is mostly one value keeps its ends: zero must stay inside the range
    return histogram.low + first * width, histogram.low + min(last + 1, len(share)) * width


def mse(histogram: Histogram) -> Range:
    """The shrunken range with the least mean squared error of rounding and clipping.

    Source: Sung et al. 2015, arXiv:1511.06488, section 3.
    """

    def error(low: float, high: float) -> float:
        step = (high - low) / (LEVELS - 1)
        clipped = np.clip(histogram.centers, low, high)
        rounded = low + np.round((clipped - low) / step) * step
        return float(((rounded - histogram.centers) ** 2 * histogram.counts).sum())

    return _narrowed(histogram, error)


def entropy(histogram: Histogram) -> Range:
    """The shrunken range whose 256 levels keep most of the distribution (KL divergence).

    Source: Migacz 2017, "8-bit inference with TensorRT", slides 25-38.
    """
    total = histogram.counts.sum()

    def divergence(low: float, high: float) -> float:
        inside = (histogram.centers >= low) & (histogram.centers <= high)
        counts = histogram.counts[inside].astype(np.float64)
        if counts.size < LEVELS // 2 or not counts.any():
            return np.inf
        wanted = counts.copy()
        first = int(inside.argmax())
        wanted[0] += histogram.counts[:first].sum()  # what is clipped lands on the ends
        wanted[-1] += histogram.counts[first + counts.size :].sum()
        level = np.minimum(np.arange(counts.size) * LEVELS // counts.size, LEVELS - 1)
        filled = counts > 0
        sums = np.bincount(level, counts, LEVELS)
        used = np.maximum(np.bincount(level, filled, LEVELS), 1)
        kept = np.where(filled, (sums / used)[level], 0.0)
        p, q = wanted / total, kept / max(kept.sum(), 1.0)
        where = p > 0
        return float((p[where] * np.log(p[where] / np.maximum(q[where], 1e-12))).sum())

    return _narrowed(histogram, divergence)


def _narrowed(histogram: Histogram, cost: Callable[[float, float], float]) -> Range:
    """The range of least cost, one end after the other: an outlier on one side costs only there."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)  # eight bits hold zero anyway
    high = min((high * share for share in SHRINKS), key=lambda end: cost(low, end))
    low = min((low * share for share in SHRINKS), key=lambda end: cost(end, high))
    return low, high


# calibration -> its rule; "auto" in a recipe tries all and keeps the one with the best metric
CALIBRATIONS: dict[str, Callable[[Histogram], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}

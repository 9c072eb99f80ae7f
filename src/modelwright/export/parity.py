"""Two forms of one model: are they the same? Fails closed, and names the first node that differs.

Reads two Sessions and rows; gives one hop of parity.json (docs/reference/run-folder.md).
`check_hop` judges numbers, decisions and the task metric; export/locate.py makes the functions
that find the node. `require` turns a failed hop into the error that stops the run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.core.errors import DataError, ParityError
from modelwright.core.signature import Signature
from modelwright.export.locate import Located, unoptimised
from modelwright.runtime.catalog import Session
from modelwright.runtime.onnx_session import inference_session

FLOAT_TOLERANCE = 1e-4
INT8_DECISION_TOLERANCE = 0.02
KERNEL_TOLERANCE = 0.1  # of the logit scale, see check_kernels
QUANTIZED_PROBABILITY_TOLERANCE = 0.05  # an int8 softmax counts in steps of 1/256
BATCH_SIZE = 64
ODD_BATCH = 7
ALONE_ROWS = 12
LOCATE_ROWS = 4

Locate = Callable[[np.ndarray], Located]


def check_hop(
    name: str,
    before: Session,
    after: Session,
    images: np.ndarray,
    *,
    targets: np.ndarray | None = None,
    tolerance: float | None = FLOAT_TOLERANCE,
    decision_tolerance: float = 0.0,
    metric_tolerance: float = 0.0,
    locate: Locate | None = None,
) -> dict[str, Any]:
    """Judge one hop from one form of a model to the next, on real rows and on edge inputs.

    images: (rows, channels, height, width) uint8; real ones, a thousand or more
    targets: (rows,); without them the task metric is not judged

    It passes if both give finite numbers everywhere, the numbers and decisions agree, the metric
    holds, the probabilities are the softmax of the logits, and each row's answer is the same
    alone, in an odd batch and in a large one.

    Args:
        tolerance: largest error of a logit, relative to the largest logit of all rows. None
            leaves the numbers unjudged, which is for quantized forms: there, decisions count,
            also between batches, since dynamic quantization scales by the whole batch.
        decision_tolerance: share of real rows that may get another answer. With a tolerance for
            numbers, rows whose two best logits lie within it are ties and may flip as well.
        metric_tolerance: how much accuracy may be lost, as a share.
        locate: finds the first differing node on a few rows; called only if the hop fails.
    Returns: the hop as parity.json holds it, with `failures`, a list of sentences, and
        `located`, how the node was found or why not.
    Raises: DataError without images, or if the targets do not fit them.
    """
    if len(images) == 0 or (targets is not None and len(targets) != len(images)):
        raise DataError(
            f"parity: {len(images)} images"
            + ("" if targets is None else f" and {len(targets)} targets"),
            expected="at least one image, and one target for each",
        )
    edges = edge_inputs(images.shape[1:])
    hop: dict[str, Any] = {
        "name": name,
        "rows": len(images),
        "edge_inputs": list(edges),
        "max_error": None,
        "tolerance": tolerance,
        "decisions_equal": 0,
        "decisions_total": len(images),
        "ties": 0,
        "decision_tolerance": decision_tolerance,
        "batch_error": None,
        "metric_before": None,
        "metric_after": None,
        "metric_tolerance": metric_tolerance,
    }
    probe = np.concatenate([images[: LOCATE_ROWS - 1], edges["noise"][None]])
    failures: list[str] = []
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # infinities are judged, not warned of
            failures, probe = _judge(
                hop, before, after, images, np.stack(list(edges.values())), targets
            )
    except _RunError as error:
        failures = [str(error)]
    located = Located(None, "") if not failures else _locate(locate, probe)
    return {
        **hop,
        "passed": not failures,
        "failures": failures,
        "first_differing_node": located.node,
        "located": located.how,
    }


def check_kernels(
    graph: Path,
    images: np.ndarray,
    *,
    targets: np.ndarray | None = None,
    threads: int = 1,
    decision_tolerance: float = INT8_DECISION_TOLERANCE,
    metric_tolerance: float = INT8_DECISION_TOLERANCE,
) -> dict[str, Any]:
    """The runtime's fast int8 kernels against the same graph run as written; one more hop.

    As written, a graph in QDQ form computes in float32 between its quantize and dequantize nodes.
    The fast kernels add int8 products, which on some processors saturate at 16 bits and then are
    off by much. Without a fault the two differ by rounding: up to 1.5 % of the logit scale was
    measured on the tiny families. Logits are held to 10 % of it (KERNEL_TOLERANCE), decisions to
    `decision_tolerance`.

    Source: ONNX Runtime docs, "Quantize ONNX models", section on U8S8 saturation.
    """
    as_written = _GraphSession(unoptimised(graph.read_bytes()))
    fast = _GraphSession(inference_session(graph, threads))
    hop = check_hop(
        "int8 graph → int8 kernels", as_written, fast, images,
        targets=targets, tolerance=None, decision_tolerance=decision_tolerance,
        metric_tolerance=metric_tolerance,
    )  # fmt: skip
    error = hop["max_error"]
    if error is not None and error > KERNEL_TOLERANCE:
        hop["failures"].append(
            f"a logit is off by {error:.2g} of the logit scale (at most {KERNEL_TOLERANCE})"
        )
    hop["tolerance"] = KERNEL_TOLERANCE
    hop["passed"] = not hop["failures"]
    hop["located"] = "" if hop["passed"] else (
        "the same graph, as written and optimised: the fault lies in the runtime's kernels for "
        "this processor, not in a node"
    )  # fmt: skip
    return hop


def parity_report(hops: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of parity.json; no hop at all is no proof."""
    return {"passed": bool(hops) and all(hop["passed"] for hop in hops), "hops": list(hops)}


def require(parity: Mapping[str, Any]) -> None:
    """Stop unless every hop passed; takes the content of parity.json, or one hop of it.

    Raises: ParityError that names the hop, its numbers and the first differing node.
    """
    hops = parity.get("hops", [parity])
    if not hops:
        raise ParityError("parity: no hop was checked", expected="at least one hop that passed")
    for hop in hops:
        if hop["passed"]:
            continue
        node = hop["first_differing_node"]
        where = f"The first value that differs: {node}." if node else "No node could be named."
        how = f" ({hop['located']})" if hop.get("located") else ""
        numbers = "not judged" if hop["tolerance"] is None else f"within {hop['tolerance']:g}"
        raise ParityError(
            f"parity: {hop['name']} are not the same model: "
            f"{'; '.join(hop.get('failures', [])) or 'the hop did not pass'}. {where}{how}",
            expected=f"on {hop['rows']} rows and {len(hop['edge_inputs'])} edge inputs: numbers "
            f"{numbers}, decisions equal but for {hop.get('decision_tolerance', 0):.1%} of rows",
            repair="nothing was shipped; the recipe is not at fault: try another model.family or "
            "compress step, and report the fault with parity.json",
        )


def edge_inputs(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Images that real data rarely holds: name -> (channels, height, width) uint8.

    >>> list(edge_inputs((1, 2, 2)))
    ['zeros', 'full', 'noise', 'bright_pixel', 'checkerboard']
    """
    zeros = np.zeros(shape, np.uint8)
    bright = zeros.copy()
    bright[..., shape[-2] // 2, shape[-1] // 2] = 255
    squares = (np.indices(shape[-2:]).sum(0) % 2 * 255).astype(np.uint8)
    return {
        "zeros": zeros,
        "full": np.full(shape, 255, np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        "bright_pixel": bright,
        "checkerboard": np.broadcast_to(squares, shape).copy(),
    }


class _RunError(Exception):
    """A session raised, or gave something that is no answer; the text says which."""


@dataclass(frozen=True)
class _Outputs:
    logits: np.ndarray
    probabilities: np.ndarray

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.logits).all() and np.isfinite(self.probabilities).all())

    @property
    def answers(self) -> np.ndarray:
        return np.asarray(self.logits.argmax(1))


class _GraphSession:
    """An open ONNX Runtime session as a Session."""

    signature = Signature((), ())

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = ["logits", "probabilities"]
        return dict(zip(names, self._session.run(names, dict(batch)), strict=True))

    def close(self) -> None:
        del self._session


def _judge(
    hop: dict[str, Any],
    before: Session,
    after: Session,
    images: np.ndarray,
    edges: np.ndarray,
    targets: np.ndarray | None,
) -> tuple[list[str], np.ndarray]:
    """Fill in the hop's figures; gives the failures, and the rows that show them most."""
    tolerance, failures = hop["tolerance"], []
    rows_before, edges_before = (_run("before", before, part) for part in (images, edges))
    rows_after, edges_after = (_run("after", after, part) for part in (images, edges))
    if not (rows_before.finite and edges_before.finite):
        failures.append("the form before gives NaN or infinity")
    if not (rows_after.finite and edges_after.finite):
        failures.append("the form after gives NaN or infinity")
    scale = max(_largest(rows_before.logits), 1e-6)
    edge_scale = max(_largest(edges_before.logits), 1e-6)

    errors = np.concatenate(
        [
            np.abs(rows_after.logits - rows_before.logits).max(1) / scale,
            np.abs(edges_after.logits - edges_before.logits).max(1) / edge_scale,
        ]
    )
    errors[~np.isfinite(errors)] = np.inf
    hop["max_error"] = _number(errors.max())
    if tolerance is not None and not errors.max() <= tolerance:
        failures.append(
            f"a logit is off by {errors.max():.2g} of the logit scale (at most {tolerance:g})"
        )
    worst = np.concatenate([images, edges])[np.argsort(-errors, kind="stable")[:LOCATE_ROWS]]

    _judge_decisions(hop, rows_before, rows_after, scale, failures)
    _judge_metric(hop, rows_before, rows_after, targets, failures)
    _judge_probabilities(hop, rows_before, rows_after, scale, failures)
    _judge_batches(hop, after, (images, rows_after), (edges, edges_after), scale, failures)
    return failures, worst


def _judge_decisions(
    hop: dict[str, Any], before: _Outputs, after: _Outputs, scale: float, failures: list[str]
) -> None:
    same = before.answers == after.answers
    flipped = ~same
    if hop["tolerance"] is not None:  # both of the two best may move by the tolerance
        best = np.sort(before.logits, axis=1)[:, -2:]
        tie = (best[:, -1] - best[:, 0]) <= 2 * hop["tolerance"] * scale
        hop["ties"] = int((flipped & tie).sum())
        flipped &= ~tie
    hop["decisions_equal"] = int(same.sum())
    if flipped.sum() > hop["decision_tolerance"] * len(same):
        failures.append(
            f"{flipped.sum()} of {len(same)} rows get another answer "
            f"(at most {hop['decision_tolerance']:.1%}), row {int(flipped.argmax())} first"
        )


def _judge_metric(
    hop: dict[str, Any],
    before: _Outputs,
    after: _Outputs,
    targets: np.ndarray | None,
    failures: list[str],
) -> None:
    if targets is None:
        return
    hop["metric_before"] = float((before.answers == targets).mean())
    hop["metric_after"] = float((after.answers == targets).mean())
    drop = hop["metric_before"] - hop["metric_after"]
    allowed = hop["metric_tolerance"] + hop["ties"] / len(targets)
    if drop > allowed + 1e-12:
        failures.append(
            f"accuracy falls from {hop['metric_before']:.4f} to {hop['metric_after']:.4f} "
            f"(at most {allowed:.4f} lost)"
        )


def _judge_probabilities(
    hop: dict[str, Any], before: _Outputs, after: _Outputs, scale: float, failures: list[str]
) -> None:
    """Against the softmax of the form's own logits, and with numbers judged, the form before's."""
    tolerance = hop["tolerance"]
    shifted = np.exp(after.logits - after.logits.max(1, keepdims=True))
    own = shifted / shifted.sum(1, keepdims=True)
    error = float(np.abs(after.probabilities - own).max())
    allowed = QUANTIZED_PROBABILITY_TOLERANCE if tolerance is None else tolerance
    if not error <= allowed:
        failures.append(
            f"the probabilities are not the softmax of the logits: off by {error:.2g} "
            f"(at most {allowed:g})"
        )
    if tolerance is not None:
        error = float(np.abs(after.probabilities - before.probabilities).max())
        if not error <= tolerance * max(1.0, scale):
            failures.append(
                f"a probability is off by {error:.2g} (at most {tolerance * max(1.0, scale):.2g})"
            )


def _judge_batches(
    hop: dict[str, Any],
    after: Session,
    rows: tuple[np.ndarray, _Outputs],
    edges: tuple[np.ndarray, _Outputs],
    scale: float,
    failures: list[str],
) -> None:
    """The answer for a row must not depend on the batch that it is in."""
    errors, flips, total = [0.0], 0, 0
    images, outputs = rows
    for inputs, known, batch_size in (
        (images[:ALONE_ROWS], outputs.logits[:ALONE_ROWS], 1),
        (edges[0], edges[1].logits, 1),
        (images[: 3 * ODD_BATCH][::-1], outputs.logits[: 3 * ODD_BATCH][::-1], ODD_BATCH),
    ):
        again = _run("after", after, inputs, batch_size)
        difference = np.abs(again.logits - known).max()
        errors.append(float(difference / max(scale, _largest(known))))
        flips += int((again.answers != known.argmax(1)).sum())
        total += len(inputs)
    error = max(errors) if np.isfinite(errors).all() else np.inf
    hop["batch_error"] = _number(error)
    if hop["tolerance"] is not None and error > hop["tolerance"]:
        failures.append(
            f"a row's logits depend on the batch that it is in: off by {error:.2g} of the logit "
            f"scale (at most {hop['tolerance']:g})"
        )
    elif hop["tolerance"] is None and flips > max(1.0, hop["decision_tolerance"] * total):
        failures.append(f"{flips} of {total} answers depend on the batch that the row is in")


def _run(side: str, session: Session, images: np.ndarray, batch_size: int = BATCH_SIZE) -> _Outputs:
    logits: list[np.ndarray] = []
    probabilities: list[np.ndarray] = []
    for start in range(0, len(images), batch_size):
        batch = np.ascontiguousarray(images[start : start + batch_size])
        try:
            outputs = session({"image": batch})
        except Exception as error:  # any runtime's own error: the form is not the same model
            text = str(error).strip().splitlines() or [type(error).__name__]
            raise _RunError(
                f"the form {side} cannot run a batch of {len(batch)}: {text[0]}"
            ) from error
        for key, parts in (("logits", logits), ("probabilities", probabilities)):
            value = np.asarray(outputs[key], np.float64)
            if value.ndim != 2 or len(value) != len(batch):
                raise _RunError(
                    f"the form {side} gives {key} of shape {value.shape} for {len(batch)} images"
                )
            parts.append(value)
    return _Outputs(np.concatenate(logits), np.concatenate(probabilities))


def _locate(locate: Locate | None, probe: np.ndarray) -> Located:
    if locate is None:
        return Located(None, "no search was asked for")
    try:
        return locate(probe)
    except Exception as error:  # the hop has failed already; its report must not be lost
        return Located(None, f"the search for the node failed: {str(error).splitlines()[0]}")


def _largest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

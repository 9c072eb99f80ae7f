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
from modelwright.core.goals import METRICS
from modelwright.core.signature import Signature
from modelwright.data.rows import Rows
from modelwright.export.decisions import judge_agreement
from modelwright.export.edges import edge_inputs
from modelwright.export.locate import Located, unoptimised
from modelwright.measure.quality import real_places
from modelwright.models.catalog import ModelSpec
from modelwright.models.heads import HEADS, Head
from modelwright.runtime.catalog import Session
from modelwright.runtime.onnx_session import inference_session, run
from modelwright.tasks.catalog import Task

FLOAT_TOLERANCE = 1e-4
INT8_DECISION_TOLERANCE = 0.02
KERNEL_TOLERANCE = 0.1  # of the logit scale, see check_kernels
QUANTIZED_PROBABILITY_TOLERANCE = 0.05  # an int8 softmax counts in steps of 1/256
BATCH_SIZE = 64
ODD_BATCH = 7
ALONE_ROWS = 12
LOCATE_ROWS = 4

Locate = Callable[[Mapping[str, np.ndarray]], Located]


def check_hop(
    name: str,
    before: Session,
    after: Session,
    rows: Rows,
    spec: ModelSpec,
    task: Task,
    *,
    tolerance: float | None = FLOAT_TOLERANCE,
    decision_tolerance: float = 0.0,
    metric_tolerance: float = 0.0,
    locate: Locate | None = None,
) -> dict[str, Any]:
    """Judge one hop from one form of a model to the next, on real rows and on edge inputs.

    It passes if both give finite numbers everywhere, the numbers and decisions agree, the metric
    holds, probabilities are the softmax of the logits, and each row's answer is the same alone,
    in an odd batch and in a large one.

    Args:
        rows: real ones, a thousand or more.
        tolerance: largest error of a number that comes out, relative to the largest of all rows.
            None leaves the numbers unjudged, which is for quantized forms: there, decisions
            count, also between batches, since dynamic quantization scales by the whole batch.
        decision_tolerance: share of decisions that may change: one a row, or one a place where
            each place has an answer. With a tolerance for numbers, decisions whose two best
                logits lie within it are ties and may flip as well; without one, those to an answer
            that the head takes for as good (Head.toss).
        metric_tolerance: how much of the task's metric may be lost, as a share.
        locate: finds the first differing node on a few rows; called only if the hop fails.
    Returns: the hop as parity.json holds it, with `failures`, a list of sentences, and
        `located`, how the node was found or why not.
    Raises: DataError without rows.
    """
    if not len(rows):
        raise DataError("parity: no rows", expected="at least one row")
    edges = edge_inputs(spec)
    hop: dict[str, Any] = {
        "name": name,
        "rows": len(rows),
        "edge_inputs": edges.origins,
        "max_error": None,
        "tolerance": tolerance,
        "decisions_equal": 0,
        "decisions_total": 0,
        "ties": 0,
        "decision_tolerance": decision_tolerance,
        "batch_error": None,
        "metric": task.look,
        "metric_before": None,
        "metric_after": None,
        "metric_tolerance": metric_tolerance,
    }
    probe = rows.batch(np.arange(min(LOCATE_ROWS, len(rows))))
    failures: list[str] = []
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # infinities are judged, not warned of
            failures, probe = _judge(hop, before, after, rows, edges, spec, task)
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
    rows: Rows,
    spec: ModelSpec,
    task: Task,
    *,
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
    as_written = _GraphSession(unoptimised(graph.read_bytes()), spec.signature)
    fast = _GraphSession(inference_session(graph, threads), spec.signature)
    hop = check_hop(
        "int8 graph → int8 kernels", as_written, fast, rows, spec, task, tolerance=None,
        decision_tolerance=decision_tolerance, metric_tolerance=metric_tolerance,
    )  # fmt: skip
    error = hop["max_error"]
    if error is not None and error > KERNEL_TOLERANCE:
        hop["failures"].append(
            f"a number is off by {error:.2g} of its scale (at most {KERNEL_TOLERANCE})"
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


class _RunError(Exception):
    """A session raised, or gave something that is no answer; the text says which."""


@dataclass(frozen=True)
class _Outputs:
    """What a form gave, at every real place of every row, one after the other.

    judged: (places, n) float64, the first output; read: (places, m), the second, for people
    rows: (places,), which row each place belongs to
    table: what the task's statistics say of each row; None where there are no targets
    """

    judged: np.ndarray
    read: np.ndarray
    rows: np.ndarray
    table: np.ndarray | None

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.judged).all() and np.isfinite(self.read).all())

    @property
    def answers(self) -> np.ndarray:
        return np.asarray(self.judged.argmax(1))


class _GraphSession:
    """An open ONNX Runtime session as a Session."""

    def __init__(self, session: Any, signature: Signature) -> None:
        self._session, self.signature = session, signature

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [one.name for one in self.signature.outputs]
        return run(self._session, batch, names)

    def close(self) -> None:
        del self._session


def _judge(
    hop: dict[str, Any], before: Session, after: Session, rows: Rows, edges: Rows,
    spec: ModelSpec, task: Task,
) -> tuple[list[str], dict[str, np.ndarray]]:  # fmt: skip
    """Fill in the hop's figures; gives the failures, and a batch of rows that show them most."""
    tolerance, failures = hop["tolerance"], []
    head = HEADS[spec.outputs["kind"]]
    labels = spec.outputs.get("labels", ())

    def both(part: Rows, judge: Task | None) -> list[_Outputs]:
        every = np.arange(len(part))
        return [
            _run(side, session, part, every, spec, judge, labels)
            for side, session in (("before", before), ("after", after))
        ]

    (rows_before, rows_after), (edges_before, edges_after) = both(rows, task), both(edges, None)
    if not (rows_before.finite and edges_before.finite):
        failures.append("the form before gives NaN or infinity")
    if not (rows_after.finite and edges_after.finite):
        failures.append("the form after gives NaN or infinity")
    scale = max(_largest(rows_before.judged), 1e-6)
    edge_scale = max(_largest(edges_before.judged), 1e-6)
    errors = [
        np.abs(one.judged - other.judged).max(1) / size
        for one, other, size in (
            (rows_after, rows_before, scale), (edges_after, edges_before, edge_scale)
        )
    ]  # fmt: skip
    for part in errors:
        part[~np.isfinite(part)] = np.inf
    largest = max(float(part.max()) for part in errors)
    hop["max_error"] = _number(largest)
    if tolerance is not None and not largest <= tolerance:
        failures.append(f"a number is off by {largest:.2g} of its scale (at most {tolerance:g})")
    worst, found, of = (
        (edges, errors[1], edges_after) if errors[1].max() > errors[0].max()
        else (rows, errors[0], rows_after)
    )  # fmt: skip
    shown = np.unique(of.rows[np.argsort(-found, kind="stable")])[:LOCATE_ROWS]

    if head.decides:
        _judge_decisions(hop, rows_before, rows_after, scale, head, failures)
        if spec.signature.outputs[1].name == "probabilities":
            _judge_softmax(hop, rows_after, failures)
    elif hasattr(task.logic, "agreement"):
        first, second = ((one.judged, one.read) for one in (rows_before, rows_after))
        failures += judge_agreement(hop, first, second, spec, task)
    _judge_read(hop, rows_before, rows_after, failures)
    if not task.acting:  # the same decisions in the same places are the same episodes
        _judge_metric(hop, rows_before, rows_after, task, head.decides, failures)
    _judge_batches(
        hop, after, (rows, rows_after), (edges, edges_after), spec, head.decides, failures
    )
    return failures, worst.batch(shown)


def _judge_decisions(
    hop: dict[str, Any], before: _Outputs, after: _Outputs, scale: float, head: Head,
    failures: list[str],
) -> None:  # fmt: skip
    same = before.answers == after.answers
    flipped = ~same
    if hop["tolerance"] is not None:  # both of the two best may move by the tolerance
        best = np.sort(before.judged, axis=1)[:, -2:]
        tie = (best[:, -1] - best[:, 0]) <= 2 * hop["tolerance"] * scale
        hop["ties"] = int((flipped & tie).sum())
        flipped &= ~tie
    elif head.toss is not None:
        every, near = np.arange(len(same)), head.toss(before.judged)
        lost = before.judged[every, before.answers] - before.judged[every, after.answers]
        hop["ties"] = int((flipped & (lost <= near)).sum())
        flipped &= lost > near
    hop["decisions_equal"], hop["decisions_total"] = int(same.sum()), len(same)
    if flipped.sum() > hop["decision_tolerance"] * len(same):
        failures.append(
            f"{flipped.sum()} of {len(same)} decisions change (at most "
            f"{hop['decision_tolerance']:.1%}), in row {before.rows[flipped.argmax()]} first"
        )


def _judge_metric(
    hop: dict[str, Any], before: _Outputs, after: _Outputs, task: Task, decides: bool,
    failures: list[str],
) -> None:  # fmt: skip
    assert before.table is not None and after.table is not None
    name = task.look
    hop["metric_before"] = task.values(before.table)[name]
    hop["metric_after"] = task.values(after.table)[name]
    error = METRICS[name].error
    drop = error(hop["metric_after"]) - error(hop["metric_before"])
    allowed = hop["metric_tolerance"]
    if decides and METRICS[name].unit == "share":
        allowed += hop["ties"] / max(1, hop["decisions_total"])
    else:  # of numbers, a share of the metric itself
        allowed = max(allowed, hop["tolerance"] or 0.0) * max(1.0, abs(hop["metric_before"]))
    if drop > allowed + 1e-12:
        failures.append(
            f"{name} goes from {hop['metric_before']:.4f} to {hop['metric_after']:.4f} "
            f"(at most {allowed:.4f} lost)"
        )


def _judge_softmax(hop: dict[str, Any], after: _Outputs, failures: list[str]) -> None:
    """Probabilities against the softmax of the form's own logits."""
    shifted = np.exp(after.judged - after.judged.max(1, keepdims=True))
    own = shifted / shifted.sum(1, keepdims=True)
    error = float(np.abs(after.read - own).max())
    tolerance = hop["tolerance"]
    allowed = QUANTIZED_PROBABILITY_TOLERANCE if tolerance is None else tolerance
    if not error <= allowed:
        failures.append(
            f"the probabilities are not the softmax of the logits: off by {error:.2g} "
            f"(at most {allowed:g})"
        )


def _judge_read(
    hop: dict[str, Any], before: _Outputs, after: _Outputs, failures: list[str]
) -> None:
    """With numbers judged, what people read against the form before's."""
    if hop["tolerance"] is None:
        return
    error = float(np.abs(after.read - before.read).max())
    allowed = hop["tolerance"] * max(1.0, _largest(before.judged), _largest(before.read))
    if not error <= allowed:
        failures.append(f"a final value is off by {error:.2g} (at most {allowed:.2g})")


def _judge_batches(
    hop: dict[str, Any],
    after: Session,
    rows: tuple[Rows, _Outputs],
    edges: tuple[Rows, _Outputs],
    spec: ModelSpec,
    decides: bool,
    failures: list[str],
) -> None:
    """The answer for a row must not depend on the batch that it is in."""
    errors, flips, total = [0.0], 0, 0
    scale = max(_largest(rows[1].judged), 1e-6)
    few, odd = np.arange(min(ALONE_ROWS, len(rows[0]))), 3 * ODD_BATCH
    for (part, known), chosen, batch_size in (
        (rows, few, 1),
        (edges, np.arange(len(edges[0])), 1),
        (rows, np.arange(min(odd, len(rows[0])))[::-1], ODD_BATCH),
    ):
        again = _run("after", after, part, chosen, spec, None, (), batch_size)
        before = np.concatenate([known.judged[known.rows == row] for row in chosen])
        difference = np.abs(again.judged - before).max()
        errors.append(float(difference / max(scale, _largest(before))))
        flips += int((again.answers != before.argmax(1)).sum())
        total += len(before)
    error = max(errors) if np.isfinite(errors).all() else np.inf
    hop["batch_error"] = _number(error)
    if hop["tolerance"] is not None and error > hop["tolerance"]:
        failures.append(
            f"a row's numbers depend on the batch that it is in: off by {error:.2g} of their "
            f"scale (at most {hop['tolerance']:g})"
        )
    elif (
        decides and hop["tolerance"] is None and flips > max(1.0, hop["decision_tolerance"] * total)
    ):
        failures.append(f"{flips} of {total} answers depend on the batch that the row is in")


def _run(
    side: str, session: Session, rows: Rows, chosen: np.ndarray, spec: ModelSpec,
    task: Task | None, labels: Sequence[str], batch_size: int = BATCH_SIZE,
) -> _Outputs:  # fmt: skip
    """Every output of the rows `chosen`, in that order."""
    parts: dict[str, list[np.ndarray]] = {one.name: [] for one in spec.signature.outputs}
    owners: list[np.ndarray] = []
    statistics: list[np.ndarray] = []
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size]
        arrays = rows.batch(part)
        try:
            outputs = session(arrays)
        except Exception as error:  # any runtime's own error: the form is not the same model
            text = str(error).strip().splitlines() or [type(error).__name__]
            raise _RunError(
                f"the form {side} cannot run a batch of {len(part)}: {text[0]}"
            ) from error
        judged, places, lengths = spec.signature.outputs[0], rows.places(spec.signature), None
        if places is not None:
            lengths = places[part]
        elif judged.over_time:  # windows, all of one length
            lengths = judged.places(np.full(len(part), next(iter(arrays.values())).shape[1]))
        for one in spec.signature.outputs:
            value = np.asarray(outputs[one.name], np.float64)
            if value.ndim != len(one.shape) or len(value) != len(part):
                raise _RunError(
                    f"the form {side} gives {one.name} of shape {value.shape} for {len(part)} rows"
                )
            real = real_places(value, lengths)
            parts[one.name].append(real.reshape(len(real), -1))
        repeats = np.ones_like(part)  # one place a row, but where each place has an answer
        if lengths is not None:
            repeats = lengths
        owners.append(np.repeat(part, repeats))
        if task is not None and not task.acting:
            statistics.append(task.logic.statistics(outputs, rows.batch_targets(part), labels))
    scores, read = (np.concatenate(value) for value in parts.values())
    table = task.whole(np.concatenate(statistics)) if task is not None and statistics else None
    return _Outputs(scores, read, np.concatenate(owners), table)


def _locate(locate: Locate | None, probe: Mapping[str, np.ndarray]) -> Located:
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

"""Judge the chosen model on the test part and the target: a certificate, or the nearest misses.

This is the only place that opens the test part, and it does so once per run.
"""

import base64
import functools
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import torch

from modelwright.core.artifact import Artifact
from modelwright.core.goals import METRICS, Goal
from modelwright.core.hardware import this_machine
from modelwright.core.recipe import Recipe
from modelwright.data.image import encode_png
from modelwright.data.rows import Rows, typical
from modelwright.data.shared import Shared
from modelwright.measure.compare import Difference, compare
from modelwright.measure.quality import Quality, evaluate, interval_of
from modelwright.measure.timing import Latency, least_disturbed, measure_pair
from modelwright.runtime.answering import outputs_of
from modelwright.runtime.catalog import Session, WritingSession, open_session
from modelwright.tasks.catalog import Task, task_of, tasks_of

MISTAKES = 24
SAMPLES = 24
SAMPLE_BYTES = 2**21  # of all pixels, before they are packed
EXAMPLES = 6
RANKED = 8
TIMED_SECONDS = 6.0  # of the chosen graph and the uncompressed one, in turns


def certify(
    recipe: Recipe,
    chosen: Artifact,
    baseline: Artifact,
    trained: Artifact,
    test: Rows,
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """Measure and judge; gives certificate.json (docs/reference/run-folder.md).

    Args:
        baseline: the uncompressed graph, timed in turns with the chosen one.
        trained: the model that was trained, for the drop in quality.
    """
    target, task = recipe.target, task_of(recipe)
    name = task.metric
    session = open_session(chosen, threads=target.threads)
    plain = open_session(baseline, threads=target.threads)
    parent = open_session(trained, threads=this_machine().cores)
    try:
        judging = "certify: batches of test judged"
        quality = evaluate(session, test, task, trained.labels, what=judging)
        before = evaluate(parent, test, task, trained.labels, what=f"{judging}, as trained")
        differences = {one.metric: compare(before, quality, one) for one in tasks_of(recipe)}
        texts = worst_texts(session, quality, test, task, trained.labels)
        batch = test.batch(typical(test, target.batch_size))
        examples = _examples(session, test, task, trained.labels)
        timed = functools.partial(measure_pair, session, plain, batch, max_seconds=TIMED_SECONDS)
        pair, times = least_disturbed(timed, recipe.bounds, of=lambda pair: pair.first)
    finally:
        for one in (session, plain, parent):
            one.close()
    size_mb = chosen.model_bytes / 1e6
    protocol = task.protocol(session.decode, test, trained.labels)
    goals = {
        goal.name: _judge(goal, task, quality, differences, pair.first, size_mb)
        for goal in recipe.bounds
    }
    missed = [name for name, goal in goals.items() if not goal["met"]]
    difference = differences[name]
    machine = this_machine()
    return {
        "verdict": "infeasible" if missed else "certified",
        "text": _text(goals, missed, quality),
        "goals": goals,
        "rows": quality.rows,
        "metric": name,
        **({"protocol": protocol} if protocol else {}),
        **quality.values,
        f"{name}_low": quality.low,
        f"{name}_high": quality.high,
        f"parent_{name}": before.value,
        "drop": {"value": difference.drop, "low": difference.low, "high": difference.high,
                 "flipped": difference.flipped},
        "latency": {**pair.first.to_json(), "measurements": times},
        "speedup": {"value": pair.ratio and 1 / pair.ratio,
                    "low": pair.ratio_high and 1 / pair.ratio_high,
                    "high": pair.ratio_low and 1 / pair.ratio_low},
        "baseline": {
            "size_mb": baseline.model_bytes / 1e6,
            "latency_p50_ms": pair.second.p50_ms,
            "latency_p99_ms": pair.second.p99_ms,
            name: before.value,
        },
        "size_mb": size_mb,
        **examples,
        **({"curves": task.logic.curves(quality.statistics, trained.labels)} if examples else {}),
        **(_mistakes(quality, test, trained.labels) if task.outputs == "classes" else {}),
        **({"episodes": {key: value.tolist() for key, value in quality.outputs.items()}}
           if task.acting else {}),
        **({"texts": texts} if texts else {}),
        **({"ranked": _ranked(quality, test, task)} if hasattr(task.logic, "ranked") else {}),
        "machine": machine.to_json(),
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "digests": dict(digests),
    }  # fmt: skip


def infeasible(
    candidates: Sequence[Mapping[str, Any]], bounds: Sequence[Goal], where: str
) -> dict[str, Any]:
    """The certificate's part for a refusal: nearest misses, binding goal, what would give.

    Args:
        candidates: each with "name" and its "values" by goal name.
        where: on which rows or how the values were found, for the text.
    """
    misses = []
    for candidate in candidates:
        values = candidate["values"]
        missed = {
            goal.name: {"bound": goal.text, "measured": values[goal.name]}
            for goal in bounds
            if goal.name in values and not goal.met_by(values[goal.name])
        }
        if missed:
            misses.append({"candidate": candidate["name"], "missed": missed})
    misses.sort(key=lambda miss: (len(miss["missed"]), _distance(miss["missed"], bounds)))
    if not misses:
        return {"nearest_misses": [], "binding_goal": None, "relax": ""}
    counts = {goal.name: sum(goal.name in miss["missed"] for miss in misses) for goal in bounds}
    worst = max(
        (goal for goal in bounds if counts[goal.name]),
        key=lambda goal: (counts[goal.name], _nearest_gap(goal, misses)),
    )
    values = [miss["missed"][worst.name]["measured"] for miss in misses
              if worst.name in miss["missed"]]  # fmt: skip
    best = max(values) if worst.op == ">=" else min(values)
    if worst.name == "size_mb" or worst.name.startswith("latency_"):
        found = "by prediction" if where.startswith("by prediction") else "on the target"
        others = "or ask for a smaller model.size or harder pruning"
    else:
        found, others = where, "or spend more on training, or bring other data"
    return {
        "nearest_misses": misses[:5],
        "binding_goal": worst.name,
        "relax": f"{worst.name} binds: asked {worst.text}, the nearest was {best:.4g} {found}. "
        f"Relax {worst.key} to {_relaxed(worst, best)}, {others}.",
        "relaxed": {
            "key": worst.key,
            "bounds": [
                _relaxed(goal, best) if goal is worst else goal.as_written
                for goal in bounds
                if goal.key == worst.key
            ],
        },
    }


def _relaxed(goal: Goal, best: float) -> str:
    """The bound that `best` meets, as a recipe says it; rounded to the loose side."""
    digits = 10.0 ** (3 - math.floor(math.log10(abs(best) or 1.0)))
    towards = math.floor if goal.op == ">=" else math.ceil
    return replace(goal, bound=towards(best * digits) / digits).as_written


def samples(test: Rows, labels: Sequence[str]) -> list[dict[str, str]]:
    """Some test rows as people see them, a few of each class, for the server's page."""
    most = SAMPLES
    if isinstance(pixels := test.inputs.get("image"), np.ndarray):
        most = max(4, min(most, SAMPLE_BYTES // pixels[0].nbytes))
    order = np.arange(min(most, len(test)))
    for column in test.inputs.values():  # of rows that share a picture, one
        if isinstance(column, Shared):
            order = column.firsts()[:SAMPLES]
    classes = bool(labels) and isinstance(test.targets, np.ndarray) and test.targets.ndim == 1
    if classes:
        order = np.argsort(_turn(test.classes), kind="stable")[:most]
    return [
        {
            **_shown(test, int(row)),
            "label": labels[int(test.classes[row])] if classes else "",
        }
        for row in order
    ]


def _shown(rows: Rows, row: int) -> dict[str, str]:
    """A row as a picture, as the text that it is, or as both."""
    picture = {"image": _data_url(rows.inputs["image"][row])} if "image" in rows.inputs else {}
    text = {} if picture and "ids" not in rows.inputs else {"text": rows.origins[row]}
    if "observation" in rows.inputs:
        seen = rows.inputs["observation"][row][-1]
        text = {"text": ", ".join(f"{value:.4g}" for value in seen)}
    return {**picture, **text}


def _examples(
    session: Session, test: Rows, task: Task, labels: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Some test pictures with what was found in them and what is there, where that can be drawn."""
    if not hasattr(task.logic, "truth"):
        return {}
    shown = []
    for row in range(min(EXAMPLES, len(test))):
        here = np.array([row])
        outputs = {name: value[0] for name, value in session(test.batch(here)).items()}
        height, width = test.images.shape[2:]
        shown.append({
            **_shown(test, row), "row": row, "width": int(width), "height": int(height),
            "found": task.logic.answer(outputs, labels)["boxes"],
            "true": task.logic.truth(test.batch_targets(here)[0], labels),
        })  # fmt: skip
    return {"examples": shown}


def _mistakes(quality: Quality, test: Rows, labels: Sequence[str]) -> dict[str, Any]:
    return {
        **quality.by_class(),
        "mistakes": worst_mistakes(quality, test, labels),
    }


def _ranked(quality: Quality, rows: Rows, task: Task) -> list[dict[str, Any]]:
    """Some rows with what they found first among all, as people see them."""
    found = task.logic.ranked(quality.outputs, quality.targets, RANKED)
    return [
        {
            **{key: value for key, value in one.items() if key != "best"},
            "image": _shown(rows, one["row"])["image"],
            "best": [{**best, "text": rows.origins[best["row"]]} for best in one["best"]],
        }
        for one in found
    ]


def worst_mistakes(quality: Quality, rows: Rows, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The wrong answers that the model was surest of, as people see them."""
    wrong = np.flatnonzero(~quality.correct)
    sureness = quality.probabilities[wrong, quality.answers[wrong]]
    return [
        {
            "row": int(row),
            "truth": labels[int(quality.targets[row])],
            "answer": labels[int(quality.answers[row])],
            "probability": float(quality.probabilities[row, quality.answers[row]]),
            **_shown(rows, int(row)),
        }
        for row in wrong[np.argsort(-sureness, kind="stable")][:MISTAKES]
    ]


def worst_texts(
    session: WritingSession, quality: Quality, rows: Rows, task: Task, labels: Sequence[str]
) -> list[dict[str, str]]:
    """Where answers are texts: those with the most errors, beside the true ones."""
    if not hasattr(task.logic, "text_of"):
        return []
    metric = METRICS[task.metric]
    errors = np.array([
        metric.error(task.values(quality.statistics[row : row + 1]).get(metric.name, metric.best))
        for row in range(len(rows))
    ])  # fmt: skip
    found = []
    for row in np.argsort(-errors, kind="stable")[:MISTAKES]:
        if errors[row] > 0:
            outputs = outputs_of(session, rows.batch(np.array([row])), task, {})
            said = task.logic.answer({name: one[0] for name, one in outputs.items()}, labels)
            truth = task.logic.text_of(rows.batch_targets(np.array([row]))[0], labels)
            found.append({"truth": truth, "answer": said["answer"], **_shown(rows, int(row))})
    return found


def _judge(
    goal: Goal, task: Task, quality: Quality, differences: Mapping[str, Difference],
    latency: Latency, size_mb: float,
) -> dict[str, Any]:  # fmt: skip
    low: float | None
    high: float | None
    measure = goal.name.removesuffix("_drop")
    if goal.name in differences:
        value = quality.values[measure]
        low, high = interval_of(quality, replace(task, judged_by=measure))
    elif measure in differences:
        change = differences[measure]
        value, low, high = change.drop, change.low, change.high
    elif goal.name == "size_mb":
        value = low = high = size_mb
    else:
        percentile = goal.name.removeprefix("latency_")
        value = getattr(latency, percentile)
        low = getattr(latency, percentile.replace("_ms", "_low_ms"))
        high = getattr(latency, percentile.replace("_ms", "_high_ms"))
    unit = METRICS[measure].unit
    return {
        "bound": goal.text, "measured": value, "low": low, "high": high,
        "met": bool(goal.met_by(value)), "unit": unit, "confidence": 0.95,
    }  # fmt: skip


def _text(goals: Mapping[str, Any], missed: Sequence[str], quality: Quality) -> str:
    if missed:
        return f"Missed on {quality.rows:,} test rows: {', '.join(missed)}."
    unsure = [
        name for name, goal in goals.items()
        if not _clears(goal["bound"], goal["low"], goal["high"])
    ]  # fmt: skip
    if not goals:
        return "No goal was set: this certifies only that what ships is what was trained."
    text = f"All {len(goals)} goals hold on {quality.rows:,} test rows and the target runtime."
    if quality.rows == 1 and quality.low == quality.high:
        text += " One row says nothing of others: there is no interval."
    if unsure:
        text += f" The 95 % interval does not rule out a miss of: {', '.join(unsure)}."
    return text


def _clears(bound: str, low: float | None, high: float | None) -> bool:
    op, number = bound.split()
    end = low if op == ">=" else high
    return end is not None and (end >= float(number) if op == ">=" else end <= float(number))


def _distance(missed: Mapping[str, Any], bounds: Sequence[Goal]) -> float:
    """How far a candidate is from its goals: the sum of relative gaps."""
    goals = {goal.name: goal for goal in bounds}
    return sum(_gap(goals[name], entry["measured"]) for name, entry in missed.items())


def _gap(goal: Goal, value: float) -> float:
    """Relative distance to the bound; for shares near one, relative to the errors allowed."""
    if goal.op == ">=":
        metric = METRICS[goal.name]
        room = metric.best - goal.bound if metric.bounded else abs(goal.bound)
        return (goal.bound - value) / max(room, 1e-3)
    return (value - goal.bound) / max(abs(goal.bound), 1e-3)


def _nearest_gap(goal: Goal, misses: Sequence[Mapping[str, Any]]) -> float:
    gaps = [_gap(goal, miss["missed"][goal.name]["measured"]) for miss in misses
            if goal.name in miss["missed"]]  # fmt: skip
    return min(gaps)


def _turn(targets: np.ndarray) -> np.ndarray:
    """For each row, how many rows of its class came before it."""
    seen: dict[int, int] = {}
    turns = np.empty(len(targets), np.int64)
    for index, target in enumerate(targets.tolist()):
        turns[index] = seen.get(target, 0)
        seen[target] = turns[index] + 1
    return turns


def _data_url(image: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()

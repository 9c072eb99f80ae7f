"""Read run folders: what is there, what is missing, and each figure predicted beside measured.

`collect` reads one run whole, `collect_runs` several for a small table. Nothing here stops at a
missing stage: the report of a run that failed matters most. A file that cannot be read becomes a
notice in the report. The files and their keys are listed in docs/reference/run-folder.md.
"""

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelwright.core.errors import ConfigError
from modelwright.core.goals import METRICS, Metric
from modelwright.core.recipe import QUALITY_OF, Recipe
from modelwright.core.recipe_file import read
from modelwright.core.run import STAGES, Run, refusal

FILES = {  # what each stage leaves, relative to the run's folder
    "gate": "data/data.json",
    "plan": "plan/plan.json",
    "train": "train/model/manifest.json",
    "compress": "compress/compress.json",
    "export": "export/parity.json",
    "certify": "certify/certificate.json",
}
LISTS = (  # what tables and charts take for one; depth: of its lists of counts, 0 holds anything
    *(("gate", key, 0) for key in ("labels", "checked", "inputs.channels", "outputs.labels")),
    *(("gate", f"class_counts.{part}", 1) for part in ("train", "valid", "test")),
    *(("certify", f"latency.histogram.{key}", 1) for key in ("counts", "edges_ms")),
    ("certify", "confusion", 2),
    ("certify", "confused", 2),
)


@dataclass(frozen=True)
class Pair:
    """One figure, predicted beside measured; either may be missing."""

    subject: str
    name: str
    unit: str
    predicted: float | None = None
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    how: str = ""  # of the measurement, or of the prediction while there is no measurement

    @property
    def error(self) -> float | None:
        """How far the prediction was off, as a share of the measured value; below 0 is too low.

        >>> Pair("run", "epoch_s", "s", predicted=9.0, measured=10.0).error
        -0.1
        """
        if self.predicted is None or not self.measured:
            return None
        return (self.predicted - self.measured) / self.measured


@dataclass(frozen=True)
class Stage:
    """One stage: `state` is done, stopped or missing; spans are (start, seconds) of each try."""

    name: str
    state: str
    seconds: float | None
    spans: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Life:
    """Everything that one run's folder says. A stage that left nothing is an empty dict."""

    name: str
    folder: Path
    recipe: Recipe | None
    recipe_text: str
    metric: Metric  # of the task: its name, unit and direction
    look: Metric  # what was judged while training: the same, unless that takes too long
    data: dict[str, Any]
    plan: dict[str, Any]
    trained: dict[str, Any]
    compress: dict[str, Any]
    parity: dict[str, Any]
    certificate: dict[str, Any]
    deploy: dict[str, Any]
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    events: list[dict[str, Any]]
    stages: tuple[Stage, ...]
    pairs: tuple[Pair, ...]
    verdict: str  # certified, infeasible, refused or unfinished
    reason: str
    started: str
    seconds: float | None
    notices: tuple[str, ...]

    @property
    def origin(self) -> str:
        """The name of the run whose trained model this one began with; empty where that is its
        own."""
        began = next((event for event in self.events if event["event"] == "started"), {})
        return Path(str(began.get("origin", ""))).name


def collect(run: Run) -> Life:
    """One run's folder as values, with its verdict; an incomplete folder is no error.

    Raises: ConfigError if the folder has neither a ledger nor a recipe.
    """
    folder = run.folder
    if not run.ledger.is_file() and not (folder / "recipe.yaml").is_file():
        raise ConfigError(
            f"{folder} is not a run folder", expected="a folder with recipe.yaml and run.jsonl"
        )
    notices: list[str] = []
    found = {stage: _object(folder / name, notices) for stage, name in FILES.items()}
    _leave_out_no_lists(found, notices)
    deploy = _object(folder / "deploy/manifest.json", notices)
    events = [e for e in _lines(run.ledger, notices) if "event" in e and "stage" in e]
    metrics = _lines(folder / "train/metrics.jsonl", notices)
    text, recipe = _recipe(folder / "recipe.yaml", notices)
    stages = _stages(run, events)
    asked = {goal.name for goal in recipe.bounds} if recipe else set()
    verdict, reason = _verdict({**found, "deploy": deploy}, events, stages, notices, asked)
    times = [time for event in events if (time := _clock(event)) is not None]
    known = [stage.seconds for stage in stages if stage.seconds is not None]
    seconds = sum(known) if known else times[-1] - times[0] if len(times) > 1 else None
    metric = _metric(recipe, found, deploy)
    evaluations = [line for line in metrics if any(key.startswith("valid_") for key in line)]
    life = Life(
        name=folder.resolve().name, folder=folder, recipe=recipe, recipe_text=text,
        metric=metric, look=_look(metric, found["plan"], evaluations),
        data=found["gate"], plan=found["plan"], trained=found["train"], compress=found["compress"],
        parity=found["export"], certificate=found["certify"], deploy=deploy,
        steps=[line for line in metrics if "loss" in line],
        evaluations=evaluations,
        events=events, stages=stages, pairs=(), verdict=verdict, reason=reason,
        started=str(events[0].get("time", "")) if events else "", seconds=seconds,
        notices=tuple(notices),
    )  # fmt: skip
    return replace(life, pairs=tuple(_pairs(life)))


def collect_runs(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """One row a run: run, verdict, metric, its value, size_mb, latency_p99_ms, minutes, reason.

    The value has the name of the metric: {"metric": "f1", "f1": 0.93, …}.
    A folder that is no run keeps its row, with the verdict "no run". Figures that a run has not
    measured are None.
    """
    rows: list[dict[str, Any]] = []
    for folder in folders:
        row: dict[str, Any] = {"run": folder.name, "folder": str(folder)}
        try:
            life = collect(Run(folder))
        except ConfigError as error:
            empty = dict.fromkeys(("metric", "size_mb", "latency_p99_ms", "minutes"))
            rows.append({**row, "verdict": "no run", **empty, "reason": error.what})
            continue
        proof, metric = life.certificate, life.metric.name
        rows.append({
            **row, "verdict": life.verdict, "metric": metric, metric: number(proof.get(metric)),
            "size_mb": number(proof.get("size_mb")),
            "latency_p99_ms": number(section(proof, "latency").get("p99_ms")),
            "minutes": None if life.seconds is None else life.seconds / 60, "reason": life.reason,
        })  # fmt: skip
    return rows


def _metric(
    recipe: Recipe | None, found: dict[str, dict[str, Any]], deploy: dict[str, Any]
) -> Metric:
    """What decided in the run; accuracy where no file says it."""
    told = [recipe.measures[0]] if recipe else []
    told.append(str(found["certify"].get("metric")))
    told += [QUALITY_OF.get(str(one.get("task")), ("",))[0] for one in (found["train"], deploy)]
    known = {name for name, one in METRICS.items() if one.quality}
    return METRICS[next((name for name in told if name in known), "accuracy")]


def _look(metric: Metric, plan: dict[str, Any], evaluations: Sequence[dict[str, Any]]) -> Metric:
    """By what the race says that it looked at, or the curves."""
    laps = [lap for one in rows(plan, "candidates") for lap in rows(one, "rounds")]
    raced = [str(lap["metric"]) for lap in laps if "metric" in lap]
    curves = [key.removeprefix("valid_") for line in evaluations for key in line]
    told = raced + [metric.name] * (metric.name in curves) + curves
    return METRICS[next((name for name in told if name in METRICS), metric.name)]


def section(value: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of a JSON object that should be an object, or an empty one."""
    part = value.get(key)
    return part if isinstance(part, dict) else {}


def rows(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A part of a JSON object that should be a list of objects; anything else is left out."""
    part = value.get(key)
    return [item for item in part if isinstance(item, dict)] if isinstance(part, list) else []


def number(value: Any) -> float | None:
    """The value if it is a finite number.

    >>> number(3), number(True), number("3"), number(float("nan"))
    (3, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < float("inf") else None


def _pairs(life: Life) -> Iterable[Pair]:
    """The winner's plan, then the ledger on top: what was recorded with its method wins."""
    pairs: dict[tuple[str, str], Pair] = {}
    winner = next(
        (c for c in rows(life.plan, "candidates") if c.get("name") == life.plan.get("winner")), {}
    )
    baseline = section(life.certificate, "baseline")
    size_mb = number(baseline.get("size_mb"))
    peak = [m for line in life.steps if (m := number(line.get("memory_bytes"))) is not None]
    predicted = section(winner, "predicted")
    known: list[tuple[str, str, Any, Any, str]] = [
        ("num_params", "", winner.get("num_params"),
         section(life.trained, "model").get("num_params"), "counted in the trained model"),
        ("forward_flops", "FLOPs", winner.get("forward_flops"), None, "counted, one example"),
        ("backward_flops", "FLOPs", winner.get("backward_flops"), None, "counted, one example"),
        ("memory_bytes", "bytes", predicted.get("memory_bytes"),
         max(peak, default=None), "peak while training"),
        ("epoch_s", "s", predicted.get("epoch_s"), None, ""),
        ("size_bytes", "bytes", predicted.get("size_bytes"),
         None if size_mb is None else size_mb * 1e6, "uncompressed model on disk"),
        ("latency_ms", "ms", predicted.get("latency_ms"), baseline.get("latency_p50_ms"),
         "uncompressed model on the target, median"),
    ]  # fmt: skip
    for name, unit, before, after, how in known:
        before, after = number(before), number(after)
        if before is not None or after is not None:
            how = how if after is not None or name.endswith("flops") else ""
            pairs["run", name] = Pair("run", name, unit, before, after, how=how)
    for event in life.events:
        figure, value = section(event, "number"), number(section(event, "number").get("value"))
        if event["event"] != "figure" or value is None:
            continue
        subject, name = str(event.get("subject", "run")), str(event.get("name", ""))
        if subject == life.plan.get("winner"):
            subject = "run"
        pair = pairs.get((subject, name), Pair(subject, name, str(figure.get("unit", ""))))
        pair = replace(pair, unit=str(figure.get("unit", pair.unit)))
        how = str(figure.get("how", ""))
        if figure.get("kind") == "predicted":
            pair = replace(pair, predicted=value, how=pair.how or how)
        else:
            low, high = number(figure.get("low")), number(figure.get("high"))
            pair = replace(pair, measured=value, low=low, high=high, how=how)
        pairs[subject, name] = pair
    return pairs.values()


def _verdict(
    found: dict[str, dict[str, Any]], events: list[dict[str, Any]], stages: tuple[Stage, ...],
    notices: list[str], asked: set[str],
) -> tuple[str, str]:  # fmt: skip
    """What may be claimed. Files that contradict each other never give "certified"."""
    proof, parity = found["certify"], found["export"]
    told = str(proof.get("text", ""))
    if proof.get("verdict") == "infeasible":
        return "infeasible", told
    if (last := refusal(events)) is not None:
        return "refused", str(last.get("text") or f"The stage {last['stage']} refused to go on.")
    if parity.get("passed") is False:
        return "refused", "The exported model does not agree with the trained one."
    if proof.get("verdict") == "certified":
        judged = section(proof, "goals")
        missed = [name for name in sorted(asked | set(judged))
                  if section(judged, name).get("met") is not True]  # fmt: skip
        if missed:
            notices.append(f"The certificate says certified, yet not met: {', '.join(missed)}.")
            return "refused", "The certificate contradicts itself, so it proves nothing."
        if stages[-1].state == "done":  # before that deploy/ is not yet what will ship
            shipped = section(section(found["deploy"], "files"), "model.onnx").get("sha256")
            if shipped and shipped == section(proof, "digests").get("model"):
                return "certified", told
            lacks = "not the one that was judged" if found["deploy"] else "not there"
            return "refused", f"The certificate stands, but the model in deploy/ is {lacks}."
    elif proof:
        notices.append(f"The certificate's verdict is {proof.get('verdict')!r}, which is unknown.")
    open_stage = next((stage.name for stage in stages if stage.state != "done"), None)
    if open_stage is None:
        return "unfinished", "Every stage says it is done, but there is no certificate to read."
    at = next(stage for stage in stages if stage.name == open_stage)
    what = "did not reach its end" if at.state == "stopped" else "has not begun"
    return "unfinished", f"The stage “{open_stage}” {what}."


def _stages(run: Run, events: list[dict[str, Any]]) -> tuple[Stage, ...]:
    """Each stage with its tries; a crash leaves a try that ends at its last event."""
    zero = next((time for event in events if (time := _clock(event)) is not None), 0.0)
    result = []
    for name in STAGES:
        spans: list[tuple[float, float]] = []
        begun: float | None = None
        last = zero
        for event in (event for event in events if event["stage"] == name):
            time = _clock(event)
            if time is None:
                continue
            if event["event"] == "stage_started":
                if begun is not None:
                    spans.append((begun - zero, last - begun))
                begun = time
            elif event["event"] in ("stage_finished", "stage_stopped"):
                seconds = number(event.get("seconds"))
                length = seconds if seconds is not None else time - (begun or time)
                start = begun if begun is not None else time - length
                spans.append((max(start - zero, 0.0), length))
                begun = None
            last = time
        if begun is not None:
            spans.append((begun - zero, last - begun))
        state = "done" if run.done(name) else "stopped" if spans else "missing"
        seconds = sum(length for _, length in spans) if spans else None
        result.append(Stage(name, state, seconds, tuple(spans)))
    return tuple(result)


def _clock(event: dict[str, Any]) -> float | None:
    try:
        return datetime.datetime.fromisoformat(str(event.get("time"))).timestamp()
    except ValueError:
        return None


def _object(path: Path, notices: list[str]) -> dict[str, Any]:
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        notices.append(f"{name} cannot be read: {error}")
        return {}
    if isinstance(value, dict):
        return value
    notices.append(f"{name} does not hold a JSON object; it was left out.")
    return {}


def _leave_out_no_lists(found: dict[str, dict[str, Any]], notices: list[str]) -> None:
    for stage, key, depth in LISTS:
        *above, name = key.split(".")
        part = found[stage]
        for one in above:
            part = section(part, one)
        if part.get(name) is not None and not _is_list(part[name], depth):
            del part[name]
            what = "list of counts" if depth else "list"
            notices.append(f"{FILES[stage]}: {key} is no {what}; it was left out.")


def _is_list(value: Any, depth: int) -> bool:
    if not isinstance(value, list):
        return False
    if depth > 1:
        return all(_is_list(one, depth - 1) for one in value)
    return not depth or all((number(one) or 0) >= 0 and number(one) is not None for one in value)


def _lines(path: Path, notices: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    result, broken = [], 0
    for line in path.read_bytes().splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            result.append(value)
        else:
            broken += 1
    if broken:
        notices.append(
            f"{path.name}: {broken} {'line' if broken == 1 else 'lines'} cannot be read "
            "(cut short by a crash?)."
        )
    return result


def _recipe(path: Path, notices: list[str]) -> tuple[str, Recipe | None]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        notices.append(f"recipe.yaml cannot be read: {error}")
        return "", None
    try:
        return text, read(path)
    except ConfigError as error:
        notices.append(f"recipe.yaml is not a recipe that this version knows: {error.what}")
        return text, None

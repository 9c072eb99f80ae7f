"""The report's chapters about the making: data, candidates, training, compression, reproduction.

Each function takes a Life and gives what the template shows; None where a stage left nothing.
"""

import math
import shlex
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from markupsafe import Markup

from modelwright import __version__
from modelwright.report import charts, words
from modelwright.report.charts import Point, Series
from modelwright.report.collect import Life, number, rows, section

View = dict[str, Any]
PARTS = ("train", "valid", "test")
DRAWN = 240  # points of a long curve that are drawn
# kind of answer -> what one of its labels is called, and several
ANSWERS = {"classes": ("class", "classes"), "tags": ("tag", ""), "horizon": ("series", "series"),
           "next": ("token", ""), "sequence": ("token", ""), "ranking": ("item", ""),
           "rating": ("item", ""),
           "actions": ("action", ""), "letters": ("letter", "")}  # fmt: skip


def gate(life: Life) -> View | None:
    """The chapter on the data and what the gate found."""
    data = life.data
    if not data:
        return None
    counted = section(data, "rows")
    per_class = section(data, "class_counts")
    labels = [str(text) for text in data.get("labels") or []]
    outputs = section(data, "outputs")
    inputs = section(data, "inputs") or {"shape": data.get("shape")}  # without: an older run's
    findings = []
    for found in rows(data, "findings"):
        state = (
            "waived" if found.get("waived") else "blocking" if found.get("blocking") else "noted"
        )
        listed = found.get("rows")
        named = [" = ".join(map(str, row)) if isinstance(row, list) else str(row)
                 for row in (listed if isinstance(listed, list) else ())]  # fmt: skip
        count = number(found.get("count")) or len(named)
        findings.append({
            "check": words.label(str(found.get("check", ""))), "state": state,
            "text": found.get("text", ""), "count": f"{count:,.0f}", "rows": named,
            "more": f"{count - len(named):,.0f}" if count > len(named) else "",
        })  # fmt: skip
    order = {"blocking": 0, "waived": 1, "noted": 2}
    findings.sort(key=lambda item: order[item["state"]])
    blocking = sum(item["state"] == "blocking" for item in findings)
    answer = str(outputs.get("kind", "classes"))
    named = labels or inputs.get("channels") or outputs.get("labels") or []
    classes = words.many(len(named), *ANSWERS.get(answer, ANSWERS["classes"]))
    parts = [(part, number(counted.get(part))) for part in PARTS]
    total = sum(count or 0 for _, count in parts)
    end = (
        f"{words.many(blocking, 'finding')} must be mended or waived before training"
        if blocking else "nothing stands in the way of training"
    )  # fmt: skip
    passed = [words.label(str(name)) for name in data.get("checked") or []
              if words.label(str(name)) not in {item["check"] for item in findings}]  # fmt: skip
    stacks = [(part, list(per_class.get(part) or [])) for part in PARTS]
    return {
        "intro": f"{words.many(total, 'row')}, {classes}; {end}.",
        "parts": [{"name": part, "rows": words.show(count, ""),
                   "share": f"{count / total:.0%}" if count and total else words.NONE}
                  for part, count in parts],
        "row": words.one_row(inputs, outputs),
        "chart": Markup(charts.columns("Rows of each class", labels, stacks))
        if answer == "classes" else "",
        "findings": findings, "passed": passed,
    }  # fmt: skip


def candidates(life: Life) -> View | None:
    """The chapter on the architectures and why each lost."""
    found = rows(life.plan, "candidates")
    if not found:
        return None
    order = {"winner": 0, "raced": 1, "dropped": 2}

    metric, name_of = life.look, words.label(life.look.name)
    factor, percent = words.axis(metric)

    def reached(lap: View) -> float | None:
        return number(lap.get("value", lap.get(metric.name)))  # the latter in older runs

    def best(item: View) -> float | None:
        values = [value for lap in rows(item, "rounds") if (value := reached(lap)) is not None]
        return min(values, key=metric.error, default=None)

    def place(item: View) -> tuple[int, float]:
        error = math.inf if (value := best(item)) is None else metric.error(value)
        return order.get(str(item.get("status")), 3), error

    found.sort(key=place)
    table: list[View] = []
    lines: list[Series] = []
    for item in found:
        predicted, status = section(item, "predicted"), str(item.get("status", ""))
        laps = [(r, reached(r)) for r in rows(item, "rounds")]
        run = [(number(r.get("round")) or n + 1, factor * a)
               for n, (r, a) in enumerate(laps) if a is not None]  # fmt: skip
        table.append({
            "name": item.get("name", ""), "status": status, "reason": item.get("reason", ""),
            "params": words.show(number(item.get("num_params")), "params"),
            "flops": words.show(number(item.get("forward_flops")), "flops"),
            "memory": words.show(number(predicted.get("memory_bytes")), "bytes"),
            "epoch": words.show(number(predicted.get("epoch_s")), "s"),
            "size": words.show(number(predicted.get("size_bytes")), "bytes"),
            "latency": words.show(number(predicted.get("latency_ms")), "ms"),
            "best": words.show(best(item), metric.unit),
        })  # fmt: skip
        if run:
            strong = "strong" if status == "winner" else ""
            lines.append(Series(str(item.get("name", "")), run, len(lines), strong, dots=True))
    count = {name: sum(row["status"] == name for row in table) for name in order}
    raced = sum(bool(rows(item, "rounds")) for item in found)
    intro = f"{words.many(len(table), 'architecture')} considered, {count['dropped']} dropped"
    if raced:
        intro += (
            f" before the race, {raced} raced on this data. "
            f"The race took {words.show(number(life.plan.get('race_seconds')), 's')}"
        )
    return {
        "intro": f"{intro}.",
        "precision": life.plan.get("precision", ""),
        "precision_reason": words.sentence(life.plan.get("precision_reason", "")),
        "rows": table,
        "race": Markup(charts.line_chart("The race", lines, x_label="round", whole_x=True,
                                         y_label=f"{name_of} on valid{percent}")) if lines else "",
    }  # fmt: skip


def curves(life: Life) -> View | None:
    """The chapter on training: loss, the task's metric, learning rate."""
    if not life.steps and not life.evaluations:
        return None
    end = max(number(line.get("seconds")) or 0 for line in life.steps + life.evaluations)
    winner = next((c for c in rows(life.plan, "candidates") if c.get("status") == "winner"), {})
    raced = max((number(lap.get("seconds")) or 0 for lap in rows(winner, "rounds")), default=0)
    unit, name = (60, "minutes of training") if end > 180 else (1, "seconds of training")

    def series(lines: list[View], key: str, factor: float = 1.0) -> list[tuple[float, float]]:
        pairs = [(number(line.get("seconds")), number(line.get(key))) for line in lines]
        return [(x / unit, factor * y) for x, y in pairs if x is not None and y is not None]

    raw, rate = series(life.steps, "loss"), series(life.steps, "learning_rate")
    metric, name_of = life.look, words.label(life.look.name)
    scale, percent = words.axis(metric)
    valid = series(life.evaluations, "valid_loss")
    quality = series(life.evaluations, f"valid_{metric.name}", scale)
    loss = [Series("", thin(raw), 0, "faint"), Series("train", thin(smooth(raw)), 0, "strong")]
    if valid:
        loss.append(Series("valid", valid, 1, dots=len(valid) < 40))
    speed = [v for line in life.steps if (v := number(line.get("examples_per_s"))) is not None]
    best = min((y / scale for _, y in quality), key=metric.error, default=None)
    last = life.steps[-1] if life.steps else {}
    facts = [f"{words.show(number(last.get('step')), '')} steps" if last else "",
             words.show(end, "s") + (f", of which {words.show(raced, 's')} in the race"
                                     if raced else ""),
             f"{sorted(speed)[len(speed) // 2]:,.0f} examples a second" if speed else "",
             f"best valid {name_of} {words.show(best, metric.unit)}"
             if best is not None else ""]  # fmt: skip
    broken = len(life.steps) - len(raw)
    return {
        "intro": ", ".join(fact for fact in facts if fact) + ".",
        "warning": f"{broken} steps have a loss that is not a number." if broken else "",
        "pictures": [Markup(picture) for picture in (
            charts.line_chart("Loss", loss, x_label=name, y_label="loss"),
            charts.line_chart(f"{words.title(metric)} on valid",
                              [Series("valid", quality, 1, "strong", dots=len(quality) < 40)],
                              x_label=name, y_label=f"{name_of}{percent}"),
            charts.line_chart("Learning rate", [Series("", thin(rate), 2, "strong")],
                              x_label=name, y_label="learning rate", zero=True),
        )],
    }  # fmt: skip


def compression(life: Life) -> View | None:
    """The chapter on the compressed candidates and the choice among them."""
    found = rows(life.compress, "candidates")
    if not found:
        return None
    base = next((c for c in found if not c.get("steps")), {})
    size0, p50_0 = (number(section(base, "measured").get(key)) for key in
                    ("size_mb", "latency_p50_ms"))  # fmt: skip
    metric, name_of = life.metric, words.label(life.metric.name)
    factor, percent = words.axis(metric)
    drop = f"{metric.name}_drop"
    table, by_latency, by_size = [], [], []
    sizes = [s for c in found if (s := number(section(c, "measured").get("size_mb"))) is not None]
    for item in found:
        m = {key: number(value) for key, value in section(item, "measured").items()}
        status = str(item.get("status", ""))
        chosen = item.get("name") == life.compress.get("chosen")
        size, p50, value = m.get("size_mb"), m.get("latency_p50_ms"), m.get(metric.name)
        low, high = m.get(f"{metric.name}_low"), m.get(f"{metric.name}_high")
        ends: dict[str, float] = {}
        if low is not None and high is not None:
            ends = {"low": factor * low, "high": factor * high}
        shown = [f"{end:.2f}" if percent else words.digits(end) for end in ends.values()]
        table.append({
            "name": item.get("name", ""), "steps": _steps(item.get("steps")), "chosen": chosen,
            "status": "chosen" if chosen else status, "reason": item.get("reason", ""),
            "value": words.show(value, metric.unit),
            "interval": " to ".join(shown),
            "drop": words.show(m.get(drop), words.goal_unit(drop)), "p50": words.show(p50, "ms"),
            "p99": words.show(m.get("latency_p99_ms"), "ms"), "size": words.show(size, "mb"),
            "smaller": words.times(size0, size), "faster": words.times(p50_0, p50),
            "gain": words.smaller(size0, size),
            "meets": [{"name": words.label(name), "met": met is True}
                      for name, met in section(item, "meets").items()],
        })  # fmt: skip
        if value is None or status == "refused":
            continue
        kind = "chosen" if chosen else "baseline" if item is base else status
        kind = kind if kind in ("chosen", "baseline", "dominated", "runner-up") else "pareto"
        name, area = str(item.get("name", "")), (size or 0) / (max(sizes, default=0) or 1)
        front = status in ("pareto", "chosen") or chosen
        y = factor * value
        if p50 is not None:
            by_latency.append(Point(p50, y, name, kind, area=area, front=front, **ends))
        if size is not None:
            by_size.append(Point(size, y, name, kind, area=0.3, front=front, **ends))
    limits = {goal.name: goal.bound for goal in life.recipe.bounds} if life.recipe else {}
    limit = limits.get(metric.name)
    side = "y_at_least" if metric.higher_is_better else "y_at_most"
    bounds = {side: None if limit is None else factor * limit}
    titled = words.title(metric)
    chosen_row = next((row for row in table if row["chosen"]), None)
    intro = f"{words.many(len(table), 'candidate')} measured on the target; {name_of} is on valid."
    if chosen_row:
        faster = chosen_row["faster"] and f"{chosen_row['faster']} as fast"
        gains = [said for said in (chosen_row["gain"], faster) if said and chosen_row["steps"]]
        intro += f" Chosen: {chosen_row['name']}" + (f", {' and '.join(gains)}." if gains else ".")
    return {
        "intro": intro, "reason": words.sentence(life.compress.get("reason", "")), "rows": table,
        "pictures": [Markup(picture) for picture in (
            charts.scatter(f"{titled} against latency", by_latency, x_label="median latency, ms",
                           y_label=f"{name_of}{percent}",
                           x_at_most=limits.get("latency_p50_ms"), **bounds),
            charts.scatter(f"{titled} against size", by_size, x_label="size, MB",
                           y_label=f"{name_of}{percent}", x_at_most=limits.get("size_mb"),
                           **bounds),
        )],
    }  # fmt: skip


def reproduce(life: Life) -> View:
    """The chapter with commands, recipe, hashes and machine."""
    folder = Path(*life.folder.resolve().parts[-2:])
    commands = [("repeat the whole run", f"modelwright run {_q(folder / 'recipe.yaml')}")]
    if life.deploy:
        deploy = _q(folder / "deploy")
        commands.append(("answer requests", f"modelwright serve {deploy}"))
        kind = str(section(section(life.deploy, "model"), "inputs").get("kind", "image"))
        one = words.ROWS.get(kind, ("", "FILE"))[1]
        texts = ("text", "stream", "pairs", "observation")
        what = "one text" if kind in texts else "one file"
        commands.append((f"answer for {what}", f"modelwright predict {deploy} {one}"))
    proof = life.certificate
    digests = {str(k): v for k, v in section(proof, "digests").items()}
    if life.data.get("digest"):
        digests.setdefault("data", life.data["digest"])
    if life.deploy.get("digest"):
        digests["deploy"] = life.deploy["digest"]
    began = next((e for e in life.events if e["event"] == "started"), {})
    if began.get("recipe_digest"):
        digests["recipe"] = began["recipe_digest"]
    versions = {
        **section(proof, "versions"), "modelwright, which began the run": began.get("version", "–"),
        "modelwright, which wrote this page": __version__,
    }  # fmt: skip
    machine = dict(_fact(str(k), v) for k, v in section(proof, "machine").items())
    words_of = {"decision": "decided", "fallback": "done differently", "refused": "refused"}
    notes = [{"stage": e["stage"], "kind": words_of[e["event"]], "event": e["event"],
              "text": e.get("text", "")}
             for e in life.events if e["event"] in words_of]  # fmt: skip
    spans = [(stage.name, stage.spans) for stage in life.stages if stage.spans]
    resumed = sum(e["event"] == "resumed" for e in life.events)
    return {
        "commands": [{"what": what, "text": text} for what, text in commands],
        "recipe": life.recipe_text, "digests": digests,
        "machine": {**machine, **versions}, "notes": notes,
        "stages": [{"name": s.name, "seconds": words.show(s.seconds, "s"),
                    "state": f"from {life.origin}" if life.origin and not s.spans else s.state}
                   for s in life.stages],
        "resumed": f"Resumed {words.many(resumed, 'time')}." if resumed else "",
        "timeline": Markup(charts.spans("When each stage ran", spans)) if spans else "",
        "figures": [{
            "subject": pair.subject, "how": pair.how,
            "name": words.label(pair.name, forecast=pair.predicted is not None),
            "predicted": words.show(pair.predicted, pair.unit),
            "measured": words.show(pair.measured, pair.unit),
        } for pair in life.pairs],
    }  # fmt: skip


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean of about a fortieth of the curve around each point, narrower at both ends.

    >>> smooth([(0, 2.0), (1, 2.0)])
    [(0, 2.0), (1, 2.0)]
    """
    sums = [0.0, *accumulate(y for _, y in points)]
    reach = len(points) // 80
    result = []
    for i, (x, _) in enumerate(points):
        half = min(reach, i, len(points) - 1 - i)
        result.append((x, (sums[i + half + 1] - sums[i - half]) / (2 * half + 1)))
    return result


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A long curve in few points: of each stretch the lowest and the highest, so spikes stay."""
    if len(points) <= 2 * DRAWN:
        return list(points)
    kept = [points[0]]
    for n in range(DRAWN):
        part = range(n * len(points) // DRAWN, (n + 1) * len(points) // DRAWN)
        ends = {min(part, key=lambda i: points[i][1]), max(part, key=lambda i: points[i][1])}
        kept += [points[i] for i in sorted(ends)]
    return [*kept, points[-1]]


def _steps(steps: Any) -> str:
    """Compression steps as one line: plain names or {"prune": {"ratio": 0.25}}."""
    result = []
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict):
            result += [
                f"{name} ({', '.join(f'{k} {v}' for k, v in more.items())})"
                if isinstance(more, dict) and more else str(name) for name, more in step.items()
            ]  # fmt: skip
        else:
            result.append(str(step))
    return ", then ".join(result)


def _fact(name: str, value: Any) -> tuple[str, Any]:
    """A fact about the machine as people write it.

    >>> _fact("memory_bytes", 25276518400), _fact("instruction_sets", ["AVX2", "AVX512"])
    (('memory', '25.3 GB'), ('instruction sets', 'AVX2, AVX512'))
    """
    if name.endswith("_bytes"):
        name, value = name.removesuffix("_bytes"), words.show(number(value), "bytes")
    return name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else value


def _q(path: Path) -> str:
    return shlex.quote(str(path))

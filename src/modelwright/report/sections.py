"""The report's chapters about the result: verdict, goals, quality, latency, parity, misses.

Each function takes a Life and gives what the template shows: finished words and pictures. A
chapter whose stage left nothing is None.
"""

import math
import re
import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup

from modelwright.core.goals import METRICS, override
from modelwright.report import boxes, charts, words
from modelwright.report.beside import meanings
from modelwright.report.collect import FILES, Life, number, rows, section

View = dict[str, Any]
LONG_TAIL = 5.0  # p99 over the median, above which other work is likelier than the model
PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]+")
# a figure that its unit can be taken off: not 1:20 min, nor 1:05 h, whose halves have other units
UNIT = re.compile(r"(?P<number>[−-]?[\d.,]+(?:e-?\d+)?)(?P<unit>%| \S+)")
BINS = 25  # of a picture of returns
HEADLINES = {
    "certified": ("✓", "Certified", "Every goal holds on rows that no search saw."),
    "infeasible": ("✗", "Not feasible as asked", "At least one goal cannot be met."),
    "refused": ("✗", "Refused", "The run stopped itself rather than ship something unproven."),
    "unfinished": ("…", "Not finished", "What follows is what is known so far."),
}


def verdict(life: Life) -> View:
    """The head of the page: what the run came to, in plain words."""
    sign, head, default = HEADLINES[life.verdict]
    recipe, proof = life.recipe, life.certificate
    latency, baseline = section(proof, "latency"), section(proof, "baseline")
    metric = life.metric
    goal = section(section(proof, "goals"), metric.name)
    tiles = []
    value = number(proof.get(metric.name))
    if value is not None:
        low, high = number(goal.get("low")), number(goal.get("high"))
        parent = number(proof.get(f"parent_{metric.name}"))
        note = f"{_interval(low, high, metric.unit)} on {words.many(_rows(proof), 'unseen row')}"
        if parent is not None:
            note += f"; {words.show(parent, metric.unit)} before compression"
        tiles.append(
            (words.label(metric.name), words.show(value, metric.unit), note.removeprefix(" "))
        )
    size, p99 = number(proof.get("size_mb")), number(latency.get("p99_ms"))
    if size is not None:
        said = words.smaller(number(baseline.get("size_mb")), size)
        than = "than" if said.endswith("smaller") else "as"
        tiles.append(("size", words.show(size, "mb"), said and f"{said} {than} uncompressed"))
    if p99 is not None:
        ratio = words.times(number(baseline.get("latency_p50_ms")), number(latency.get("p50_ms")))
        tiles.append(("latency, p99", words.show(p99, "ms"),
                      ratio and f"median {ratio} as fast as uncompressed"))  # fmt: skip
    which = "of its own stages together" if life.origin else "all stages together"
    tiles.append(("time spent", words.show(life.seconds, "s"), which))
    return {
        "kind": life.verdict, "sign": sign, "head": head, "text": life.reason or default,
        "task": recipe.task.replace("-", " ") if recipe else "",
        "data": life.data.get("source") or (recipe.data.source if recipe else ""),
        "winner": life.plan.get("winner", ""), "origin": life.origin,
        "date": life.started[:16].replace("T", " "),
        "tiles": [{"name": n, "value": v, "note": note or ""} for n, v, note in tiles],
        "missing": [
            {"stage": stage.name, "state": stage.state, "file": FILES[stage.name]}
            # of what can't be done, the verdict says all
            for stage in life.stages if stage.state != "done" and life.verdict != "infeasible"
        ],
        "notices": life.notices,
    }  # fmt: skip


def goals(life: Life) -> View | None:
    """The chapter on the goals, asked beside measured."""
    judged = section(life.certificate, "goals")
    asked = {goal.name: goal.text for goal in life.recipe.bounds} if life.recipe else {}
    entries: dict[str, View] = {name: {"bound": bound} for name, bound in asked.items()}
    entries |= {name: goal for name, goal in judged.items() if isinstance(goal, dict)}
    if not entries:
        return None
    table = []
    for name, goal in entries.items():
        bound, measured = str(goal.get("bound", "")), number(goal.get("measured"))
        low, high = number(goal.get("low")), number(goal.get("high"))
        parsed, unit, met = words.parse_bound(bound), words.goal_unit(name), goal.get("met")
        picture = note = ""
        if parsed and measured is not None:
            picture = charts.goal_bar(words.label(name), *parsed, measured, low, high)
            weak = low if parsed[0] == ">=" else high
            strong = high if parsed[0] == ">=" else low
            if met is True and weak is not None and not _holds(*parsed, weak):
                note = "Met, but the interval reaches past the bound: other rows might miss it."
            elif met is False and strong is not None and _holds(*parsed, strong):
                note = "Missed, but the interval includes the bound: more rows might settle it."
            elif met is False:
                note = words.gap_text(name, bound, measured)
        table.append({
            "name": words.label(name), "bound": words.bound_text(name, bound), "met": met,
            "measured": words.beside(measured, bound, unit), "interval": _interval(low, high, unit),
            "note": note, "picture": Markup(picture),
        })  # fmt: skip
    met = sum(row["met"] is True for row in table)
    seen = words.many(_rows(life.certificate), "row")
    intro = "Nothing has been judged yet; these are the goals that the recipe sets."
    if judged and "where" in life.certificate:  # of an end before the test part
        missed = sum(row["met"] is False for row in table)
        intro = f"{missed} of {words.many(len(table), 'goal')} missed, {life.certificate['where']}."
    elif judged:
        intro = (
            f"{met} of {words.many(len(table), 'goal')} met, judged on {seen} that no search saw."
        )
    return {"intro": intro, "rows": table, "kind": _kind(life)}


def _kind(life: Life) -> str:
    """What the values of goals are: of a run that ended before it trained, predictions."""
    where = str(life.certificate.get("where", ""))
    return "predicted" if where.startswith("by prediction") else "measured"


def misses(life: Life) -> View | None:
    """The chapter on the nearest misses of an infeasible run."""
    proof = life.certificate
    if life.verdict != "infeasible":
        return None
    table = []
    for miss in rows(proof, "nearest_misses"):
        for name, goal in section(miss, "missed").items():
            goal = goal if isinstance(goal, dict) else {}
            bound, measured = str(goal.get("bound", "")), number(goal.get("measured"))
            table.append({
                "candidate": miss.get("candidate", ""), "goal": words.label(name),
                "bound": words.bound_text(name, bound),
                "measured": words.beside(measured, bound, words.goal_unit(name)),
                "gap": words.gap_text(name, bound, measured),
            })  # fmt: skip
    again, relaxed = "", section(proof, "relaxed")
    if life.trained and isinstance(bounds := relaxed.get("bounds"), list):
        folder = Path(*life.folder.resolve().parts[-2:])
        word = override(str(relaxed.get("key", "")), bounds)
        again = shlex.join(["modelwright", "run", str(folder), word])
    return {
        "rows": table, "relax": proof.get("relax", ""), "kind": _kind(life), "again": again,
    }  # fmt: skip


def predicted(life: Life) -> View | None:
    """The chapter with predictions beside measurements."""
    table = []
    for pair in life.pairs:
        if pair.subject != "run" or pair.predicted is None:
            continue
        error, tone, text = pair.error, "", words.NONE
        if error is not None:
            points = pair.unit == "share"  # of a share near one, a relative error says little
            good, fair = (0.01, 0.03) if points else (0.1, 0.3)
            error = pair.predicted - (pair.measured or 0) if points else error
            tone = "good" if abs(error) <= good else "fair" if abs(error) <= fair else "bad"
            side = "too high" if error > 0 else "too low"
            size = words.show(abs(error), "points") if points else f"{abs(error):.1%}"
            text = f"{size} {side}" if abs(error) >= 0.0005 else "exact"
        table.append({
            "name": words.label(pair.name), "predicted": words.show(pair.predicted, pair.unit),
            "measured": words.show(pair.measured, pair.unit),
            "interval": _interval(pair.low, pair.high, pair.unit), "error": text, "tone": tone,
            "how": pair.how, "width": min(abs(error or 0), 1) * 100,
        })  # fmt: skip
    forecast = f"valid_{life.look.name}"  # ranks candidates; no promise about the run
    errors = sorted(
        abs(p.error)
        for p in life.pairs
        if p.error is not None and p.subject == "run" and p.unit != "share" and p.name != forecast
    )
    intro = "Nothing was predicted and measured both."
    if errors:
        middle = (errors[(len(errors) - 1) // 2] + errors[len(errors) // 2]) / 2
        worst = f" at the median, {errors[-1]:.1%} at worst" if len(errors) > 1 else ""
        intro = (
            f"{words.many(len(errors), 'figure')} can be checked: the prediction was off by "
            f"{middle:.1%}{worst}."
        )
    return {"intro": intro, "rows": table} if table else None


def quality(life: Life) -> View | None:
    """The chapter on right and wrong answers: by class where there are classes, else in figures."""
    if any(isinstance(life.certificate.get(key), list) for key in ("confusion", "confused")):
        return _by_class(life)
    metric, proof = life.metric, life.certificate
    value, name = number(proof.get(metric.name)), words.label(metric.name)
    if value is None or not (beside := meanings(metric, proof)):
        return None
    low, high = (number(proof.get(f"{metric.name}_{end}")) for end in ("low", "high"))
    parent = number(proof.get(f"parent_{metric.name}"))
    labels = [str(text) for text in life.data.get("labels") or life.deploy.get("labels") or []]
    before = f"; {words.show(parent, metric.unit)} before compression" if parent is not None else ""
    return {
        "intro": f"{name} {words.show(value, metric.unit)} on "
        f"{words.many(_rows(proof), 'unseen row')}{before}.",
        "figures": [
            {"name": words.label(key), "value": words.show(number(proof.get(key)), metric.unit),
             "interval": _interval(low, high, metric.unit) if key == metric.name else "",
             "what": what}
            for key, what in beside.items()
        ],
        "pictures": boxes.pictures(proof, labels, PNG.fullmatch),
        "curves": boxes.curves(proof),
        "picture": Markup(_returns(life)),
        "texts": [
            {name: words.cut(item.get(name, "")) for name in ("truth", "answer", "text")}
            for item in rows(proof, "texts")
        ],
        "ranked": [_ranked(item) for item in rows(proof, "ranked")],
    }  # fmt: skip


def _ranked(item: View) -> View:
    """A picture with the texts that it found first."""
    image, place = str(item.get("image", "")), number(item.get("place"))
    return {
        "row": item.get("row", ""), "image": image if PNG.fullmatch(image) else "",
        "place": f"first right text at place {place:,.0f}" if place else "",
        "best": [
            {"text": words.cut(best.get("text", "")), "right": best.get("right") is True,
             "score": words.show(number(best.get("score")), "")}
            for best in rows(item, "best")
        ],
    }  # fmt: skip


def _returns(life: Life) -> str:
    """How the returns of the test episodes are spread, where a model acts."""
    found = section(life.certificate, "episodes").get("return")
    returns = [one for value in found or [] if (one := number(value)) is not None]
    if not returns:
        return ""
    low, reach = min(returns), max(returns) - min(returns)
    edges = [low + reach * place / BINS for place in range(BINS + 1)] if reach else [low, low + 1]
    counts = [0] * (len(edges) - 1)
    for one in returns:
        counts[min(int((one - low) / (reach or 1) * BINS), len(counts) - 1)] += 1
    mean = sum(returns) / len(returns)
    return charts.histogram(
        "Returns of the test episodes", edges, counts, x_label="return of an episode",
        marks=[("mean", mean)], of="episode",
    )  # fmt: skip


def _means(proof: View) -> str:
    """What the answers come to where classes count alike."""
    known = [(name, number(proof.get(name))) for name in ("balanced_accuracy", "f1_macro")]
    told = [f"{words.label(name)} {words.show(value, 'share')}" for name, value in known
            if value is not None]  # fmt: skip
    return f"; {', '.join(told)}" if told else ""


def _by_class(life: Life) -> View:
    proof = life.certificate
    matrix = proof.get("confusion", [])  # of very many classes there is none
    labels = [str(text) for text in life.data.get("labels") or life.deploy.get("labels") or []]
    named = dict(enumerate(labels))
    wrong = sorted(
        ((value, i, j, sum(row)) for i, row in enumerate(matrix) for j, value in enumerate(row)
         if value and i != j), reverse=True,
    )  # fmt: skip
    total, missed = sum(sum(row) for row in matrix), sum(value for value, *_ in wrong)
    if not matrix:  # the list has the most frequent alone
        wrong = [(one[2], one[0], one[1], one[3]) for one in proof.get("confused", [])
                 if len(one) == 4]  # fmt: skip
        total = _rows(proof)
        missed = round(total * (1 - (number(proof.get("accuracy")) or 0.0)))
    pictures = []
    for item in rows(proof, "mistakes"):
        image = str(item.get("image", ""))
        pictures.append({
            "row": item.get("row", ""), "truth": item.get("truth", ""),
            "answer": item.get("answer", ""), "sure": _percent(number(item.get("probability"))),
            "image": image if PNG.fullmatch(image) else "",
            "text": words.cut(item.get("text", "")),
        })  # fmt: skip
    return {
        "intro": f"{words.many(missed, 'wrong answer')} on {words.many(total, 'unseen row')}"
        f"{_means(proof)}.",
        "map": Markup(charts.heat_map(
            "Confusion matrix", matrix, [named.get(i, str(i)) for i in range(len(matrix))]
        )) if matrix else "",
        "confusions": [
            {"truth": named.get(i, i), "answer": named.get(j, j),
             "count": f"{value:,.0f}", "share": _percent(value / max(of, 1))}
            for value, i, j, of in wrong[: 6 if matrix else 24]
        ],
        "mistakes": pictures,
    }  # fmt: skip


def latency(life: Life) -> View | None:
    """The chapter on the time of an answer."""
    proof = section(life.certificate, "latency")
    if not proof:
        return None
    hist = section(proof, "histogram")
    found = {name: number(proof.get(f"{name}_ms")) for name in ("p50", "p95", "p99")}
    ratio = number(proof.get("control_ratio"))
    control = ""
    if ratio is not None:
        tail = (found["p99"] or 0.0) / (found["p50"] or math.inf)
        control = f"Control: the same model timed against itself gives a ratio of {ratio:.3f}. "
        if abs(ratio - 1) > 0.05:
            control += "That is far from 1: the machine was busy, so read these figures with care."
        elif tail > LONG_TAIL:
            control += (
                f"Its median can be trusted; but one call in a hundred took {tail:.0f} times as "
                "long, as where other work runs beside: alone, p99 may be much lower."
            )
        else:
            control += "The machine was calm enough to trust these figures."
    target = life.recipe.target if life.recipe else None
    where = (f"{target.runtime} on {target.device}, {words.many(target.threads, 'thread')}, "
             f"batch of {target.batch_size}") if target else "the target"  # fmt: skip
    return {
        "intro": f"{words.many(number(proof.get('calls')) or 0, 'call')} on {where}.",
        "picture": Markup(charts.histogram(
            "Latency of single calls", hist.get("edges_ms") or [], hist.get("counts") or [],
            x_label="milliseconds a call",
            marks=[(n, v) for n, v in found.items() if v is not None],
        )),
        "rows": [{"name": n, "value": words.show(v, "ms")} for n, v in found.items()],
        "control": control,
    }  # fmt: skip


def parity(life: Life) -> View | None:
    """The chapter on the proof that the forms of the model agree."""
    hops = []
    for hop in rows(life.parity, "hops"):
        metric = METRICS.get(str(hop.get("metric")), life.metric)
        error, limit = number(hop.get("max_error")), number(hop.get("tolerance"))
        before, after = number(hop.get("metric_before")), number(hop.get("metric_after"))
        equal, total = number(hop.get("decisions_equal")), number(hop.get("decisions_total"))
        room, width = "", 0.0
        if error is not None and limit:
            width = 100.0 if error >= limit else _log_share(error, limit)
            if not error:
                room = "bit for bit equal"
            elif error <= limit:
                room = f"{words.digits(limit / error)} times below the tolerance"
            else:
                room = f"{words.digits(error / limit)} times the tolerance"
        hops.append({
            "name": hop.get("name", ""), "passed": hop.get("passed") is True,
            "error": words.show(error, ""), "tolerance": words.show(limit, ""), "room": room,
            "width": round(width, 1), "equal": words.show(equal, ""),
            "total": words.show(total, "") if total != 0 else "",
            "rows": words.show(number(hop.get("rows")), ""),
            "edges": ", ".join(map(str, hop.get("edge_inputs") or [])),
            "metric": words.label(metric.name), "before": words.show(before, metric.unit),
            "after": words.show(after, metric.unit), "judged": before is not None,
            "node": hop.get("first_differing_node") or "",
        })  # fmt: skip
    if not hops:
        return None
    failed = sum(not hop["passed"] for hop in hops)
    intro = "At each hop both forms of the model answered the same inputs, and they agree."
    if failed:
        intro = f"{words.many(failed, 'hop')} failed, so nothing was shipped."
    return {"intro": intro, "hops": hops}


def _interval(low: float | None, high: float | None, unit: str) -> str:
    if low is None or high is None:
        return ""
    first, last = words.show(low, unit), words.show(high, unit)
    one, other = UNIT.fullmatch(first), UNIT.fullmatch(last)
    if one and other and one["unit"] == other["unit"]:  # said once, behind both
        first = one["number"]
    return f"{first} to {last}"


def _percent(value: float | None) -> str:
    return words.NONE if value is None else f"{value:.0%}" if value < 0.995 else f"{value:.1%}"


def _holds(op: str, bound: float, value: float) -> bool:
    return value >= bound if op == ">=" else value <= bound


def _rows(proof: View) -> float:
    return number(proof.get("rows")) or 0


def _log_share(error: float, limit: float) -> float:
    """The error's place between a billionth of the limit and the limit, on a log scale, in %."""
    return max(0.0, min(1.0, 1 + math.log10(max(error, limit * 1e-6) / limit) / 6)) * 100

"""What commands found, as tables and sentences for a person at a terminal."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelwright.core.units import format_bytes, format_count, format_seconds
from modelwright.data.drawing import color

Found = dict[str, Any]


class _Console(Console):
    """Plain: what is in brackets or between colons is what somebody wrote, no colour or picture."""

    def on_broken_pipe(self) -> None:
        raise  # to the command line, which knows what an end of reading means


console = _Console(highlight=False, markup=False, emoji=False)


def result(found: Found) -> None:
    """The end of a run: goals, verdict, where things are."""
    goals = found["goals"]
    if goals:
        predicted = found.get("where", "").startswith("by prediction")  # nothing was trained
        kind = "predicted" if predicted else "measured"
        table = _table("goal", "asked", kind, "95 % interval", "")
        for name, goal in goals.items():
            table.add_row(
                name, goal["bound"], _value(goal["measured"]),
                "exact" if name == "size_mb" else _interval(goal.get("low"), goal.get("high")),
                Text("met", "green") if goal["met"] else Text("missed", "red"),
            )  # fmt: skip
        console.print(table)
    for miss in found.get("nearest_misses", []):
        parts = ", ".join(
            f"{name} {_value(one['measured'])} (asked {one['bound']})"
            for name, one in miss["missed"].items()
        )
        console.print(f"  near: {miss['candidate']}: {parts}")
    if found.get("relax"):
        console.print(found["relax"])
    if found.get("next"):
        console.print(f"without training again: {found['next']}", soft_wrap=True)
    console.print(Text.assemble((found["verdict"], "bold"), f"  {found['run']}"), soft_wrap=True)
    if found["artifact"]:
        console.print(f"model:  {found['artifact']}", soft_wrap=True)
        console.print(f"serve:  {_program()} serve {found['artifact']}", soft_wrap=True)
    if found["report"]:
        console.print(f"report: {found['report']}", soft_wrap=True)


def plan(found: Found) -> None:
    """Candidates and their predictions, then why some are out, each reason once."""
    table = _table(
        "candidate", "params", "FLOPs", "memory", "epoch", "size", "latency", "", title="plan"
    )
    table.columns[0].no_wrap = True
    reasons: dict[str, list[str]] = {}
    for one in found["candidates"]:
        predicted, figures = one["predicted"], [""] * 4
        if predicted:  # else nothing was spent on it
            figures = [
                format_bytes(predicted["memory_bytes"]), format_seconds(predicted["epoch_s"]),
                format_bytes(predicted["size_bytes"]),
                format_seconds(predicted["latency_ms"] / 1e3),
            ]  # fmt: skip
        if one["reason"]:
            reasons.setdefault(one["reason"], []).append(one["name"])
        table.add_row(
            one["name"], format_count(one["num_params"]), format_count(one["forward_flops"]),
            *figures, Text("out", "yellow") if one["reason"] else Text("fits", "green"),
        )  # fmt: skip
    console.print(table)
    for reason, names in reasons.items():
        console.print(Text.assemble(("out: ", "yellow"), f"{', '.join(names)}: {reason}"))
    console.print(
        "FLOPs are of one forward pass of one example; size and latency are of the uncompressed "
        "graph on the target."
    )
    sent = [one["predicted"].get("sent_bytes", 0) for one in found["candidates"]]
    if "processes" in found:
        console.print(
            f"Memory is that of the first of {found['processes']} processes; times are of "
            "computing alone: what they wait for each other is not in them"
            + (f" (up to {format_bytes(max(sent))} of weights and gradients a step)." if any(sent)
               else ".")
        )  # fmt: skip
    if not found["fits"]:
        console.print(Text.assemble(("no candidate fits", "red"), ": relax a goal or the budget"))


def stages(found: Found) -> None:
    """What a run would do."""
    if "candidates" in found:
        plan(found)
        return
    done = ", ".join(found["done"]) or "nothing"
    whose = found["run"] or f"another run, which begins with the model of {found['begins_with']}"
    console.print(f"{whose}: done {done}", soft_wrap=True)
    console.print(f"to do: {', '.join(found['to_do']) or 'nothing'}")


def init(found: Found) -> None:
    """The recipe that was written, and what was seen in the data."""
    rows = ", ".join(f"{part} {count:,}" for part, count in found["rows"].items())
    classes = f"{len(found['labels'])} classes; " if found["labels"] else ""
    console.print(f"{found['recipe']} written: {classes}rows: {rows}", soft_wrap=True)
    for finding in found["findings"]:
        blocks = "stops a run unless waived" if finding["blocking"] else "noted"
        console.print(f"  {finding['check']}: {finding['text']} ({blocks})")
    console.print(f"next: modelwright plan {found['recipe']}", soft_wrap=True)


def evaluate(found: Found) -> None:
    """The task's metric and its interval."""
    metric = found["metric"]
    console.print(
        f"{metric} {found[metric]:.4f}  (95 % interval {found['low']:.4f} to "
        f"{found['high']:.4f})  on {found['rows']:,} {found['part']} rows"
    )


def piece(text: str) -> None:
    """A piece of a text that is being written, at once."""
    console.file.write(text)  # by itself: rich makes blanks of tabs and leaves out returns
    console.file.flush()


def predict(found: Found) -> None:
    """Answers, one a line; a tagged text as it is, with its spans; of a forecast or boxes a table;
    nothing of what was written, which was shown piece by piece.
    """
    ranked = any("ranking" in one for one in found["answers"])
    table = _table("file", "answer", "cosine" if ranked else "probability", "next")
    for one in found["answers"]:
        if isinstance(one["answer"], dict):
            _forecast(one)
            continue
        if "boxes" in one:
            _boxes(one)
            continue
        if "tags" in one:
            console.print(_marked(one), soft_wrap=True)
            continue
        if "words" in one:
            console.print(Text.assemble((one["file"], "bold"), "  ", one["answer"]), soft_wrap=True)
            continue
        if "values" in one:
            console.print(_worth(one), soft_wrap=True)
            continue
        if "rating" in one:
            said = Text.assemble(f"{one['file']}: ", (one["answer"], "bold"), f" for {one['item']}")
            console.print(said, soft_wrap=True)
            continue
        choices = one.get("probabilities") or one.get("ranking")
        if not choices:  # written, and shown as it came
            continue
        best, *rest = choices
        others = ", ".join(f"{two['label']} {_sure(two)}" for two in rest[:2])
        cells = (_short(one["file"]), _short(one["answer"]), _sure(best), _short(others))
        table.add_row(*cells)
    if table.row_count:
        console.print(table)


def _boxes(one: Found) -> None:
    """What was found in a picture, and where."""
    table = _table("label", "score", "left", "top", "right", "bottom")
    for box in one["boxes"]:
        sides = (f"{side:.0f}" for side in box["box"])
        table.add_row(box["label"], f"{box['score']:.1%}", *sides)
    found = one["answer"] if one["boxes"] else "nothing found"
    console.print(f"{one['file']}: {found}", soft_wrap=True)
    if one["boxes"]:
        console.print(table)
    _drawn(one)


def _drawn(one: Found) -> None:
    if "drawn" in one:
        console.print(f"drawn: {one['drawn']}", soft_wrap=True)


def _short(text: str) -> str:
    """As much of a text as a table has room for; --json gives all of it."""
    line = " ".join(text.split())
    return line if len(line) <= CELL else f"{line[: CELL - 1]}…"


def _worth(one: Found) -> Text:
    """The action to take, and what each of them is worth."""
    worth = ", ".join(f"{two['label']} {two['value']:.4g}" for two in one["values"])
    return Text.assemble(f"{one['file']}: ", (one["answer"], "bold"), f"  ({worth})")


def _sure(one: Found) -> str:
    return f"{one['probability']:.1%}" if "probability" in one else f"{one['score']:.3f}"


_TONES = ("cyan", "magenta", "green", "yellow", "blue", "red")
COLORS = (*_TONES, *(f"bright_{tone}" for tone in _TONES))


def _marked(one: Found) -> Text:
    """A tagged text as it came: each span in the colour of its kind, with the kind behind it."""
    said, place = Text(), 0
    for span in one["answer"]:
        tone = color(span["kind"], one["kinds"], COLORS)
        said.append(one["text"][place : span["start_char"]])
        said.append(span["text"], f"bold {tone}").append(f"[{span['kind']}]", tone)
        place = span["end_char"]
    return said.append(one["text"][place:])


STEPS_SHOWN, SERIES_SHOWN, CELL = 4, 20, 44


def _forecast(one: Found) -> None:
    """Of each series the last value that is known, the first steps and the last."""
    series: dict[str, list[float]] = one["answer"]
    number = len(next(iter(series.values())))
    steps = [*range(min(STEPS_SHOWN, number)), *range(max(STEPS_SHOWN, number - 1), number)]
    times: list[str] = one.get("times") or [f"+{step + 1}" for step in range(number)]
    table = _table("series", "now", *(times[step] for step in steps))
    for own in list(series)[:SERIES_SHOWN]:
        values = one["before"][own][-1], *(series[own][step] for step in steps)
        table.add_row(own, *map(_value, values))
    until = f", {times[0]} to {times[-1]}" if "times" in one else ""
    console.print(f"{one['file']}: {number:,} steps ahead{until}", soft_wrap=True)
    console.print(table)
    if number > len(steps) or len(series) > SERIES_SHOWN:
        console.print(f"{number:,} steps of {len(series):,} series; --json gives all of them")
    _drawn(one)


def verify(found: Found) -> None:
    """The hops that were proven."""
    table = _table("hop", "rows", "largest error", "same answers", "")
    for hop in found["hops"]:
        error = "" if hop["max_error"] is None else f"{hop['max_error']:.2g}"
        total = hop["decisions_total"]  # none where answers are numbers
        same = f"{hop['decisions_equal']:,} of {total:,}" if total else ""
        table.add_row(hop["name"], f"{hop['rows']:,}", error, same, Text("passed", "green"))
    console.print(table)


def report(found: Found) -> None:
    """Where the pages are; several runs as a table."""
    if len(found["runs"]) > 1:
        names = list(dict.fromkeys(one["metric"] for one in found["runs"] if one["metric"]))
        table = _table("run", "verdict", *names, "size MB", "p99 ms", "minutes")
        for one in found["runs"]:
            keys = (*names, "size_mb", "latency_p99_ms", "minutes")
            table.add_row(one["run"], one["verdict"], *(_value(one.get(key)) for key in keys))
        console.print(table)
    for page in found["reports"]:
        console.print(page, soft_wrap=True)


def doctor(found: Found) -> None:
    """The machine and what follows from it."""
    machine = found["machine"]
    table = Table(box=None, show_header=False)
    rows = {
        "processor": f"{machine['cpu']}, {machine['cores']} cores",
        "instruction sets": ", ".join(machine["instruction_sets"]) or "unknown",
        "memory": format_bytes(machine["memory_bytes"]),
        "GPU": found["gpu"] or "none",
        "matrix products": f"{found['matmul_float32_flops_per_s'] / 1e9:,.0f} GFLOP/s float32, "
        f"{found['matmul_bfloat16_flops_per_s'] / 1e9:,.0f} GFLOP/s bf16",
        "memory bandwidth": f"{found['memory_bytes_per_s'] / 1e9:,.0f} GB/s",
        "libraries": ", ".join(f"{k} {v}" for k, v in found["libraries"].items() if v),
        "extras": ", ".join(
            f"{name} {'installed' if there else 'missing'}"
            for name, there in found["extras"].items()
        ),
    }
    for name, value in rows.items():
        table.add_row(Text(name, "bold"), value)
    console.print(table)
    for line in found["conclusions"]:
        console.print(f"• {line}")


def layout(row: Found) -> None:
    """One way to train beside one process alone."""
    name = f"{row['family']:12} {row['name']:31} {row['processes']} proc."
    if row["loss"] is None:
        said = Text.assemble(name, "  ", (f"refused: {row['refused']}", "dim"))
    else:
        verdict = ("agrees", "green") if row["agrees"] else ("DIFFERS", "red")
        figures = f"  loss {row['loss']:.1e}  gradient {row['gradient']:.1e}  "
        said = Text.assemble(name, figures, verdict)
    console.print(said, soft_wrap=True)


def layouts(found: Found) -> None:
    """What all of them come to."""
    apart = sum(not row["agrees"] for row in found["rows"])
    run = sum(row["loss"] is not None for row in found["rows"])
    text = "all agree" if found["agree"] else f"{apart} DIFFER"
    console.print(
        f"{run} ways to train beside one process alone, 20 steps: {text} "
        f"(largest relative difference allowed: {found['tolerance']:.0e})",
        soft_wrap=True,
    )


def _program() -> str:
    """How to call us from here: by the path that was used if it lies below this folder."""
    called = Path(sys.argv[0]).absolute()
    if called.name in ("modelwright", "mw") and called.is_relative_to(Path.cwd()):
        return str(called.relative_to(Path.cwd()))
    return "modelwright"


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")  # a name that is cut may be another's
    return table


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _interval(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"{_value(low) or '…'} to {_value(high) or '…'}"

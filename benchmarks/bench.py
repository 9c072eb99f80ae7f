"""What the benchmark scripts share: arguments, bounds, a table, JSON, the exit code."""

import argparse
import datetime
import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from modelwright.core.hardware import this_machine


@dataclass(frozen=True)
class Row:
    """One figure beside its bound; `met` is None where no bound is stated."""

    name: str
    value: Any
    bound: str = ""
    met: bool | None = None


def at_least(name: str, value: float, bound: float, unit: str = "") -> Row:
    return Row(name, round(value, 5), f">= {bound:g}{unit}", value >= bound)


def at_most(name: str, value: float, bound: float, unit: str = "") -> Row:
    return Row(name, round(value, 5), f"<= {bound:g}{unit}", value <= bound)


def exactly(name: str, value: Any, wanted: Any) -> Row:
    return Row(name, value, f"== {wanted}", value == wanted)


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="a small version, for a first look")
    return parser


def finish(rows: list[Row], *, as_json: bool, **more: Any) -> None:
    """Print machine, date, command and rows; exit 1 when a stated bound isn't met."""
    head = {
        "machine": this_machine().name,
        "date": datetime.date.today().isoformat(),
        "command": "python " + " ".join(sys.argv),
    }
    if as_json:
        print(json.dumps({**head, "rows": [asdict(row) for row in rows], **more}))
    else:
        print(" · ".join(head.values()))
        width = max(len(row.name) for row in rows)
        for row in rows:
            mark = {True: "ok", False: "NOT MET", None: ""}[row.met]
            print(f"{row.name:{width}}  {row.value!s:>12}  {row.bound:>12}  {mark}")
    sys.exit(any(row.met is False for row in rows))

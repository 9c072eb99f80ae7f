"""Quality of each task on published data, from scratch, within the minutes of its row.

Every run is a whole road with a model of its own choice; the test part is judged once per run, on
the model that ships. A row's figure is the mean over its seeds, and over its variants where there
are several, such as the horizons of a forecast. Rows of up to five minutes have three seeds, longer
ones one. Where a run fails its row isn't met, with the reason, and the next row has its turn. With
--out, a run that was cut off is taken up; finished ones are made again.

    python benchmarks/quality.py --data FOLDER-OF-DATA-SETS [--rows ag_news,ett_h1] [--seeds 3]
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from bench import Row, arguments, at_least, at_most, finish
from cases import CASES, Case, Overrides

ROOT = Path(__file__).parents[1]
RECIPES, NUMBERS = ROOT / "recipes", ROOT / "docs" / "numbers.md"
TABLE = "## Quality by task"  # its heading there
THREADS = int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))


class RoadFailed(Exception):
    """A run that ended without a figure, and why."""


def road(case: Case, source: Path | None, out: Path, overrides: Overrides) -> dict[str, Any]:
    """One run: its metric on test, what it saw and what it was.

    Raises: RoadFailed.
    """
    place = {} if source is None else {"data.source": str(source)}
    keys = {**case.overrides, **place, "goals": "{}", **overrides}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "modelwright", "run", str(RECIPES / case.recipe),
         *(f"{key}={value}" for key, value in keys.items()), "--out", str(out), "--json"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        found = json.loads(done.stdout)
    except ValueError:  # killed, say: it has no words of its own
        found = {"error": done.stdout[-200:]}
    if done.returncode:
        told = found.get("error", found)
        raise RoadFailed(f"exit code {done.returncode} of {case.recipe}, {overrides}: {told}")
    run = Path(found["run"])
    judged = json.loads((run / "certify" / "certificate.json").read_bytes())
    trained = json.loads((run / "train" / "done.json").read_bytes())
    plan = json.loads((run / "plan" / "plan.json").read_bytes())
    winner = next(one for one in plan["candidates"] if one["name"] == plan["winner"])
    return {
        "metric": judged[case.metric],
        "steps": trained["steps"], "examples": trained["examples"], "params": winner["num_params"],
        "model": plan["winner"], "rows": judged["rows"], "seconds": trained["training_seconds"],
        "also": {name: judged[name] for name in case.also},
    }  # fmt: skip


def prepared(name: str, case: Case, data: Path, out: Path) -> Path | None:
    """The row's data, unpacked into `out` where that is needed."""
    if case.source is None:
        return None
    if case.made is None:
        return data / case.source
    source = out / name
    if not source.exists():
        unpacked = out / f"{name}.part"
        case.made(data / case.source, unpacked)
        unpacked.rename(source)
    return source


def measure(
    name: str, case: Case, data: Path, out: Path, seeds: int, minutes: float
) -> tuple[list[Row], str]:
    """The row's figures, and its line of the table in docs/numbers.md.

    Raises: RoadFailed by one of its runs.
    """
    source = prepared(name, case, data, out)
    runs = [
        road(case, source, out, {**variant, "train.seed": str(seed),
                                 "budget.train_minutes": str(minutes)})
        for variant in case.variants
        for seed in range(seeds)
    ]  # fmt: skip
    value = mean(run["metric"] for run in runs)
    if case.floor is None:
        first = Row(f"{name}: {case.metric}", round(value, 5))
    else:
        judge = at_least if case.higher_is_better else at_most
        first = judge(f"{name}: {case.metric}", value, case.floor)
    told = {
        "wanted": case.aim,
        "each run": ", ".join(f"{run['metric']:.4f}" for run in runs),
        **{one: _mean([run["also"][one] for run in runs]) for one in case.also},
        "minutes": minutes,
        "seconds trained": ", ".join(f"{run['seconds']:.0f}" for run in runs),
        "model": ", ".join(dict.fromkeys(run["model"] for run in runs)),
        "parameters": ", ".join(dict.fromkeys(f"{run['params']:,}" for run in runs)),
        "steps": ", ".join(f"{run['steps']:,}" for run in runs),
        "examples": ", ".join(f"{run['examples']:,}" for run in runs),
        "threads": THREADS,
        "test rows": runs[0]["rows"],
    }
    also = [f"{one} {told[one]}" for one in case.also if one != "protocol"]
    missed = "" if first.met is not False else ", **not met**"
    cells = (
        case.title, "; ".join([case.metric, *also]), f"{value:.4f}{missed}",
        told["each run"] if len(runs) > 1 else "", case.floor or "", case.aim, f"{minutes:g}",
        seeds, told["model"], told["parameters"],
        f"{min(r['examples'] for r in runs):,} to {max(r['examples'] for r in runs):,}"
        if len(runs) > 1 else told["examples"],
        THREADS, datetime.date.today().isoformat(),
    )  # fmt: skip
    line = "| " + " | ".join(map(str, cells)) + " |"
    return [first, *(Row(f"{name}: {key}", one) for key, one in told.items())], line


def _mean(values: list[Any]) -> Any:
    return values[0] if isinstance(values[0], str) else round(mean(values), 4)


def write_lines(lines: list[str], page: Path = NUMBERS) -> None:
    """Put each line in the place of the one that begins alike, or behind the table's last one."""
    before, heading, after = page.read_text().partition(TABLE + "\n")
    rows = after.split("\n")
    table = [index for index, row in enumerate(rows) if row.startswith("|")]
    ends = next((one for one in table if one + 1 not in table), None)
    assert heading and ends is not None, f"{page} has no table below {TABLE!r}"
    for line in lines:
        title = line.split("|")[1]
        old = (i for i in table if i <= ends and rows[i].split("|")[1].strip() == title.strip())
        if (place := next(old, None)) is not None:
            rows[place] = line
        else:
            ends += 1
            rows.insert(ends, line)
            table.append(ends)
    page.write_text(before + heading + "\n".join(rows))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--rows", default=",".join(CASES), help="names, with commas")
    parser.add_argument("--seeds", type=int, help="instead of each row's own")
    parser.add_argument("--minutes", type=float, help="instead of each row's own")
    parser.add_argument("--out", type=Path, help="where the runs are kept")
    parser.add_argument("--write", action="store_true", help="the lines of docs/numbers.md too")
    asked = parser.parse_args()
    names = asked.rows.split(",")
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(CASES)}")
    if asked.write and asked.quick:
        parser.error("--quick with --write: a fifth of the minutes makes no line of the table")
    rows: list[Row] = []
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        out = asked.out or Path(temporary)
        for name in names:
            case = CASES[name]
            minutes = asked.minutes or (case.minutes / 5 if asked.quick else case.minutes)
            seeds = 1 if asked.quick else asked.seeds or case.seeds
            try:
                found, line = measure(name, case, asked.data, out, seeds, minutes)
            except RoadFailed as failure:
                rows.append(Row(f"{name}: {case.metric}", str(failure), "a figure", met=False))
                continue
            rows += found
            lines.append(line)
    if asked.write:
        write_lines(lines)
    finish(rows, as_json=asked.json)


if __name__ == "__main__":
    main()

"""The whole road: digits, an infeasible recipe, and Fashion-MNIST where its files are.

Bounds are those that the recipes promise. The test part is judged once per run. A road that ends
with another exit code than it should has no other figures: its rows are that code and its words.

    python benchmarks/road.py [--fashion PATH-TO-IDX-FILES] [--quick] [--json]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import Row, arguments, at_least, at_most, exactly, finish

RECIPES = Path(__file__).parents[1] / "recipes"


def road(out: str, recipe: str, *overrides: str) -> tuple[int, dict[str, Any], float]:
    """Exit code, the JSON object, seconds of `modelwright run`."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "modelwright", "run", str(RECIPES / recipe),
         *overrides, "--out", out, "--json"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        found = dict(json.loads(done.stdout))
    except ValueError:  # killed, say
        found = {"error": f"no JSON object on stdout: {done.stdout[-200:]!r}"}
    return done.returncode, found, time.perf_counter() - started


def help_shown() -> list[Row]:
    """How long a person waits for `--help`, the interpreter's start included: the best of five."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "modelwright", "--help"], stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return [at_most("--help, s", min(seconds), 0.3)]


def ended(name: str, code: int, wanted: int, found: dict[str, Any]) -> list[Row]:
    """The first row of a road; with its words, where it ended otherwise than it should."""
    rows = [exactly(f"{name}: exit code", code, wanted)]
    if code != wanted:
        told = found.get("error") or found.get("relax") or found.get("verdict")
        rows.append(Row(f"{name}: it said", told))
    return rows


def certificate(found: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads((Path(found["run"]) / "certify" / "certificate.json").read_bytes()))


def plan_of(found: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads((Path(found["run"]) / "plan" / "plan.json").read_bytes()))


def minutes_trained(found: dict[str, Any]) -> float:
    """The race included."""
    lost = sum(
        one["rounds"][-1]["seconds"] for one in plan_of(found)["candidates"]
        if one["rounds"] and one["status"] != "winner"
    )  # fmt: skip
    return float(found["measured"]["training_s"] + lost) / 60


def interval(judged: dict[str, Any], low: str, high: str) -> str:
    return f"{judged[low]:.4f} to {judged[high]:.4f}"


def digits(out: str) -> list[Row]:
    code, found, seconds = road(out, "digits.yaml")
    if code:
        return ended("digits", code, 0, found)
    judged = certificate(found)
    speedup = judged["speedup"]
    return [
        *ended("digits", code, 0, found),
        Row("digits: winner", plan_of(found)["winner"]),
        at_least("digits: test accuracy", judged["accuracy"], 0.97),
        Row("digits: 95 % interval", interval(judged, "accuracy_low", "accuracy_high")),
        at_most("digits: size, MB", judged["size_mb"], 0.25),
        at_most("digits: p99 latency, ms", judged["latency"]["p99_ms"], 1.0),
        Row("digits: times faster than float32", round(speedup["value"], 3)),
        Row("digits: 95 % interval of that", interval(speedup, "low", "high")),
        Row("digits: times smaller than float32",
            round(judged["baseline"]["size_mb"] / judged["size_mb"], 2)),
        Row("digits: minutes of training, race included", round(minutes_trained(found), 2)),
        at_most("digits: whole road, s", seconds, 180),
    ]  # fmt: skip


def infeasible(out: str) -> list[Row]:
    goals = ["goals.accuracy=>= 0.999", "goals.size_mb=<= 0.005"]
    code, found, seconds = road(out, "digits.yaml", *goals)
    if code != 3:
        return ended("infeasible", code, 3, found)
    return [
        *ended("infeasible", code, 3, found),
        exactly("infeasible: verdict", found["verdict"], "infeasible"),
        exactly("infeasible: artifact", found["artifact"], None),
        at_least("infeasible: near misses named", len(found["nearest_misses"]), 1),
        Row("infeasible: binding goal", found["binding_goal"]),
        Row("infeasible: seconds", round(seconds, 1)),
    ]


def fashion(out: str, path: str, minutes: float) -> list[Row]:
    code, found, seconds = road(
        out, "fashion_mnist.yaml", f"data.source={path}", f"budget.train_minutes={minutes}"
    )
    if code:
        return ended("fashion", code, 0, found)
    judged = certificate(found)
    share = minutes_trained(found) / minutes
    return [
        *ended("fashion", code, 0, found),
        exactly("fashion: test rows", judged["rows"], 10_000),
        at_least("fashion: test accuracy", judged["accuracy"], 0.935),
        at_most("fashion: accuracy lost to its float32 parent", judged["drop"]["value"], 0.005),
        at_least("fashion: times faster than float32", judged["speedup"]["value"], 2.5),
        at_least("fashion: times smaller than float32",
                 judged["baseline"]["size_mb"] / judged["size_mb"], 3.5),
        at_most("fashion: training over budget, either way", abs(share - 1), 0.05),
        Row("fashion: winner", plan_of(found)["winner"]),
        Row("fashion: size, MB", round(judged["size_mb"], 4)),
        Row("fashion: p50 latency, ms", round(judged["latency"]["p50_ms"], 4)),
        Row("fashion: p99 latency, ms", round(judged["latency"]["p99_ms"], 4)),
        Row("fashion: whole road, s", round(seconds, 1)),
    ]  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--fashion", help="folder with the four Fashion-MNIST files")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--out", help="keep the runs here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or folder
        rows = help_shown() + digits(out)
        if not options.quick:
            rows += infeasible(out)
            if options.fashion:
                rows += fashion(out, options.fashion, options.minutes)
    finish(rows, as_json=options.json)


if __name__ == "__main__":
    main()

"""Whether `model: auto` chooses as well as somebody who tries every family for as long.

For each data set one run leaves the model open, and one run a family has the same total minutes;
the figures are means over the seeds, on the test part, the rows those of quality.py that have a
floor and a metric from zero up: of what is learned by acting there is no ratio of returns. With
--out, a run that was cut off is taken up; finished ones are made again.

    python benchmarks/choice.py --data FOLDER-OF-DATA-SETS [--rows fsdd] [--minutes 5] [--seeds 3]
"""

import tempfile
from pathlib import Path
from statistics import mean

from bench import Row, arguments, at_least, finish
from cases import CASES, Case, Overrides
from quality import RoadFailed, prepared, road

ROWS = ("fashion_mnist", "ag_news", "ett_h1", "fsdd")
FAMILIES = ("cnn", "rnn", "transformer")
LEAST = 0.99  # of what the best family reaches
JUDGED = {  # returns may be negative, and no family races for them
    name: case
    for name, case in CASES.items()
    if case.floor is not None and case.metric != "mean_return"
}


def mean_metric(
    case: Case, source: Path | None, out: Path, seeds: int, model: Overrides
) -> tuple[float, list[str]]:
    """Over the seeds and variants of a row, and which models those were."""
    runs = [
        road(case, source, out, {**variant, **model, "train.seed": str(seed)})
        for variant in case.variants
        for seed in range(seeds)
    ]
    return mean(run["metric"] for run in runs), [run["model"] for run in runs]


def measure(name: str, data: Path, out: Path, minutes: float, seeds: int) -> list[Row]:
    case = JUDGED[name]
    source = prepared(name, case, data, out)
    budget = {"budget.train_minutes": str(minutes)}
    auto, chosen = mean_metric(case, source, out, seeds, {**budget, "model": "auto"})
    alone = {
        family: mean_metric(case, source, out, seeds, {**budget, **only})[0]
        for family in FAMILIES
        for only in [{"model": f"{{family: {family}}}"}]
    }
    if case.higher_is_better:
        reached = auto / max(alone.values())
    else:
        reached = min(alone.values()) / auto
    return [
        at_least(f"{name}: auto over the best family, {case.metric}", reached, LEAST),
        Row(f"{name}: auto", round(auto, 4)),
        *(Row(f"{name}: {family}", round(value, 4)) for family, value in alone.items()),
        Row(f"{name}: chosen", ", ".join(chosen)),
        Row(f"{name}: minutes each", minutes),
        Row(f"{name}: seeds", seeds),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--rows", default=",".join(ROWS), help="names, with commas")
    parser.add_argument("--minutes", type=float, help="instead of each row's own")
    parser.add_argument("--seeds", type=int, help="instead of three, or one with --quick")
    parser.add_argument("--out", type=Path, help="where the runs are kept")
    asked = parser.parse_args()
    names = asked.rows.split(",")
    if unknown := [name for name in names if name not in JUDGED]:
        parser.error(f"no row {', '.join(unknown)} to judge a choice by; use {', '.join(JUDGED)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            own = JUDGED[name].minutes
            minutes = asked.minutes or (own / 5 if asked.quick else own)
            seeds = asked.seeds or (1 if asked.quick else 3)
            try:
                rows += measure(name, asked.data, asked.out or Path(temporary), minutes, seeds)
            except RoadFailed as failure:
                rows.append(Row(f"{name}: auto over the best family", str(failure), "a figure",
                                met=False))  # fmt: skip
    finish(rows, as_json=asked.json)


if __name__ == "__main__":
    main()

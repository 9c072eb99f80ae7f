"""Quality of each task on published data, from scratch, within the minutes of its row.

Every run is a whole road with a model of its own choice; the test part is judged once per run, on
the model that ships. A row's figure is the mean over its seeds, and over its variants where there
are several, such as the horizons of a forecast. Rows of up to five minutes have three seeds, longer
ones one. With --out, runs that are there already are taken up where they ended.

    python benchmarks/quality.py --data FOLDER-OF-DATA-SETS [--rows ag_news,ett_h1] [--seeds 3]
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from bench import Row, arguments, at_least, at_most, finish
from prepare import bccd, cifar10, flickr8k, fsdd, fsdd_words, movielens_ratings

RECIPES = Path(__file__).parents[1] / "recipes"
Overrides = dict[str, str]


@dataclass(frozen=True)
class Case:
    """One row: a recipe on a data set, and the floor that its metric has to reach.

    Args:
        source: the data set's place in the folder of data sets; None leaves the recipe's own.
        overrides: of the recipe; variants: each on top of them, one run a seed.
        made: what has to be unpacked first, (place of the data set, folder to fill).
        floor: None where a row has no bound and is only recorded.
    """

    recipe: str
    source: str | None
    metric: str
    floor: float | None
    aim: float
    minutes: float = 5
    overrides: Overrides = field(default_factory=dict)
    variants: tuple[Overrides, ...] = ({},)
    made: Callable[[Path, Path], Any] | None = None

    @property
    def seeds(self) -> int:
        return 3 if self.minutes <= 5 else 1


def texts(**keys: str) -> Overrides:
    return {f"data.{name}": value for name, value in keys.items()}


HORIZONS = tuple({"data.horizon": str(steps)} for steps in (96, 192, 336, 720))
FOLDS = tuple(
    {"data.files": f"{{train: u{fold}.base, test: u{fold}.test}}"} for fold in range(1, 6)
)
NOVELS = {"data.files": "{train: train.txt.gz, valid: valid.txt.gz, test: test.txt.gz}"}
EXCHANGE = {"data.split_rows": "[5312, 758, 1518]"}  # 7, 1 and 2 tenths, as in the literature
CASES: dict[str, Case] = {
    "fashion_mnist": Case("fashion_mnist.yaml", "fashion_mnist", "accuracy", 0.935, 0.945),
    "cifar10": Case(
        "fashion_mnist.yaml", "cifar10_jpeg", "accuracy", 0.915, 0.935, minutes=20,
        overrides={"train.augment": "[{flip: horizontal}, {crop: 4}]",
                   "data.checks": "{waive: [duplicates_across_splits]}"},
        made=cifar10,
    ),
    "ag_news": Case("news.yaml", "ag_news_subset", "accuracy", 0.875, 0.89, minutes=2),
    "sst2": Case(
        "news.yaml", "sst2", "accuracy", 0.81, 0.83,
        # the phrases of valid are cut from the sentences of train: no race can be judged by them
        overrides={"model": "{family: cnn}", **texts(
            files="null", columns="{text: sentence, label: label}",
            checks="{waive: [duplicates_across_splits]}",
        )},
    ),
    "zh_titles": Case(
        "news.yaml", "zh_thucnews_titles", "accuracy", 0.86, 0.88, minutes=2,
        overrides=texts(files="{train: dev.txt.gz, test: test.txt.gz}",
                        columns="{text: 0, label: 1}",
                        checks="{waive: [duplicates_across_splits]}"),
    ),
    "newsgroups": Case(
        "news.yaml", "newsgroups20", "accuracy", 0.72, 0.78,
        overrides=texts(files="null", columns="{text: text, label: label}",
                        clean="[{strip: mail_headers}]",
                        checks="{waive: [duplicates_across_splits]}"),
    ),
    "conll2000": Case("chunks.yaml", "conll2000_chunking", "f1", 0.91, 0.93),
    "msra": Case(
        "chunks.yaml", "zh_ner_msra/dh_msra.txt.gz", "f1", 0.84, 0.90, minutes=10,
    ),
    "shakespeare": Case("shakespeare.yaml", "tinyshakespeare/input.txt", "nats_per_char", 1.6, 1.5),
    "shakespeare_20": Case(
        "shakespeare.yaml", "tinyshakespeare/input.txt", "nats_per_char", 1.5, 1.46, minutes=20
    ),
    "novels": Case(
        "shakespeare.yaml", "english_novels", "bits_per_byte", None, 2.0, minutes=20,
        overrides=NOVELS,
    ),
    "novels_pairs": Case(
        "shakespeare.yaml", "english_novels", "bits_per_byte", None, 2.0, minutes=20,
        overrides={**NOVELS, "data.tokens": "{unit: bpe}"},
    ),
    "fsdd": Case(
        "spoken_digits.yaml", "fsdd/recordings.tar.gz", "accuracy", 0.975, 0.99, minutes=2,
        made=fsdd,
    ),
    "bccd": Case(
        "blood_cells.yaml", "bccd/BCCD.tar.gz", "ap50", 0.72, 0.82, minutes=20, made=bccd
    ),
    "fsdd_words": Case(
        "spoken_words.yaml", "fsdd/recordings.tar.gz", "wer", 0.06, 0.03, minutes=10,
        made=fsdd_words,
    ),
    "ett_h1": Case(
        "forecast.yaml", "ett_h1/ETTh1.csv.gz", "mse", 0.425, 0.412, minutes=2, variants=HORIZONS
    ),
    "ett_h1_rnn": Case(
        "forecast.yaml", "ett_h1/ETTh1.csv.gz", "mse", 0.48, 0.44, minutes=2, variants=HORIZONS,
        overrides={"model": "{family: rnn}"},
    ),
    "exchange_rate": Case(
        "forecast.yaml", "exchange_rate/exchange_rate.txt.gz", "mse", None, 0.35, minutes=1,
        variants=HORIZONS, overrides=EXCHANGE,
    ),
    "flickr8k": Case(
        "captions.yaml", "flickr8k_subset/images.tar.gz", "recall_at_10", 0.25, 0.40, minutes=10,
        made=flickr8k,
    ),
    "multi30k_de_en": Case("translation.yaml", "multi30k", "bleu", 33, 37, minutes=20),
    "multi30k_en_de": Case(
        "translation.yaml", "multi30k", "bleu", 30, 35, minutes=20,
        overrides={"data.pair": "[en, de]"},
    ),
    "multi30k_rnn": Case(
        "translation.yaml", "multi30k", "bleu", 27, 32, minutes=20,
        overrides={"model": "{family: rnn, size: base}"},
    ),
    "movielens": Case(
        "movies.yaml", "movielens_100k/u.data.gz", "ndcg_at_10", 0.06, 0.09, minutes=2,
        overrides={"data.interactions.names": "u.item.gz"},
    ),
    "movielens_ratings": Case(
        "film_ratings.yaml", "movielens_100k", "rmse", 0.925, 0.910, minutes=0.75,
        variants=FOLDS, made=movielens_ratings,
    ),
    "cartpole": Case("cartpole.yaml", None, "mean_return", 475, 500, minutes=1),
    "acrobot": Case("acrobot.yaml", None, "mean_return", -100, -85),
}  # fmt: skip


def road(case: Case, source: Path | None, out: Path, overrides: Overrides) -> dict[str, Any]:
    """One run: its metric on test, what it saw and what it was."""
    place = {} if source is None else {"data.source": str(source)}
    keys = {**case.overrides, **place, "goals": "{}", **overrides}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "modelwright", "run", str(RECIPES / case.recipe),
         *(f"{key}={value}" for key, value in keys.items()), "--out", str(out), "--json"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    if done.returncode:
        raise SystemExit(f"{case.recipe}: {found.get('error', found)}")
    run = Path(found["run"])
    judged = json.loads((run / "certify" / "certificate.json").read_bytes())
    trained = json.loads((run / "train" / "done.json").read_bytes())
    plan = json.loads((run / "plan" / "plan.json").read_bytes())
    winner = next(one for one in plan["candidates"] if one["name"] == plan["winner"])
    return {
        "metric": judged[case.metric], "parent": judged[f"parent_{case.metric}"],
        "steps": trained["steps"], "params": winner["num_params"], "model": plan["winner"],
        "rows": judged["rows"], "seconds": trained["training_seconds"],
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


def measure(name: str, case: Case, data: Path, out: Path, seeds: int, minutes: float) -> list[Row]:
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
        judge = at_least if case.aim > case.floor else at_most
        first = judge(f"{name}: {case.metric}", value, case.floor)
    models = ", ".join(dict.fromkeys(run["model"] for run in runs))
    steps = ", ".join(f"{run['steps']:,}" for run in runs)
    params = ", ".join(dict.fromkeys(f"{run['params']:,}" for run in runs))
    return [
        first,
        Row(f"{name}: wanted", case.aim),
        Row(f"{name}: each run", ", ".join(f"{run['metric']:.4f}" for run in runs)),
        Row(f"{name}: minutes", minutes),
        Row(f"{name}: seconds trained", ", ".join(f"{run['seconds']:.0f}" for run in runs)),
        Row(f"{name}: model", models),
        Row(f"{name}: parameters", params),
        Row(f"{name}: steps", steps),
        Row(f"{name}: test rows", runs[0]["rows"]),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--rows", default=",".join(CASES), help="names, with commas")
    parser.add_argument("--seeds", type=int, help="instead of each row's own")
    parser.add_argument("--minutes", type=float, help="instead of each row's own")
    parser.add_argument("--out", type=Path, help="where the runs are kept")
    asked = parser.parse_args()
    names = asked.rows.split(",")
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(CASES)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        out = asked.out or Path(temporary)
        for name in names:
            case = CASES[name]
            minutes = asked.minutes or (case.minutes / 5 if asked.quick else case.minutes)
            seeds = 1 if asked.quick else asked.seeds or case.seeds
            rows += measure(name, case, asked.data, out, seeds, minutes)
    finish(rows, as_json=asked.json)


if __name__ == "__main__":
    main()

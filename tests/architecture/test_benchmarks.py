"""Benchmarks are run by people, not by the tests; what they take from the product has to exist."""

import ast
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelwright import verbs
from modelwright.core.signature import Signature, TensorSpec
from modelwright.train.equivalence import Compared

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
DATA = ROOT.parent / "shared" / "data"
# what is run with --quick, and with what besides; DATA stands for the folder of data sets
QUICK = {
    "ablations": ("--data", "DATA", "--texts", "bpe", "--variants", "defaults"),
    "checkpoints": (),
    "choice": ("--data", "DATA", "--rows", "movielens"),
    "layouts": (),
    "novels": ("--data", "DATA", "--threads", "1"),
    "plan_accuracy": (),
    "quality": ("--data", "DATA", "--rows", "movielens"),
    "resume": (),
    "road": (),
    "serving": ("RUN",),
    "train_speed": ("--only", "overhead"),
    "train_speed tokens": ("--only", "tokens", "--data", "DATA/tinyshakespeare/input.txt"),
}
PARTS = {"bench", "cases", "nanogpt", "prepare", "speed_cases"}  # of scripts, or no measurement


@pytest.fixture
def benchmark(monkeypatch):
    """A script as a module, by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def _exists(module: str, name: str) -> bool:
    found = importlib.import_module(module)
    return hasattr(found, name) or (
        hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_name_that_a_benchmark_imports_exists(script):
    """A function that moves to another module takes its users in benchmarks/ along."""
    missing = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modelwright")
        for alias in node.names
        if not _exists(node.module, alias.name)
    ]

    assert [] == missing


def test_every_benchmark_is_run():
    """A script that no test runs breaks with the product, and nobody knows."""
    assert {script.stem for script in SCRIPTS} == {name.split()[0] for name in QUICK} | PARTS


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("choice", "--rows acrobot", "no row acrobot to judge a choice by"),
        ("choice", "--rows novels", "no row novels to judge a choice by"),
        ("quality", "--rows fsdd --quick --write", "--quick with --write"),
    ],
)
def test_a_benchmark_refuses_before_it_trains(benchmark, monkeypatch, capsys, name, words, told):
    """What can't be judged or written is said when the arguments are read."""
    monkeypatch.setattr(sys, "argv", [name, "--data", "nowhere", *words.split()])

    with pytest.raises(SystemExit) as ended:
        benchmark(name).main()

    assert 2 == ended.value.code
    assert told in capsys.readouterr().err


def test_a_row_of_quality_that_fails_leaves_the_others(benchmark, monkeypatch, capsys):
    """A run without a figure is a row that isn't met; the rows beside it are told."""
    quality = benchmark("quality")

    def measure(name, *rest):
        if name == "fsdd":
            raise quality.RoadFailed("exit code 4 of spoken_digits.yaml")
        return [quality.Row(f"{name}: f1", 0.9)], ""

    monkeypatch.setattr(quality, "measure", measure)
    monkeypatch.setattr(
        sys, "argv", ["quality", "--json", "--data", "nowhere", "--rows", "msra,fsdd,bccd"]
    )

    with pytest.raises(SystemExit) as ended:
        quality.main()

    assert ended.value.code
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert ["msra: f1", "fsdd: accuracy", "bccd: f1"] == [row["name"] for row in rows]
    assert [None, False, None] == [row["met"] for row in rows]


@pytest.mark.parametrize(
    ("judge", "more"), [("digits", ()), ("infeasible", ()), ("fashion", ("folder", 5.0))]
)
def test_a_road_that_breaks_off_says_why(benchmark, monkeypatch, judge, more):
    """Without a certificate there is the exit code beside the bound, and what the road said."""
    road = benchmark("road")
    monkeypatch.setattr(road, "road", lambda *words: (1, {"error": "a bug of ours"}, 0.1))

    code, said = getattr(road, judge)("out", *more)

    assert (1, False) == (code.value, code.met)
    assert "a bug of ours" == said.value


@pytest.mark.parametrize(("refused", "met"), [((), True), (("tensor 2",), False)])
def test_refusals_of_layouts_are_held(benchmark, monkeypatch, refused, met):
    """A layout that is refused where it should train isn't met."""
    layouts = benchmark("layouts")
    found = [
        Compared("data 2", 2, 1e-7, 1e-7),
        *(Compared(one, 2, refused="no") for one in refused),
    ]
    monkeypatch.setattr(layouts, "compare", lambda *given: found)

    rows = layouts.measure("tiny", "image-classification", "cnn", ())

    assert met == rows[-1].met


@pytest.mark.parametrize(
    ("dtype", "shape", "output", "asked"),
    [
        ("uint8", ("batch", 1, 8, 8), "probabilities", True),
        ("uint8", ("batch", 3, 64, 64), "boxes", False),
        ("int64", ("batch", "time", 1), "probabilities", False),
        ("float32", ("batch", 96, 7), "forecast", False),
    ],
)
def test_the_server_is_asked_about_pictures_alone(benchmark, dtype, shape, output, asked):
    """Any other model is refused with words, before a server is started."""
    inputs = (TensorSpec("input", dtype, shape),)
    outputs = (TensorSpec(output, "float32", ("batch", 10)),)
    artifact = SimpleNamespace(signature=Signature(inputs, outputs))

    assert asked == benchmark("serving").takes_pictures(artifact)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_quick_benchmark_gives_its_figures(tmp_path, name):
    """Each script's small version ends with its rows, whether or not they keep their bounds."""
    words = [word.replace("DATA", str(DATA)) for word in QUICK[name]]
    if "--data" in words and not DATA.is_dir():
        pytest.skip(f"there are no data sets in {DATA}")
    if words == ["RUN"]:
        keys = {"budget.train_minutes": 0.1, "goals": {}}
        words = [verbs.run(ROOT / "recipes/digits.yaml", keys, out=tmp_path)["run"]]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name.split()[0]}.py"), "--quick", "--json",
         *words],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode in (0, 1) and done.stdout, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["rows"]
    assert done.returncode == any(row["met"] is False for row in found["rows"])

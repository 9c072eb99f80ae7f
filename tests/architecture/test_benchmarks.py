"""Benchmarks are run by people, not by the tests; what they take from the product has to exist."""

import ast
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright import verbs

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

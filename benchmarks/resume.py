"""kill -9 at random moments of a run, then the same command again: the same weights, bit by bit.

Runs a recipe with a step budget once undisturbed, and once killed again and again (20 times; 4 with
--quick); then compares the trained weights. A fifth of the kills fall at random moments before
training: while libraries are loaded, data is read, nets race. All others wait until this start of
the command has written to the curves of its training, and fall at random moments after that; how
long after is a share of what the undisturbed training took, so that there is something left to
train for the next. A kill within training is one after which the training isn't finished.
Bounds: every kill is survived, the final weights are bitwise equal, three of five kills at the
least fell within training.

    python benchmarks/resume.py [--quick] [--json]
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import Row, arguments, at_least, exactly, finish

RECIPE = Path(__file__).parents[1] / "recipes" / "digits.yaml"
KILLS, STEPS = 20, 1500
QUICK_KILLS, QUICK_STEPS = 4, 300
EARLY, WITHIN = 0.2, 0.6  # shares of the kills: before training; within it, at the least
FIRST_S, LOOK_S = 0.5, 0.005  # no moment is sooner than that; between two looks at the folder


def start(out: str, steps: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-W", "ignore", "-m", "modelwright", "run", str(RECIPE),
        f"budget.train_steps={steps}", "train.checkpoint_steps=25", "train.precision=32-true",
        "goals={}",  # which a busy machine may miss
        "--out", out, "--json",
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds_until(process: subprocess.Popen[bytes], there: Callable[[], bool]) -> float:
    """Waits for something in a folder, or for the end of who writes it; gives how long."""
    started = time.perf_counter()
    while not there() and process.poll() is None:
        time.sleep(LOOK_S)
    return time.perf_counter() - started


def training(out: str, since: float) -> bool:
    """Whether the one run has written to the curves of its training since then."""
    return any(file.stat().st_mtime >= since for file in Path(out).glob("*/train/metrics.jsonl"))


def trained(out: str) -> bool:
    return any(Path(out).glob("*/train/done.json"))


def finished(out: str) -> bool:
    """Whether a run was killed after its last event: there is nothing left to continue."""
    return any(
        b'"event": "finished"' in file.read_bytes() for file in Path(out).glob("*/run.jsonl")
    )


def weights(out: str) -> str | None:
    """SHA-256 of the one run's trained weights."""
    files = list(Path(out).glob("*/train/model/model.safetensors"))
    return hashlib.sha256(files[0].read_bytes()).hexdigest() if len(files) == 1 else None


def undisturbed(out: str, steps: int) -> tuple[int, float, float, float]:
    """Exit code; seconds until training, of training, and of all."""
    process = start(out, steps)
    before = seconds_until(process, partial(training, out, 0.0))
    within = seconds_until(process, partial(trained, out))
    after = seconds_until(process, lambda: False)
    return process.returncode, before, within, before + within + after


def main() -> None:
    options = arguments(__doc__).parse_args()
    kills, steps = (QUICK_KILLS, QUICK_STEPS) if options.quick else (KILLS, STEPS)
    early = round(EARLY * kills)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = f"{folder}/straight", f"{folder}/killed"
        first, before_s, training_s, whole_s = undisturbed(straight, steps)
        if first:
            finish([exactly("exit code undisturbed", first, 0)], as_json=options.json)
        moments, within = [], 0
        for kill in range(kills):
            began, process = time.time(), start(killed, steps)
            if kill < early:
                time.sleep(rng.uniform(FIRST_S, max(FIRST_S, before_s)))
            else:
                seconds_until(process, partial(training, killed, began))
                time.sleep(rng.uniform(0.0, training_s / (kills - early)))
            if process.poll() is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            moments.append(round(time.time() - began, 2))
            within += training(killed, began) and not trained(killed)
            if finished(killed):
                break
        code = 0
        if not finished(killed):
            code = start(killed, steps).wait()
        found = weights(straight)
        rows = [
            exactly("exit code undisturbed", first, 0),
            exactly("exit code after the kills", code, 0),
            exactly("runs in the folder", len(list(Path(killed).glob("*"))), 1),
            exactly("weights bitwise equal", found is not None and found == weights(killed), True),
            Row("kills", len(moments)),
            at_least("kills within training", within, round(WITHIN * kills)),
            Row("seconds undisturbed", round(whole_s, 1)),
            Row("seconds of it in training", round(training_s, 1)),
        ]
    finish(rows, as_json=options.json, moments=moments)


if __name__ == "__main__":
    main()

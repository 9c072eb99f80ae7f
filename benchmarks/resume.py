"""kill -9 at random moments of a run, then the same command again: the same weights, bit by bit.

Runs a recipe with a step budget once undisturbed, and once killed again and again (20 times; 4
with --quick) at random moments; then compares the trained weights and the chosen compressed
model's parent. Bounds: every kill is survived, the final weights are bitwise equal.

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
from pathlib import Path

from bench import Row, arguments, exactly, finish

RECIPE = Path(__file__).parents[1] / "recipes" / "digits.yaml"
STEPS = 1500
STARTUP_S = 4.0  # until the libraries are loaded


def command(out: str, steps: int) -> list[str]:
    return [
        sys.executable, "-W", "ignore", "-m", "modelwright", "run", str(RECIPE),
        f"budget.train_steps={steps}", "train.checkpoint_steps=25", "train.precision=32-true",
        "--out", out, "--json",
    ]  # fmt: skip


def finished(out: str) -> bool:
    """Whether a run was killed after its last event: there is nothing left to continue."""
    return any(
        b'"event": "finished"' in file.read_bytes() for file in Path(out).glob("*/run.jsonl")
    )


def weights(out: str) -> str:
    """SHA-256 of the one run's trained weights."""
    (file,) = Path(out).glob("*/train/model/model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> None:
    options = arguments(__doc__).parse_args()
    kills, steps = (4, 300) if options.quick else (20, STEPS)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = f"{folder}/straight", f"{folder}/killed"
        started = time.perf_counter()
        first = subprocess.run(command(straight, steps), stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - started
        moments = []
        for _ in range(kills):
            process = subprocess.Popen(
                command(killed, steps), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            moment = rng.uniform(0.5, STARTUP_S + 2.0)
            time.sleep(moment)
            if process.poll() is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            moments.append(round(moment, 2))
            if finished(killed):
                break
        code = 0
        if not finished(killed):
            code = subprocess.run(command(killed, steps), stdout=subprocess.DEVNULL).returncode
        rows = [
            exactly("exit code undisturbed", first.returncode, 0),
            exactly("exit code after the kills", code, 0),
            exactly("runs in the folder", len(list(Path(killed).iterdir())), 1),
            exactly("weights bitwise equal", weights(killed) == weights(straight), True),
            Row("kills", len(moments)),
            Row("seconds undisturbed", round(whole, 1)),
        ]
    finish(rows, as_json=options.json, moments=moments)


if __name__ == "__main__":
    main()

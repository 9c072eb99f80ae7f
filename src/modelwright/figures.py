"""The figures that stages leave in the ledger: each a Number, predicted or measured."""

from collections.abc import Sequence
from typing import Any

from modelwright.core.hardware import this_machine
from modelwright.core.run import Number, Run
from modelwright.plan import choose
from modelwright.train.loop import Trainer
from modelwright.train.peak import peak_memory_bytes


def predictions(run: Run, candidates: Sequence[choose.Candidate]) -> None:
    """What the plan expects of every candidate."""
    machine = this_machine().name
    units = {"memory_bytes": "B", "epoch_s": "s", "size_bytes": "B", "latency_ms": "ms"}
    for candidate in candidates:
        for name, unit in units.items():
            if name in candidate.predicted:
                number = Number(
                    candidate.predicted[name], unit, "predicted", "plan calibration", machine
                )
                run.figure("plan", candidate.spec.name, name, number)


def training(run: Run, name: str, trainer: Trainer, steps: int, seconds: float) -> None:
    """What the loop took: `steps` of this process in `seconds`."""
    machine = this_machine().name
    if steps:
        epoch_s = seconds / steps * trainer.steps_per_epoch
        run.figure(
            "train", name, "epoch_s", Number(epoch_s, "s", "measured", "training loop", machine)
        )
    number = Number(peak_memory_bytes(), "B", "measured", "peak resident memory", machine)
    run.figure("train", name, "memory_bytes", number)
    number = Number(trainer.elapsed, "s", "measured", "its race slices included", machine)
    run.figure("train", "run", "training_s", number)


def certificate(run: Run, found: dict[str, Any], winner: str) -> None:
    """What was judged, and the uncompressed model beside it."""
    machine = this_machine().name
    rows = f"{found['rows']:,} test rows"
    for name, goal in found["goals"].items():
        how = rows if name.startswith(found["metric"]) else "target runtime"
        number = Number(
            goal["measured"], goal["unit"], "measured", how, machine, goal["low"], goal["high"]
        )
        run.figure("certify", "run", name, number)
    baseline = found["baseline"]
    for name, value, unit in (
        ("size_bytes", baseline["size_mb"] * 1e6, "B"),
        ("latency_ms", baseline["latency_p50_ms"], "ms"),
    ):
        number = Number(value, unit, "measured", "uncompressed graph on the target", machine)
        run.figure("certify", winner, name, number)

"""What stages write into the ledger: figures, findings, losers; and what a training has to know for
its own figures, and the verdict of a run that ends without a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.compress import certify as certifying
from modelwright.core.files import write_json
from modelwright.core.goals import METRICS
from modelwright.core.hardware import this_machine
from modelwright.core.recipe import Recipe
from modelwright.core.run import Number, Run
from modelwright.data.rows import Rows
from modelwright.models.catalog import ModelSpec
from modelwright.plan.candidate import Candidate
from modelwright.plan.memory import in_words
from modelwright.plan.rates import matmul_flops_per_s
from modelwright.tasks.catalog import TASKS
from modelwright.train.journal import Record
from modelwright.train.loggers import open_loggers
from modelwright.train.loop import Trainer
from modelwright.train.peak import peak_memory_bytes
from modelwright.train.precision import PRODUCTS
from modelwright.train.settings import Settings

SPEEDS = {  # what journal.Record.speeds gives -> its unit, and how it was measured
    "examples_per_s": ("1/s", "training loop"),
    "tokens_per_s": ("1/s", "training loop"),
    "flops_per_s": ("FLOP/s", "training loop, FLOPs as counted"),
    "mfu": ("share", "of the measured rate of a matrix product"),
}


def predictions(run: Run, candidates: list[Candidate]) -> None:
    """What the plan says of every candidate."""
    machine = this_machine().name
    units = {"memory_bytes": "B", "epoch_s": "s", "size_bytes": "B", "latency_ms": "ms"}
    for candidate in candidates:
        for name, unit in units.items():
            if name in candidate.predicted:
                number = Number(
                    candidate.predicted[name], unit, "predicted", "plan calibration", machine
                )
                run.figure("plan", candidate.spec.name, name, number)


def findings(run: Run, report: Mapping[str, Any]) -> None:
    """What the gate found, and what each cleaning step did."""
    for finding in report["findings"]:
        told = ("check", "count", "text", "blocking", "waived")
        run.write("gate", "finding", **{name: finding[name] for name in told})


def lost(run: Run, stage: str, candidates: Sequence[Mapping[str, Any]]) -> None:
    """Why each candidate that is not the winner is not."""
    for one in candidates:
        if one["status"] != "winner" and one["reason"]:
            run.write(stage, "lost", subject=one["name"], status=one["status"], text=one["reason"])


def record(
    run: Run,
    recipe: Recipe,
    winner: dict[str, Any],
    spec: ModelSpec,
    settings: Settings,
    rows: Rows,
    processes: int = 1,
) -> Record:
    """Where the training is written down, and what its speed is compared with: that of all its
    processes."""
    folder, section = run.stage_folder("train"), recipe.train
    acting = TASKS[recipe.task].acting  # whose step is mostly playing, which nobody counted
    flops = None if acting else float(winner["forward_flops"] + winner["backward_flops"])
    return Record(
        note=lambda text: run.write("train", "fallback", text=text),
        decision=lambda text: run.write("train", "decision", text=text),
        loggers=open_loggers(section.loggers, folder, run.folder, section.mlflow_uri),
        planned=in_words(winner["memory"]),
        flops_per_example=flops,
        peak_flops_per_s=None
        if acting
        else processes * matmul_flops_per_s(PRODUCTS[settings.precision], settings.device),
        tokens_per_example=tokens_per_row(spec, rows),
    )


def tokens_per_row(spec: ModelSpec, rows: Rows) -> float | None:
    """The mean number of tokens in a row; None where rows are not made of tokens alone."""
    inputs = {one.name: one.dtype for one in spec.signature.inputs if one.name != "lengths"}
    if set(inputs.values()) != {"int64"}:
        return None
    if rows.lengths is not None:
        return float(rows.lengths.mean())
    first = rows.batch(np.zeros(1, np.int64))
    return float(sum(first[name].shape[1] for name in inputs))


def training(run: Run, name: str, trainer: Trainer, steps: int, seconds: float) -> None:
    """What `steps` in `seconds` of a training took: time, speed, memory."""
    machine = this_machine().name
    if steps and seconds > 0:
        first, batch = trainer.step - steps, trainer.settings.batch_size
        examples = trainer.examples_before(trainer.step) - trainer.examples_before(first)
        epoch_s = seconds / examples * batch * trainer.steps_per_epoch
        run.figure(
            "train", name, "epoch_s", Number(epoch_s, "s", "measured", "training loop", machine)
        )
        speeds = trainer.journal.record.speeds(examples / seconds)
        for speed, value in speeds.items():
            unit, how = SPEEDS[speed]
            run.figure("train", name, speed, Number(value, unit, "measured", how, machine))
    gpu = trainer.settings.device == "cuda"
    how = "peak reserved on the GPU" if gpu else "peak resident memory"
    number = Number(peak_memory_bytes(), "B", "measured", how, machine)
    run.figure("train", name, "memory_bytes", number)
    number = Number(trainer.elapsed, "s", "measured", "its race slices included", machine)
    run.figure("train", "run", "training_s", number)


def certificate(run: Run, certificate: dict[str, Any], winner: str) -> None:
    """What was judged on the test part and the target."""
    machine = this_machine().name
    rows = f"{certificate['rows']:,} test rows"
    for name, goal in certificate["goals"].items():
        how = rows if METRICS[name.removesuffix("_drop")].quality else "target runtime"
        number = Number(
            goal["measured"], goal["unit"], "measured", how, machine, goal["low"], goal["high"]
        )
        run.figure("certify", "run", name, number)
    baseline = certificate["baseline"]
    for name, value, unit in (
        ("size_bytes", baseline["size_mb"] * 1e6, "B"),
        ("latency_ms", baseline["latency_p50_ms"], "ms"),
    ):
        number = Number(value, unit, "measured", "uncompressed graph on the target", machine)
        run.figure("certify", winner, name, number)


def infeasible(
    run: Run,
    recipe: Recipe,
    candidates: list[dict[str, Any]],
    where: str,
    *,
    nearest: Candidate | None = None,
) -> None:
    """The verdict of a run that ends without a model, with the goal that binds.

    nearest: the smallest that only the budget ruled out.
    """
    found = certifying.infeasible(candidates, recipe.bounds, where)
    if nearest is not None:
        found["binding_goal"] = nearest.binds
        found.pop("relaxed", None)  # no goal is what binds
        found["relax"] = (
            f"{nearest.binds} binds: even {nearest.spec.name}, the smallest, {nearest.reason}. "
            f"Raise {nearest.binds}."
        )
    first = found["nearest_misses"][0]["candidate"] if found["nearest_misses"] else None
    values: dict[str, float] = next(
        (one["values"] for one in candidates if one["name"] == first), {}
    )
    goals = {
        goal.name: {"bound": goal.text, "measured": values[goal.name], "low": None, "high": None,
                    "met": goal.met_by(values[goal.name])}
        for goal in recipe.bounds
        if goal.name in values
    }  # fmt: skip
    write_json(
        run.stage_folder("certify") / "certificate.json",
        {"verdict": "infeasible", "text": found["relax"], "where": where, "goals": goals, **found},
    )

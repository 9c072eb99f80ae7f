"""Seconds of a training step and milliseconds of an answer, by a short calibration on this machine.

A candidate is run for a few steps with noise of the data's shape, and once exported with random
weights: both depend on shapes, not on what was learned. Results are cached per machine.
"""

import math
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from modelwright.core.hardware import measured_once
from modelwright.core.recipe import Target
from modelwright.data.rows import SOUND_SCALE, Column, Rows, ragged
from modelwright.export.onnx import export_onnx
from modelwright.measure.timing import measure_latency
from modelwright.models.catalog import ModelSpec, examples, fresh_model
from modelwright.models.heads import HEADS
from modelwright.runtime.onnx_session import OnnxSession
from modelwright.tasks.catalog import TASKS
from modelwright.train.catalog import make_trainer
from modelwright.train.device import name_of, wait_for
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget, Settings

WARM_STEPS, TIMED_STEPS = 2, 30
ATTEMPTS, QUIET_SPREAD = 3, 1.2  # median over fastest; above it, something else is running
PLACES_A_LETTER = 4  # of made-up texts, where some 15 letters a second are spoken
MOST_SECONDS = 1.0  # of timed steps, where they are slow; two are always timed


@dataclass(frozen=True)
class Deployed:
    """What an untrained model takes on the target, uncompressed."""

    size_bytes: float
    latency_ms: float


def step_seconds(spec: ModelSpec, task: str, settings: Settings) -> float:
    """Seconds of one training step at the recipe's batch size: the mean of a few.

    Where other work disturbs the timing, it is tried again, and the attempt of least median counts.
    """

    def measure() -> dict[str, float]:
        part = made_up(spec, settings.batch_size * 2)
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(
                fresh_model(spec, 0), spec, TASKS[task], part, part, knobs,
                Budget(steps=1_000_000), Path(folder),
            )  # fmt: skip
            for _ in range(WARM_STEPS):
                trainer.train_step()
            attempts: list[tuple[float, float, float]] = []
            while len(attempts) < ATTEMPTS and not any(one[1] <= QUIET_SPREAD for one in attempts):
                timed = _timed_steps(trainer)
                median = statistics.median(timed)
                attempts.append((median, median / min(timed), statistics.fmean(timed)))
            # the quietest attempt's mean: an epoch has its slow steps too
            _, spread, step_s = min(attempts)
        return {"step_s": step_s, "spread": spread}

    knobs = replace(
        settings, seed=0, learning_rate=0.0, batch_warmup_steps=0, window_warmup_steps=0
    )
    return measured_once(
        _what(
            "train step",
            spec,
            settings=knobs.plain(),
            threads=torch.get_num_threads(),
            device=name_of(settings.device),
        ),
        measure,
    )["step_s"]


def _timed_steps(trainer: Trainer) -> list[float]:
    """Seconds of the later half of some steps: at first the allocator still asks for memory."""
    timed: list[float] = []
    cycle = trainer.cycle  # where steps differ, each kind of them has to be there
    while len(timed) < max(2, cycle) or (len(timed) < TIMED_STEPS and sum(timed) < MOST_SECONDS):
        started = time.perf_counter()
        trainer.train_step()
        wait_for(trainer.device)
        timed.append(time.perf_counter() - started)
    return timed[-max(cycle, (len(timed) + 1) // 2) :]


def deployed(spec: ModelSpec, target: Target) -> Deployed:
    """Size and median latency of the exported float32 graph with random weights."""

    def measure() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            signature = export_onnx(_as_if_trained(fresh_model(spec, 0)), path, spec)
            session = OnnxSession(path, signature, target.threads)
            made = examples(spec, target.batch_size)
            batch = {name: value.numpy() for name, value in made.items()}
            latency = measure_latency(session, batch, max_seconds=0.5)
            spread = max(latency.control_ratio, 1 / latency.control_ratio)
            return {
                "size_bytes": float(path.stat().st_size), "latency_ms": latency.p50_ms,
                "spread": spread,
            }  # fmt: skip

    runtime = f"onnxruntime {onnxruntime.__version__}"
    what = _what("deployed", spec, target=target.model_dump(), runtime=runtime)
    found = measured_once(what, measure)
    return Deployed(found["size_bytes"], found["latency_ms"])


def made_up(spec: ModelSpec, number: int) -> Rows:
    """Rows of noise that a model of that spec can be trained on; every class comes up."""
    inputs: dict[str, Column] = {}
    over_time = {one.name for one in spec.signature.inputs if one.over_time}
    for name, value in examples(spec, number).items():
        array = value.numpy()
        if name == "samples":
            array = (array * SOUND_SCALE / 8).clip(-32768, 32767).astype(np.int16)
        if name != "lengths":
            inputs[name] = ragged(list(array)) if name in over_time else array
    length = spec.inputs.get("length", 1)
    shape = list(spec.signature.outputs[0].sizes(number, length))
    head, least = HEADS[spec.outputs["kind"]], 0
    if head.made_up is not None:
        return Rows(inputs, ragged([head.made_up(spec.outputs)] * number), [""] * number)
    if head.numbered:
        return Rows(inputs, np.arange(number), [""] * number)
    if head.each_place:
        shape[1:-1] = [length]
    if head.spells:
        shape[1], least = max(1, shape[1] // PLACES_A_LETTER), 1
    if "num_classes" not in spec.outputs:
        draw = np.random.default_rng(0)
        return Rows(inputs, draw.standard_normal(shape, dtype=np.float32), [""] * number)
    kinds = spec.outputs["num_classes"] - least
    classes = least + np.arange(math.prod(shape[:-1])).reshape(shape[:-1]) % kinds
    targets: Column = ragged(list(classes)) if classes.ndim > 1 else classes
    return Rows(inputs, targets, [""] * number)


def _as_if_trained(model: nn.Module) -> nn.Module:
    """No two values alike: the exporter stores equal ones, such as fresh biases, only once."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.dtype.is_floating_point:
                value.add_(torch.rand_like(value) * 1e-3)
    return model


def _what(kind: str, spec: ModelSpec, **more: Any) -> dict[str, Any]:
    # the data's statistics and the names of its classes change no time
    shape = replace(
        spec,
        inputs={key: value for key, value in spec.inputs.items() if key not in ("mean", "std")},
        outputs={key: value for key, value in spec.outputs.items() if key != "labels"},
        args=spec.arguments,  # the ladder's too: another version of it is another model
    )
    return {"kind": kind, "spec": shape.to_json(), "torch": torch.__version__, **more}

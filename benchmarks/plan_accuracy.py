"""Predicted against measured on this machine: three families, three sizes each.

For each model a fresh process predicts (calibration cache empty), then trains a real epoch and
measures the exported, trained model. Memory is asked for as plan/choose.py does, the best weights
so far included. What the allocator holds on top (ALLOCATOR_SHARE of plan/memory.py) was fitted to
these nets, so their memory says whether the fit still holds, not how far off other nets are.
Bounds: parameters and FLOPs exact, size within 5 %, peak memory within 15 %, time per epoch and
latency within 30 %.

    python benchmarks/plan_accuracy.py [--quick] [--json]
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import Row, arguments, finish

SHAPE = (1, 28, 28)
CLASSES, ROWS, BATCH = 10, 10_000, 128
SIZES = ("tiny", "small", "base")
BOUNDS = {"params": 0.0, "flops": 0.0, "size": 0.05, "memory": 0.15, "epoch": 0.3, "latency": 0.3}


def measure(family: str, size: str, steps: int) -> dict[str, tuple[float, float]]:
    """(predicted, measured) of each figure; runs in its own process."""
    import numpy as np
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from modelwright.core.recipe import Target, Train
    from modelwright.data.rows import Rows
    from modelwright.export.onnx import export_onnx
    from modelwright.measure.timing import measure_latency
    from modelwright.models.catalog import ModelSpec, count_params, fresh_model
    from modelwright.plan import memory, time
    from modelwright.plan.count import count
    from modelwright.runtime.onnx_session import OnnxSession
    from modelwright.tasks.catalog import TASKS
    from modelwright.train.loop import Trainer
    from modelwright.train.peak import peak_memory_bytes, reset_peak_memory
    from modelwright.train.settings import Budget, fill_in

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (ROWS, *SHAPE), dtype=np.uint8)
    rows = Rows({"image": images}, np.arange(ROWS, dtype=np.int64) % CLASSES, [""] * ROWS)
    valid = rows.take(np.arange(256))
    spec = ModelSpec(
        family, size, {"kind": "image", "shape": SHAPE, "mean": [127.5], "std": [73.9]},
        {"kind": "classes", "num_classes": CLASSES},
    )  # fmt: skip
    budget = Budget(steps=steps)
    settings = fill_in(
        Train(batch_size=BATCH, checkpoint_steps=max(1, steps // 2)), spec, "32-true", budget
    )

    counted = count(spec)
    step_s = time.step_seconds(spec, "image-classification", settings)
    target = time.deployed(spec, Target())
    planned = memory.predict(
        spec, micro_batch_size=settings.micro_batch_size, precision=settings.precision,
        optimizer=settings.optimizer, copies=(settings.ema > 0) + settings.cautious,
        best=settings.keep == "best", recompute=settings.activation_checkpointing,
        device=settings.device, data_bytes=0,  # the process holds the rows already
        process_bytes=memory.resident_bytes(),
    )  # fmt: skip

    reset_peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            fresh_model(spec, 0), spec, TASKS["image-classification"], rows, valid, settings,
            budget, Path(folder) / "checkpoints",
        )  # fmt: skip
        (Path(folder) / "checkpoints").mkdir()
        trainer.run()
        peak = peak_memory_bytes()
        graph = Path(folder) / "model.onnx"
        signature = export_onnx(trainer.averaged, graph, spec)
        session = OnnxSession(graph, signature, Target().threads)
        latency = measure_latency(session, {"image": images[:1]}, max_seconds=2.0)
        size_bytes = graph.stat().st_size

    model = fresh_model(spec, 0).train()
    with (
        torch.backends.mkldnn.flags(enabled=False),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model(torch.zeros(1, *SHAPE, dtype=torch.uint8)).sum().backward()
    per_epoch = trainer.loader.steps_per_epoch
    return {
        "params": (counted.num_params, count_params(model)),
        "flops": (counted.forward_flops + counted.backward_flops, counter.get_total_flops()),
        "size": (target.size_bytes, size_bytes),
        "memory": (planned.total, peak),
        "epoch": (step_s * per_epoch, trainer.elapsed / steps * per_epoch),
        "latency": (target.latency_ms, latency.p50_ms),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--one", nargs=3, metavar=("FAMILY", "SIZE", "STEPS"))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1], int(options.one[2]))))
        return
    rows, table = [], []
    for family in ("cnn", "rnn", "transformer"):
        for size in SIZES[:1] if options.quick else SIZES:
            found = _in_own_process(family, size, "20" if options.quick else str(ROWS // BATCH))
            for name, (predicted, measured) in found.items():
                error = predicted / measured - 1
                bound = BOUNDS[name]
                rows.append(
                    Row(f"{family}-{size} {name}", f"{error:+.1%}", f"±{bound:.0%}",
                        abs(error) <= bound)
                )  # fmt: skip
                table.append({"model": f"{family}-{size}", "figure": name,
                              "predicted": predicted, "measured": measured})  # fmt: skip
    finish(rows, as_json=options.json, table=table)


def _in_own_process(family: str, size: str, steps: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-W", "ignore", __file__, "--one", family, size, steps]
        done = subprocess.run(
            command, env={**os.environ, "MODELWRIGHT_CACHE": cache}, check=True,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()

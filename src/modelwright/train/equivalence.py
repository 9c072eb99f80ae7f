"""Does a recipe train the same way in every layout? Twenty steps in each, at tiny size, compared.

What takes several processes runs in some of its own on this machine's CPU (gloo), which read in a
folder what to do:  python -m modelwright.train.equivalence FOLDER  writes what the first one saw
there. One alone is this process.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.core.errors import ConfigError, ModelwrightError
from modelwright.core.files import write_json
from modelwright.core.recipe import WHOLE_BATCHES, Layout, Recipe
from modelwright.data.rows import PARTS, Dataset, load_part, save
from modelwright.models.catalog import ModelSpec
from modelwright.models.later import Later
from modelwright.models.layers import has_batch_norms
from modelwright.tasks.catalog import TASKS
from modelwright.train import parallel
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget, fill_in
from modelwright.train.weights import first_model

# of what a model has of these: so that there is something to deal out, and no masks
ENOUGH = {"dim": 64, "num_layers": 4, "dropout": 0.0}
STEPS, ROWS, BATCH, TOLERANCE = 20, 64, 16, 1e-5
MUON_TOLERANCE = 1e-4  # its rounds enlarge what rounding begins
HIGHEST_RATE = 3e-3  # so do longer steps: ratings at their 0.01 came to 1.4e-4, here to 2e-7
LAYOUTS = (
    Layout(data=2),
    Layout(sharded=2),
    Layout(tensor=2),
    Layout(pipeline=2),
    Layout(data=2, sharded=2),
    Layout(data=2, tensor=2),
    Layout(sharded=2, tensor=2),
    Layout(data=2, pipeline=2),
    Layout(sharded=2, pipeline=2),
    Layout(tensor=2, pipeline=2),
    Layout(pipeline=2, virtual_pipeline=2),
    Layout(context=2),
    Layout(data=2, context=2),
    Layout(tensor=2, context=2),
    Layout(pipeline=2, context=2),
)


@dataclass(frozen=True)
class Compared:
    """One way to train beside one process with whole batches.

    loss, gradient: the largest differences over all steps, of the loss relative to itself, of the
    gradient's norm relative to its largest (near a minimum it is noise); None where the layout is
    refused, with the reason.
    """

    name: str
    processes: int
    loss: float | None = None
    gradient: float | None = None
    refused: str = ""
    tolerance: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        """Within the tolerance, or refused."""
        return self.loss is None or max(self.loss, self.gradient or 0.0) <= self.tolerance


def require_comparable(task: str) -> None:
    """
    Raises: ConfigError for a task whose batches stay whole: no layout trains it, and no smaller
        pass.
    """
    if task in WHOLE_BATCHES:
        why = "learns from acting" if TASKS[task].acting else "compares all rows of a batch"
        raise ConfigError(
            f"doctor --layouts: {task} {why}, which one process does alone: there is nothing to "
            "compare",
            expected=f"another task than {' and '.join(WHOLE_BATCHES)}",
            repair="train it without a launcher",
        )


def compare(
    recipe: Recipe, data: Dataset, spec: ModelSpec, layouts: Sequence[Layout] = LAYOUTS
) -> Iterator[Compared]:
    """Train on the first ROWS rows of train in every layout.

    Args:
        spec: of the model; its dropout is switched off, since masks differ from reader to reader.
    Raises: ModelwrightError if one process alone can't train.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = data.parts["train"]
        part = rows.take(np.arange(min(ROWS, len(rows))))
        save(replace(data, parts=dict.fromkeys(PARTS, part)), folder)
        args = {name: value for name, value in ENOUGH.items() if name in spec.arguments}
        spec = replace(spec, args={**spec.args, **args})
        write_json(
            folder / "work.json",
            {"recipe": recipe.model_dump(mode="json", exclude_unset=True), "spec": spec.to_json()},
        )
        muon = (recipe.train.optimizer or spec.training.get("optimizer")) == "muon"
        tolerance = MUON_TOLERANCE if muon else TOLERANCE
        alone = _run(folder, Layout())
        if isinstance(alone, str):
            raise ConfigError(f"one process alone can't train: {alone}")
        found = _beside("accumulation", 1, alone, _run(folder, Layout(), BATCH // 4))
        yield replace(found, tolerance=tolerance)
        refused: set[str] = set()  # whose products need not be tried
        for layout in layouts:
            axes = {axis: degree for axis, degree in layout.degrees.items() if degree > 1}
            if refused & set(axes):
                continue
            found = _beside(layout.name, layout.processes, alone, _run(folder, layout))
            if found.refused and len(axes) == 1 and layout.virtual_pipeline == 1:
                refused |= set(axes)
            yield replace(found, tolerance=tolerance)


def _beside(name: str, processes: int, alone: Any, found: Any) -> Compared:
    if isinstance(found, str):
        return Compared(name, processes, refused=found)
    ones, others = np.array(alone), np.array(found)
    apart = np.abs(ones - others)
    loss = float((apart[:, 0] / np.abs(ones[:, 0])).max())
    return Compared(name, processes, loss, float(apart[:, 1].max() / np.abs(ones[:, 1]).max()))


def _run(folder: Path, layout: Layout, micro_batch_size: int = BATCH) -> list[list[float]] | str:
    """Loss and norm of the gradient at every step, or why the layout is refused."""
    write_json(
        folder / "layout.json",
        {"layout": layout.model_dump(), "micro_batch_size": micro_batch_size},
    )
    found = folder / "found.json"
    found.unlink(missing_ok=True)
    said = [""]
    if layout.processes == 1:
        _work(folder, {})
    else:
        said = _start(folder, layout.processes)
    if not found.is_file():
        raise ModelwrightError(f"the layout {layout.degrees} broke:\n{said[0]}")
    value = json.loads(found.read_bytes())
    return str(value["refused"]) if "refused" in value else list(value["steps"])


def _start(folder: Path, number: int) -> list[str]:
    """Let so many processes do it; gives what each said of errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "modelwright.train.equivalence", str(folder)]
    started = [
        subprocess.Popen(
            command,
            env={
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1",
                "WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "",
            },
            stderr=subprocess.PIPE,
        )
        for rank in range(number)
    ]  # fmt: skip
    return [process.communicate()[1].decode() for process in started]


def _work(folder: Path, environment: Mapping[str, str] = os.environ) -> None:
    """What one process does, launched as the environment says."""
    told = json.loads((folder / "work.json").read_bytes())
    layout = json.loads((folder / "layout.json").read_bytes())
    recipe, spec = Recipe.model_validate(told["recipe"]), ModelSpec.from_json(told["spec"])
    section = recipe.train.model_copy(
        update={
            "batch_size": BATCH,
            "micro_batch_size": layout["micro_batch_size"],
            "device": "cpu",
            "compile": False,
        }
    )
    budget = Budget(steps=STEPS)
    train, valid = (load_part(folder, part) for part in ("train", "valid"))
    with parallel.joined(environment) as world:
        world.arrange(Layout(**layout["layout"]))
        settings = fill_in(section, spec, "32-true", budget)
        rate = min(settings.learning_rate, HIGHEST_RATE)
        settings = replace(settings, learning_rate=rate)
        found: dict[str, Any]
        model = first_model(spec, 0, world)
        built = model.model if isinstance(model, Later) else model
        try:
            asked = settings.batch_size, settings.first_parts
            parallel.require_fit(world.layout, recipe.task, *asked)
            if settings.micro_batch_size < BATCH and has_batch_norms(built):
                raise ConfigError("batch norms see each pass alone: smaller ones train otherwise")
            trainer = Trainer(
                model, spec, TASKS[recipe.task], train, valid, settings, budget,
                folder / f"checkpoints-{world.rank}", world=world,
            )  # fmt: skip
        except ConfigError as error:
            found = {"refused": str(error).splitlines()[0]}
        else:
            taken = ((trainer.train_step(), trainer.steps.last.grad_norm) for _ in range(STEPS))
            found = {"steps": list(taken)}
        if world.first:
            write_json(folder / "found.json", found)


if __name__ == "__main__":
    _work(Path(sys.argv[1]))

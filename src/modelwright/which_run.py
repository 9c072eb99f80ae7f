"""Which run a command works in: the one it is given, an unfinished one, or another one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelwright import pipeline
from modelwright.core import recipe_file
from modelwright.core.errors import ConfigError
from modelwright.core.files import reading
from modelwright.core.recipe import Recipe
from modelwright.core.run import Run
from modelwright.stages import TOGETHER
from modelwright.tasks.catalog import TASKS
from modelwright.train import compiling, launch, parallel, precision
from modelwright.train.device import resolved

RUNS = Path("runs")
Overrides = Mapping[str, Any]


def recipe_at(path: Path, overrides: Overrides | None) -> Recipe:
    """The recipe of a file or a run, with overrides."""
    run = _run_at(path)
    return recipe_file.read(path if run is None else run.folder / "recipe.yaml", overrides)


def run_for(
    path: Path, overrides: Overrides | None, out: Path, new: bool, processes: int = 1
) -> Run:
    """The run of a command, made if there is none.

    Raises: ConfigError before a folder is there, for what the processes can't train.
    """
    run, recipe, origin = asked_for(path, overrides, new)
    if run is not None and out != RUNS and out.resolve() != run.folder.resolve().parent:
        raise ConfigError(
            f"--out {out}: {run.folder} is a run, which goes on where it is",
            expected="no --out, or --new beside it",
        )
    layout = parallel.resolved(recipe.train.layout, processes)
    parallel.require_fit(layout, recipe.task, recipe.train.batch_size)
    compiling.require_fit(recipe.train.compile, apart=layout.data == processes)
    device = resolved(recipe.train.device, acting=TASKS[recipe.task].acting)
    if recipe.train.precision != "auto":
        precision.require(recipe.train.precision, device)
    if run is None:
        if origin is not None and out == RUNS:
            out = origin.folder.parent
        # a launcher that starts all anew gives them --new once more
        resume = not new or launch.restarts(os.environ) > 0
        return pipeline.start(recipe, out, resume=resume, origin=origin)
    pipeline.go_on_with(run, recipe)
    return run


def asked_for(
    path: Path, overrides: Overrides | None, new: bool
) -> tuple[Run | None, Recipe, Run | None]:
    """The run that is to go on, None for another one; its recipe; and whose trained model it begins
    with, where the path is a run and the overrides are of what comes behind the training.

    Raises: ConfigError for overrides of what is fixed in it; IntegrityError if its recipe is not
        the one that it was started with.
    """
    run = _run_at(path)
    if run is None:
        return None, recipe_file.read(path, overrides), None
    path = run.folder / "recipe.yaml"
    recipe = recipe_file.read(path, overrides)
    own = recipe_file.read(path) if new else pipeline.recipe_of(run)
    if recipe_file.digest(recipe) == recipe_file.digest(own):
        return None if new else run, recipe, None
    behind = recipe_file.digest(recipe, training=True) == recipe_file.digest(own, training=True)
    if behind and not new and run.done(TOGETHER):
        return None, recipe, run
    may_change = f"of the section train: {', '.join(recipe_file.MAY_CHANGE)}"
    later = f"once it is trained, of {', '.join(recipe_file.BEHIND_TRAINING)}, for another run"
    raise ConfigError(
        f"{run.folder} is a run, whose recipe is fixed; these overrides have no effect on it",
        expected=f"{may_change}; {later}, which begins with its model",
        repair="give the recipe's file with the overrides: that starts a new run",
    )


def _run_at(path: Path) -> Run | None:
    """The run that a folder is or lies in; None for anything but a folder."""
    with reading(path):
        is_folder = path.is_dir()
    return pipeline.run_of(path) if is_folder else None

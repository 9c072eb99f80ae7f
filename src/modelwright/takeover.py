"""Another run with a trained model: other goals, another compression or target.

The new run's folder has copies of all that the stages up to the training left, and a ledger that
says whose they are; the stages behind it are its own.
"""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from modelwright.core import recipe_file
from modelwright.core.artifact import kept, open_artifact, write
from modelwright.core.errors import ConfigError
from modelwright.core.files import make_folder, new_folder, reading, storage
from modelwright.core.progress import say
from modelwright.core.recipe import Recipe
from modelwright.core.run import STAGES, Run, runs_of
from modelwright.stages import TOGETHER, read

TAKEN = STAGES[: STAGES.index(TOGETHER) + 1]  # stages whose work is taken over
WORK = ("stage_started", "stage_finished", "stage_stopped")  # was done elsewhere, at another time


def origin_of(run: Run) -> Run | None:
    """The run that trained this one's model; None where that is its own."""
    origin = run.began.get("origin")
    return None if origin is None else Run(Path(origin))


def heritage(origin: Run) -> dict[str, Any]:
    """What a run that begins with another's model says of it when it starts: whose it is, and which
    runs have judged it on the same test rows."""
    own = [origin.folder.name] if any(origin.events("certify", "stage_started")) else []
    judged = [*origin.began.get("judged_before", []), *own]
    return {"origin": str(origin.folder.resolve()), "judged_before": judged}


def offer(root: Path, recipe: Recipe) -> str:
    """What to say where a run below `root` is trained by a recipe that differs only in what comes
    behind that: the newest one, and the command that begins with its model; empty where none is."""
    own = recipe_file.digest(recipe, training=True)
    for run in runs_of(root, recipe.name):
        if not run.done(TOGETHER):
            continue
        try:
            other = recipe_file.read(run.folder / "recipe.yaml")
        except ConfigError:  # of another version, or no recipe any more: no reason not to train
            continue
        if own == recipe_file.digest(other, training=True):
            if not (words := recipe_file.differences(recipe, other)):
                break
            command = shlex.join(["modelwright", "run", str(run.folder), *words])
            return (
                f"{run.folder} has trained this model already; to begin with that in place of "
                f"training: {command}"
            )
    return ""


def take_over(run: Run, recipe: Recipe) -> None:
    """Bring what the stages up to the training left into a run that begins with another's model;
    done once, whatever a crash leaves of it.

    Raises: ConfigError where the other run is gone; IntegrityError where its model is not whole.
    """
    origin = origin_of(run)
    if origin is None or run.done(TOGETHER):
        return
    if not origin.done(TOGETHER):
        raise ConfigError(
            f"{origin.folder}, whose trained model {run.folder} begins with, is not there any more",
            expected="the run as it was",
            repair="start another run, from the recipe",
        )
    for stage in TAKEN[:-1]:
        if not run.done(stage):
            _copy(origin.stage_folder(stage), run.stage_folder(stage))
    own, theirs = run.stage_folder(TOGETHER), origin.stage_folder(TOGETHER)
    before = open_artifact(theirs / "model", kinds=("trained",))

    def fill(partial: Path) -> None:
        shutil.copyfile(before.file(model_file), partial / model_file)

    model_file = str(before.manifest["model_file"])
    fields = {key: before.manifest[key] for key in ("parent", "measured")} | kept(before.manifest)
    fields["target"] = recipe.target.model_dump()
    fields.pop("decode", None)
    if recipe.decode.given:
        fields["decode"] = recipe.decode.given
    model = write(
        make_folder(own) / "model", "trained", model_file=model_file, fill=fill,
        signature=before.signature, extras=before.extras, **fields,
    )  # fmt: skip
    if (theirs / "metrics.jsonl").is_file():
        with storage(own):
            shutil.copyfile(theirs / "metrics.jsonl", own / "metrics.jsonl")
    there = {json.dumps(event) for event in run.events()}
    run.write_again(
        event for event in origin.events()
        if event["stage"] in TAKEN and event["event"] not in WORK and json.dumps(event) not in there
    )  # fmt: skip
    before_it = recipe_file.read(origin.folder / "recipe.yaml")
    had = " ".join(recipe_file.differences(before_it, recipe))
    text = f"data, model and training are those of {origin.folder}, which had {had}"
    if recipe.measures[0] != (decided := before_it.measures[0]):
        text += f"; {decided} decided in its race and for the weights that were kept"
    run.write("run", "decision", text=text)
    say(f"run: {text}")
    done = read(theirs / "done.json")
    done.pop("finished", None)
    run.mark_done(TOGETHER, **{**done, "digest": model.digest})


def _copy(source: Path, folder: Path) -> None:
    """A stage's folder, whole or not at all, but for what the race left of each candidate; of files
    on one disk another name is enough, as no stage changes what it has finished."""

    def copy(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:  # another disk, or one without links
            shutil.copyfile(one, other)

    with reading(source), new_folder(folder) as partial:
        shutil.copytree(
            source, partial, copy_function=copy, dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("race"),
        )  # fmt: skip

"""What each stage does: read what the one before left in the run's folder, leave its own.

No live object passes from stage to stage (docs/reference/run-folder.md); pipeline.py has their
order.
"""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modelwright import figures
from modelwright.compress import certify as certifying
from modelwright.compress.search import MOST_FLIPPED, Search, require_sound
from modelwright.core.artifact import Artifact, kept, open_artifact, write
from modelwright.core.errors import Infeasible, IntegrityError
from modelwright.core.files import make_folder, storage, write_json
from modelwright.core.goals import METRICS
from modelwright.core.hardware import this_machine
from modelwright.core.progress import say
from modelwright.core.recipe import Recipe
from modelwright.core.run import Number, Run
from modelwright.core.units import format_seconds
from modelwright.data import catalog as data_catalog
from modelwright.data import checks
from modelwright.data.kinds import KINDS
from modelwright.data.rows import Dataset, Rows, joined, load_files, load_part, save
from modelwright.export import locate, parity
from modelwright.models.catalog import ModelSpec
from modelwright.models.heads import HEADS
from modelwright.plan import choose, race
from modelwright.plan.candidate import from_json, smallest_over_budget
from modelwright.runtime.catalog import WritingSession, open_session
from modelwright.runtime.torch_session import load_model
from modelwright.tasks.catalog import TASKS, task_of
from modelwright.train.catalog import make_trainer
from modelwright.train.device import name_of
from modelwright.train.journal import Record
from modelwright.train.parallel import ALONE, World, require_fit
from modelwright.train.peak import reset_peak_memory
from modelwright.train.save import write_trained
from modelwright.train.settings import Budget, fill_in, training_budget
from modelwright.train.weights import first_model

PREDICTIONS = "predictions.json"  # in the plan's folder
PARITY_ROWS = 2000  # real rows from valid and train; all there are where there are fewer
PARITY_NUMBERS = 16_000_000  # of all rows' outputs
PARITY_PLACES, PARITY_SCORES = 100_000, 8_000_000  # where each place of a row has an answer


def gate(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Load the data, examine it, stop on what blocks."""
    folder = make_folder(run.stage_folder("gate"))
    data, report = checks.check(load(recipe), recipe.data)
    task = task_of(recipe)
    source = data_catalog.source_of(recipe.data, task.inputs, task.outputs)
    report["whole_files"] = source.whole_files
    write_json(folder / "data.json", report)
    figures.findings(run, report)
    for finding in report["findings"]:
        say(f"gate: {finding['text']}" + (" (waived)" if finding["waived"] else ""))
    checks.refuse(report)
    save(data, folder)
    return {"rows": report["rows"], "findings": len(report["findings"])}


def load(recipe: Recipe) -> Dataset:
    """The data of a recipe, as its task takes it."""
    task = task_of(recipe)
    return data_catalog.load(recipe.data, task.inputs, task.outputs)


def plan(run: Run, recipe: Recipe, world: World = ALONE) -> dict[str, Any]:
    """Predict every candidate, race those that fit, name the winner and its budget; the first
    process does it, for all of `world`."""
    folder = make_folder(run.stage_folder("plan"))
    data = read(run.stage_folder("gate") / "data.json")
    predictions = folder / PREDICTIONS

    def note(text: str) -> None:
        run.write("plan", "fallback", text=text)

    if not predictions.is_file():  # kept, so that a continued run does not predict otherwise
        candidates = choose.predict(recipe, data, world, note)
        figures.predictions(run, candidates)
        write_json(predictions, {"candidates": [one.to_json() for one in candidates]})
    candidates = [from_json(one) for one in read(predictions)["candidates"]]
    result: dict[str, Any] = {"winner": None}
    try:
        train, valid = (load_part(run.stage_folder("gate"), part) for part in ("train", "valid"))
        started = time.perf_counter()
        winner, budget = race.run(recipe, candidates, train, valid, folder, note)
        result |= {
            "winner": winner.spec.name,
            "precision": winner.precision,
            "precision_reason": winner.precision_reason,
            "race_seconds": time.perf_counter() - started,
            "train_budget": {"steps": budget.steps, "seconds": budget.seconds},
            "spec": winner.spec.to_json(),
        }
    except Infeasible:
        figures.infeasible(
            run,
            recipe,
            [
                {"name": one.spec.name, "values": one.best_values()}
                for one in candidates
                if one.predicted
            ],
            "by prediction, with compression at its best",
            nearest=smallest_over_budget(candidates),
        )
        figures.lost(run, "plan", [one.to_json() for one in candidates])
        raise
    finally:
        result["candidates"] = [candidate.to_json() for candidate in candidates]
        write_json(folder / "plan.json", result)
    if winner.rounds:
        metric = METRICS[task_of(recipe).look]
        forecast = Number(winner.expected, metric.unit, "predicted",
                          "race curve as a power law", this_machine().name)  # fmt: skip
        run.figure("plan", winner.spec.name, f"valid_{metric.name}", forecast)
    figures.lost(run, "plan", result["candidates"])
    run.write("plan", "decision", text=f"{winner.spec.name}: {winner.reason}")
    run.write("plan", "decision", text=f"{winner.precision}: {winner.precision_reason}")
    say(f"plan: {winner.spec.name} in {winner.precision} – {winner.reason}")
    return {"winner": winner.spec.name}


def train(run: Run, recipe: Recipe, world: World = ALONE) -> dict[str, Any]:
    """Train the winner with what the race left of the budget; all processes together, of which the
    first leaves what came out."""
    folder = run.stage_folder("train")
    chosen = read(run.stage_folder("plan") / "plan.json")
    winner = next(one for one in chosen["candidates"] if one["name"] == chosen["winner"])
    raced_s = winner["rounds"][-1]["seconds"] if winner["rounds"] else 0.0
    spec = ModelSpec.from_json(chosen["spec"])
    parts = run.stage_folder("gate")
    train_rows = load_part(parts, "train")
    # which the first process alone looks at
    valid_rows = load_part(parts, "valid") if world.first else train_rows
    checkpoints = folder / "checkpoints"
    race = run.stage_folder("plan") / "race" / spec.name

    def begin() -> None:
        if race.is_dir() and not checkpoints.is_dir():  # training goes on where the race ended
            partial = make_folder(folder) / ".checkpoints.partial"
            with storage(partial):
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(race, partial)
                partial.rename(checkpoints)
        make_folder(checkpoints)

    world.first_does(begin)
    budget = Budget(**chosen["train_budget"])
    settings = fill_in(recipe.train, spec, chosen["precision"], training_budget(recipe))
    require_fit(world.layout, recipe.task, settings.batch_size, settings.first_parts)
    given = (run, recipe, winner, spec, settings, train_rows, world.size)
    written = world.first_does(lambda: figures.record(*given)) or Record()
    if recipe.train.device == "auto" and world.first:
        run.write("train", "decision", text=f"train.device: {name_of(settings.device)}")
    reset_peak_memory()
    with world.watched(folder / "ranks", recipe.train.stuck_minutes):
        trainer = make_trainer(
            first_model(spec, settings.seed, world), spec, task_of(recipe), train_rows,
            valid_rows, settings, budget, checkpoints, metrics=folder / "metrics.jsonl",
            record=written, asked=run.folder / "checkpoint-now", world=world,
        )  # fmt: skip
        if trainer.resumed:
            say(
                f"train: continues at step {trainer.step} ({format_seconds(trainer.elapsed)} spent)"
            )
        before_step, before = trainer.step, trainer.elapsed
        try:
            trainer.run()
            loop_seconds = trainer.elapsed - before - trainer.looked_s
            found = trainer.finish()
        except BaseException:
            trainer.journal.close(finished=False)
            raise
        trainer.journal.close(finished=True)
    if not world.first:
        return {}
    if trainer.went_back:
        text = "the weights of an earlier look at valid are kept: they were better there"
        run.write("train", "decision", text=text)
        say(f"train: {text}")
    figures.training(run, spec.name, trainer, trainer.step - before_step, loop_seconds)
    metric = METRICS[task_of(recipe).look]
    name = f"valid_{metric.name}"
    quality = Number(found[name], metric.unit, "measured", "valid rows, trained model",
                      this_machine().name)  # fmt: skip
    run.figure("train", spec.name, name, quality)
    data = read(parts / "data.json")
    model_folder = folder / "model"
    artifact = write_trained(
        model_folder, trainer.result, spec, _manifest_fields(recipe, data),
        load_files(parts, data["files"]),
    )  # fmt: skip
    raced = f", of which {format_seconds(raced_s)} in the race" if raced_s else ""
    say(
        f"train: {trainer.step:,} steps in {format_seconds(trainer.elapsed)}{raced}, "
        f"{metric.name} {found[name]:.4f} on valid"
    )
    return {
        "steps": trainer.step,
        "training_seconds": trainer.elapsed,
        "examples": trainer.examples_before(trainer.step),
        "digest": artifact.digest,
        **found,
    }


def compress(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Make the trained model smaller until the goals hold on valid and the target."""
    folder = make_folder(run.stage_folder("compress"))
    parts = run.stage_folder("gate")
    search = Search(
        run, recipe, open_artifact(run.stage_folder("train") / "model", kinds=("trained",)),
        load_part(parts, "train"), load_part(parts, "valid"),
        read(run.stage_folder("plan") / "plan.json")["precision"], folder,
    )  # fmt: skip
    chosen, rows = search.go()
    reason = chosen.reason if chosen else "no candidate meets every goal on valid"
    result = {"chosen": chosen and chosen.name, "reason": reason, "candidates": rows}
    write_json(folder / "compress.json", result)
    figures.lost(run, "compress", [row for row in rows if row["name"] != result["chosen"]])
    if recipe.compress.mode == "list":
        require_sound(search.candidates)
    if chosen is None:
        figures.infeasible(
            run,
            recipe,
            [{"name": row["name"], "values": row["measured"]} for row in rows if row["measured"]],
            "on the valid part",
        )
        raise Infeasible(
            "no compressed form of the trained model meets every goal",
            expected=", ".join(f"{goal.name} {goal.text}" for goal in recipe.bounds),
            repair=read(run.stage_folder("certify") / "certificate.json")["relax"],
        )
    run.write("compress", "decision", text=f"{chosen.name}: {chosen.reason}")
    say(f"compress: {chosen.name} – {chosen.reason}")
    return {"chosen": chosen.name}


def export(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Prove that what ships is what was trained, hop by hop; only then write it."""
    folder = run.stage_folder("export")
    chosen, base, trained = chain(run)
    rows = parity_rows(run)
    hops = prove(trained, base, chosen, rows, recipe)
    report = parity.parity_report(hops)
    write_json(make_folder(folder) / "parity.json", report)
    for hop in hops:
        say(f"export: {hop['name']}: {'equal' if hop['passed'] else 'NOT equal'}")
    parity.require(report)
    return {"passed": True, "rows": len(rows)}


def certify(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Judge on the test part and the target; write deploy/ if every goal holds."""
    folder = make_folder(run.stage_folder("certify"))
    chosen, _, _ = chain(run)
    shutil.rmtree(run.folder / "deploy", ignore_errors=True)  # of a judgement cut short
    # the drop is counted from the model as first trained, not from a pruned and recovered one
    trained = open_artifact(run.stage_folder("train") / "model", kinds=("trained",))
    test = load_part(run.stage_folder("gate"), "test")
    fp32 = open_artifact(run.folder / "compress" / "candidates" / "fp32")
    digests = {
        "data": read(run.stage_folder("gate") / "data.json")["digest"],
        "trained": trained.digest,
        "model": chosen.manifest["files"]["model.onnx"]["sha256"],
    }
    certificate = certifying.certify(recipe, chosen, fp32, trained, test, digests)
    if before := run.began.get("judged_before"):
        certificate["judged_before"] = before
        certificate["text"] += (
            f" The same test rows judged {', '.join(before)} before: goals set after such a look "
            "are easier to meet."
        )
    if certificate["verdict"] == "infeasible":
        values = {name: goal["measured"] for name, goal in certificate["goals"].items()}
        certificate |= certifying.infeasible(
            [{"name": chosen.folder.name, "values": values}], recipe.bounds, "on the test part"
        )
    write_json(folder / "certificate.json", certificate)
    figures.certificate(run, certificate, read(run.stage_folder("plan") / "plan.json")["winner"])
    if certificate["verdict"] == "infeasible":
        raise Infeasible(
            certificate["text"],
            expected=", ".join(f"{goal.name} {goal.text}" for goal in recipe.bounds),
            repair=certificate["relax"],
        )

    def fill(partial: Path) -> None:
        shutil.copy(chosen.file("model.onnx"), partial / "model.onnx")
        write_json(partial / "certificate.json", certificate)
        write_json(partial / "samples.json", certifying.samples(test, trained.labels))

    deploy = write(
        run.folder / "deploy", "deploy", model_file="model.onnx", fill=fill,
        signature=chosen.signature, extras=chosen.extras, parent=chosen.digest,
        run=run.folder.name,
        measured={name: certificate[name] for name in ("size_mb", certificate["metric"])},
        **kept(chosen.manifest),
    )  # fmt: skip
    return {"verdict": certificate["verdict"], "deploy": deploy.digest}


TOGETHER = "train"  # the stage that all processes do; the first one does all others alone
STEPS: dict[str, Callable[..., dict[str, Any]]] = {  # of a run, its recipe, and for two the world
    "gate": gate,
    "plan": plan,
    "train": train,
    "compress": compress,
    "export": export,
    "certify": certify,
}


def prove(
    trained: Artifact,
    base: Artifact,
    chosen: Artifact,
    rows: Rows,
    recipe: Recipe,
) -> list[dict[str, Any]]:
    """Every hop from the trained model to the graph that ships, judged on real rows."""
    # by the task's own metric: others may hang on one answer in a class of few rows
    threads, task = recipe.target.threads, TASKS[recipe.task]
    spec = ModelSpec.from_json(base.manifest["model"])
    float_graph = base.file("model.onnx")
    with contextlib.ExitStack() as opened:

        def session(artifact: Artifact, threads: int = threads) -> WritingSession:
            return opened.enter_context(contextlib.closing(open_session(artifact, threads=threads)))

        exported = session(base)
        hops = [
            parity.check_hop(
                "trained → onnx", session(trained, this_machine().cores), exported,
                rows, spec, task,
                locate=locate.against_model(load_model(trained), float_graph, spec),
            )
        ]  # fmt: skip
        if chosen.manifest["files"]["model.onnx"] != base.manifest["files"]["model.onnx"]:
            graph = chosen.file("model.onnx")
            hops += [
                parity.check_hop(
                    "onnx → int8", exported, session(chosen), rows, spec, task, tolerance=None,
                    decision_tolerance=MOST_FLIPPED, metric_tolerance=MOST_FLIPPED,
                    locate=locate.against_graph(float_graph, graph),
                ),
                parity.check_kernels(graph, rows, spec, task, threads=threads),
            ]  # fmt: skip
    return hops


def chain(run: Run) -> tuple[Artifact, Artifact, Artifact]:
    """The chosen graph, the float32 graph it was made from, and that one's trained model."""
    table = read(run.stage_folder("compress") / "compress.json")
    rows = {row["name"]: row for row in table["candidates"]}
    row = rows[table["chosen"]]
    folder = run.stage_folder("compress") / "candidates"
    chosen = open_artifact(folder / row["name"], kinds=("onnx",))
    base = open_artifact(folder / row["base"], kinds=("onnx",))
    trained = open_artifact(run.folder / rows[row["base"]]["model"], kinds=("trained",))
    return chosen, base, trained


def parity_rows(run: Run) -> Rows:
    """Real rows that are not test rows: evenly from valid, then from train."""
    data = read(run.stage_folder("gate") / "data.json")
    most = min(PARITY_ROWS, max(1, PARITY_NUMBERS // _numbers(data["outputs"])))
    (judged, *_) = HEADS[data["outputs"]["kind"]].outputs(data["outputs"])
    if judged.over_time:
        places = min(PARITY_PLACES, PARITY_SCORES // int(judged.shape[-1]))
        most = min(most, max(1, places // judged.places(data["inputs"]["length"])))
    valid = load_part(run.stage_folder("gate"), "valid")
    if len(valid) >= most:
        return valid.take(np.linspace(0, len(valid) - 1, most).astype(np.int64))
    train = load_part(run.stage_folder("gate"), "train")
    number = min(most - len(valid), len(train))
    return joined(valid, train.take(np.linspace(0, len(train) - 1, number).astype(np.int64)))


def _numbers(outputs: dict[str, Any]) -> int:
    """What comes out for one row, or one place of it, in numbers."""
    specs = HEADS[outputs["kind"]].outputs(outputs)
    return sum(math.prod(size for size in one.shape if isinstance(size, int)) for one in specs)


def _manifest_fields(recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
    kind = KINDS[data["inputs"]["kind"]]
    own = data["inputs"].get("channels") or data["outputs"].get("labels", [])
    return {
        "task": recipe.task,
        "labels": data["labels"] or own,
        "preprocess": {
            **kind.preprocess(data["inputs"]),
            "files": data["files"],
            **_read(recipe, data),
        },
        "target": recipe.target.model_dump(),
        **({"decode": own} if (own := recipe.decode.given) else {}),
    }


def _read(recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
    """How files were read, for those that the model will be asked about."""
    kind = KINDS[data["inputs"]["kind"]]
    if kind.questions is not None:
        return {"columns": kind.columns(recipe.data)}
    if not (column := kind.column):
        return {}
    own = getattr(recipe.data.columns, "words" if data["outputs"]["kind"] == "tags" else column)
    columns = list(own) if isinstance(own, tuple) else [own]
    return {"columns": columns, "whole_files": data.get("whole_files", False)}


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(
            f"{path} is not the file that a stage left: {error}",
            expected="one JSON object",
            repair=f"remove {path.parent}/done.json and that file to do the stage again",
        ) from error


def read_if(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is none."""
    return read(path) if path.is_file() else {}

"""The order of the stages: skip what is done, resume what broke, stop at the first refusal."""

import contextlib
import fcntl
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelwright import __version__, takeover
from modelwright.core import recipe_file
from modelwright.core.artifact import kept, open_artifact
from modelwright.core.errors import (
    ConfigError,
    Infeasible,
    IntegrityError,
    ModelwrightError,
    ParityError,
    StorageError,
    did_you_mean,
)
from modelwright.core.files import reading, storage, write_bytes
from modelwright.core.goals import override
from modelwright.core.progress import say, working
from modelwright.core.recipe import Recipe
from modelwright.core.run import STAGES, Run, create, find_unfinished, refusal, reopen
from modelwright.export import parity
from modelwright.report.page import write_report
from modelwright.stages import (
    PREDICTIONS,
    STEPS,
    TOGETHER,
    chain,
    parity_rows,
    prove,
    read,
    read_if,
    train,
)
from modelwright.train import ranks
from modelwright.train.parallel import ALONE, World


def start(
    recipe: Recipe, root: Path, *, resume: bool = True, origin: Run | None = None
) -> Run:  # fmt: skip
    """The run to work in: an unfinished one of the same recipe, or a new folder.

    Args:
        origin: whose trained model it begins with.
    """
    digest = recipe_file.digest(recipe)
    more = {} if origin is None else takeover.heritage(origin)
    run = find_unfinished(root, recipe.name, digest) if resume else None
    if run is not None and (origin is None or run.began.get("origin") == more["origin"]):
        say(f"run: {run.folder} continues")
        go_on_with(run, recipe)
        return run
    offer = takeover.offer(root, recipe) if resume and origin is None else ""
    text = recipe_file.resolved_text(recipe)
    run = create(root, recipe.name, text, digest, version=__version__, **more)
    say(f"run: {run.folder}")
    if offer:
        say(f"run: {offer}")
    return run


def go_on_with(run: Run, recipe: Recipe) -> None:
    """Let a run have what may change of its recipe from the command that continues it; say what is
    new.

    Raises: ConfigError if another process is at work in it.
    """
    changes = recipe_file.changes(recipe_of(run), recipe)
    if any(run.events("run", "finished")):
        return
    if run.done("gate"):
        say("run: its rows are those that it read in the beginning; --new reads the data again")
    if not changes:
        return
    text = "; ".join(changes.values())
    if {"layout", "device"} & set(changes) and (run.stage_folder("plan") / PREDICTIONS).is_file():
        text += "; what was predicted stays"
    with _locked(run):
        run.write("run", "decision", text=text)  # first: after a kill between them it is said again
        write_bytes(run.folder / "recipe.yaml", recipe_file.resolved_text(recipe).encode())
    say(f"run: {text}")


def recipe_of(run: Run) -> Recipe:
    """The recipe of a run, as it was when it started but for what may change.

    Raises: IntegrityError if the file holds another one.
    """
    path = run.folder / "recipe.yaml"
    recipe = recipe_file.read(path)
    own = recipe_file.digest(recipe)
    if run.began.get("recipe_digest", own) != own:
        raise IntegrityError(
            f"{path} is not the recipe that the run was started with, by version "
            f"{run.began.get('version')}",
            expected="the recipe as the run wrote it, and a version that has the same keys",
            repair="put the file back as it was, or start another run with --new",
        )
    return recipe


def help_with(run: Run, world: World) -> None:
    """What all processes but the first do: wait for the stages before, train with it, leave."""
    recipe = recipe_file.read(run.folder / "recipe.yaml")
    if world.summoned():
        train(run, recipe, world)


def go(run: Run, *, until: str = "certify", world: World = ALONE) -> dict[str, Any]:
    """Do every stage up to `until` that is not done; gives the result as `run --json` prints it.

    Args:
        world: this process is the first of them; the others `help_with` the run.
    Raises: what the first stage that refuses raises; the report is written all the same.
    """
    recipe = recipe_of(run)
    with world.summoning() as summon, _locked(run):
        if any(run.events("run", "finished")):  # judged already: the test part is touched once
            say(
                f"run: {run.folder} is finished; --new starts another, and goals or steps of "
                "compression given beside it, as in goals.size_mb='<= 1', begin one with its model"
            )
            return result(run)
        if any(run.events(event="stage_started")):
            run.write("run", "resumed")
        try:
            takeover.take_over(run, recipe)
            for stage in STAGES[: STAGES.index(until) + 1]:
                if stage == TOGETHER:
                    summon(not run.done(stage))
                if not run.done(stage):
                    _do(run, recipe, stage, world)
        except ModelwrightError as error:
            verdict = "infeasible" if isinstance(error, Infeasible) else "refused"
            run.write("run", "refused", text=str(error), verdict=verdict, final=True)
            if verdict == "infeasible":  # a result; a refusal can be mended and continued
                run.write("run", "finished", verdict=verdict)
            try:
                write_report(run)
            except Exception as failure:  # what stopped the stage is what is told at the end
                say(f"report: not written: {failure}")
            raise
        if until == "certify":
            run.write("run", "finished", verdict="certified")
        write_report(run)
    return result(run)


def result(run: Run) -> dict[str, Any]:
    """What a run came to: verdict, artifact, report, goals, predicted and measured."""
    certificate = read_if(run.stage_folder("certify") / "certificate.json")
    if certificate.get("verdict") == "certified" and not run.done("certify"):
        certificate = {}  # cut short before the model that it is about was there
    chosen = read_if(run.stage_folder("plan") / "plan.json")
    predicted: dict[str, float] = next(
        (one["predicted"] for one in chosen.get("candidates", []) if one["status"] == "winner"), {}
    )
    measured = {
        event["name"]: event["number"]["value"]
        for event in run.events(event="figure")
        if event["number"]["kind"] == "measured"
    }
    refused = refusal(run.events())
    verdict = certificate.get("verdict") or (
        refused.get("verdict", "refused") if refused else "unfinished"
    )
    deploy, report = run.folder / "deploy", run.folder / "report.html"
    if verdict == "certified":  # a result only as long as every byte of it is as certified
        open_artifact(deploy, kinds=("deploy",))
    return {
        "verdict": verdict,
        "run": str(run.folder),
        "artifact": str(deploy) if deploy.is_dir() else None,
        "report": str(report) if report.is_file() else None,
        "goals": certificate.get("goals", {}),
        "predicted": predicted,
        "measured": measured,
        **{key: certificate[key] for key in ("nearest_misses", "binding_goal", "relax", "where")
           if key in certificate},
        **({"next": again} if (again := _without_training(run, certificate)) else {}),
    }  # fmt: skip


def _without_training(run: Run, certificate: dict[str, Any]) -> str:
    """The command that judges a trained model anew, with the binding goal relaxed as advised."""
    relaxed = certificate.get("relaxed")
    if relaxed is None or not run.done(TOGETHER):
        return ""
    return shlex.join(["modelwright", "run", str(run.folder), override(**relaxed)])


def verify(run: Run) -> dict[str, Any]:
    """Prove again that a run's deploy/ is what was trained: hashes, then every hop."""
    recipe = recipe_file.read(run.folder / "recipe.yaml")
    deploy = open_artifact(deploy_of(run), kinds=("deploy",))
    chosen, base, trained = chain(run)
    files, proven = deploy.manifest["files"], chosen.manifest["files"]
    if files["model.onnx"] != proven["model.onnx"]:
        raise ParityError(
            f"{deploy.folder}/model.onnx is not the graph that was proven and certified",
            expected=f"the graph of {chosen.folder}",
            repair="take the folder again from the run that made it",
        )
    certificate = run.stage_folder("certify") / "certificate.json"
    certified, done = read(certificate), read_if(certificate.with_name("done.json"))
    if (
        deploy.manifest["parent"] != chosen.digest
        or kept(deploy.manifest) != kept(chosen.manifest)
        or deploy.manifest["signature"] != chosen.manifest["signature"]
        or deploy.file("certificate.json").read_bytes() != certificate.read_bytes()
        or certified["digests"]["model"] != files["model.onnx"]["sha256"]
        or any(files.get(name) != proven[name] for name in chosen.extras)
        or done.get("deploy", deploy.digest) != deploy.digest  # older runs didn't keep it
    ):
        raise IntegrityError(
            f"{deploy.folder} does not say what was proven and certified: its labels, "
            "preprocessing, vocabulary, decoding, target, samples or certificate differ from the "
            "run's",
            expected="the entries and files of the graph that was chosen, and its certificate",
            repair="take the folder again from the run that made it",
        )
    report = parity.parity_report(prove(trained, base, deploy, parity_rows(run), recipe))
    parity.require(report)
    return report


def deploy_of(run: Run) -> Path:
    """The folder of a run's finished model.

    Raises: ConfigError if the run has none, with its state and how to go on.
    """
    folder = run.folder / "deploy"
    if folder.is_dir():
        return folder
    ends = [str(event["verdict"]) for event in run.events("run", "finished")]
    state = ends[-1] if ends else "unfinished"
    done = ", ".join(stage for stage in STEPS if run.done(stage))
    to_do = ", ".join(stage for stage in STEPS if not run.done(stage))
    raise ConfigError(
        f"{folder} is not there: the run is {state} "
        f"(done: {done or 'nothing'}; to do: {to_do or 'nothing'})",
        expected="a certified run, or another model folder, such as train/model in a run",
        repair={
            "unfinished": f"go on with: modelwright run {run.folder}",
            "infeasible": f"relax a goal; which one: modelwright report {run.folder}",
        }.get(state, f"make it again with: modelwright run {run.folder} --new"),
    )


def run_of(path: Path) -> Run:
    """The run that a folder is or lies in.

    Raises: ConfigError if there is none above it, or nothing at the path itself.
    """
    with reading(path):
        folders = (path, *path.resolve().parents)
        found = next((one for one in folders if (one / "run.jsonl").is_file()), None)
        there = path.exists() or path.name == "deploy"  # which a run has at its end only
    if found is None:
        raise ConfigError(
            f"{path} is no run and lies in none", expected="a run folder such as runs/digits-001"
        )
    if not there:
        names = [one.name for one in found.iterdir()]
        raise ConfigError(
            f"{path} is not there, though the run {found} is",
            expected=f"something in it, {did_you_mean(path.name, names)}",
        )
    return reopen(found)


def _do(run: Run, recipe: Recipe, stage: str, world: World) -> None:
    run.write(stage, "stage_started")
    started = time.perf_counter()
    try:
        alone = contextlib.nullcontext() if stage == TOGETHER else ranks.alone()
        with alone, working(stage):
            known = {"world": world} if stage in ("plan", TOGETHER) else {}
            summary = STEPS[stage](run, recipe, **known)
    except BaseException:
        with contextlib.suppress(StorageError):  # what stopped the stage is what is told
            run.write(stage, "stage_stopped", seconds=time.perf_counter() - started)
        raise
    seconds = time.perf_counter() - started
    run.mark_done(stage, seconds=seconds, **summary)
    run.write(stage, "stage_finished", seconds=seconds)


@contextlib.contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Only one process works in a run; the system drops the lock when a process dies."""
    path = run.folder / ".lock"
    with contextlib.ExitStack() as opened:
        with storage(path):
            file = opened.enter_context(open(path, "w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{run.folder} is being worked on by another process",
                repair="wait for it, or start a new run with --new",
            ) from error
        except OSError as error:
            raise StorageError(
                f"cannot lock {path}: {error.strerror}",
                expected="a file system that can, so that one process alone works in a run",
                repair="choose another folder with --out",
            ) from error
        run.mend()
        yield

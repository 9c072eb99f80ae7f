"""What a person can ask for, as functions: the command line and `import modelwright` share them.

Each gives a plain dict, the same that `--json` prints (docs/reference/commands.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelwright import pipeline, takeover
from modelwright.core import recipe_file
from modelwright.core.artifact import open_artifact
from modelwright.core.errors import ConfigError, DataError, Infeasible
from modelwright.core.files import reading
from modelwright.core.hardware import has, this_machine, version
from modelwright.core.progress import counted, say, working
from modelwright.core.run import STAGES, Run
from modelwright.data import asked, checks, drawing
from modelwright.data.rows import load_part
from modelwright.plan import choose
from modelwright.stages import STEPS, load
from modelwright.starting import init as init
from modelwright.tasks.catalog import TASKS, task_of
from modelwright.train import launch, parallel
from modelwright.train.device import of_process, require_own, resolved
from modelwright.which_run import RUNS, Overrides, asked_for, recipe_at, run_for

Several = str | Path | Sequence[str | Path]  # one is a text, not its letters


def run(
    source: str | Path,
    overrides: Overrides | None = None,
    *,
    out: str | Path = RUNS,
    new: bool = False,
    until: str = "certify",
) -> dict[str, Any]:
    """Do the whole road of a recipe, or go on with a run's folder.

    Args:
        source: a recipe's file, or a run folder: then overrides of the sections behind the
            training begin another run, with that one's trained model.
        out: where run folders are made.
        new: start over even if an unfinished run of the same recipe is there.
        until: the last stage to do.
    Returns: verdict, artifact, report, goals, predicted, measured. An infeasible recipe is a
        result, not an error.
    Raises: ConfigError, DataError (bad input), ParityError, IntegrityError (refused).
    """
    with parallel.joined() as world:
        one = world.first_does(lambda: run_for(Path(source), overrides, Path(out), new, world.size))
        if one is None:
            one = Run(Path(world.told_text("")))
        else:
            world.told_text(str(one.folder.resolve()))
        recipe = recipe_file.read(one.folder / "recipe.yaml")
        device = resolved(recipe.train.device, acting=TASKS[recipe.task].acting)
        require_own(of_process(device, world.local_rank))
        world.arrange(recipe.train.layout, device)
        if not world.first:
            pipeline.help_with(one, world)
            return {"verdict": "helped"}
        try:
            return pipeline.go(one, until=until, world=world)
        except Infeasible as error:
            say(str(error))
            launch.tell_launcher(error)
            return pipeline.result(one)


def train(
    source: str | Path, overrides: Overrides | None = None, *, out: str | Path = RUNS,
    new: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The road up to the trained model."""
    return run(source, overrides, out=out, new=new, until="train")


def compress(
    source: str | Path, overrides: Overrides | None = None, *, out: str | Path = RUNS,
    new: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The road up to the chosen compressed model."""
    return run(source, overrides, out=out, new=new, until="compress")


def export(
    source: str | Path, overrides: Overrides | None = None, *, out: str | Path = RUNS,
    new: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The road up to the exported model and the proof that it is the trained one."""
    return run(source, overrides, out=out, new=new, until="export")


def plan(source: str | Path, overrides: Overrides | None = None) -> dict[str, Any]:
    """Predict parameters, FLOPs, memory, time, size and latency of every candidate; train nothing.

    Returns: "fits" and "candidates", rows as in plan.json.
    """
    recipe = recipe_at(Path(source), overrides)
    with working("gate"):
        data, report = checks.check(load(recipe), recipe.data)
    checks.refuse(report)
    del data
    with parallel.imagined(recipe.train.layout) as world, working("plan"):
        candidates = choose.predict(recipe, report, world)
    return {
        "fits": any(one.status == "fits" for one in candidates),
        "candidates": [one.to_json() for one in candidates],
        **({"processes": world.size} if world.size > 1 else {}),
    }


def stages(
    source: str | Path, overrides: Overrides | None = None, *, new: bool = False,
    until: str = "certify",
) -> dict[str, Any]:  # fmt: skip
    """What a run would do, without doing it: stages done and to do, or the plan of a recipe."""
    run, _, origin = asked_for(Path(source), overrides, new)
    asked = STAGES[: STAGES.index(until) + 1]
    if origin is not None:
        return {
            "run": None, "begins_with": str(origin.folder), "done": list(takeover.TAKEN),
            "to_do": [one for one in asked if one not in takeover.TAKEN],
        }  # fmt: skip
    if run is None:
        return plan(source, overrides)
    over = any(run.events("run", "finished"))
    return {
        "run": str(run.folder),
        "done": [stage for stage in STAGES if run.done(stage)],
        "to_do": [one for one in STEPS if one in asked and not run.done(one) and not over],
    }


def evaluate(folder: str | Path, *, part: str = "valid") -> dict[str, Any]:
    """A model folder's metric, with its 95 % interval, on a part of its run's data.

    Args:
        part: "valid" or "test"; looking at test again and again makes it a part one chose by.
    Raises: ConfigError for "test" before the run is finished: its certificate says that nothing
        was chosen by it.
    """
    from modelwright.measure.quality import evaluate as judge
    from modelwright.runtime.catalog import open_session

    artifact = open_artifact(_model_folder(Path(folder)))
    run = pipeline.run_of(artifact.folder)
    if part == "test" and not any(run.events("run", "finished")):
        raise ConfigError(
            f"{run.folder} is not finished: its test part is kept for the judgement at the end",
            expected="the part valid until then",
            repair=f"finish it with: modelwright run {run.folder}",
        )
    rows = load_part(run.stage_folder("gate"), part)
    session = open_session(artifact, threads=this_machine().cores)
    task = task_of(recipe_file.read(run.folder / "recipe.yaml"))
    judging = f"evaluate: batches of {part} judged"
    quality = judge(session, rows, task, artifact.labels, what=judging)
    by_class = quality.by_class() if task.outputs == "classes" else {}
    return {
        "artifact": str(artifact.folder), "part": part, "rows": quality.rows,
        "metric": quality.metric, **quality.values, "low": quality.low, "high": quality.high,
        **by_class,
    }  # fmt: skip


def predict(
    folder: str | Path, inputs: Several, *, texts: str | Sequence[str] = (),
    draw: str | Path | None = None, told: Callable[[str], None] | None = None, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Answers of a model folder for files, for every file in a folder, or for texts.

    Args:
        inputs: one or several: paths; where the model takes text, a text itself, or a file with one
            on each line;
            where it takes items, a user's history: ids or names divided by commas, oldest first,
            or a table of users and items;
            where it acts, what is observed: numbers divided by commas.
            A language model goes on with a text, or with a whole file. "-" is what stands on
            the standard input. Files are read as those that the model was trained on (data/asked).
        texts: for each picture to choose from; of one text the pictures come the nearest first.
        draw: folder for drawings: of detectors each picture with the boxes found in it, as PNG; of
            forecasts each series and how it goes on, as SVG.
        told: called with each piece of a text that is written, as it comes, and with a line's end
            behind it.
        options: of models that write, as in the recipe's section decode, in place of what the
            model was shipped with; of transcription: beam_width.
    Returns: "answers", each with its file or text, the answer, and what belongs to it by task,
        such as probabilities, most likely first; "failed", what cannot be read, with the reason,
        and where it is known with what was expected and a repair.
    Raises: ConfigError for `texts`, `draw` or an option that a model has no use for.
    """
    from modelwright.models.heads import HEADS
    from modelwright.runtime.answering import answer, check_options
    from modelwright.runtime.catalog import open_session

    artifact = open_artifact(_model_folder(Path(folder)))
    check_options(artifact, options)
    task = artifact.manifest["task"]
    if draw is not None:
        able = [name for name, own in TASKS.items() if own.outputs in drawing.DRAWN]
        drawing.require(task, able, Path(draw))
    session, writes = open_session(artifact), HEADS[TASKS[task].outputs].writes
    texts = (texts,) if isinstance(texts, str) else texts
    answers: list[dict[str, Any]] = []
    failed = []
    every = asked.asked(_each(inputs), asked.reader(artifact.manifest))
    for one in every if told is not None and writes else counted(every, "predict: answered"):
        try:
            if one.problem is not None:
                raise one.problem
            if told is not None and answers and writes == "on":
                told("\n")  # else nobody sees where one text ends and the next begins
            found = answer(session, artifact, one.content, options, texts=texts, told=told)
        except DataError as error:
            said = {"reason": error.what, "expected": error.expected, "repair": error.repair}
            failed.append({"file": one.name, **{key: own for key, own in said.items() if own}})
            continue
        if told is not None and writes:
            told("\n")
        if draw is not None:
            found["drawn"] = str(_draw(Path(draw), one, found, artifact.labels))
        answers.append({"file": one.name, **found})
    if len(texts) == 1:
        answers.sort(key=lambda one: -one["ranking"][0]["score"])
    return {"artifact": str(artifact.folder), "answers": answers, "failed": failed}


def serve(folder: str | Path, **options: Any) -> None:
    """Answer requests until told to stop; options as in serve.server.serve."""
    from modelwright.serve.server import serve as start

    start(_model_folder(Path(folder)), **options)


def verify(folder: str | Path) -> dict[str, Any]:
    """Prove again that a run's deploy folder is what was trained.

    Raises: IntegrityError for a changed byte, ParityError for a changed model.
    """
    one = pipeline.run_of(Path(folder))
    with working("verify"):
        return {"run": str(one.folder), **pipeline.verify(one)}


def report(folders: Several) -> dict[str, Any]:
    """Write a run's report; of several runs also give a table."""
    from modelwright.report.collect import collect_runs
    from modelwright.report.page import write_report

    runs = [pipeline.run_of(Path(folder)) for folder in _each(folders)]
    pages = [str(write_report(one)) for one in runs]
    rows = collect_runs([one.folder for one in runs])
    labels = _labels([one.folder for one in runs])
    return {
        "reports": pages,
        "runs": [{**row, "run": label} for row, label in zip(rows, labels, strict=True)],
    }


def doctor() -> dict[str, Any]:
    """What this machine can do, and what the product will therefore use."""
    import torch

    from modelwright.plan import rates

    machine = this_machine()
    fp32 = rates.matmul_flops_per_s(torch.float32)
    bf16 = rates.matmul_flops_per_s(torch.bfloat16)
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    conclusions = [
        f"training uses the GPU ({gpu}), unless train.device says cpu"
        if gpu
        else f"training uses {torch.get_num_threads()} threads on the CPU",
        "this processor has no instructions for bf16: training is in 32-true"
        if gpu is None and machine.lacks_bf16
        else f"bf16-mixed is tried against 32-true for each model: products run "
        f"{bf16 / fp32:.1f} times as fast in bf16 on the {'processor' if gpu else 'CPU'}",
        "int8 is expected to be faster, not only smaller"
        if machine.has_int8
        else "no 8-bit dot products: int8 makes models smaller here, hardly faster",
    ]
    return {
        "machine": machine.to_json(),
        "gpu": gpu,
        "matmul_float32_flops_per_s": fp32,
        "matmul_bfloat16_flops_per_s": bf16,
        "memory_bytes_per_s": rates.memory_bytes_per_s(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "extras": {name: has(modules) for name, modules in EXTRAS.items()},
        "conclusions": conclusions,
    }


def layouts(
    source: str | Path,
    overrides: Overrides | None = None,
    *,
    told: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train a recipe's families at tiny size in every layout, and compare with one process.

    Args:
        told: called with each row as soon as it is there.
    Returns: "tolerance", "agree" and "rows": family, layout, processes, the largest relative
        differences of loss and of the gradient's norm, or why the layout is refused.
    Raises: ConfigError for a task that one process alone trains, and where none of the families can
        be trained as the recipe says.
    """
    from modelwright.models.catalog import MODELS, ModelSpec
    from modelwright.train import equivalence

    recipe = recipe_at(Path(source), overrides)
    equivalence.require_comparable(recipe.task)
    data = load(recipe)
    families = MODELS if recipe.model.family == "auto" else (recipe.model.family,)
    rows: list[dict[str, Any]] = []

    def add(family: str, one: equivalence.Compared) -> None:
        rows.append({"family": family, **asdict(one), "agrees": one.agrees})
        if told is not None:
            told(rows[-1])

    failure: ConfigError | None = None
    for family in families:
        spec = ModelSpec.asked(family, "tiny", data.inputs, data.outputs, recipe.model.options)
        try:
            for one in equivalence.compare(recipe, data, spec):
                add(family, one)
        except ConfigError as error:
            failure = error
            add(family, equivalence.Compared("one process", 1, refused=error.what))
    if failure is not None and all(row["refused"] for row in rows):
        raise failure
    return {
        "tolerance": max(row["tolerance"] for row in rows),
        "agree": all(row["agrees"] for row in rows),
        "rows": rows,
    }


LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "safetensors")
EXTRAS = {
    "vision": ("PIL", "sklearn"),
    "text": ("tokenizers", "rensa", "sacrebleu", "py3langid"),
    "control": ("gymnasium",),
    "parquet": ("pyarrow",),
    "audio": ("soundfile",),
    "speech": ("soundfile", "rapidfuzz"),
    "serve": ("starlette", "uvicorn", "httptools", "orjson", "PIL"),
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic", "sqlparse"),
    "fp8": ("torchao",),
}


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors."""
    return recipe_file.schema()


def _each(given: Several) -> Sequence[str | Path]:
    return (given,) if isinstance(given, str | Path) else given


def _model_folder(folder: Path) -> Path:
    """A model folder as it is; the deploy folder of a run for the run."""
    for run in (folder, folder.parent) if folder.name == "deploy" else (folder,):
        with reading(run):
            is_run = (run / "run.jsonl").is_file()
        if is_run:
            return pipeline.deploy_of(Run(run))
    return folder


def _labels(folders: Sequence[Path]) -> list[str]:
    """Each folder's name, with as many parents as tell it from the others."""
    paths = [folder.resolve().parts for folder in folders]
    tails = [[str(Path(*parts[-n:])) for n in range(1, len(parts) + 1)] for parts in paths]
    return [
        next((tail for tail in own if sum(tail in other for other in tails) == 1), own[-1])
        for own in tails
    ]


def _draw(folder: Path, one: asked.Asked, found: Mapping[str, Any], kinds: Sequence[str]) -> Path:
    """Where the drawing of an answer was put."""
    if "boxes" in found:
        content = drawing.boxes(one.content, found["boxes"], kinds)
        return drawing.write(folder, one.name, ".png", content)
    from modelwright.report.forecast import picture

    times = found.get("times", ())
    shown = picture(Path(one.name).name, found["before"], found["answer"], times)
    return drawing.write(folder, one.name, ".svg", shown.encode())

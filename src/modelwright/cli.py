"""One function per command, one table of commands; a stage loads only when its command runs.

Every command takes --json: one JSON object on stdout at the end, progress on stderr. Exit codes:
0 done and goals hold, 1 a bug of ours, 2 bad recipe or input, 3 goals infeasible or missed,
4 parity or integrity refused (docs/reference/commands.md).
"""

import io
import json as json_module
import math
import os
import re
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError

from modelwright import __version__
from modelwright.core.errors import ConfigError, Exit, ModelwrightError

app = App(
    name="modelwright",
    help="From a dataset and goals to a small, fast, proven model.",
    version=__version__,
    version_flags=["--version"],
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # or it ends the process without a word
)

Overrides = Annotated[
    str, Parameter(help="key.sub=value, on top of the recipe; the last one wins", name="override")
]
Json = Annotated[bool, Parameter(negative="", help="print one JSON object at the end")]
DryRun = Annotated[bool, Parameter(negative="", help="say what it would do and spend; do nothing")]
New = Annotated[bool, Parameter(negative="", help="start over, do not continue an unfinished run")]
Out = Annotated[Path, Parameter(help="where run folders are made")]
FLAGS = ("--json", "--new", "--dry-run", "--help")  # the options that take no value
DASHED = re.compile(r"-(\Z|[\d.\s])")  # a word that begins so is no option
VERDICTS = {"infeasible": Exit.INFEASIBLE, "refused": Exit.REFUSED}
GOES_ON = ("run", "train", "compress", "export")  # the same command takes up what it left


def run(
    recipe: Path, *overrides: Overrides, out: Out = Path("runs"), new: New = False,
    dry_run: DryRun = False, json: Json = False,
) -> int:  # fmt: skip
    """Do the whole road: gate, plan, train, compress, export, certify, report.

    RECIPE is a recipe file, or the folder of a run to continue.
    """
    return _road("certify", recipe, overrides, out, new, dry_run, json)


def train(
    recipe: Path, *overrides: Overrides, out: Out = Path("runs"), new: New = False,
    dry_run: DryRun = False, json: Json = False,
) -> int:  # fmt: skip
    """Do the road up to the trained model."""
    return _road("train", recipe, overrides, out, new, dry_run, json)


def compress(
    recipe: Path, *overrides: Overrides, out: Out = Path("runs"), new: New = False,
    dry_run: DryRun = False, json: Json = False,
) -> int:  # fmt: skip
    """Do the road up to the compressed model that meets the goals on the valid part."""
    return _road("compress", recipe, overrides, out, new, dry_run, json)


def export(
    recipe: Path, *overrides: Overrides, out: Out = Path("runs"), new: New = False,
    dry_run: DryRun = False, json: Json = False,
) -> int:  # fmt: skip
    """Do the road up to the exported model, proven equal to the trained one."""
    return _road("export", recipe, overrides, out, new, dry_run, json)


def plan(recipe: Path, *overrides: Overrides, json: Json = False) -> int:
    """Predict memory, time, size and latency of each candidate; train nothing."""
    _load()
    from modelwright import show, verbs

    found = verbs.plan(recipe, _read(overrides))
    _print(found, json, show.plan)
    return Exit.OK if found["fits"] else Exit.INFEASIBLE


def init(source: str, *, to: Path | None = None, json: Json = False) -> int:
    """Look at a dataset and write a commented starter recipe.

    SOURCE is what a recipe's data.source takes: a file, a folder, "digits", an environment.
    """
    _load()
    from modelwright import show, verbs

    _print(verbs.init(source, to), json, show.init)
    return Exit.OK


def evaluate(model: Path, *, part: Literal["valid", "test"] = "valid", json: Json = False) -> int:
    """A model folder's metric on a part of its run's data, with its 95 % interval."""
    _load()
    from modelwright import show, verbs

    _print(verbs.evaluate(model, part=part), json, show.evaluate)
    return Exit.OK


def predict(
    model: Path, *files: str, max_new: int | None = None, temperature: float | None = None,
    top_k: int | None = None, top_p: float | None = None, seed: int | None = None,
    stop: str | None = None, beam: int | None = None, length_penalty: float | None = None,
    beam_width: int | None = None, text: tuple[str, ...] = (), draw: Path | None = None,
    json: Json = False,
) -> int:  # fmt: skip
    """Answers for files, for every file of a folder, or for texts; - is the standard input.

    A language model writes on, a translation is written anew, and what is drawn appears as it
    comes. Without --max-new to --length-penalty both write as they were shipped to: the recipe's
    section decode has the same keys. --beam-width is of transcription. --text, once or again and
    again, is for models that match pictures with texts: which of them fits each picture best; of
    one text, which picture. --draw FOLDER draws what a detector found, each picture with its boxes
    as PNG, and forecasts, each series and how it goes on as SVG. Models refuse what they have no
    use for.
    """
    _load()
    from modelwright import show, verbs

    if not files:
        raise ConfigError("predict: no file given", expected="one or more files, texts or a folder")
    options = {"max_new": max_new, "temperature": temperature, "top_k": top_k, "top_p": top_p,
               "seed": seed, "stop": stop, "beam": beam, "length_penalty": length_penalty,
               "beam_width": beam_width}  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    told = None if json else show.piece
    found = verbs.predict(model, files, texts=text, draw=draw, told=told, **given)
    _print(found, json, show.predict)
    for one in found["failed"]:
        more = [f"\n  {key + ':':9} {one[key]}" for key in ("expected", "repair") if key in one]
        _complain(f"{one['file']}: {one['reason']}{''.join(more)}")
    return Exit.BAD_INPUT if found["failed"] else Exit.OK


def serve(
    model: Path, *, host: str = "127.0.0.1", port: int = 8000, threads: int | None = None,
    name: str | None = None, deadline_s: float = 10.0, batch_rows: int = 64,
    queue_rows: int = 4096, body_mib: float = 16.0, grace_s: float = 10.0,
) -> int:  # fmt: skip
    """Answer requests for a deployed model: Open Inference Protocol v2, and a page to try it.

    Beyond loopback, a key is needed: set MODELWRIGHT_API_KEY.
    """
    _load()
    from modelwright import verbs
    from modelwright.core.progress import say

    try:
        from modelwright.serve.limits import Limits
    except ImportError as error:
        from modelwright.core.errors import MissingExtra

        raise MissingExtra(error.name or "starlette", "serve", "serving") from error
    body_bytes = body_mib * 2**20
    if not math.isfinite(body_bytes):
        raise ConfigError(f"--body-mib {body_mib} is no size", expected="a number, such as 16")
    limits = Limits(
        deadline_s=deadline_s, batch_rows=batch_rows, queue_rows=queue_rows,
        body_bytes=round(body_bytes), grace_s=grace_s,
    )  # fmt: skip
    verbs.serve(
        model, host=host, port=port, threads=threads, name=name, limits=limits,
        api_key=os.environ.get("MODELWRIGHT_API_KEY"),
        announce=lambda url, served: say(
            f"serving {served} at {url}  (page: {url}/  protocol: {url}/v2/models/{served})\n"
            "Ctrl-C stops"
        ),
    )  # fmt: skip
    return Exit.OK


def verify(run: Path, *, json: Json = False) -> int:
    """Prove again that a run's deploy folder is what was trained: hashes, then parity."""
    _load()
    from modelwright import show, verbs

    _print(verbs.verify(run), json, show.verify)
    return Exit.OK


def report(*runs: Path, json: Json = False) -> int:
    """Write a run's report; of several runs also print a table."""
    _load()
    from modelwright import show, verbs

    if not runs:
        raise ConfigError("report: no run given", expected="a run folder such as runs/digits-001")
    _print(verbs.report(runs), json, show.report)
    return Exit.OK


def doctor(
    *overrides: Overrides,
    layouts: Annotated[Path | None, Parameter(help="a recipe to train in every layout")] = None,
    json: Json = False,
) -> int:
    """What this machine can do, and what Modelwright will therefore use.

    With --layouts: whether a recipe's training is the same however it is spread over processes.
    """
    _load()
    from modelwright import show, verbs

    if layouts is None:
        if overrides:
            raise ConfigError("doctor: overrides go with --layouts RECIPE")
        _print(verbs.doctor(), json, show.doctor)
        return Exit.OK
    found = verbs.layouts(layouts, _read(overrides), told=None if json else show.layout)
    _print(found, json, show.layouts)
    return Exit.OK if found["agree"] else Exit.REFUSED


def recipe_schema() -> int:
    """Print the JSON schema of a recipe, for editors."""
    _load()
    from modelwright import verbs

    print(json_module.dumps(verbs.recipe_schema(), indent=1))
    return Exit.OK


recipe_app = App(name="recipe", help="About recipes: `recipe schema` prints their JSON schema.")
recipe_app.command(recipe_schema, name="schema")

COMMANDS = (
    init, plan, train, evaluate, predict, compress, export, verify, serve, report, doctor, run,
)  # fmt: skip
for command in COMMANDS:
    app.command(command)
app.command(recipe_app)


def main() -> None:
    """Entry point of `modelwright` and `mw`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our signs is no failure
    code = call(sys.argv[1:])
    if code == 128 + signal.SIGINT:
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # one more ends what still hangs, in silence
    sys.exit(code)


def _with_dashes(words: list[str]) -> list[str]:
    """Numbers and texts that begin with a dash, and a lone one, which is the standard input, behind
    all options: the parser takes them for one of those elsewhere.

    >>> _with_dashes(["predict", "runs/a", "-0.1, 2", "--text", "- a dog", "-", "--json"])
    ['predict', '--text=- a dog', '--json', '--', 'runs/a', '-0.1, 2', '-']
    """
    end = words.index("--") if "--" in words else len(words)
    if not any(map(DASHED.match, words[:end])):
        return words
    options: list[str] = []
    places: list[str] = []  # what the command takes by its place, in order
    takes = False  # whether the last option still wants its value
    for word in words[1:end]:
        option = word.startswith("-") and not DASHED.match(word)
        if takes and not option:
            options[-1] += f"={word}"
        else:
            (options if option else places).append(word)
        takes = option and word.startswith("--") and "=" not in word and word not in FLAGS
    return [*words[:1], *options, "--", *places, *words[end + 1 :]]


def call(words: list[str]) -> int:
    """Run one command line; gives the exit code. Errors become words on stderr."""
    code: int = Exit.OK
    try:
        code = _called(words)
        sys.stdout.flush()  # or nobody finds out in time that the reader of our output has left
    except OSError as error:
        if not _of_output(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # whose reader has what it wanted
            _complain(f"what is told can't be written: {error.strerror or error}", always=True)
            return Exit.BAD_INPUT
    return code


def _of_output(error: OSError) -> bool:
    """Whether it came of telling something: what told it was the last to act."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"] in (__name__, "modelwright.show", "rich.console")


def _called(words: list[str]) -> int:
    as_json = "--json" in words
    try:
        given = _with_dashes(words)
        return int(
            app(given, exit_on_error=False, print_error=True, result_action="return_value") or 0
        )
    except CycloptsError as error:
        repair = ""
        if isinstance(error, UnknownOptionError) and words[:1] == ["predict"]:
            repair = "  repair:   a text that begins with a dash goes behind all options and --"
            _complain(repair)
        if as_json:
            text = f"{error}\n{repair}".rstrip()
            print(json_module.dumps({"verdict": "refused", "error": text}))
        return Exit.BAD_INPUT
    except ModelwrightError as error:
        _stand_still()
        if not error.said:
            _complain(str(error), always=True)
            if as_json:
                print(json_module.dumps({"verdict": "refused", "error": str(error)}))
        return error.exit_code
    except KeyboardInterrupt:
        _stand_still()
        goes_on = "; what was finished is kept, and the same command continues"
        _complain("stopped" + (goes_on if set(words[:1]) & set(GOES_ON) else ""))
        if as_json:
            print(json_module.dumps({"verdict": "stopped"}))
        return 128 + signal.SIGINT


def _road(
    until: str, recipe: Path, overrides: tuple[str, ...], out: Path, new: bool, dry_run: bool,
    json: bool,
) -> int:  # fmt: skip
    _load()
    from modelwright import show, verbs
    from modelwright.train.guards import StopRequested

    if dry_run:
        found = verbs.stages(recipe, _read(overrides), new=new, until=until)
        _print(found, json, show.stages)
        return Exit.OK
    try:
        found = verbs.run(recipe, _read(overrides), out=out, new=new, until=until)
    except StopRequested as stop:
        _complain(f"stopped by {stop}; the same command continues the training")
        if json:
            print(json_module.dumps({"verdict": "stopped"}))
        return 128 + signal.Signals[str(stop)]
    if found["verdict"] == "helped":  # the first process speaks for all
        return Exit.OK
    if found["verdict"] == "certified" and not found["goals"]:
        _complain("no goals were set: this certifies only that what ships is what was trained")
    _print(found, json, show.result)
    return VERDICTS.get(found["verdict"], Exit.OK)


def _stand_still() -> None:
    from modelwright.core.progress import stand_still

    stand_still()


def _load() -> None:
    """What takes seconds to import, with a line that says so."""
    from modelwright.core.progress import working

    with working("loading PyTorch"):
        from modelwright import verbs  # noqa: F401


def _read(overrides: tuple[str, ...]) -> dict[str, Any]:
    from modelwright.core.recipe_file import parse_overrides

    return parse_overrides(overrides)


def _print(found: dict[str, Any], json: bool, show: Any) -> None:
    if json:
        print(json_module.dumps(found))
    else:
        show(found)


def _complain(text: str, *, always: bool = False) -> None:
    from modelwright.core.progress import say

    say(text, always=always)

"""The command line: fast help, plain errors, one JSON object, exit codes that mean something."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import modelwright
from modelwright import cli, show, verbs
from modelwright.core import recipe_file

ROOT = Path(__file__).parents[2]
COMMANDS = ("init", "plan", "train", "evaluate", "predict", "compress", "export", "verify", "serve",
            "report", "doctor", "run", "recipe")  # fmt: skip


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(here, capsys):
    """Run a command line in this process; gives exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.call(list(words))
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return run


def test_help_loads_no_torch():
    """`modelwright --help` ends without torch, onnx or numpy in memory."""
    done = python(
        "-c",
        "import sys; from modelwright import cli; cli.call(['--help']);"
        "print('LOADED', {'torch', 'onnx', 'onnxruntime', 'numpy', 'sklearn'} & set(sys.modules))",
    )

    assert "LOADED set()" == done.stdout.splitlines()[-1]


def test_commands_load_no_compiler():
    """What all commands load is without what only tracing, export and layouts take."""
    code = (
        "import sys, modelwright.pipeline, modelwright.verbs, modelwright.serve.server;"
        "print([name for name in sys.argv[1:] if name in sys.modules])"
    )
    heavy = ("torch._dynamo", "sympy", "onnxscript", "torch.distributed.tensor")
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True)

    assert "[]\n" == done.stdout, done.stderr


@pytest.mark.parametrize(("command", "goes_on"), [("run", True), ("evaluate", False)])
def test_ctrl_c_is_answered(call, monkeypatch, command, goes_on):
    """Wherever it comes, a person hears whether the same command goes on; the shell gets 130."""

    def interrupted(*args, **keys):
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, command, interrupted)
    code, out, err = call(command, "recipe.yaml", "--json")

    assert 128 + signal.SIGINT == code
    assert {"verdict": "stopped"} == json.loads(out)
    assert "stopped" in err and goes_on is ("the same command continues" in err)


def test_one_more_ctrl_c_ends_in_silence():
    """Behind the words of the first one, another ends what still takes time."""
    done = python(
        "-c",
        "import atexit, os, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT);"
        "from modelwright import cli; cli.call = lambda words: 130; cli.main()",
    )

    assert (-signal.SIGINT, "") == (done.returncode, done.stderr)


def test_help_lists_every_command(call):
    """Each command stands at the start of a line of the help, with a sentence of its own."""
    code, out, err = call("--help")
    found = [line.strip("│ ").split("  ")[0] for line in out.splitlines()]

    assert (0, "") == (code, err)
    assert set(COMMANDS) <= set(found)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(call, command):
    """`modelwright COMMAND --help` exits with 0 and shows how to call it."""
    code, out, _ = call(command, "--help")

    assert 0 == code
    assert f"modelwright {command}" in out


def test_version(call):
    """--version prints the version, the same that the package says."""
    assert (0, "0.1.0\n", "") == call("--version")
    assert "0.1.0" == modelwright.__version__


def test_unknown_command_suggests_one(call):
    """A command that is not there exits with 2 and names the nearest one."""
    code, out, err = call("trian")

    assert (2, "") == (code, out)
    assert 'Did you mean "train"?' in err


def test_unknown_flag_suggests_one(call):
    """A flag that is not there exits with 2 and names the nearest one."""
    code, out, err = call("run", "recipe.yaml", "--dryrun")

    assert (2, "") == (code, out)
    assert "--dryrun" in err and "--dry-run" in err


@pytest.mark.parametrize(
    "words",
    [("run",), ("evaluate", "model", "--part", "train"), ("serve", "model", "--port", "http"),
     ("plan", "a.yaml", "--nope"), ("init",), ("recipe", "shema")],
    ids=" ".join,
)  # fmt: skip
def test_wrong_use_is_bad_input(call, words):
    """A missing argument, a wrong value and a wrong flag exit with 2, on stderr alone."""
    code, out, err = call(*words)

    assert (2, "") == (code, out)
    assert "Error" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["run", "train", "compress", "export", "plan"])
def test_missing_recipe(call, command):
    """A recipe file that is not there is one plain error with its repair."""
    code, out, err = call(command, "nowhere.yaml")

    assert (2, "") == (code, out)
    assert (
        "cannot read the recipe nowhere.yaml: No such file or directory\n"
        "  expected: a YAML file\n"
        "  repair:   write one with: modelwright init PATH-TO-DATA\n"
    ) == err


def test_no_traceback_in_a_real_process(tmp_path):
    """The same through `python -m modelwright`: exit code 2, nothing on stdout, no traceback."""
    done = python("-m", "modelwright", "run", str(tmp_path / "nowhere.yaml"))

    assert (2, "") == (done.returncode, done.stdout)
    assert "Traceback" not in done.stderr


ERRORS = {
    "typo in the recipe": (("run", "typo.yaml"), "line 3", "did you mean 'budget'?"),
    "typo in an override": (("run", "good.yaml", "train.sede=1"),
                            "override train.sede=1", "did you mean 'seed'?"),
    "no override": (("run", "good.yaml", "seed"), "'seed'", "key.sub=value, as in train.seed=1"),
    "no data": (("plan", "good.yaml", "data.source=nowhere"),
                "'nowhere' is not there", "repair:   correct the path; it is taken from "),
    "no model": (("evaluate", "."), "is not a model folder: it has no manifest.json",
                 "expected: a folder written by train, compress, export or run"),
    "no file": (("predict", "."), "no file given", "expected: one or more files"),
    "no run": (("verify", "."), "is no run and lies in none", "runs/digits-001"),
    "no runs": (("report",), "no run given", "runs/digits-001"),
    "report of no run": (("report", "."), "is no run and lies in none", "runs/digits-001"),
    "no source": (("init", "nowhere"), "'nowhere' is not there", "repair:   correct the path"),
    "serve without end": (("serve", ".", "--body-mib", "inf"), "--body-mib inf is no size",
                          "expected: a number, such as 16"),
    "serve no model": (("serve", "."), "is not a model folder", "expected: a folder written by"),
}  # fmt: skip


@pytest.fixture
def recipes(here):
    """A good recipe and one with a typo, in the working folder."""
    good = "task: image-classification\ndata: {source: digits}\n"
    (here / "good.yaml").write_text(good)
    (here / "typo.yaml").write_text(good + "bugdet: {train_steps: 3}\n")


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_and_how_to_repair(call, recipes, name):
    """Each error a person can cause exits with 2, names the cause and what would be right."""
    words, what, repair = ERRORS[name]
    code, out, err = call(*words)

    assert (2, "") == (code, out)
    assert what in err
    assert repair in err


@pytest.mark.parametrize("name", sorted(name for name in ERRORS if not name.startswith("serve")))
def test_json_is_one_object_on_error(call, recipes, name):
    """With --json an error too is exactly one JSON object on stdout, with the same words."""
    words, what, _ = ERRORS[name]
    code, out, _ = call(*words, "--json")
    found = json.loads(out)

    assert 2 == code
    assert "refused" == found["verdict"]
    assert what in found["error"]
    assert 1 == len(out.splitlines())


def test_a_terminal_without_our_signs_gets_others(monkeypatch):
    """What was done stays done: the exit code is the command's."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(cli, "call", lambda words: print("trained → onnx", flush=True) or 4)
    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert (4, b"trained ? onnx\n") == (ended.value.code, written.getvalue())


@pytest.mark.parametrize(
    "words", [("run",), ("init",), ("evaluate", "model", "--part", "train"), ("trian",)],
    ids=" ".join,
)  # fmt: skip
def test_json_is_one_object_on_wrong_use(call, words):
    """With --json a wrong command line is one JSON object too: a program reads it."""
    code, out, _ = call(*words, "--json")

    assert 2 == code
    assert "refused" == json.loads(out)["verdict"]


def test_init_writes_a_recipe_that_reads_back(call, here):
    """init looks at the data and writes a commented recipe which `read` takes as it is."""
    code, out, _ = call("init", "digits", "--to", "mine.yaml", "--json")
    found = json.loads(out)
    recipe = recipe_file.read(here / "mine.yaml")

    assert 0 == code
    assert "mine.yaml" == found["recipe"]
    assert [1, 8, 8] == found["shape"]
    assert [str(digit) for digit in range(10)] == found["labels"]
    assert 1797 == sum(found["rows"].values())
    assert ("digits", "mine", 3) == (recipe.data.source, recipe.name, len(recipe.bounds))


NAMED = {"text": "review", "label": "sentiment"}
TABLES = {
    "other names": ("t.csv", "sentiment,review\n{rows}", NAMED),
    "no names": ("t.tsv", "{rows}", {"text": 1, "label": 0}),
    "JSON": ("t.jsonl", "{objects}", NAMED),
    "usual names": ("t.csv", "label,text\n{rows}", {"text": "text", "label": "label"}),
}


@pytest.mark.parametrize(("name", "content", "columns"), TABLES.values(), ids=TABLES)
def test_init_finds_the_columns_of_a_table(call, here, name, content, columns):
    mark = "\t" if name.endswith(".tsv") else ","
    pairs = [("good" if n % 2 else "bad", f"a text that is long {n}") for n in range(40)]
    rows = "".join(f"{mark.join(pair)}\n" for pair in pairs)
    objects = "\n".join(
        json.dumps(dict(zip(("sentiment", "review"), pair, strict=True))) for pair in pairs
    )
    (here / name).write_text(content.format(rows=rows, objects=objects))
    code, _, err = call("init", name, "--to", "mine.yaml")

    assert 0 == code, err
    found = recipe_file.read(here / "mine.yaml").data.columns
    assert columns == {"text": found.text, "label": found.label}


def test_init_fits_horizon_and_window_to_a_short_series(call, here):
    (here / "t.csv").write_text(
        "month,load\n" + "".join(f"{1950 + n // 12}-{n % 12 + 1:02},{n}\n" for n in range(144))
    )
    code, _, err = call("init", "t.csv", "--to", "mine.yaml")

    assert 0 == code, err
    data = recipe_file.read(here / "mine.yaml").data
    assert (12, 24) == (data.horizon, data.window)


def test_init_never_overwrites(call, here):
    """A file that is there stays as it is; the error names --to."""
    (here / "digits.yaml").write_text("mine")
    code, _, err = call("init", "digits")

    assert 2 == code
    assert "mine" == (here / "digits.yaml").read_text()
    assert "digits.yaml is there already" in err and "--to" in err


@pytest.mark.parametrize("source", ["my photos: 1", "a #1", "- x", "ä'\"b"])
def test_init_quotes_what_yaml_would_misread(call, here, source):
    """A folder whose name means something to YAML comes back from the recipe as it was given."""
    from PIL import Image

    for label in ("a", "b"):
        (here / source / label).mkdir(parents=True)
        for index in range(12):
            shade = 20 * index + 5 * (label == "b")
            Image.new("L", (8, 8), shade).save(here / source / label / f"{index}.png")
    code, _, err = call("init", f"./{source}", "--to", "mine.yaml")

    assert 0 == code, err
    assert f"./{source}" == recipe_file.read(here / "mine.yaml").data.source


def test_plan_of_an_unwritten_run_writes_nothing(call, recipes, here):
    """--dry-run says what would be done and leaves the folder as it was."""
    before = sorted(here.iterdir())
    code, out, _ = call("run", "good.yaml", "model.family=cnn", "model.size=tiny", "--dry-run",
                        "--json")  # fmt: skip

    assert code in (0, 3)
    assert {"fits", "candidates"} <= set(json.loads(out))
    assert before == sorted(here.iterdir())


def test_plan_refuses_a_crop_that_leaves_nothing(call, recipes):
    """A step that the data's images are too small for stops the plan, with their size."""
    code, _, err = call("plan", "good.yaml", "train.augment=[{crop: 500}]", "model.family=cnn",
                        "model.size=tiny")  # fmt: skip

    assert 2 == code
    assert "crop: 500 can cut a 8 × 8 image" in err


def test_a_run_without_goals_says_so(call, recipes, monkeypatch):
    """The verdict alone would claim more than was asked for."""
    found = {"verdict": "certified", "run": "runs/x-001", "goals": {}, "artifact": None,
             "report": None}  # fmt: skip
    monkeypatch.setattr("modelwright.verbs.run", lambda *_, **__: found)
    code, _, err = call("run", "good.yaml")

    assert 0 == code
    assert err.startswith("no goals were set: ")


def fits(value, schema, defs):
    """Whether a value meets a JSON schema: its structure, not its bounds on numbers."""
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
             "integer": int, "number": (int, float)}  # fmt: skip
    if "$ref" in schema and not fits(value, defs[schema["$ref"].rsplit("/", 1)[1]], defs):
        return False
    if "anyOf" in schema and not any(fits(value, one, defs) for one in schema["anyOf"]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "type" in schema:
        kind = schema["type"]
        if not isinstance(value, kinds[kind]) or (kind != "boolean" and value in (True, False)
                                                  and isinstance(value, bool)):  # fmt: skip
            return False
    if isinstance(value, list) and "items" in schema:
        return all(fits(item, schema["items"], defs) for item in value)
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not set(schema.get("required", ())) <= set(value):
            return False
        for key, item in value.items():
            below = properties.get(key, more)
            if below is False or (isinstance(below, dict) and not fits(item, below, defs)):
                return False
    return True


@pytest.fixture
def schema(call):
    """What `modelwright recipe schema` prints."""
    code, out, err = call("recipe", "schema")
    assert (0, "") == (code, err)
    return json.loads(out)


WORDS = {"$ref", "$defs", "$schema", "anyOf", "const", "enum", "type", "properties", "required",
         "items", "additionalProperties", "minimum", "maximum", "exclusiveMinimum",
         "exclusiveMaximum", "pattern", "default", "description", "title"}  # fmt: skip


def words(schema):
    """Every keyword of a schema and of those inside it."""
    named = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    inner = [schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", [])]
    return set(schema).union(*map(words, [*named, *(one for one in inner if type(one) is dict)]))


def test_the_schema_speaks_json_schema(schema):
    """Every keyword is one of the standard's: a validator ignores the others without a word."""
    assert set() == words(schema) - WORDS


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_the_schema_takes_our_recipes(schema, path):
    """Every starter recipe meets the JSON schema that editors are given."""
    assert fits(yaml.safe_load(path.read_text()), schema, schema["$defs"])


GOOD = {"task": "image-classification", "data": {"source": "digits"}}


@pytest.mark.parametrize(
    "more",
    [{"model": "auto"}, {"model": {"family": "cnn"}}, {"compress": "none"}, {"compress": "auto"},
     {"compress": ["quantize", {"prune": {"ratio": 0.5}}]}, {"goals": {"accuracy": ">= 0.9"}},
     {"goals": {"accuracy": [">= 0.9", "drop <= 1 pt"]}}, {"budget": {"train_minutes": "90 s"}},
     {"train": {"augment": [{"flip": "both"}]}}, {"data": {"source": "x", "test": "20 %"}}],
    ids=json.dumps,
)  # fmt: skip
def test_the_schema_takes_what_the_reader_takes(schema, more, tmp_path):
    """Short forms and quantities with units meet the schema, and the reader reads them."""
    value = {**GOOD, **more}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(value))
    recipe_file.read(tmp_path / "recipe.yaml")

    assert fits(value, schema, schema["$defs"])


@pytest.mark.parametrize(
    "value",
    [{}, {"task": "image-classification"}, {**GOOD, "bugdet": {}}, {**GOOD, "model": "cnn"},
     {**GOOD, "train": {"sede": 1}}, {**GOOD, "compress": "quantize"},
     {**GOOD, "goals": {"accuracy": 3}}, {**GOOD, "task": "cooking"}],
    ids=json.dumps,
)  # fmt: skip
def test_the_schema_refuses_what_the_reader_refuses(schema, value, tmp_path):
    """A missing section, an unknown key and a wrong choice do not meet the schema either."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(modelwright.core.errors.ConfigError):
        recipe_file.read(tmp_path / "recipe.yaml")

    assert not fits(value, schema, schema["$defs"])


def test_the_python_api_has_every_verb():
    """There is a verb for every command, and one for `recipe schema`."""
    assert {*COMMANDS, "recipe_schema"} - {"recipe"} == set(modelwright.VERBS)


def test_a_verb_stays_a_verb():
    """`modelwright.train` is the function, also after the folder of the same name was loaded."""
    done = python(
        "-c",
        "import modelwright as m\n"
        "import modelwright.compress.search, modelwright.serve.server, modelwright.report.page\n"
        "for _ in range(2):\n"
        "    print([name for name in m.VERBS if not callable(getattr(m, name))])",
    )

    assert ("[]\n[]\n", "") == (done.stdout, done.stderr)


def test_an_unknown_verb_is_an_attribute_error():
    """`import modelwright` gives no name that is not there."""
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        modelwright.fly  # noqa: B018


def test_both_names_are_installed():
    """`modelwright` and `mw` are the same command."""
    text = (ROOT / "pyproject.toml").read_text()

    assert 'modelwright = "modelwright.cli:main"' in text
    assert 'mw = "modelwright.cli:main"' in text


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["predict", "m", "-"], ["predict", "--", "m", "-"]),
        (["predict", "m", "--json", "-"], ["predict", "--json", "--", "m", "-"]),
        (["predict", "m", "-", "x.txt"], ["predict", "--", "m", "-", "x.txt"]),
        (["predict", "m", "-", "--beam", "3"], ["predict", "--beam=3", "--", "m", "-"]),
        (["predict", "m", "--beam=3", "-"], ["predict", "--beam=3", "--", "m", "-"]),
        (["predict", "m", "a text", "--stop", "-"], ["predict", "--stop=-", "--", "m", "a text"]),
        (["predict", "--text", "--json", "-"], ["predict", "--text", "--json", "--", "-"]),
        (["predict", "m", "-", "--", "-x"], ["predict", "--", "m", "-", "-x"]),
        (["predict", "m", "--", "-"], ["predict", "m", "--", "-"]),
        (["predict", "m", "-h"], ["predict", "m", "-h"]),
    ],
)
def test_what_begins_with_a_dash_goes_behind_the_options(words, given):
    """In its order; but for the value of an option, which stays with it."""
    assert given == cli._with_dashes(words)


@pytest.mark.parametrize("text", ["-0.1, 0.2, 0.05", "- hello", "-.5", "-"])
def test_numbers_and_texts_may_begin_with_a_dash(call, monkeypatch, text):
    """As what a model is asked, and as --text."""
    asked = []

    def predict(model, files, *, texts, **options):
        asked.append((files, texts))
        return {"answers": [], "failed": []}

    monkeypatch.setattr(verbs, "predict", predict)
    code, _, err = call("predict", "m", text, "b", "--text", text)

    assert (0, "") == (code, err)
    assert [((text, "b"), (text,))] == asked


def test_a_text_that_looks_like_an_option_is_told_where_to_go(call):
    """A word with a dash before its first letter is taken for an option."""
    code, out, err = call("predict", "m", "-hello", "--json")

    assert 2 == code
    assert "goes behind all options and --" in err
    assert "goes behind all options and --" in json.loads(out)["error"]


@pytest.fixture
def no_reader(monkeypatch):
    """A standard output that nobody reads any more."""
    ends = os.pipe()
    os.close(ends[0])
    with open(ends[1], "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        yield pipe


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["words", "json"])
def test_a_reader_that_leaves_does_not_end_in_an_error(here, monkeypatch, no_reader, json):
    """What was asked is done: `modelwright report RUN | head -1`."""
    monkeypatch.setattr(verbs, "report", lambda runs: {"runs": [{}], "reports": ["x" * 9]})

    assert 0 == cli.call(["report", "run", *json])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("json", [(), ("--json",)], ids=["words", "json"])
@pytest.mark.parametrize("text", ["x" * 9, "x" * 99_999], ids=["short", "long"])
def test_what_cannot_be_told_is_no_bug(monkeypatch, capfd, json, text):
    """Of a full disk: `modelwright report RUN > there`, however much there is to say."""
    monkeypatch.setattr(verbs, "report", lambda runs: {"runs": [{}], "reports": [text]})
    # one of its own: what it could not tell it would tell the next test
    monkeypatch.setattr(show, "console", type(show.console)(highlight=False, markup=False))
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)

        assert 2 == cli.call(["report", "run", *json])
    assert "what is told can't be written: No space left on device" in capfd.readouterr().err


def test_another_pipe_that_breaks_is_no_success(call, monkeypatch):
    """Work that ended in the middle never gives the exit code of work that is done."""

    def broken(runs):
        raise BrokenPipeError("of a process")

    monkeypatch.setattr(verbs, "report", broken)
    with pytest.raises(BrokenPipeError):
        call("report", "run")

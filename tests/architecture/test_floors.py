"""The house as it stands in the source: imports go down, and nothing runs code from files."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "modelwright"
FILES = sorted(SOURCE.rglob("*.py"))

# docs/architecture.md; rooms on one floor do not know each other
FLOORS = (
    ("core",),
    ("models", "data", "tasks"),
    ("runtime",),
    ("measure",),
    ("train", "export", "serve", "report"),
    ("plan",),
    ("compress",),
    ("figures",),
    ("stages", "starting"),
    ("takeover",),
    ("pipeline",),
    ("which_run",),
    ("verbs", "show"),
    ("cli",),
    ("__init__", "__main__"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ONLY_CORE = ("report",)

CODE_FROM_FILES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal",
                   "shelve", "runpy"}  # fmt: skip
NO_NAME = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
MAX_LINES = 450


def imports(tree: ast.AST, file: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of every import, wherever it stands.

    `from modelwright import verbs` gives "modelwright.verbs"; relative imports are made absolute;
    import_module("x") and __import__("x") count too.
    """
    package = ("modelwright", *file.relative_to(SOURCE).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            given = node.args[0] if node.args else None
            text = given.value if isinstance(given, ast.Constant) else "a computed name"
            yield node.lineno, str(text)


def upward(text: str, file: Path) -> list[str]:
    """The imports in a file's text that do not go down, one sentence each."""
    place = file.relative_to(SOURCE)
    room = place.parts[0].removesuffix(".py")
    found = []
    for line, name in imports(ast.parse(text), file):
        parts = name.split(".")
        if name == "a computed name":
            found.append(f"{place}:{line} imports {name}: nobody can read where it goes")
        if room == "core" and parts[0] in ("torch", "onnx", "onnxruntime"):
            found.append(f"{place}:{line} core imports {parts[0]}")
        if parts[0] != "modelwright" or len(parts) < 2 or parts[1] not in FLOOR:
            continue
        if parts[1] == room:
            continue
        if FLOOR[parts[1]] >= FLOOR[room]:
            found.append(f"{place}:{line} {room} imports {parts[1]}, which is not below it")
        elif room in ONLY_CORE and parts[1] != "core":
            found.append(f"{place}:{line} {room} imports {parts[1]}; it may import core only")
    return found


def dangers(text: str) -> list[str]:
    """Lines that could run code from a file or switch a safeguard off."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = {alias.name for alias in node.names}
            heads = {name.split(".")[0] for name in {*names, module}}
            if heads & CODE_FROM_FILES or (module == "torch" and "load" in names):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "compile"):
                found.append(f"line {node.lineno}: {node.func.id}(")
            if ast.unparse(node.func) in ("torch.load", "torch.jit.load", "yaml.load",
                                          "yaml.unsafe_load", "yaml.full_load"):  # fmt: skip
                found.append(f"line {node.lineno}: {ast.unparse(node.func)}")
            for word in node.keywords:
                value = getattr(word.value, "value", None)
                unsafe = {"allow_pickle": True, "weights_only": False, "trust_remote_code": True}
                if word.arg in unsafe and value is unsafe[word.arg]:
                    found.append(f"line {node.lineno}: {word.arg}={value}")
    return found


def unexplained(text: str) -> list[str]:
    """Public functions and classes at module level, and the module itself, without a docstring."""
    tree = ast.parse(text)
    found = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if not node.name.startswith("_") and not ast.get_docstring(node):
            found.append(f"line {node.lineno}: {node.name}")
    return found


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _name(file: Path) -> str:
    return str(file.relative_to(SOURCE))


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_imports_go_down(file):
    """No line of a file imports from its own floor or above, in functions and type checks too."""
    assert [] == upward(file.read_text(), file)


def test_every_room_has_a_floor():
    """A new folder or module at the top is given its floor before it is used."""
    rooms = {file.relative_to(SOURCE).parts[0].removesuffix(".py") for file in FILES}

    assert set(FLOOR) >= rooms


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("core/units.py", "from modelwright.models.catalog import build"),
        ("core/units.py", "import torch.nn as nn"),
        ("core/units.py", "def f():\n    from torch import Tensor"),
        ("models/cnn.py", "import modelwright.data.rows"),
        ("models/cnn.py", "def f():\n    import modelwright.plan.count"),
        ("tasks/classify.py", "if TYPE_CHECKING:\n    from modelwright.train.loop import Trainer"),
        ("train/loop.py", "from modelwright.export import catalog"),
        ("train/loop.py", "from ..plan import choose"),
        ("runtime/catalog.py", "import_module('modelwright.measure.timing')"),
        ("runtime/catalog.py", "importlib.import_module(name)"),
        ("report/page.py", "from modelwright.data.rows import Rows"),
        ("plan/choose.py", "from modelwright.compress.prune import prune"),
        ("compress/search.py", "from modelwright import pipeline"),
        ("pipeline.py", "from modelwright import verbs"),
        ("show.py", "from modelwright import verbs"),
        ("verbs.py", "from modelwright.cli import call"),
        ("cli.py", "from . import __main__"),
    ],
)
def test_a_planted_import_is_caught(room, line):
    """The function that reads the house also sees one import that goes up."""
    assert 1 == len(upward(line, SOURCE / room))


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("models/cnn.py", "from modelwright.models.layers import ConvNorm"),
        ("models/cnn.py", "from . import layers"),
        ("cli.py", "from modelwright import __version__, show, verbs"),
        ("plan/choose.py", "from modelwright.train.loop import Budget"),
        ("report/page.py", "from modelwright.core.run import Run"),
    ],
)
def test_a_downward_import_passes(room, line):
    """Imports from below and from the own room are no finding."""
    assert [] == upward(line, SOURCE / room)


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_no_code_from_files(file):
    """Nothing unpickles, evaluates text, or switches off what forbids it."""
    assert [] == dangers(file.read_text())


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from pickle import loads", "import joblib", "torch.load(path)",
     "from torch import load", "eval(text)", "exec(text)", "np.load(path, allow_pickle=True)",
     "load(path, weights_only=False)", "yaml.load(text, Loader=yaml.Loader)"],
)  # fmt: skip
def test_a_planted_danger_is_caught(line):
    """The function that reads the house also sees one dangerous line in a function."""
    assert 1 == len(dangers(f"def f():\n    {line}"))


@pytest.mark.parametrize("line", ["model.eval()", "np.load(path, allow_pickle=False)"])
def test_a_look_alike_passes(line):
    """A model's eval() and a safeguard that is on are no finding."""
    assert [] == dangers(line)


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_names_say_something(file):
    """No file or folder is named after nothing in particular."""
    assert set() == NO_NAME & {part.removesuffix(".py") for part in file.relative_to(SOURCE).parts}


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_public_things_are_explained(file):
    """Every module, public function and public class opens with a docstring."""
    assert [] == unexplained(file.read_text())


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_files_stay_short(file):
    """A file that grows beyond what can be held in mind is divided."""
    assert MAX_LINES > len(file.read_text().splitlines())

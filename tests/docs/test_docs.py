"""What the documentation says, held against the code: links, commands, recipes, keys."""

import json
import re
import shlex
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from cyclopts import CycloptsError
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from modelwright import cli
from modelwright.core import recipe_file
from modelwright.core.goals import METRICS
from modelwright.core.recipe import BLOCKING_CHECKS, NOTED_CHECKS, Recipe
from modelwright.core.recipe_file import parse_overrides
from modelwright.tasks.catalog import TASKS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RECIPES = sorted(ROOT.glob("recipes/*.yaml"))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SHELL_STOPS = {"|", "||", "&&", ";", ">", ">>", "<", "&"}
COMMANDS = {command.__name__ for command in cli.COMMANDS} | {"recipe"}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fences(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block of a page."""
    return [(found[2], textwrap.dedent(found[3])) for found in FENCE.finditer(page.read_text())]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Page and words of every command of ours in a fenced block, without the command's name."""
    for page in PAGES:
        for language, text in fences(page):
            if language not in ("console", "sh", "bash"):
                continue
            for line in text.replace("\\\n", " ").splitlines():
                bare = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
                if not bare.startswith(("modelwright ", "mw ")):
                    continue
                words = shlex.split(bare, comments=True)
                end = next((i for i, w in enumerate(words) if w in SHELL_STOPS), len(words))
                yield named(page), words[1:end]


def recipe_texts() -> Iterator[tuple[str, str]]:
    """Page and text of every YAML block; one without a task gets the keys that it leaves out."""
    for page in PAGES:
        for language, text in fences(page):
            if language == "yaml":
                value = yaml.safe_load(text)
                needed = {"task": "image-classification", "data": {"source": "digits"}}
                missing = {key: needed[key] for key in needed if key not in value}
                yield named(page), text + (yaml.safe_dump(missing) if missing else "")


def keys(section: type[BaseModel], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a section, dotted, with its field; lists and goals are walked through."""
    for name, field in section.model_fields.items():
        yield before + name, field
        for below in sections_in(field.annotation):
            yield from keys(below, f"{before}{name}.")


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from sections_in(part)


def choices_in(annotation: Any) -> Iterator[str]:
    """The words that a Literal allows, wherever it stands in an annotation."""
    if typing.get_origin(annotation) is Literal:
        yield from (str(choice) for choice in typing.get_args(annotation))
    elif isinstance(annotation, types.UnionType) or typing.get_args(annotation):
        for part in typing.get_args(annotation):
            yield from choices_in(part)


def row_of(key: str) -> str:
    """The line of the recipe reference whose first cell is the key."""
    reference = (ROOT / "docs/reference/recipe.md").read_text()
    return next((row for row in reference.splitlines() if row.startswith(f"| `{key}` |")), "")


LEAVES = [(key, field) for key, field in keys(Recipe) if not list(sections_in(field.annotation))]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_resolve(page):
    """Every link that names no other site leads to a file or folder that is there."""
    text = FENCE.sub("", page.read_text())
    targets = [target.partition("#")[0] for target in LINK.findall(text)]
    broken = [
        target
        for target in targets
        if target and "://" not in target and not (page.parent / target).exists()
    ]

    assert [] == broken


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tables_have_even_rows(page):
    """Every row of a table has as many cells as the one above it."""
    lines = FENCE.sub("", page.read_text()).splitlines()
    cells = [len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0 for line in lines]
    pairs = zip(cells, cells[1:], lines[1:], strict=False)

    assert [] == [line for above, own, line in pairs if above and own and above != own]


@pytest.mark.parametrize(("page", "words"), list(commands()))
def test_commands_are_known(page, words):
    """Every command in a code block names a command, arguments and flags that exist."""
    try:
        parsed = cli.app.parse_args(words, exit_on_error=False, print_error=False)
        problem = None
        parse_overrides(parsed[1].arguments.get("overrides", ()))
    except CycloptsError as error:
        problem = str(error)

    assert None is problem, f"{page}: modelwright {shlex.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_in_sentences_are_known(page):
    """A command that a sentence quotes is one of the command line's."""
    text = FENCE.sub("", page.read_text())
    quoted = re.findall(r"`(?:modelwright|mw) ([a-z]+)[^`]*`", text)

    assert [] == [word for word in quoted if word not in COMMANDS]


@pytest.mark.parametrize(("page", "text"), list(recipe_texts()))
def test_recipes_in_the_docs_read(page, text, tmp_path):
    """Every YAML block is a recipe, or becomes one with a task and a source."""
    path = tmp_path / "shown.yaml"
    path.write_text(text)

    assert recipe_file.read(path).task in TASKS, page


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_starter_recipes_read(path):
    """Every file in recipes/ is a recipe, and its resolved text reads back to the same one."""
    recipe = recipe_file.read(path)

    assert recipe == Recipe.model_validate(yaml.safe_load(recipe_file.resolved_text(recipe)))


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_readme_shows_both_commands(command):
    """The README has the two commands in a code block, and the Makefile has their rules."""
    shown = [line for _, text in fences(ROOT / "README.md") for line in text.splitlines()]
    rule = command.removeprefix("make ") + ":"

    assert command in shown
    assert rule in (ROOT / "Makefile").read_text()


def test_translated_readme_has_the_same_code():
    """The Chinese README shows the same code blocks as the English one, in the same order."""
    assert fences(ROOT / "README.md") == fences(ROOT / "README.zh-CN.md")


def test_readmes_have_the_same_links():
    """Both READMEs lead to the same pages, but for the one that leads to the other."""
    english, chinese = (
        sorted(set(LINK.findall((ROOT / name).read_text())) - {"README.md", "README.zh-CN.md"})
        for name in ("README.md", "README.zh-CN.md")
    )

    assert english == chinese


@pytest.mark.parametrize(("key", "field"), LEAVES, ids=[key for key, _ in LEAVES])
def test_recipe_reference_has_every_key(key, field):
    """The recipe reference has a row for every key, with its default and every choice."""
    row = row_of(key)
    default = field.get_default(call_default_factory=True)

    assert row or key == "goals", f"docs/reference/recipe.md has no row for {key}"
    if default not in (PydanticUndefined, None, (), {}, ""):
        assert f"| `{json.dumps(default)}` |" in row
    assert [] == [word for word in choices_in(field.annotation) if word not in row]


def test_recipe_reference_has_no_other_key():
    """Each row of the recipe reference that names a key names one that exists."""
    reference = (ROOT / "docs/reference/recipe.md").read_text()
    shown = re.findall(r"^\| `([a-z_]+(?:\.[a-z_]+)*)` \|", reference, re.MULTILINE)
    known = {key for key, _ in keys(Recipe)} | set(METRICS)

    assert [] == [key for key in shown if key not in known]


@pytest.mark.parametrize("goal", METRICS)
def test_recipe_reference_has_every_goal(goal):
    """The recipe reference names every measure that a goal can bound."""
    assert f"`{goal}`" in (ROOT / "docs/reference/recipe.md").read_text()


@pytest.mark.parametrize("check", [*BLOCKING_CHECKS, *NOTED_CHECKS])
def test_waiving_page_has_every_check(check):
    """The page on findings names every check of the gate."""
    assert f"`{check}`" in (ROOT / "docs/how-to/waive-a-finding.md").read_text()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_command_reference_has_every_command(command):
    """Every command has a heading in the command reference."""
    page = (ROOT / "docs/reference/commands.md").read_text()
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)

    assert command in ", ".join(headings).split(", ")


def test_decisions_are_all_listed():
    """The list of decisions names every record, and no two share a number."""
    records = sorted(path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    listed = LINK.findall((ROOT / "docs/decisions/README.md").read_text())

    assert records == listed
    assert len(records) == len({name[:4] for name in records})


def test_architecture_has_every_file():
    """The map of the house names every Python file of the package, but for empty ones."""
    page = (ROOT / "docs/architecture.md").read_text()
    files = {path.name for path in (ROOT / "src/modelwright").rglob("*.py")}

    assert set() == {name for name in files - {"__init__.py", "__main__.py"} if name not in page}


def test_benchmark_commands_exist():
    """Every benchmark that the docs tell to run is a script of the repository."""
    text = "".join(page.read_text() for page in PAGES)
    named_scripts = set(re.findall(r"python (benchmarks/\w+\.py)", text))

    assert set() == {script for script in named_scripts if not (ROOT / script).is_file()}

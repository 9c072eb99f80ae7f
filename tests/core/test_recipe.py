"""Recipes: every key does what it says, every mistake is named with file, line, key and repair."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from modelwright.core import recipe_file
from modelwright.core.errors import ConfigError
from modelwright.core.goals import METRICS, Goal
from modelwright.core.recipe import QUALITY_OF, TASKS_OF_KEY, Data, Recipe
from modelwright.core.recipe_compress import Compress
from modelwright.core.recipe_file import digest, parse_overrides, read, resolved_text

ROOT = Path(__file__).parents[2]
HEAD = "task: image-classification\ndata: {source: digits}\n"


@pytest.fixture
def file(tmp_path):
    """Write recipe.yaml with the lines given below task and data; gives its path."""

    def write(text: str = "", *, head: str = HEAD) -> Path:
        (tmp_path / "recipe.yaml").write_text(head + text, encoding="utf-8")
        return tmp_path / "recipe.yaml"

    return write


@pytest.fixture
def refusal(file):
    """The error that a recipe's text meets."""

    def find(text: str = "", *, head: str = HEAD, **overrides: object) -> ConfigError:
        path = file(text, head=head)
        with pytest.raises(ConfigError) as caught:
            read(path, {key.replace("__", "."): value for key, value in overrides.items()})
        assert 2 == caught.value.exit_code
        return caught.value

    return find


def test_two_lines_are_a_recipe(file):
    """Everything but task and data has a default."""
    recipe = read(file())

    assert ("recipe", "digits", 5.0) == (
        recipe.name, recipe.data.source, recipe.budget.train_minutes,
    )  # fmt: skip
    assert ("auto", "auto", "auto") == (
        recipe.model.family, recipe.train.precision, recipe.compress.mode,
    )  # fmt: skip
    assert () == recipe.bounds


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_our_recipes_are_read(path):
    """Every starter recipe is valid and named after its file."""
    assert path.stem == read(path).name


def test_a_recipe_cannot_be_changed(file):
    """Sections are frozen: what was resolved and saved is what runs."""
    recipe = read(file())
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.seed = 3


# text below task and data, its line, the key as shown, what would be right
MISTAKES = {
    "unknown section": ("bugdet: {}", 3, "'bugdet'", "did you mean 'budget'?"),
    "unknown key": ("train:\n  sede: 1", 4, "'train.sede'", "did you mean 'seed'?"),
    "unknown key in braces": ("train: {sede: 1}", 3, "'train.sede'", "did you mean 'seed'?"),
    "unknown key, none near": ("target: {zzz: 1}", 3, "'target.zzz'",
                               "one of: batch_size, device, runtime, threads"),
    "unknown key two down": ("data:\n  source: x\n  checks:\n    waiv: []", 5,
                             "'data.checks.waiv'", "did you mean 'waive'?"),
    "unknown key in a list": ("train:\n  augment:\n    - flip: both\n    - rotat: 3", 6,
                              "'train.augment.1.rotat'", "did you mean 'rotate'?"),
    "unknown method": ("compress:\n  - quantise", 4, "quantise", "did you mean 'quantize'?"),
    "unknown key of a method": ("compress:\n  - quantize\n  - prune:\n      ration: 0.5", 6,
                                "ration", "did you mean 'ratio'?"),
    "wrong word": ("model: {family: ccn}", 3, "model.family", "'cnn', 'rnn' or 'transformer'"),
    "word for a section": ("model: cnn", 3, "model", "write model: {family: cnn} "),
    "word for the data": ("data: digits", 2, "data", "write data: {source: digits} "),
    "quantity for a section": ("budget: 3 min", 3, "budget", "budget: {train_minutes: 3 min}"),
    "word that fits nowhere": ("model: ccn", 3, "model", "keys below it, of: family, size"),
    "word for a step": ("train:\n  augment:\n  - flip", 5, "train.augment.0", "a section"),
    "number for a step": ("train:\n  augment:\n  - 3", 5, "train.augment.0", "write - {crop: 3}"),
    "word for a list": ("train: {augment: flip}", 3, "train.augment", "should be a list"),
    "word for the goals": ("goals: fast", 3, "goals", "should be a section"),
    "section is empty": ("train:", 3, "train", "got nothing"),
    "word for a number": ("train: {seed: abc}", 3, "train.seed", "'abc'"),
    "fraction for a whole": ("train: {batch_size: 1.5}", 3, "train.batch_size", "1.5"),
    "round number for a whole": ("train: {seed: 3.0}", 3, "train.seed", "a whole number, got 3.0"),
    "truth for a whole": ("train: {seed: true}", 3, "train.seed", "a whole number, got True"),
    "text for a whole": ("train: {seed: '3'}", 3, "train.seed", "a whole number, got '3'"),
    "truth for an optional whole": ("budget: {train_steps: yes}", 3, "budget.train_steps",
                                    "a whole number, got True"),
    "truth for a number": ("train: {ema: true}", 3, "train.ema", "should be a number, got True"),
    "too small": ("train: {batch_size: 0}", 3, "train.batch_size", "greater than or equal to 1"),
    "too large": ("data: {source: x, valid: 1.5}", 2, "data.valid", "less than or equal to 1"),
    "not divisible": ("train: {batch_size: 10, micro_batch_size: 3}", 3, "train",
                      "micro_batch_size must divide batch_size"),
    "unit of another kind": ("budget: {train_minutes: 3 MB}", 3, "budget.train_minutes",
                             "a time in one of: h, min"),
    "no quantity": ("budget: {memory_gb: lots}", 3, "budget.memory_gb", "'lots'"),
    "truth for a quantity": ("budget: {train_minutes: yes}", 3, "budget.train_minutes",
                             "is not a quantity"),
    "infinite": ("budget: {train_minutes: .inf}", 3, "budget.train_minutes", "finite"),
    "not a number": ("data: {source: x, valid: .nan}", 2, "data.valid", ""),
    "batch beyond all memory": ("train: {batch_size: 1000000000000000000000000000}", 3,
                                "train.batch_size", "less than or equal to 1048576"),
    "two rhythms": ("train: {checkpoint_minutes: 2, checkpoint_steps: 9}", 3, "train",
                    "either checkpoint_minutes or checkpoint_steps"),
    "gain for a drop": ("task: forecasting\ndata: {source: x, horizon: 2}\n"
                        "goals: {mse: 'drop <= -1'}", 3, "goals.mse", "a drop of -1 is a gain"),
    "no budget": ("budget: {train_minutes: 0}", 3, "budget.train_minutes", "greater than 0"),
    "two clocks": ("budget: {train_minutes: 1, train_steps: 9}", 3, "budget",
                   "either train_minutes or train_steps"),
    "unknown goal": ("goals: {acuracy: '>= 0.9'}", 3, "goals", "did you mean 'accuracy'?"),
    "no bound": ("goals: {accuracy: 0.9}", 3, "goals.accuracy", '0.9 is no bound; write ">= 0.9"'),
    "bare number of the other kind": ("goals: {size_mb: 2}", 3, "goals.size_mb", 'write "<= 2"'),
    "empty bound": ("goals: {accuracy: }", 3, "goals.accuracy", 'write ">= 0.97"'),
    "bound turned round": ("goals: {accuracy: '=> 0.9'}", 3, "goals", "'=> 0.9' is no bound"),
    "bound without quantity": ("goals: {size_mb: '<= small'}", 3, "goals", "'small'"),
    "wrong direction": ("goals: {accuracy: '<= 0.9'}", 3, "goals", "is bounded with >="),
    "wrong direction, down": ("goals: {size_mb: '>= 0.9'}", 3, "goals", "is bounded with <="),
    "drop turned round": ("goals: {accuracy: 'drop >= 1 pt'}", 3, "goals", "is bounded with <="),
    "drop of another": ("goals: {size_mb: 'drop <= 1'}", 3, "goals", "such as accuracy"),
    "goal of another task": ("goals: {f1: '>= 0.9'}", 3, "goals",
                             "image-classification is measured by accuracy"),
    "data key of another task": ("data: {source: x, window: 12}", 2, "data.window",
                                 "image-classification does not read it, only forecasting, "
                                 "language-modeling and control do"),
    "section of another task": ("data: {source: x, tokens: {unit: bpe}}", 2, "data.tokens.unit",
                                "image-classification does not read it, only text-classific"),
    "key that most tasks read": ("task: control\ndata: {source: x, valid: 0.3}", 2, "data.valid",
                                 "all do but recommendation and control"),
    "unit of another task": ("task: tagging\ndata: {source: x, tokens: {unit: bpe}}", 2,
                             "data.tokens.unit", "tagging takes characters, words, given"),
    "positions without an end": ("task: translation\ndata: {source: x}\n"
                                 "model: {family: transformer, positions: learned}", 3,
                                 "model.positions", "take sinusoidal or rotary"),
    "option of another family": ("model: {family: cnn, num_kv_heads: 1}", 3, "model",
                                 "num_kv_heads: only the family transformer reads it"),
    "mirrored text": ("task: tagging\ndata: {source: x}\nmodel: {mirror: true}", 3, "model.mirror",
                      "tagging does not read it"),
    "dropout of all": ("model: {family: cnn, dropout: 1}", 3, "model.dropout", "less than 1"),
    "as many as there are": ("task: transcription\ndata:\n  source: x\n"
                             "  tokens: {unit: bytes, vocab_size: 99}", 4,
                             "data.tokens.vocab_size", "bytes are as many as there are"),
    "no share": ("goals: {accuracy: '>= 97'}", 3, "goals", "write 0.97 or 97 %"),
    "goal in another unit": ("goals: {latency_p99_ms: '<= 2 MB'}", 3, "goals", "a time in"),
    "bound without end": ("goals: {size_mb: '<= 1e999'}", 3, "goals", "1e999"),
    "two bounds": ("goals: {accuracy: ['>= 0.9', '>= 0.8']}", 3, "goals", "two bounds on accuracy"),
    "steps without list": ("compress: {steps: [quantize]}", 3, "compress", 'mode "list"'),
    "list without steps": ("compress: []", 3, "compress", 'mode "list"'),
    "step with two methods": ("compress:\n - {prune: {}, quantize: {}}", 4, "compress",
                              "exactly one method"),
    "augmentation with two keys": ("train:\n  augment:\n    - {flip: both, crop: 2}", 5,
                                   "train.augment.0", "exactly one key"),
    "augmentation without value": ("train:\n  augment:\n    - flip:", 5, "train.augment.0",
                                   "flip needs a value"),
    "cleaning without value": ("task: text-classification\ndata:\n  source: x\n  clean:\n"
                               "  - strip:", 5, "data.clean.0", "strip needs a value"),
    "number beyond all": ("budget: {train_minutes: 1" + 400 * "0" + "}", 3, "budget.train_minutes",
                          "more digits than a number can have"),
    "wrong word in a list": ("data:\n  source: x\n  checks:\n    waive:\n    - nan", 6,
                             "data.checks.waive.0", "nan_values"),
    "name with a slash": ("name: a/b", 3, "name", "a/b"),
}  # fmt: skip


# a value of each key that only some tasks read, other than its default
OF_SOME_TASKS = {
    "data.valid": 0.3, "data.test": 0.3, "data.split_seed": 1, "data.image_size": 32,
    "data.rate": 8000, "data.files": {"train": "a.txt"}, "data.columns.text": "say",
    "data.columns.label": "as", "data.columns.file": "wav", "data.columns.words": "w",
    "data.columns.tags": "t",    "data.columns.source": "de",
    "data.columns.target": "en", "data.clean": [{"normalize": "NFC"}],
    "data.tokens.unit": "characters", "data.tokens.features": ["token"],
    "data.tokens.vocab_size": 300, "data.tokens.joint": False, "data.tokens.max_length": 12,
    "data.horizon": 4, "data.channels": ["load"], "data.window": 12,
    "data.split_rows": [30, 10, 10], "data.interactions": {}, "data.interactions.time": 7,
    "data.interactions.rating": 7, "data.pair": ["de", "en"], "data.episodes": 8,
    "data.checks.near_duplicate_similarity": 0.9, "data.checks.label_noise": True,
}  # fmt: skip
OF_ALL_TASKS = {"data.source", "data.format", "data.checks.waive"}


def nested(key: str, value: object) -> dict:
    """`a.b.c` as sections."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def leaves(section: type, before: str) -> set[str]:
    """Every key below a section of the recipe, dotted; lists of steps are keys."""
    below = {name: getattr(f.annotation, "model_fields", None) and f.annotation
             for name, f in section.model_fields.items()}  # fmt: skip
    return {
        one
        for name, own in below.items()
        for one in (leaves(own, f"{before}.{name}") if own else {f"{before}.{name}"})
    }


def test_each_key_of_data_is_read_by_all_tasks_or_says_by_which():
    """A new key stands in TASKS_OF_KEY, or among those few that mean something everywhere."""
    told = {key for key in TASKS_OF_KEY if key.startswith("data.")}
    every = leaves(Data, "data")

    assert OF_ALL_TASKS == every - told
    assert {"data.interactions.time", "data.interactions.rating"} == told - every
    assert set(OF_SOME_TASKS) == told


@pytest.mark.parametrize("key", OF_SOME_TASKS)
def test_a_key_that_a_task_does_not_read_is_refused(key):
    """By every task but those that do, never passed over in silence."""
    refusing = set()
    for task in QUALITY_OF:
        needed = {"horizon": 4} if task == "forecasting" else {}
        data = {"source": "x", **needed, **nested(key, OF_SOME_TASKS[key])["data"]}
        try:
            Recipe.model_validate({"task": task, "data": data})
        except ValidationError as error:
            assert f"{task} does not read it" in str(error)
            refusing.add(task)

    assert set(QUALITY_OF) - set(TASKS_OF_KEY[key]) == refusing


JARGON = ("valid", "dictionary", "instance", "tuple", "parse", "Input", "input")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_place(refusal, file, name):
    """File, line and key of the mistake, and what would have been right."""
    text, line, key, right = MISTAKES[name]
    below = {"data": 1, "task": 0}.get(text.partition(":")[0], 2)  # lines of HEAD that stay
    head = "".join(HEAD.splitlines(keepends=True)[:below])
    error = refusal(text, head=head)

    assert f"{file(text, head=head)}, line {line}: " in str(error)
    assert key in error.what
    assert right in str(error)
    assert [] == [word for word in JARGON if f" {word} " in error.what]


def test_a_bare_word_in_an_override_is_repaired_as_one(refusal):
    """Who wrote `model=cnn` on the command line is shown the word to write there."""
    assert "(as an override: model.family=cnn)" in refusal(model="cnn").repair


def test_the_last_override_wins():
    """Also over one that came between it and an earlier one of the same key."""
    words = ["budget.train_minutes=1", "budget.train_steps=100", "budget.train_minutes=2"]

    assert ["budget.train_steps", "budget.train_minutes"] == list(parse_overrides(words))


@pytest.mark.parametrize("method", ["quantize", "quantize_weights", "prune"])
def test_a_method_with_nothing_behind_it_has_its_defaults(file, tmp_path, method):
    """`- prune:` is `- prune`, also in the recipe that a run keeps."""
    recipe = read(file(f"compress:\n- {method}:\n"))
    (tmp_path / "recipe.yaml").write_text(resolved_text(recipe))

    assert Compress.model_validate([method]) == recipe.compress
    assert recipe == read(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("overrides", [["a=1"], "a=1", {1: 2}, ("train.seed",)], ids=repr)
def test_overrides_are_a_mapping(file, overrides):
    """Anything else is refused with an example, not with an AttributeError."""
    with pytest.raises(ConfigError, match="is no mapping") as caught:
        read(file(), overrides)

    assert '{"train.seed": 1}' in caught.value.expected


def test_numbers_may_be_written_with_an_exponent(file):
    """YAML reads 1e-3 as a text; for a number that is no mistake."""
    assert 0.001 == read(file("train: {learning_rate: 1e-3}")).train.learning_rate


def test_a_missing_section_is_named(refusal):
    """A recipe without data says which key is missing."""
    error = refusal(head="task: image-classification\n")

    assert "the key 'data' is missing" in error.what


def test_a_missing_key_says_what_belongs_there(refusal):
    """The key's own description is what was expected."""
    error = refusal(head="task: image-classification\ndata: {valid: 0.1}\n")

    assert "line 2: the key 'data.source' is missing" in error.what
    assert '"digits", or a path' in error.expected


def test_more_problems_are_counted(refusal):
    """A typo comes first, as it explains the rest; the others are counted."""
    error = refusal("train: {seed: -1}\nbugdet: {}\n")

    assert "unknown key 'bugdet' (1 more problem" in error.what


@pytest.mark.parametrize(
    ("text", "lines"),
    [("train: {seed: 1}\ntrain: {seed: 2}\n", (4, 3)), ("train:\n  seed: 1\n  ema: 0\n  seed: 2\n",
                                                        (6, 4))],
)  # fmt: skip
def test_a_key_that_stands_twice_is_refused(refusal, text, lines):
    """YAML would silently take the last; both lines are named."""
    error = refusal(text)

    assert f"line {lines[0]}: the key" in error.what and "a second time" in error.what
    assert f"line {lines[1]}" in error.repair


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "holds no recipe"), (b"# nothing\n", "holds no recipe"), (b"- a\n- b\n", "holds no"),
     (b"just words", "holds no recipe"), (b"a: [1\nb: 2\n", "line 2: not valid YAML"),
     (b"a: b: c\n", "line 1: not valid YAML"), (b"\xff\xfea", "is not UTF-8 text"),
     (b"a: \x00\n", "not valid YAML"), (b"a: *nobody\n", "line 1: not valid YAML"),
     (b"task: !!python/object/apply:os.getcwd []\n", "line 1"),
     (b"task: !!python/name:os.system x\n", "line 1"), (b"task: !mine x\n", "line 1"),
     (b"task: !!int x\n", "line 1"), (b"task: 2026-13-45\n", "line 1"),
     (b"task: &a [*a]\n", "line 1"), (b"task: a\n---\ntask: b\n", "line 2")],
)  # fmt: skip
def test_what_is_no_recipe(tmp_path, content, what):
    """Anything else in the file ends in words that name the file, and no code of it runs."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(path)

    assert str(path) in caught.value.what
    assert what in caught.value.what


def test_a_folder_is_no_recipe(tmp_path):
    """A path that cannot be read says why and how to get a recipe."""
    with pytest.raises(ConfigError, match="cannot read the recipe") as caught:
        read(tmp_path)

    assert "modelwright init" in caught.value.repair


@pytest.mark.parametrize(
    ("text", "expected"),
    [("budget: {train_minutes: 3}", 3.0), ("budget: {train_minutes: 90 s}", 1.5),
     ("budget: {train_minutes: 1 h}", 60.0), ("budget: {memory_gb: 2}", 5.0)],
)  # fmt: skip
def test_quantities_have_units(file, text, expected):
    """A bare number is in the unit of its key; a written unit is converted."""
    assert expected == read(file(text)).budget.train_minutes


@pytest.mark.parametrize(
    ("text", "goals"),
    [("accuracy: '>= 0.97'", [("accuracy", ">=", 0.97)]),
     ("accuracy: '>= 97 %'", [("accuracy", ">=", 0.97)]),
     ("accuracy: '>=0.97'", [("accuracy", ">=", 0.97)]),
     ("accuracy: 'drop <= 0.5 pt'", [("accuracy_drop", "<=", 0.005)]),
     ("accuracy: 'drop <= 0.005'", [("accuracy_drop", "<=", 0.005)]),
     ("accuracy: ['>= 0.9', 'drop <= 1 pt']", [("accuracy", ">=", 0.9),
                                               ("accuracy_drop", "<=", 0.01)]),
     ("latency_p99_ms: '<= 2'", [("latency_p99_ms", "<=", 2.0)]),
     ("latency_p50_ms: '<= 500 us'", [("latency_p50_ms", "<=", 0.5)]),
     ("size_mb: '<= 250 kB'\n  latency_p95_ms: <= 0.002 s", [("size_mb", "<=", 0.25),
                                                             ("latency_p95_ms", "<=", 2.0)])],
)  # fmt: skip
def test_every_form_of_a_goal(file, text, goals):
    """Bounds with and without units, drops, and several on one metric, in the order written."""
    bounds = read(file(f"goals:\n  {text}")).bounds

    assert [(name, op) for name, op, _ in goals] == [(goal.name, goal.op) for goal in bounds]
    assert [bound for *_, bound in goals] == pytest.approx([goal.bound for goal in bounds])


@pytest.mark.parametrize(
    ("op", "value", "met"),
    [(">=", 0.5, True), (">=", 0.4, False), ("<=", 0.5, True), ("<=", 0.6, False),
     (">=", float("nan"), False), ("<=", float("nan"), False)],
)  # fmt: skip
def test_a_goal_on_its_bound_is_met(op, value, met):
    """The bound itself is good enough; what is no number meets nothing."""
    assert met == Goal("accuracy", op, 0.5).met_by(value)


def test_short_forms(file):
    """ "auto", bare method names and bare numbers are what their long forms are."""
    text = "model: auto\ncompress: [quantize, prune: {ratio: 0.5}]\n"
    long = (
        "model: {family: auto}\n"
        "compress: {mode: list, steps: [{quantize: {}}, {prune: {ratio: 0.5}}]}\n"
    )

    assert read(file(text)) == read(file(long))
    assert "none" == read(file("compress: none")).compress.mode


# --- overrides


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["train.seed=1", "train.seed=2"], {"train.seed": 2}),
     (["a=1", "b=x", "c=1.5", "d=true", "e=null"], {"a": 1, "b": "x", "c": 1.5, "d": True,
                                                     "e": None}),
     (["compress=[quantize]"], {"compress": ["quantize"]}), (["a="], {"a": ""}),
     (["goals.size_mb=<= 0.5"], {"goals.size_mb": "<= 0.5"}),
     (["goals.accuracy=>= 0.9"], {"goals.accuracy": ">= 0.9"}), (["a=b=c"], {"a": "b=c"}),
     (["data.source=~/x"], {"data.source": "~/x"}),
     (["name=2026-13-45"], {"name": "2026-13-45"})],
)  # fmt: skip
def test_overrides_are_read_as_yaml(words, expected):
    """Numbers, words, lists and bounds; of two for one key the last one wins."""
    assert expected == parse_overrides(words)


@pytest.mark.parametrize("word", ["train.seed", "=1", ""])
def test_what_is_no_override(word):
    """A word without key or equals sign is refused with an example."""
    with pytest.raises(ConfigError, match="cannot read the override") as caught:
        parse_overrides([word])

    assert "train.seed=1" in caught.value.expected


def test_an_override_wins_over_the_file(file):
    """Keys that the file has are replaced, others are added, the rest stays."""
    recipe = read(
        file("train: {seed: 1, batch_size: 32}\nmodel: auto\n"),
        {"train.seed": 2, "model.family": "cnn", "target.threads": 4, "data.checks.waive":
         ["nan_values"]},
    )  # fmt: skip

    assert (2, 32, "cnn", 4) == (
        recipe.train.seed, recipe.train.batch_size, recipe.model.family, recipe.target.threads,
    )  # fmt: skip
    assert ("nan_values",) == recipe.data.checks.waive


@pytest.mark.parametrize(
    ("text", "override", "expected"),
    [("budget: {train_minutes: 3, memory_gb: 2}", {"budget.train_steps": 10}, (None, 10, 2.0)),
     ("budget: {train_steps: 7}", {"budget.train_minutes": "30 s"}, (0.5, None, None)),
     ("", {"budget.train_steps": 10}, (None, 10, None)),
     ("budget: {train_minutes: 3}", {"budget.train_minutes": 4}, (4.0, None, None))],
)  # fmt: skip
def test_an_override_brings_its_own_clock(file, text, override, expected):
    """Steps on the command line replace minutes of the file, and the other way round."""
    budget = read(file(text), override).budget

    assert expected == (budget.train_minutes, budget.train_steps, budget.memory_gb)


def test_an_override_brings_its_own_rhythm_of_checkpoints(file):
    """As with the clocks; an override that takes a key away leaves the other one."""
    path = file("train: {checkpoint_minutes: 3}\n")
    by_steps, as_it_was = (
        read(path, {"train.checkpoint_steps": steps}).train for steps in (7, None)
    )

    assert (0.5, 7) == (by_steps.checkpoint_minutes, by_steps.checkpoint_steps)
    assert (3, None) == (as_it_was.checkpoint_minutes, as_it_was.checkpoint_steps)


def test_what_is_nested_without_end(refusal):
    """A recipe or an override is refused, not told as a traceback."""
    assert "lists in lists" in refusal(f"x: {'[' * 3000}{']' * 3000}\n").what
    with pytest.raises(ConfigError, match="override a: lists in lists"):
        parse_overrides([f"a={'[' * 5000}"])


def test_two_clocks_in_overrides_are_refused_or_the_last_wins(file):
    """Of two clocks on the command line the last one counts, as with any other key."""
    budget = read(
        file(), parse_overrides(["budget.train_steps=5", "budget.train_minutes=1"])
    ).budget

    assert (1.0, None) == (budget.train_minutes, budget.train_steps)


@pytest.mark.parametrize(
    ("key", "value", "what", "right"),
    [("train__sede", 1, "override train.sede=1: unknown key 'train.sede'", "did you mean 'seed'?"),
     ("trian__seed", 1, "override trian.seed=1: unknown key 'trian'", "did you mean 'train'?"),
     ("train__seed", "x", 'override train.seed="x": train.seed', "'x'"),
     ("goals__accuracy", ">= 97", 'override goals.accuracy=">= 97"', "97 %"),
     ("task__x", 1, "override 'task.x': 'task' is not a section", "a mapping"),
     ("name", parse_overrides(["name=2026-01-05"])["name"],  # YAML's date
      'override name="2026-01-05": name', "a text")],
)  # fmt: skip
def test_a_mistake_in_an_override_names_the_override(refusal, key, value, what, right):
    """The place is the command line, not a line of the file."""
    error = refusal(**{key: value})

    assert what in error.what
    assert right in str(error)


# --- resolved text and digest

NUMBERS = st.floats(0.01, 1000, allow_nan=False).map(lambda value: float(f"{value:.6g}"))
AUGMENT = st.one_of(
    st.sampled_from([{"flip": "both"}, {"crop": 2}, {"rotate": 12}, {"mixup": 0.2}]),
    st.floats(0, 1).map(lambda value: {"shift": value}),
)
RECIPES = st.fixed_dictionaries(
    {"task": st.just("image-classification"), "data": st.fixed_dictionaries(
        {"source": st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]))},
        optional={"valid": st.floats(0, 1), "image_size": st.integers(4, 1024),
                  "checks": st.just({"waive": ["nan_values", "empty_class"]})})},
    optional={
        "budget": NUMBERS.map(lambda value: {"train_minutes": value})
        | st.integers(1, 10**9).map(lambda value: {"train_steps": value}),
        "goals": st.fixed_dictionaries({}, optional={
            "accuracy": st.sampled_from([">= 0.9", "drop <= 0.5 pt", [">= 50 %", "drop <= 2 pt"]]),
            "size_mb": NUMBERS.map(lambda value: f"<= {value}")}),
        "model": st.sampled_from(["auto", {"family": "cnn"}, {"family": "rnn", "size": "tiny"}]),
        "train": st.fixed_dictionaries({}, optional={
            "seed": st.integers(0, 2**31 - 1), "learning_rate": NUMBERS,
            "ema": st.floats(0, 1, exclude_max=True), "augment": st.lists(AUGMENT, max_size=3),
            "checkpoint_minutes": st.sampled_from([1, "90 s", 0.25])}),
        "compress": st.sampled_from(["auto", "none", ["quantize"], [
            {"prune": {"ratio": 0.5}}, {"quantize": {"calibration": "mse"}}]]),
        "name": st.sampled_from(["", "digits", "a.b-c_1"]),
    },
)  # fmt: skip


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(value=RECIPES)
def test_the_resolved_text_reads_back(tmp_path, value):
    """The recipe that a run keeps is the one that it ran: same values, same digest, same text."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    recipe = read(path)
    (tmp_path / "other.yaml").write_text(resolved_text(recipe), encoding="utf-8")
    again = read(tmp_path / "other.yaml")

    assert recipe == again
    assert digest(recipe) == digest(again)
    assert resolved_text(recipe) == resolved_text(again)


def test_steps_with_one_key_read_back(tmp_path):
    """Cleaning, augmentation, layout and compression as a run keeps them."""
    (tmp_path / "recipe.yaml").write_text(
        "task: text-classification\n"
        "data: {source: x, clean: [{strip: mail_headers}, {drop: near_duplicates}]}\n"
        "train: {augment: [{drop_tokens: 0.1}], layout: {data: 2, tensor: 2}}\n"
        "compress: [prune, {quantize: {calibration: mse}}]\n"
    )
    recipe = read(tmp_path / "recipe.yaml")
    (tmp_path / "other.yaml").write_text(resolved_text(recipe), encoding="utf-8")

    assert recipe == read(tmp_path / "other.yaml")
    assert ["mail_headers", "near_duplicates"] == [step.value for step in recipe.data.clean]


def test_the_resolved_text_holds_every_key(file):
    """Each knob is written out with the value it has, defaults too."""
    value = yaml.safe_load(resolved_text(read(file())))

    assert set(Recipe.model_fields) == set(value)
    for name in ("data", "target", "model", "train", "compress"):
        assert set(Recipe.model_fields[name].annotation.model_fields) == set(value[name])


def test_the_digest_is_about_values(file):
    """Order, comments and short forms do not matter; one value does."""
    text = "train: {seed: 3, batch_size: 64}  # fast\nmodel: auto\nbudget: {train_minutes: 60 s}\n"
    same = "budget: {train_minutes: 1}\ntrain:\n  batch_size: 64\n  seed: 3\n"

    assert digest(read(file(text))) == digest(read(file(same)))
    assert digest(read(file(same))) != digest(read(file(same), {"train.seed": 4}))


def test_the_digest_is_the_same_in_another_process(file):
    """Another hash seed of Python gives the same digest."""
    path = file("goals: {accuracy: '>= 0.9', size_mb: '<= 1'}\n")
    code = (
        "import sys; from pathlib import Path; from modelwright.core.recipe_file import *;"
        "print(digest(read(Path(sys.argv[1]))))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip

    assert {digest(read(path))} == found


def test_every_metric_has_a_unit():
    """A goal's unit is one that quantities know, and the recipe's help lists every metric."""
    text = json.dumps(Recipe.model_json_schema())

    assert all(name in text for name in METRICS)
    assert {"share", "ms", "mb", ""} == {metric.unit for metric in METRICS.values()}


def test_waiting_for_a_rank_has_an_end(file):
    """Longer than a day is refused: gloo would hang."""
    with pytest.raises(ConfigError, match="stuck_minutes: should be less than or equal to 1440"):
        read(file("train: {stuck_minutes: 25 h}"))


@pytest.mark.parametrize("again", [
    [{"quantize": {"calibration": "minmax"}}, {"quantize": {"calibration": "mse"}}],
    ["quantize_weights", {"prune": {"ratio": 0.5}}, "quantize_weights"],
])  # fmt: skip
def test_a_method_that_would_begin_anew_stands_in_a_list_once(again):
    """The first would be measured for nothing; pruning goes on from what is pruned already."""
    with pytest.raises(ValidationError, match="stands in the list twice"):
        Compress.model_validate(again)
    Compress.model_validate([{"prune": {"ratio": 0.5}}, {"prune": {"ratio": 0.2}}, "quantize"])


def test_a_run_has_a_plain_name_whatever_its_recipe_is_called(tmp_path):
    """Folders are called so, on every disk."""
    path = tmp_path / "größen maß.yaml"
    path.write_text("task: image-classification\ndata: {source: x}\nbudget: {train_steps: 1}\n")

    assert "gr--en-ma-" == read(path).name


def made(**keys):
    return Recipe.model_validate({"name": "x", "budget": {"train_steps": 1}, **keys})


def test_two_divisions_of_a_text_are_refused():
    """Counts of each part leave nothing to shares."""
    data = {"source": "x", "split_rows": [8, 1, 1]}
    with pytest.raises(ValidationError, match=r"data\.valid: data\.split_rows says already"):
        made(task="language-modeling", data={**data, "valid": 0.02})


def test_a_policy_takes_no_dropout():
    """What was played would be learned from under another mask."""
    with pytest.raises(ValidationError, match=r"model\.dropout"):
        made(task="control", data={"source": "gymnasium:A-v1"}, model={"dropout": 0.1})


def test_the_order_of_goals_is_part_of_a_run():
    """The first measure of quality decides, so another one makes another run; sizes may move."""
    base = {"task": "image-classification", "data": {"source": "x"}}
    goals = [("accuracy", ">= 0.9"), ("f1_macro", ">= 0.8"), ("size_mb", "<= 1")]

    def of(order):
        return Recipe.model_validate({**base, "goals": {goals[i][0]: goals[i][1] for i in order}})

    one, moved, other = of((0, 1, 2)), of((2, 0, 1)), of((1, 0, 2))

    assert ("accuracy", "f1_macro") == one.measures == moved.measures
    assert recipe_file.digest(one) == recipe_file.digest(moved) != recipe_file.digest(other)
    assert [] == recipe_file.differences(one, moved)
    assert ["goals"] == [text.split("=")[0] for text in recipe_file.differences(one, other)]

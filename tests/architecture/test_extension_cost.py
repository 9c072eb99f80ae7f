"""What one more family, format, runtime, task, source or method costs, counted in the source.

A row in one visible table and the file that it names: the first half of these tests adds such a
row and uses it; the second half counts the files that know a row by name.
"""

import ast
import dataclasses
import math
from pathlib import Path
from types import FunctionType, ModuleType
from typing import get_args

import numpy as np
import pytest
import safetensors.numpy
from torch import nn

from modelwright.compress.calibrate import CALIBRATIONS
from modelwright.compress.catalog import METHODS
from modelwright.core import artifact, recipe
from modelwright.core.goals import METRICS
from modelwright.core.signature import Signature, TensorSpec
from modelwright.data import catalog as data_catalog
from modelwright.data.catalog import SOURCES
from modelwright.data.kinds import KINDS
from modelwright.data.rows import PARTS, Rows
from modelwright.export import catalog as export_catalog
from modelwright.export.catalog import FORMATS
from modelwright.models import catalog as models_catalog
from modelwright.models.catalog import MODELS, Family, Model, ModelSpec, build
from modelwright.models.embed import EMBEDS, ImageEmbed, Normalize
from modelwright.models.heads import HEADS, ClassHead
from modelwright.models.sizes import Ladder
from modelwright.plan.count import count
from modelwright.runtime import catalog as runtime_catalog
from modelwright.runtime.catalog import RUNTIMES
from modelwright.tasks.catalog import TASKS
from modelwright.train.catalog import ALGORITHMS
from modelwright.train.save import write_trained

SOURCE = Path(__file__).parents[2] / "src" / "modelwright"
TABLES = {
    "MODELS": (MODELS, "models/catalog.py"),
    "METHODS": (METHODS, "compress/catalog.py"),
    "CALIBRATIONS": (CALIBRATIONS, "compress/calibrate.py"),
    "FORMATS": (FORMATS, "export/catalog.py"),
    "RUNTIMES": (RUNTIMES, "runtime/catalog.py"),
    "TASKS": (TASKS, "tasks/catalog.py"),
    "SOURCES": (SOURCES, "data/catalog.py"),
    "ALGORITHMS": (ALGORITHMS, "train/catalog.py"),
}

# Files that may know a row of a table by its name, besides the table's own, and why
# with the files beside it every knob on one page, so that `recipe schema` and typos name the rows
PAGE = "core/recipe.py"
KNOWN_ELSEWHERE = {
    "MODELS": {
        PAGE: "the choices of model.family",
        "models/ladders.py": "the sizes of each family",
        "models/ratings.py": "those over ratings",
    },
    "METHODS": {
        "compress/search.py": "writes the steps that it did, in the recipe's words",
    },
    "CALIBRATIONS": {"core/recipe_compress.py": "the choices of quantize.calibration"},
    "TASKS": {"core/recipe_tasks.py": "the choices of task, and the keys that each reads"},
    "ALGORITHMS": {
        PAGE: "the choices of train.algorithm",
        "train/settings.py": "the rate of one that wants another than its model's",
    },
    "SOURCES": {"core/recipe_data.py": "the choices of data.format"},
}
# A row's name that is also an everyday word of the source, or a metric's, says nothing when found.
# "control" is an extra too, and the report's word for a second measurement.
EVERYDAY = {"folder", "percentile", "table", "mse", "control"}


def strings(file: Path) -> set[str]:
    """Every whole string constant of a file."""
    tree = ast.parse(file.read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {word for word in words if isinstance(word, str)}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_a_plain_dict_in_one_file(name):
    """A catalog is written out where it stands: a literal dict, filled by nothing else."""
    table, place = TABLES[name]
    tree = ast.parse((SOURCE / place).read_text())
    found = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == name
    ]

    assert dict is type(table)
    assert [ast.Dict] == [type(value) for value in found]
    assert list(table) == [key.value for key in found[0].keys]


@pytest.mark.parametrize("name", KNOWN_ELSEWHERE)
def test_only_justified_files_know_a_row_by_name(name):
    """A row is named in its table and where KNOWN_ELSEWHERE says why; a new place needs one."""
    table, place = TABLES[name]
    rows = set(table) - EVERYDAY
    found = {str(f.relative_to(SOURCE)) for f in SOURCE.rglob("*.py") if rows & strings(f)}

    assert {place, *KNOWN_ELSEWHERE[name]} == found


@pytest.mark.parametrize(
    ("field", "table"),
    [
        (recipe.Model.model_fields["family"], MODELS),
        (recipe.Data.model_fields["format"], SOURCES),
        (recipe.Recipe.model_fields["task"], TASKS),
        (recipe.Quantize.model_fields["calibration"], CALIBRATIONS),
        *(
            (recipe.Model.model_fields["size"], ladder.sizes)
            for family in MODELS.values()
            for ladder in family.ladders.values()
        ),
    ],
)
def test_the_page_of_knobs_offers_every_row(field, table):
    """The recipe's choices are the rows of the table and "auto", no fewer and no more."""
    assert set(table) == set(get_args(field.annotation)) - {"auto"}


def test_the_page_of_knobs_offers_every_method():
    """A compress step has one key for each row of METHODS."""
    assert set(METHODS) == set(recipe.Step.model_fields)


@pytest.mark.parametrize("name", MODELS)
def test_a_family_is_a_builder_and_a_ladder(name):
    """A row of MODELS holds two functions of its own and four sizes for each kind of input."""
    family = MODELS[name]

    assert {FunctionType} == {type(family.build), type(family.groups)}
    assert set(EMBEDS) <= set(family.ladders) <= set(EMBEDS) | set(HEADS)
    for ladder in family.ladders.values():
        assert ["tiny", "small", "base", "large"] == list(ladder.sizes)
    assert len(MODELS) == len({one.build for one in MODELS.values()})
    assert len(MODELS) == len({one.groups for one in MODELS.values()})


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_one_module(name):
    """A row of TASKS names kinds of both ends and a file with loss, statistics, values, answer."""
    task = TASKS[name]

    assert ModuleType is type(task.logic)
    assert task.inputs in EMBEDS and task.inputs in KINDS and task.outputs in HEADS
    sources = [one for one in SOURCES.values() if one.kind == task.inputs]
    assert any(task.outputs in one.answers for one in sources)
    assert task.metric == recipe.QUALITY_OF[name][0]
    assert all(METRICS[measure].quality for measure in recipe.QUALITY_OF[name])
    words = ("loss", "statistics", "answer")
    assert hasattr(task.logic, "values") != hasattr(task.logic, "values_of_rows")
    assert all(callable(getattr(task.logic, word)) for word in words)


class Dense(nn.Linear):
    """A layer that reads no mask."""

    def forward(self, features, mask):
        return super().forward(features)


def _flat(inputs, outputs, dim):
    cells = math.prod(inputs["shape"])
    embed = ImageEmbed(
        nn.Sequential(Normalize(inputs["mean"], inputs["std"]), nn.Flatten()),
        nn.Unflatten(1, (1, cells)),
    )
    return Model(embed, Dense(cells, dim), ClassHead(dim, outputs["num_classes"]))


SPEC = ModelSpec(
    "flat", "tiny", {"kind": "image", "shape": [1, 4, 4], "mean": [100.0], "std": [50.0]},
    {"kind": "classes", "num_classes": 3},
)  # fmt: skip
MANIFEST = {"task": "image-classification", "labels": ["a", "b", "c"], "preprocess": {},
            "target": {}}  # fmt: skip


@pytest.fixture
def flat_family(monkeypatch):
    """A new row of MODELS: one linear layer on all pixels."""
    ladders = {"image": Ladder({"tiny": {"dim": 8}}, {})}
    row = Family(_flat, ladders, lambda model: ([], lambda sizes: {}))
    monkeypatch.setitem(MODELS, "flat", row)


def test_a_family_is_one_row(flat_family, tmp_path):
    """A new row of MODELS is built, counted, saved and answered for without another line."""
    trained = write_trained(tmp_path / "model", build(SPEC), SPEC, MANIFEST, {})
    session = runtime_catalog.open_session(artifact.open_artifact(trained.folder))
    outputs = session({"image": np.zeros((2, 1, 4, 4), np.uint8)})

    assert 16 * 8 + 8 + 8 * 3 + 3 == count(SPEC).num_params
    assert (2, 3) == outputs["logits"].shape


def test_a_runtime_is_one_row(flat_family, tmp_path, monkeypatch):
    """A new row of RUNTIMES is what opens artifacts of its kind."""
    opened = []
    monkeypatch.setitem(RUNTIMES, "abacus", lambda one, threads: opened.append((one, threads)))
    made = artifact.write(
        tmp_path / "model", "abacus", model_file="beads", signature=Signature((), ()), extras={},
        fill=lambda folder: (folder / "beads").write_bytes(b"1"),
    )  # fmt: skip
    runtime_catalog.open_session(made, threads=3)

    assert [(made, 3)] == opened


def test_a_format_is_one_row(tmp_path, monkeypatch):
    """A new row of FORMATS writes an artifact of its kind, with the parent and a signature."""
    signature = Signature((TensorSpec("image", "uint8", ("batch", 1, 4, 4)),), ())

    def write_text(model, file, spec):
        file.write_text(spec.name)
        return signature

    monkeypatch.setitem(FORMATS, "text", write_text)
    manifest = {**MANIFEST, "model": SPEC.to_json(), "digest": "of the parent"}
    made = export_catalog.export(
        nn.Identity(), manifest, tmp_path / "model", extras={}, format="text"
    )

    assert "flat-tiny" == artifact.open_artifact(made.folder).file("model.text").read_text()
    assert "of the parent" == made.manifest["parent"]
    assert signature == made.signature


def test_a_source_is_one_row(tmp_path, monkeypatch):
    """A new row of SOURCES is recognised by its look and divided like the others."""
    images = np.arange(40 * 16, dtype=np.int64).astype(np.uint8).reshape(40, 1, 4, 4)
    images[:, 0, 0, 0] = np.arange(40)
    path = tmp_path / "rows.tensors"
    safetensors.numpy.save_file({"images": images}, path)

    def read(file, section):
        found = safetensors.numpy.load_file(file)["images"]
        rows = Rows({"image": found}, np.arange(40) % 2, [""] * 40)
        return {"train": rows}, ["even", "odd"], []

    row = data_catalog.Source(lambda file: file.suffix == ".tensors", read, "a file *.tensors")
    monkeypatch.setitem(SOURCES, "tensors", row)
    data = data_catalog.load(recipe.Data(source=str(path), valid=0.25, test=0.25))

    assert ["even", "odd"] == list(data.labels)
    assert 40 == sum(len(data.parts[part]) for part in PARTS)


def test_an_unknown_row_is_named_with_the_nearest():
    """A family that no row has is refused with the name that was probably meant."""
    spec = dataclasses.replace(SPEC, family="transfromer")
    with pytest.raises(Exception, match="did you mean 'transformer'") as caught:
        models_catalog.build(spec)

    assert 2 == caught.value.exit_code

"""Each task's data, read once; each family over it, taught eight rows by heart and exported."""

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conformance.makers import MAKERS, Maker

from modelwright.core import recipe
from modelwright.core.artifact import Artifact
from modelwright.data import catalog as data_catalog
from modelwright.data.rows import Rows, joined
from modelwright.export.catalog import export
from modelwright.models.catalog import Model, ModelSpec, fresh_model
from modelwright.tasks.catalog import TASKS
from modelwright.train.catalog import make_trainer
from modelwright.train.loop import Trainer
from modelwright.train.save import write_trained
from modelwright.train.settings import Budget, fill_in

torch.set_num_threads(1)
EIGHT = 8


class Source:
    """One task's files, and what was read from them."""

    def __init__(self, task: str, folder: Path) -> None:
        self.maker: Maker = MAKERS[task]
        for module in self.maker.needs:
            pytest.importorskip(module)
        self.task = TASKS[task]
        self.source, self.question = self.maker.write(folder)
        self.section = recipe.Data(source=str(self.source), **self.maker.data)
        self.data = data_catalog.load(self.section, self.task.inputs, self.task.outputs)

    @property
    def asked(self) -> bytes:
        """What a person asks, as bytes."""
        one, kind = self.question, data_catalog.KINDS[self.task.inputs]
        content = one.read_bytes() if isinstance(one, Path) else one.encode()
        return kind.asked(content, self.maker.predict.get("texts", ()))

    @property
    def rows(self) -> Rows:
        """Of valid and train."""
        return joined(self.data.parts["valid"], self.data.parts["train"])


class Cell:
    """One task and one family; what takes time is done when it is first asked for."""

    def __init__(self, task: str, family: str, source: Source, folder: Path) -> None:
        self.name, self.source, self.task, self.folder = task, source, source.task, folder
        data = source.data
        self.spec = ModelSpec(family, "tiny", data.inputs, data.outputs)

    @cached_property
    def taught(self) -> tuple[Trainer, list[float]]:
        """A trainer after steps on eight rows without any regularisation, and the losses."""
        train = self.source.data.parts["train"]
        rows = train.take(np.linspace(0, len(train) - 1, EIGHT).astype(np.int64))
        section = recipe.Train(
            batch_size=EIGHT, learning_rate=0.01, weight_decay=0, label_smoothing=0, ema=0
        )
        steps = self.source.maker.by_heart
        trainer = self.trainer(section, Budget(steps=steps), "eight", rows, rows)
        return trainer, [trainer.train_step() for _ in range(steps)]

    @property
    def model(self) -> Model:
        """The taught model, in evaluation mode."""
        model = self.taught[0].averaged
        assert isinstance(model, Model)
        return model.eval()

    @cached_property
    def trained(self) -> Artifact:
        """The taught model as an artifact, with all that a run's manifest has."""
        data, kind = self.source.data, data_catalog.KINDS[self.spec.inputs["kind"]]
        own = data.inputs.get("channels") or data.outputs.get("labels", [])
        manifest = {
            "task": self.name, "labels": data.labels or own, "target": {"threads": 1},
            "preprocess": {**kind.preprocess(data.inputs), "files": list(data.files)},
        }  # fmt: skip
        return write_trained(self.folder / "trained", self.model, self.spec, manifest, data.files)

    @cached_property
    def exported(self) -> Artifact:
        """The same as a graph."""
        one = self.trained
        return export(self.model, one.manifest, self.folder / "onnx", extras=one.extras)

    def trainer(
        self, section: recipe.Train, budget: Budget, name: str, train: Rows, valid: Rows,
        spec: ModelSpec | None = None,
    ) -> Trainer:  # fmt: skip
        """A trainer whose checkpoints lie in the folder `name`."""
        spec = spec or self.spec
        settings = fill_in(section, spec, "32-true", budget)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        model = fresh_model(spec, settings.seed)
        return make_trainer(model, spec, self.task, train, valid, settings, budget, folder)


@pytest.fixture(scope="session")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A task's name to its Source."""
    found: dict[str, Source] = {}

    def get(task: str) -> Source:
        if task not in MAKERS:
            pytest.fail(f"MAKERS in tests/conformance/makers.py has no row for the task {task!r}")
        if task not in found:
            found[task] = Source(task, tmp_path_factory.mktemp(task))
        return found[task]

    return get


@pytest.fixture(scope="session")
def cell_of(source_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A task's and a family's name to their Cell."""
    found: dict[tuple[str, str], Cell] = {}

    def get(task: str, family: str) -> Cell:
        if (task, family) not in found:
            folder = tmp_path_factory.mktemp(f"{task}-{family}")
            found[task, family] = Cell(task, family, source_of(task), folder)
        return found[task, family]

    return get


@pytest.fixture
def cell(cell_of: Any, task: str, family: str) -> Cell:
    """The cell that a test is about."""
    return cell_of(task, family)


@pytest.fixture
def model(cell: Cell) -> Model:
    """A copy of the cell's taught model."""
    return copy.deepcopy(cell.model)

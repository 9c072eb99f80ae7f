"""TASKS: what a model is for. To add one: write a file, add a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelwright.core.recipe import WHOLE_BATCHES, Recipe
from modelwright.tasks import (
    classify,
    control,
    detect,
    forecast,
    language,
    match,
    rate,
    recommend,
    tag,
    transcribe,
    translate,
)


@dataclass(frozen=True)
class Task:
    """What a task takes and gives, by the kinds of models/embed.py and models/heads.py.

    logic: loss, statistics, answer; values, of the statistics' sums, or values_of_rows where the
        metric is no function of sums; METRIC, the name of the first of its values; and
        LABEL_SMOOTHING, what its loss takes where the recipe does not say, None if it takes none.
        Where they mean something: weight, what the loss is a mean over, if not rows; OPTIONS,
        what a person may say about how to answer; text_of, a row's target as the text that answer
        gives; run, what METRIC takes of each row beyond one call of the model, with LOOK, what is
        judged where that takes too long, and protocol.
        Where rows are judged against each other also whole: their statistics, once all are there;
        where rows depend on each other also units: which an interval draws together.
        Where metrics count classes alike: BY_CLASS, their names, classes and prior.
    """

    inputs: str
    outputs: str
    logic: ModuleType
    acting: bool = False
    judged_by: str = ""

    @property
    def whole_batches(self) -> bool:
        """Whether the loss compares the rows of a batch with each other, or makes its own batch."""
        kinds = {(TASKS[name].inputs, TASKS[name].outputs) for name in WHOLE_BATCHES}
        return (self.inputs, self.outputs) in kinds

    @property
    def metric(self) -> str:
        """What decides: of `values`, the one that goals are about."""
        return self.judged_by or str(self.logic.METRIC)

    @property
    def look(self) -> str:
        """What is judged while training, in the race and in proofs of parity: the metric, or
        another of the task's values that costs no more than one call of the model."""
        return str(getattr(self.logic, "LOOK", self.metric))

    def protocol(self, shipped: Mapping[str, Any], rows: Any, labels: Sequence[str]) -> str:
        """How exactly the metric is taken on rows, where that needs saying."""
        if not hasattr(self.logic, "protocol"):
            return ""
        return str(self.logic.protocol(shipped, rows, labels))

    @property
    def options(self) -> tuple[str, ...]:
        """Names of what a person may say about how to answer."""
        return tuple(getattr(self.logic, "OPTIONS", ()))

    def weight(self, targets: Tensor) -> Tensor:
        """What the mean in a loss goes over: rows, or where the logic says so something else.

        targets: of a batch or a part of it -> a number, (); of parts they add up
        """
        if hasattr(self.logic, "weight"):
            return torch.as_tensor(self.logic.weight(targets))
        return torch.tensor(len(targets))

    def whole(self, table: np.ndarray) -> np.ndarray:
        """What the metrics are made of, of all rows that are judged together.

        table: (rows, k), what `statistics` says of each row -> (rows, m)
        """
        return np.asarray(self.logic.whole(table)) if hasattr(self.logic, "whole") else table

    def units(self, table: np.ndarray) -> np.ndarray | None:
        """Which rows an interval draws together, by number, (rows,); None: each by itself."""
        return np.asarray(self.logic.units(table)) if hasattr(self.logic, "units") else None

    def strata(self, table: np.ndarray) -> np.ndarray | None:
        """The class of each row, (rows,), where the metric counts classes alike, so that an
        interval draws within each one; None where it counts rows."""
        if self.metric not in getattr(self.logic, "BY_CLASS", ()):
            return None
        return np.asarray(self.logic.classes(table))

    def values(self, table: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
        """The task's metrics.

        table: (rows, m), as `whole` gives it; weights: (rows,), how often each
        counts, once where None
        """
        weights = np.ones(len(table)) if weights is None else weights
        if hasattr(self.logic, "values_of_rows"):
            return dict(self.logic.values_of_rows(table, weights))
        return dict(self.logic.values(weights @ table))


TASKS: dict[str, Task] = {
    "image-classification": Task("image", "classes", classify),
    "text-classification": Task("text", "classes", classify),
    "audio-classification": Task("audio", "classes", classify),
    "transcription": Task("audio", "letters", transcribe),
    "tagging": Task("text", "tags", tag),
    "forecasting": Task("series", "horizon", forecast),
    "recommendation": Task("items", "ranking", recommend),
    "language-modeling": Task("stream", "next", language),
    "detection": Task("image", "boxes", detect),
    "control": Task("observation", "actions", control, acting=True),
    "translation": Task("pairs", "sequence", translate),
    "image-text-matching": Task("image_text", "vectors", match),
    "rating-prediction": Task("ratings", "rating", rate),
}


def task_of(recipe: Recipe) -> Task:
    """A recipe's task, judged by the first measure of quality that its goals name."""
    return tasks_of(recipe)[0]


def tasks_of(recipe: Recipe) -> list[Task]:
    """It as judged by each measure that the goals name; by its own where they name none."""
    return [replace(TASKS[recipe.task], judged_by=measure) for measure in recipe.measures]

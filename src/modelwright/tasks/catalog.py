"""TASKS: what a model is for. To add one: write a file, add a row."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from modelwright.tasks import classify, forecast, language, match, recommend, tag


@dataclass(frozen=True)
class Task:
    """What a task takes and gives, by the kinds of models/embed.py and models/heads.py.

    logic: loss, statistics, values, answer; METRIC, the name of the first of its values; and
        LABEL_SMOOTHING, what its loss takes where the recipe does not say.
    """

    inputs: str
    outputs: str
    logic: ModuleType

    @property
    def metric(self) -> str:
        return str(self.logic.METRIC)

    def whole(self, table: np.ndarray) -> np.ndarray:
        """The statistics of rows once all are there; a ranking among all rows needs them."""
        found = self.logic.whole(table) if hasattr(self.logic, "whole") else table
        return np.asarray(found)

    def units(self, table: np.ndarray) -> np.ndarray:
        """Which rows an interval draws together, by number; each by itself unless the task says."""
        found = self.logic.units(table) if hasattr(self.logic, "units") else np.arange(len(table))
        return np.asarray(found)


TASKS: dict[str, Task] = {
    "image-classification": Task("image", "classes", classify),
    "text-classification": Task("text", "classes", classify),
    "audio-classification": Task("audio", "classes", classify),
    "tagging": Task("text", "tags", tag),
    "forecasting": Task("series", "horizon", forecast),
    "recommendation": Task("items", "ranking", recommend),
    "language-modeling": Task("stream", "next", language),
    "image-text-matching": Task("image_text", "vectors", match),
}

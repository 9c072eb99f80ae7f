"""TASKS: what a model is for. To add one: write a file, add a row."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from modelwright.tasks import classify, forecast, language, recommend, tag, translate


@dataclass(frozen=True)
class Task:
    """What a task takes and gives, by the kinds of models/embed.py and models/heads.py.

    logic: loss, statistics, answer; values, of the statistics' sums, or values_of_rows where the
        metric is no function of sums; METRIC, the name of the first of its values; and
        LABEL_SMOOTHING, what its loss takes where the recipe does not say, None if it takes none.
    """

    inputs: str
    outputs: str
    logic: ModuleType

    @property
    def metric(self) -> str:
        return str(self.logic.METRIC)

    @property
    def look(self) -> str:
        """What is judged while training, in the race and in proofs of parity: the metric, or
        another of the task's values that costs no more than one call of the model."""
        return str(getattr(self.logic, "LOOK", self.metric))

    @property
    def protocol(self) -> str:
        """How exactly the metric is taken, where that needs saying."""
        return str(self.logic.protocol()) if hasattr(self.logic, "protocol") else ""

    def values(self, table: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
        """The task's metrics, METRIC first.

        table: (rows, k), what `statistics` says of each row; weights: (rows,), how often each
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
    "tagging": Task("text", "tags", tag),
    "forecasting": Task("series", "horizon", forecast),
    "recommendation": Task("items", "ranking", recommend),
    "language-modeling": Task("stream", "next", language),
    "translation": Task("pairs", "sequence", translate),
}

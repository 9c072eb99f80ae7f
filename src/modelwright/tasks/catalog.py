"""TASKS: what a model is for. To add one: write a file, add a row."""

from dataclasses import dataclass
from types import ModuleType

from modelwright.tasks import classify, control, forecast, language, recommend, tag


@dataclass(frozen=True)
class Task:
    """What a task takes and gives, by the kinds of models/embed.py and models/heads.py.

    logic: loss, statistics, values, answer; METRIC, the name of the first of its values; and
        LABEL_SMOOTHING, what its loss takes where the recipe does not say.
    acting: whether rows are episodes: a model is judged by playing them, and trained by playing.
    """

    inputs: str
    outputs: str
    logic: ModuleType
    acting: bool = False

    @property
    def metric(self) -> str:
        return str(self.logic.METRIC)


TASKS: dict[str, Task] = {
    "image-classification": Task("image", "classes", classify),
    "text-classification": Task("text", "classes", classify),
    "audio-classification": Task("audio", "classes", classify),
    "tagging": Task("text", "tags", tag),
    "forecasting": Task("series", "horizon", forecast),
    "recommendation": Task("items", "ranking", recommend),
    "language-modeling": Task("stream", "next", language),
    "control": Task("observation", "actions", control, acting=True),
}

"""What a goal can be about, and the bound that a recipe writes for it."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modelwright.core.errors import ConfigError, did_you_mean
from modelwright.core.units import parse_quantity


@dataclass(frozen=True)
class Metric:
    """What a goal can be about.

    best: the value of a model without fault; where nothing bounds it, 0 and `bounded` is false.
    """

    name: str
    unit: str
    higher_is_better: bool
    best: float = 0.0
    quality: bool = False
    bounded: bool = True

    def error(self, value: float) -> float:
        """How far a value is from the best one; without bounds, below 0 where it is beyond."""
        return self.best - value if self.higher_is_better else value - self.best

    def at_error(self, error: float) -> float:
        """The value that far from the best one."""
        return self.best - error if self.higher_is_better else self.best + error

    @property
    def scale(self) -> float:
        """The distance from nothing to the best: 100 where that is the best, 1 for shares."""
        return abs(self.best) or 1.0

    @property
    def op(self) -> str:
        """The side that a bound on it holds."""
        return ">=" if self.higher_is_better else "<="


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "share", True, 1.0, quality=True),
        Metric("balanced_accuracy", "share", True, 1.0, quality=True),
        Metric("f1_macro", "share", True, 1.0, quality=True),
        Metric("f1", "share", True, 1.0, quality=True),
        Metric("ap50", "share", True, 1.0, quality=True),
        Metric("ap", "share", True, 1.0, quality=True),
        Metric("ndcg_at_10", "share", True, 1.0, quality=True),
        Metric("hr_at_10", "share", True, 1.0, quality=True),
        Metric("wer", "share", False, quality=True),
        Metric("cer", "share", False, quality=True),
        Metric("recall_at_10", "share", True, 1.0, quality=True),
        Metric("mse", "", False, quality=True),
        Metric("rmse", "", False, quality=True),
        Metric("mae", "", False, quality=True),
        Metric("nats_per_char", "", False, quality=True),
        Metric("bits_per_byte", "", False, quality=True),
        Metric("mean_return", "", True, quality=True, bounded=False),
        Metric("bleu", "", True, 100.0, quality=True),
        Metric("nats_per_token", "", False, quality=True),
        Metric("latency_p50_ms", "ms", False),
        Metric("latency_p95_ms", "ms", False),
        Metric("latency_p99_ms", "ms", False),
        Metric("size_mb", "mb", False),
    )
}


@dataclass(frozen=True)
class Goal:
    """One bound on one metric.

    `name` is the metric's, or "accuracy_drop" and the like: what is lost against the uncompressed
    model.
    Shares are kept as shares (0.005, not 0.5 pt).
    """

    name: str
    op: Literal[">=", "<="]
    bound: float

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.op == ">=" else value <= self.bound

    @property
    def text(self) -> str:
        """
        >>> Goal("accuracy_drop", "<=", 0.005).text
        '<= 0.005'
        """
        return f"{self.op} {self.bound:g}"

    @property
    def key(self) -> str:
        """The recipe's."""
        return f"goals.{self.name.removesuffix('_drop')}"

    @property
    def as_written(self) -> str:
        """The bound as it stands behind the key.

        >>> one = parse_goal("accuracy", "drop <= 0.5 pt")
        >>> one.key, one.as_written
        ('goals.accuracy', 'drop <= 0.005')
        """
        return f"drop {self.text}" if self.name.endswith("_drop") else self.text


def override(key: str, bounds: Sequence[str]) -> str:
    """A goal's bounds as a word that goes on top of a recipe.

    >>> override("goals.accuracy", [">= 0.9", "drop <= 0.02"])
    'goals.accuracy=[">= 0.9", "drop <= 0.02"]'
    """
    return f"{key}={bounds[0] if len(bounds) == 1 else json.dumps(bounds)}"


_GOAL = re.compile(r"^\s*(drop)?\s*(>=|<=)\s*(.+)$")


def parse_goal(metric_name: str, text: str) -> Goal:
    """
    >>> parse_goal("accuracy", "drop <= 0.5 pt")
    Goal(name='accuracy_drop', op='<=', bound=0.005)
    >>> parse_goal("mse", "drop <= 0").text
    '<= 0'
    >>> parse_goal("latency_p99_ms", "<= 2 ms").bound
    2.0
    """
    if metric_name not in METRICS:
        raise ValueError(f"no goal {metric_name!r}; {did_you_mean(str(metric_name), METRICS)}")
    metric = METRICS[metric_name]
    match = _GOAL.match(text) if isinstance(text, str) else None
    if match is None:
        number = isinstance(text, int | float) and not isinstance(text, bool)
        shown = str(text) if number else "0.97" if metric.higher_is_better else "2"
        raise ValueError(f'{text!r} is no bound; write "{metric.op} {shown}"')
    drop, op, quantity = match[1], match[2], match[3]
    try:
        bound = parse_quantity(quantity, metric.unit)
    except ConfigError as error:
        raise ValueError(f"{error.what}; expected {error.expected}") from error
    if drop and not metric.quality:
        raise ValueError('"drop" goes with the measure of a task only, such as accuracy')
    wanted = "<=" if drop else metric.op
    if op != wanted:
        raise ValueError(f"{metric_name}{' drop' if drop else ''} is bounded with {wanted}")
    if not math.isfinite(bound):
        raise ValueError(f"{quantity.strip()!r} is no finite bound")
    if metric.unit == "share" and not 0 <= bound <= 1:
        raise ValueError(f"{bound:g} is no share; write 0.97 or 97 %")
    if drop and bound < 0:
        raise ValueError(f"a drop of {bound:g} is a gain; write 0 or more")
    if not metric.higher_is_better and not drop and bound <= 0:
        raise ValueError(f"{bound:g} can't be reached; write a bound above zero")
    name = f"{metric_name}_drop" if drop else metric_name
    return Goal(name, "<=" if op == "<=" else ">=", bound)

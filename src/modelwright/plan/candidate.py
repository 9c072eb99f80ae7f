"""One architecture on its way through the plan, and the best that compression could make of it.

Reads what count.py and time.py found; choose.py decides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelwright.core.recipe import Precision, Recipe
from modelwright.models.catalog import MODELS, ModelSpec
from modelwright.plan import count
from modelwright.plan.shares import Share

# The best that compression could do, so that no candidate is dropped which it could save.
INT8_SPEEDUP, PRUNED_SHARE, SIZE_MARGIN = 4.0, 0.5, 0.95
TABLES = ("Embedding", "Words")
# of quantize and dequantize nodes, or of those that turn weights alone into float32
INT8_BYTES_PER_LAYER = {
    "Conv2d": 1300, "Conv1d": 1300, "Linear": 700, "RecurrentBody": 1300, "Embedding": 300,
    "Words": 300,
}  # fmt: skip
INT8_BYTES_PER_CHANNEL = 16  # scales, offsets, biases


@dataclass
class Candidate:
    """One architecture on its way through the plan; the rows of plan.json."""

    spec: ModelSpec
    num_params: int
    forward_flops: int
    backward_flops: int
    precision: Precision = "32-true"
    precision_reason: str = ""
    predicted: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)  # predicted bytes, part by part
    status: str = "dropped"
    reason: str = ""
    binds: str = ""  # the goal, budget or key of train that dropped it
    rounds: list[dict[str, Any]] = field(default_factory=list)
    share: Share | None = None  # what the first of several processes has of it; not of those read
    expected: float = 0.0  # of the task's metric on valid, when FARTHEST times as much is spent

    def best_values(self) -> dict[str, float]:
        """Per goal, the best that compression could make of the candidate."""
        best = {"size_mb": self.predicted["smallest_bytes"] * SIZE_MARGIN / 1e6}
        return best | {
            f"latency_{p}_ms": self.predicted["fastest_ms"] for p in ("p50", "p95", "p99")
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.spec.name, "family": self.spec.family, "size": self.spec.size,
            "num_params": self.num_params, "forward_flops": self.forward_flops,
            "backward_flops": self.backward_flops, "precision": self.precision,
            "predicted": self.predicted, "memory": self.memory, "status": self.status,
            "reason": self.reason, "rounds": self.rounds, "binds": self.binds,
            "spec": self.spec.to_json(), "precision_reason": self.precision_reason,
        }  # fmt: skip


def from_json(value: Mapping[str, Any]) -> Candidate:
    """A candidate as `to_json` wrote it."""
    names = ("num_params", "forward_flops", "backward_flops", "precision", "precision_reason",
             "predicted", "memory", "status", "reason", "binds", "rounds")  # fmt: skip
    return Candidate(
        spec=ModelSpec.from_json(value["spec"]), **{name: value[name] for name in names}
    )


def least_share(recipe: Recipe) -> float:
    """Of the weights, what pruning could leave at the least: a matrix may be cut on both sides."""
    if recipe.compress.mode != "list":
        return PRUNED_SHARE
    ratios = [step.prune.ratio for step in recipe.compress.steps if step.prune]
    return min(PRUNED_SHARE, math.prod((1 - one) ** 2 for one in ratios)) if ratios else 1.0


def compressed_bytes(
    recipe: Recipe, counted: count.Count, size_bytes: float, share: float
) -> float:
    """Bytes of a graph with int8 weights, of which pruning leaves `share` but of tables, where
    allowed."""
    if recipe.compress.mode == "none":
        return size_bytes
    layers = [layer for layer in counted.layers if layer.kind in INT8_BYTES_PER_LAYER]
    weights = sum(layer.num_params for layer in layers)
    tables = sum(layer.num_params for layer in layers if layer.kind in TABLES)
    rest = size_bytes - 4 * weights
    channels = sum(layer.out_channels for layer in layers)
    added = sum(INT8_BYTES_PER_LAYER[layer.kind] for layer in layers)
    added += INT8_BYTES_PER_CHANNEL * channels
    return rest + tables + share * (weights - tables) + added


def fastest_ms(recipe: Recipe, family: str, latency_ms: float) -> float:
    """The least that the recipe's compression could make of a latency, in milliseconds."""
    if recipe.compress.mode == "none" or not MODELS[family].static_int8:
        return latency_ms
    return latency_ms / INT8_SPEEDUP


def smallest_over_budget(candidates: Sequence[Candidate]) -> Candidate | None:
    """The smallest that only the budget ruled out; one that was not timed was not held to goals."""
    only = [one for one in candidates if one.predicted and one.binds.startswith("budget.")]
    return min(only, key=lambda one: one.num_params, default=None)

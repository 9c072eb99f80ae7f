"""One architecture on its way through the plan, and the best that compression could make of it.

Reads what count.py and time.py found; choose.py decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from modelwright.core.recipe import Precision, Recipe
from modelwright.models.catalog import MODELS, ModelSpec, build
from modelwright.plan import count
from modelwright.plan.shares import Share

# The best that compression could do, so that no candidate is dropped which it could save.
INT8_SPEEDUP, MOST_PRUNED, SIZE_MARGIN = 4.0, 0.5, 0.95
# of quantize and dequantize nodes, and of scales, offsets and biases
STATIC_BYTES_PER_LAYER = {
    "Conv2d": 1300, "Conv1d": 1300, "Linear": 700, "RecurrentBody": 1300, "Embedding": 300,
    "Words": 300,
}  # fmt: skip
STATIC_BYTES_PER_CHANNEL = 16
# of nodes that turn weights alone into float32, and of scales; of layers that are large enough
WEIGHTS_BYTES_PER_LAYER = dict.fromkeys(STATIC_BYTES_PER_LAYER, 300) | {"RecurrentBody": 1300}
WEIGHTS_BYTES_PER_CHANNEL, WEIGHTS_FEWEST = 4, 1024


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


def pruned(recipe: Recipe, spec: ModelSpec, counted: count.Count) -> count.Count:
    """What is left of a model without the most that the recipe lets pruning take out."""
    ratios = [step.prune.ratio for step in recipe.compress.steps if step.prune is not None]
    for ratio in [MOST_PRUNED] if recipe.compress.mode == "auto" else ratios:
        with torch.device("meta"):
            groups, args_for = MODELS[spec.family].groups(build(spec))
        if groups:
            spec = spec.but(args_for([group.left(ratio) for group in groups]))
            counted = count.count(spec)
    return counted


def compressed_bytes(recipe: Recipe, counted: count.Count, size_bytes: float) -> float:
    """Bytes of a graph of `size_bytes`, with int8 weights where the recipe's compression makes
    them so: of its forms the smallest, which is that of weights alone."""
    compress = recipe.compress
    static = any(step.quantize for step in compress.steps)
    alone = any(step.quantize_weights for step in compress.steps) and not static
    if not (static or alone or compress.mode == "auto"):
        return size_bytes
    per_layer, per_channel, fewest = STATIC_BYTES_PER_LAYER, STATIC_BYTES_PER_CHANNEL, 0
    if not static:
        per_layer, per_channel = WEIGHTS_BYTES_PER_LAYER, WEIGHTS_BYTES_PER_CHANNEL
        fewest = WEIGHTS_FEWEST
    layers = [one for one in counted.layers if one.kind in per_layer and one.num_params >= fewest]
    return size_bytes + sum(
        per_layer[one.kind] + per_channel * one.out_channels - 3 * one.num_params for one in layers
    )


def fastest_ms(recipe: Recipe, family: str, latency_ms: float, share: float) -> float:
    """The least that the recipe's compression could make of a latency, in milliseconds; a list
    prunes for certain, and leaves `share` of the FLOPs."""
    compress = recipe.compress
    if compress.mode == "list":
        latency_ms *= share
    computed = compress.mode == "auto" or any(step.quantize for step in compress.steps)
    return latency_ms / INT8_SPEEDUP if computed and MODELS[family].static_int8 else latency_ms


def smallest_over_budget(candidates: Sequence[Candidate]) -> Candidate | None:
    """The smallest that only the budget ruled out; one that was not timed was not held to goals."""
    only = [one for one in candidates if one.predicted and one.binds.startswith("budget.")]
    return min(only, key=lambda one: one.num_params, default=None)

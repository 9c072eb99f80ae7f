"""Parameters and FLOPs, layer by layer, on the meta device: nothing is allocated.

A multiply-add counts as two FLOPs; only products of matrices and convolutions count, as is usual
(norms, activations and sums are memory traffic). Backward is counted exactly: the first layer
needs no gradient of its input, and a recurrence's first step none of its zero state.
"""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modelwright.models.catalog import ModelSpec, build, examples
from modelwright.models.embed import Words
from modelwright.models.heads import RankHead, Scores
from modelwright.models.layers import Attention, CrossAttention
from modelwright.models.rnn import RecurrentBody

Result = TypeVar("Result")


@dataclass(frozen=True)
class LayerCount:
    """One layer, for one example."""

    name: str
    kind: str
    num_params: int
    forward_flops: int
    backward_flops: int
    out_channels: int = 0  # of a convolution, linear layer or table: as many scales in int8


@dataclass(frozen=True)
class Count:
    """A whole model, for one example."""

    layers: tuple[LayerCount, ...]
    num_params: int

    @property
    def forward_flops(self) -> int:
        return sum(layer.forward_flops for layer in self.layers)

    @property
    def backward_flops(self) -> int:
        return sum(layer.backward_flops for layer in self.layers)


def remembered(work: Callable[..., Result]) -> Callable[..., Result]:
    """`work` of a spec and plain values, done once for each: a plan asks for the same again and
    again, and each time takes a tenth of a second or several."""
    known: dict[tuple[Any, ...], Result] = {}

    @functools.wraps(work)
    def look_up(spec: ModelSpec, *given: Any) -> Result:
        key = json.dumps([spec.to_json(), spec.arguments]), *given  # the ladder's arguments too
        if key not in known:
            known[key] = work(spec, *given)
        return known[key]

    return look_up


@remembered
def count(spec: ModelSpec) -> Count:
    """Count a model that need not exist.

    >>> image = {"kind": "image", "shape": (1, 8, 8), "mean": (0.0,), "std": (1.0,)}
    >>> count(ModelSpec("cnn", "tiny", image, {"kind": "classes", "num_classes": 10})).num_params
    5122
    """
    made = examples(spec, 1)
    with torch.device("meta"):
        model = build(spec)
        return count_module(
            model, *(torch.empty_like(value, device="meta") for value in made.values())
        )


def count_module(model: nn.Module, *inputs: Tensor) -> Count:
    """Count a module on the meta device; the inputs are one example."""
    layers: list[LayerCount] = []

    def record(name: str, rule: Rule) -> Callable[..., None]:
        def hook(
            module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any], output: Any
        ) -> None:
            forward, weight, before = rule(module, inputs[0], output, **named)
            backward = weight + (before if inputs[0].requires_grad else 0)
            # a recurrent body counts for the layers in it
            own = sum(p.numel() for p in module.parameters(type(module) is RecurrentBody))
            names = ("out_channels", "out_features", "num_embeddings")
            channels = next((getattr(module, name) for name in names if hasattr(module, name)), 0)
            kind = type(module).__name__
            layers.append(LayerCount(name, kind, own, forward, backward, int(channels)))

        return hook

    hooks = [
        module.register_forward_hook(record(name, RULES[type(module)]), with_kwargs=True)
        for name, module in model.named_modules()
        if type(module) in RULES
    ]
    try:
        with torch.enable_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    num_params = sum(parameter.numel() for parameter in model.parameters())
    return Count(tuple(layers), num_params)


# (module, input, output, what it is given by name) -> FLOPs of: forward, gradient of the weights,
# gradient of the input
Rule = Callable[..., tuple[int, int, int]]


def _conv(module: nn.Conv1d | nn.Conv2d, before: Tensor, after: Tensor) -> tuple[int, int, int]:
    taps = module.in_channels // module.groups * math.prod(module.kernel_size)
    flops = 2 * after.numel() * taps
    return flops, flops, flops


def _table(module: nn.Embedding, before: Tensor, after: Tensor) -> tuple[int, int, int]:
    return 0, 0, 0  # looked up


def _linear(module: nn.Linear, before: Tensor, after: Tensor) -> tuple[int, int, int]:
    flops = 2 * after.numel() * module.in_features
    return flops, flops, flops


def _recurrent(body: RecurrentBody, before: Tensor, after: Any) -> tuple[int, int, int]:
    module = body.layers
    batch, time, _ = before.shape
    directions = 2 if module.bidirectional else 1
    gates = {"LSTM": 4, "GRU": 3}[module.mode] * module.hidden_size
    forward = weight = first_input = 0
    for layer in range(module.num_layers):
        in_dim = module.input_size if layer == 0 else directions * module.hidden_size
        inputs = 2 * batch * time * in_dim * gates * directions
        states = 2 * batch * time * module.hidden_size * gates * directions
        forward += inputs + states
        weight += inputs + states + states * (time - 1) // time
        if layer == 0:
            first_input = inputs
        else:
            weight += inputs  # inner layers' inputs always need their gradient
    return forward, weight, first_input


def _attention(module: Attention, before: Tensor, after: Tensor) -> tuple[int, int, int]:
    batch, time, dim = before.shape
    flops = 2 * 2 * batch * time * time * dim  # query x key, weights x value
    return flops, 2 * flops, 0  # four products backward; their inputs are projections, not data


def _look(
    module: CrossAttention, before: Tensor, after: Tensor, key: Tensor, **others: Tensor
) -> tuple[int, int, int]:
    flops = 2 * 2 * before.numel() * key.shape[2]  # as of attention, to the other one's places
    return flops, 2 * flops, 0


def _scores(module: Scores, before: Tensor, after: Tensor) -> tuple[int, int, int]:
    flops = 2 * after.numel() * before.shape[-1]
    return flops, flops, flops


def _ranking(head: RankHead, before: Tensor, after: Tensor) -> tuple[int, int, int]:
    rows = after.numel() // after.shape[-1]
    flops = 2 * rows * len(head.bias) * head.linear.out_features
    return flops, flops, flops


RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: _conv,
    nn.Conv1d: _conv,
    nn.Embedding: _table,
    Words: _table,
    nn.Linear: _linear,
    RecurrentBody: _recurrent,
    Attention: _attention,
    CrossAttention: _look,
    RankHead: _ranking,
    Scores: _scores,
}

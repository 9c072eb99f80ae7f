"""Structured pruning: whole channels and units are taken out, and the tensors really shrink.

A group is a set of places, in several weights, that share one channel axis. The least important
channels of each group are dropped, a smaller model is built from plain arguments, and the kept
slices are copied into it.
Source of the importance: Li et al. 2016, arXiv:1608.08710 (norm of the filters), summed over the
group as in Fang et al. 2023, arXiv:2301.12900, section 3.3.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.core.errors import NothingChanged
from modelwright.models.catalog import Model, ModelSpec, build, count_params

MULTIPLE = 4  # kept channels are rounded down to this: kernels work on groups of channels


@dataclass(frozen=True)
class Place:
    """Where a channel axis lies: a tensor's dim, in `repeats` blocks of the group's size."""

    tensor: str
    dim: int
    repeats: int = 1
    offset: int = 0


@dataclass(frozen=True)
class Group:
    """Channels that live and die together."""

    size: int
    places: tuple[Place, ...]


def prune(model: Model, spec: ModelSpec, ratio: float) -> tuple[Model, ModelSpec]:
    """A smaller copy of the model without the least important channels of each group.

    Args:
        ratio: share of each group's channels to remove.
    Raises: NothingChanged if every group is too small to lose any.
    """
    state = model.state_dict()
    groups, respec = GROUPS[spec.family](model, spec)
    kept = [_kept(group, state, ratio) for group in groups]
    removed = sum(group.size - len(keep) for group, keep in zip(groups, kept, strict=True))
    if not removed:
        raise NothingChanged(
            f"prune: 0 of {sum(group.size for group in groups)} channels removed (ratio={ratio})",
            expected=f"groups that stay at {MULTIPLE} channels or more without their weakest",
            repair="raise compress.prune.ratio, or choose a larger model.size",
        )
    smaller_spec = respec([len(keep) for keep in kept])
    for group, keep in zip(groups, kept, strict=True):
        for place in group.places:
            state[place.tensor] = _select(state[place.tensor], place, group.size, keep)
    smaller = build(smaller_spec)
    smaller.load_state_dict(state)
    assert count_params(smaller) < count_params(model)
    return smaller.eval(), smaller_spec


def _kept(group: Group, state: dict[str, Tensor], ratio: float) -> Tensor:
    """Sorted indexes of the channels to keep."""
    count = max(MULTIPLE, int(group.size * (1 - ratio)) // MULTIPLE * MULTIPLE)
    if count >= group.size:
        return torch.arange(group.size)
    importance = torch.zeros(group.size)
    for place in group.places:
        tensor = state[place.tensor]
        if "running" in place.tensor:
            continue  # statistics say how large a channel is, not how much it matters
        for block in range(place.repeats):
            start = place.offset + block * group.size
            part = tensor.narrow(place.dim, start, group.size).float().movedim(place.dim, 0)
            norm = part.reshape(group.size, -1).square().sum(1)
            importance += norm / norm.mean().clamp_min(1e-12)
    return importance.topk(count).indices.sort().values


def _select(tensor: Tensor, place: Place, size: int, keep: Tensor) -> Tensor:
    """The tensor without the dropped channels in the place's blocks; the rest stays."""
    length = tensor.shape[place.dim]
    end = place.offset + place.repeats * size
    index = torch.cat(
        [torch.arange(place.offset)]
        + [place.offset + block * size + keep for block in range(place.repeats)]
        + [torch.arange(end, length)]
    )
    return tensor.index_select(place.dim, index)


Respec = Callable[[list[int]], ModelSpec]


def _with(spec: ModelSpec, **args: Any) -> ModelSpec:
    return replace(spec, args={**spec.args, **args})


def _conv_norm(name: str) -> list[Place]:
    """The output channels of a ConvNorm."""
    norm = ("weight", "bias", "running_mean", "running_var")
    return [Place(f"{name}.0.weight", 0)] + [Place(f"{name}.1.{part}", 0) for part in norm]


def _cnn_groups(model: Model, spec: ModelSpec) -> tuple[list[Group], Respec]:
    """The channels inside each residual block: no skip ties them to others."""
    groups = []
    for name, module in model.named_modules():
        if type(module).__name__ == "BasicBlock":
            first = module.get_submodule("body.0.0")
            assert isinstance(first, nn.Conv2d)
            places = [*_conv_norm(f"{name}.body.0"), Place(f"{name}.body.2.0.weight", 1)]
            groups.append(Group(first.out_channels, tuple(places)))
    return groups, lambda sizes: _with(spec, inner=sizes)


def _transformer_groups(model: Model, spec: ModelSpec) -> tuple[list[Group], Respec]:
    """The hidden units of each block's feed-forward net."""
    groups = []
    for name, module in model.named_modules():
        if type(module).__name__ == "EncoderBlock":
            hidden = module.get_submodule("mlp.0")
            assert isinstance(hidden, nn.Linear)
            places = (
                Place(f"{name}.mlp.0.weight", 0),
                Place(f"{name}.mlp.0.bias", 0),
                Place(f"{name}.mlp.2.weight", 1),
            )
            groups.append(Group(hidden.out_features, places))
    return groups, lambda sizes: _with(spec, mlp_dims=sizes)


def _rnn_groups(model: Model, spec: ModelSpec) -> tuple[list[Group], Respec]:
    """The state units of each layer and direction; all lose as many, as torch asks for."""
    layers = model.get_submodule("body.layers")
    assert isinstance(layers, nn.LSTM)
    size, prefix, groups = layers.hidden_size, "body.layers", []
    directions = ("", "_reverse") if layers.bidirectional else ("",)
    for layer in range(layers.num_layers):
        for number, suffix in enumerate(directions):
            here = f"l{layer}{suffix}"
            places = [
                Place(f"{prefix}.{kind}_{here}", 0, repeats=4)
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            places.append(Place(f"{prefix}.weight_hh_{here}", 1))
            # the two directions lie side by side in what comes next; the later one is cut first,
            # so that this one's offset still counts from the uncut tensor
            if layer + 1 < layers.num_layers:
                after = [f"{prefix}.weight_ih_l{layer + 1}{other}" for other in directions]
            else:
                after = ["head.linear.weight"]
            places += [Place(name, 1, offset=number * size) for name in after]
            groups.append(Group(size, tuple(places)))
    groups.reverse()
    return groups, lambda sizes: _with(spec, hidden_dim=sizes[0])


GROUPS: dict[str, Callable[[Model, ModelSpec], tuple[list[Group], Respec]]] = {
    "cnn": _cnn_groups,
    "transformer": _transformer_groups,
    "rnn": _rnn_groups,
}

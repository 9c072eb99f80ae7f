"""Structured pruning: whole channels and units are taken out, and the tensors really shrink.

A group is a set of places, in several weights, that share one channel axis. The least important
channels of each group are dropped, a smaller model is built from plain arguments, and the kept
slices are copied into it.
Source of the importance: Li et al. 2016, arXiv:1608.08710 (norm of the filters), summed over the
group as in Fang et al. 2023, arXiv:2301.12900, section 3.3.
"""

import torch
from torch import Tensor

from modelwright.core.errors import NothingChanged
from modelwright.models.catalog import MODELS, Model, ModelSpec, build, count_params
from modelwright.models.groups import MULTIPLE, Group


def prune(model: Model, spec: ModelSpec, ratio: float) -> tuple[Model, ModelSpec]:
    """A smaller copy of the model without the least important channels of each group.

    Args:
        ratio: share of each group's channels to remove.
    Raises: NothingChanged if there are no groups, or every one is too small to lose any.
    """
    state = model.state_dict()
    groups, args_for = MODELS[spec.family].groups(model)
    if not groups:
        raise NothingChanged(
            f"prune: {spec.name} has no layers with channels of their own",
            expected="convolutions, recurrent or feed-forward layers; a bag of words has none",
            repair="drop compress.prune, or choose another model.size",
        )
    kept = [_kept(group, state, ratio) for group in groups]
    removed = sum(group.size - len(keep) for group, keep in zip(groups, kept, strict=True))
    if not removed:
        raise NothingChanged(
            f"prune: 0 of {sum(group.size for group in groups)} channels removed (ratio={ratio})",
            expected=f"groups that stay at {MULTIPLE} channels or more without their weakest",
            repair="raise compress.prune.ratio, or choose a larger model.size",
        )
    args = args_for([len(keep) for keep in kept])
    smaller_spec = spec.but(args)
    stay: dict[tuple[str, int], Tensor] = {}  # of each tensor's axis, all groups together
    for group, keep in zip(groups, kept, strict=True):
        own = torch.zeros(group.size, dtype=torch.bool).index_fill_(0, keep, True)
        for place in group.places:
            length = state[place.tensor].shape[place.dim]
            axis = stay.setdefault((place.tensor, place.dim), torch.ones(length, dtype=torch.bool))
            end = place.offset + place.repeats * group.size
            axis[place.offset : end] &= own.repeat(place.repeats)
    for (name, dim), axis in stay.items():
        state[name] = state[name].index_select(dim, axis.nonzero().flatten())
    smaller = build(smaller_spec)
    smaller.load_state_dict(state)
    assert count_params(smaller) < count_params(model)
    return smaller.eval(), smaller_spec


def _kept(group: Group, state: dict[str, Tensor], ratio: float) -> Tensor:
    """Sorted indexes of the channels to keep."""
    count = group.left(ratio)
    if count == group.size:
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

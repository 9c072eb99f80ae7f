"""Everything that a training is, as tensors by name: what a checkpoint holds.

Names begin with `model.`, `average.`, `best.`, `optimizer.` or `more.`. The optimizer's state goes
by the names of parameters, so that it can be taken up however the model is divided.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.train.checkpoint import room_for
from modelwright.train.shards import is_cut

SNAPSHOT = "snapshot."  # what the names of a copy to go back to begin with; train/guards.py


def gather(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    average: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    more: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """All of it, sharing memory with what it is of.

    Args:
        average: the averaged weights, empty if they are off.
        best: those that were best on valid so far, empty if there are none.
        more: whatever tensors the loop needs back.
    """
    return {
        **_named("model", model.state_dict()),
        **_named("average", average),
        **_named("best", best),
        **_named("optimizer", optimizer_state(model, optimizer)),
        **_named("more", more),
    }


def make_room(
    record: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    average: Mapping[str, Tensor],
    first: bool = True,
) -> dict[str, Tensor]:
    """What `gather` would give at the step of a checkpoint's record, to be filled.

    Weights and averaged weights are the given ones; the optimizer, a fresh one, gets its state. The
    best weights are whole, and the first process's. A snapshot lies as what it is of does.
    """
    found = {
        **_named("model", model.state_dict()),
        **_named("average", average),
        **_named("optimizer", _optimizer_room(model, optimizer, record)),
    }
    more, snapshot = room_for(record, "more.", "meta"), f"more.{SNAPSHOT}"
    copied = {
        # on the CPU, as guards.py keeps it; pieces of several processes stay where they are
        f"{snapshot}{name}": torch.empty_like(value, device=None if is_cut(value) else "cpu")
        for name, value in found.items()
        if f"{snapshot}{name}" in more
    }
    whole = {name: value for name, value in more.items() if not name.startswith(snapshot)}
    whole |= room_for(record, "best.", "meta") if first else {}
    return {
        **found, **copied,
        **{name: torch.empty_like(value, device="cpu") for name, value in whole.items()},
    }  # fmt: skip


def part(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One part of all of it, by its own names."""
    return {
        key.removeprefix(f"{name}."): tensor
        for key, tensor in tensors.items()
        if key.startswith(f"{name}.")
    }


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and counters, each under its parameter's name and its own."""
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def _optimizer_room(
    model: nn.Module, optimizer: torch.optim.Optimizer, record: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Put empty state of the saved kinds into a fresh optimizer; gives it by name.

    What is shaped like its parameter lies like it too, on the same device, in the same memory
    format and cut in the same way: fused steps pair values by their place.
    """
    parameters, room = dict(model.named_parameters()), {}
    fused = {
        id(parameter): bool(group.get("fused") or group.get("capturable"))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for whole, saved in room_for(record, "optimizer.", "meta").items():
        name, _, key = whole.removeprefix("optimizer.").rpartition(".")
        if name not in parameters:
            continue  # restoring refuses what nothing takes
        parameter = parameters[name]
        if saved.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=saved.dtype, requires_grad=False)
        else:  # torch keeps a count of steps on the CPU unless the step is one kernel
            on_cpu = saved.ndim == 0 and not fused[id(parameter)]
            value = torch.empty_like(saved, device="cpu" if on_cpu else parameter.device)
        optimizer.state[parameter][key] = value
        room[f"{name}.{key}"] = value
    return room


def _named(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}

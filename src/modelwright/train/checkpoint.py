"""Save and resume training: weights, averaged weights, optimizer, position. Atomic, verified.

A checkpoint is one safetensors file and one small JSON file that commits it: the JSON is written
last and holds the SHA-256 of the other. Random state and data position need no room: both are
functions of the seed and the step (data/loader.py, train/loop.py).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from modelwright.core.errors import IntegrityError
from modelwright.core.files import digest_json, json_bytes, storage, write_bytes, write_json

KEEP = 2  # the newest, and the one before in case a person wants it


def save(
    folder: Path,
    *,
    step: int,
    model: nn.Module,
    average: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    position: Mapping[str, Any],
) -> None:
    """Write the checkpoint of `step`, then drop all but the last two.

    Args:
        average: the averaged weights, empty if they are off.
        best: those that were best on valid so far, empty if there are none.
        position: plain JSON: elapsed seconds, budget, whatever the loop needs back.
    Raises: StorageError if the disk refuses; earlier checkpoints are intact.
    """
    with storage(folder):
        for leftover in folder.glob(".step-*.partial"):  # of a process that was killed
            leftover.unlink()
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": value for name, value in state.items() if value is not None
        }
    content = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
    weights = folder / f"step-{step:08d}.safetensors"
    write_bytes(weights, content)
    commit = {
        "step": step,
        "file": weights.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "position": dict(position),
    }
    commit["digest"] = digest_json(commit)
    write_json(weights.with_suffix(".json"), commit)
    with storage(folder):
        for old in sorted(folder.glob("step-*.json"))[:-KEEP]:
            old.unlink()
        kept = {path.stem for path in folder.glob("step-*.json")}
        for path in folder.glob("step-*.safetensors"):
            if path.stem not in kept:
                path.unlink()


def newest(folder: Path) -> dict[str, Any] | None:
    """The commit record of the newest checkpoint, or None where there is none yet."""
    commits = sorted(folder.glob("step-*.json"))
    if not commits:
        return None
    content = commits[-1].read_bytes()
    try:
        record = dict(json.loads(content))
        own = {name: value for name, value in record.items() if name != "digest"}
        sound = digest_json(own) == record["digest"] and content == json_bytes(record)
        sound = sound and {"step", "file", "bytes", "sha256", "position"} <= own.keys()
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise _broken(commits[-1])
    return record


def restore(
    folder: Path,
    record: Mapping[str, Any],
    *,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Tensor]:
    """Put a checkpoint's state into freshly made objects; gives the best weights that it holds.

    Raises: IntegrityError if a byte differs or a tensor does not fit: training never starts
        over by itself.
    """
    path = folder / Path(str(record["file"])).name
    content = path.read_bytes() if path.is_file() else b""
    whole = len(content) == record["bytes"]
    if not whole or hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise _broken(path)
    tensors = safetensors.torch.load(content)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, key = name.partition(".")
        parts[part][key] = tensor
    try:
        model.load_state_dict(parts["model"])
        for name, tensor in average.items():
            tensor.copy_(parts["average"][name])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )
        _lay_out_like_parameters(optimizer)
    except (RuntimeError, KeyError, ValueError) as error:
        raise IntegrityError(
            f"{path} does not fit this recipe's model: {error}",
            expected="a checkpoint of the same run",
            repair=f"remove {folder} to train from the start, or go back to the old recipe",
        ) from error
    return parts["best"]


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give moments their parameter's memory format: fused steps pair values by their place."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def _broken(path: Path) -> IntegrityError:
    return IntegrityError(
        f"the checkpoint {path} is not the file that was written",
        expected="the SHA-256 of its commit record",
        repair=f"remove the newest step-* pair in {path.parent} to go back to the one before",
    )

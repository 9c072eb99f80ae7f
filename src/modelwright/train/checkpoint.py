"""Save and resume training: one folder a checkpoint, atomic, verified, whatever the layout.

`step-00000123/` holds a file of pieces from each rank (train/shards.py) and a record that says what
has to be there, with the SHA-256 of every file. It is filled aside and appears by one renaming, so
what has that name is whole. Random state and data position need no room: both are functions of the
seed and the step (data/loader.py, train/loop.py). One that was better on valid than all before is
called `step-00000123.best`; the newest of these stays, whatever its age.

With several processes every function here is called by each of them.
"""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelwright.core.errors import IntegrityError
from modelwright.core.files import (
    digest_json,
    json_bytes,
    sha256,
    storage,
    sync_folder,
    write_json,
)
from modelwright.train import ranks
from modelwright.train.shards import (
    DTYPES,
    Piece,
    piece_of,
    read_shard,
    require_whole,
    write_shard,
)

RECORD = "checkpoint.json"
BEST = ".best"
NAME = re.compile(rf"step-(\d{{8,}})(?:\.(\d{{3,}}))?(?:{re.escape(BEST)})?")
FIELDS = {"step", "position", "tensors", "shards"}
EITHER = {"F32", "BF16"}  # of the vectors of bf16-true, by layout (precision.lower_weights)
Taken = dict[str, Piece]
Box = Mapping[str, Any]  # of a piece, as plain JSON
Boxes = dict[str, Box]  # those of one rank, by the tensor's name


def take(tensors: Mapping[str, Tensor]) -> Taken:
    """What this rank holds of each tensor, in memory of its own on the CPU.

    Args:
        tensors: by name; a DTensor is cut as it lies on the ranks.
    """
    taken = {}
    for name, tensor in tensors.items():
        piece = piece_of(name, tensor)
        values = piece.values.to("cpu", copy=True)
        taken[name] = Piece(piece.shape, piece.offsets, values)
    return taken


def commit(
    folder: Path, taken: Taken, *, step: int, position: Mapping[str, Any], keep: int,
    best: bool = False,
) -> None:  # fmt: skip
    """Write the checkpoint of `step`, then drop all but the newest `keep` and the best.

    The ranks agree on who writes what, write, and make it visible. What several have alike is
    written once, by the one that has least to write.

    Args:
        position: plain JSON: elapsed seconds, what the loop needs back; rank 0's counts.
        best: whether this one is better than all before.
    Raises: StorageError if a disk refuses, on every rank; earlier checkpoints are intact.
    """
    first = ranks.place()[0] == 0
    names = ranks.together(lambda: _prepare(folder, step, best) if first else "")
    target, boxes = folder / names[0], ranks.share(_boxes(taken))
    try:
        written = ranks.together(lambda: _write(_aside(target), taken, boxes))
        shards = {name: shard for one in written for name, shard in one.items()}
        record = {"step": step, "position": dict(position), "shards": shards}
        ranks.together(lambda: _publish(target, record, boxes, keep) if first else None)
    except Exception:
        if first:
            shutil.rmtree(_aside(target), ignore_errors=True)
        raise


def _prepare(folder: Path, step: int, best: bool) -> str:
    """An empty place to write in; gives the name that it will have."""
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".step-*.partial"):  # of a process that was killed
            if leftover.is_dir():
                shutil.rmtree(leftover)
        before = [number for at, number in map(_moment, _all(folder)) if at == step]
        # more than one of a step: before its last look at valid, and behind it
        name = f"step-{step:08d}" + (f".{max(before) + 1:03d}" if before else "")
        name += BEST if best else ""
        _aside(folder / name).mkdir()
    return name


def _write(aside: Path, taken: Taken, boxes: list[Boxes]) -> dict[str, Any]:
    """This rank's file; gives what the record has to say of it."""
    own, writers = ranks.place()[0], _writers(boxes)
    mine = [name for name, box in boxes[own].items() if writers[_key(name, box)] == own]
    path = aside / f"shard-{own:05d}.safetensors"
    with storage(path):
        return {path.name: write_shard(path, {name: taken[name] for name in mine})}


def _publish(target: Path, record: dict[str, Any], boxes: list[Boxes], keep: int) -> None:
    """The record, the name, and no more of the old ones than wanted."""
    different: dict[str, dict[Any, Box]] = {}
    for own in boxes:
        for name, box in own.items():
            different.setdefault(name, {})[_key(name, box)] = box
    for name, found in different.items():
        require_whole(name, list(found.values()))
    one = {name: next(iter(found.values())) for name, found in different.items()}
    record |= {"tensors": {name: [box["shape"], box["dtype"]] for name, box in one.items()}}
    write_json(_aside(target) / RECORD, {**record, "digest": digest_json(record)})
    with storage(target):
        os.replace(_aside(target), target)
        sync_folder(target.parent)
        there = _all(target.parent)
        best = [one for one in there if one.name.endswith(BEST)][-1:]
        for old in set(there[:-keep]).difference(best):
            os.replace(old, _aside(old))  # never half of one under its name
            shutil.rmtree(_aside(old))


def newest(folder: Path) -> dict[str, Any] | None:
    """The record of the newest checkpoint, or None where there is none yet.

    Its "folder" is the checkpoint's own, "tensors" says shape and dtype by name.
    Raises: IntegrityError, on every rank, if the record is not as it was written, or a file is
        missing, too many or of another size, or can't be read; or if the ranks see different ones.
    """
    found: list[dict[str, Any] | None] = []

    def look() -> str:
        found.append(_newest(folder))
        return "none" if found[0] is None else f"{found[0]['folder'].name} {found[0]['digest']}"

    seen = ranks.together(look)
    if other := next((rank for rank, one in enumerate(seen) if one != seen[0]), 0):
        raise IntegrityError(
            f"the processes see different newest checkpoints in {folder}: rank 0 {seen[0]}, "
            f"rank {other} {seen[other]}",
            expected="one folder that all of them see alike",
            repair="wait until the file system has caught up and run the same command again, or "
            "put the run on a file system that they share",
        )
    return found[0]


def _newest(folder: Path) -> dict[str, Any] | None:
    """As this rank sees it, with its digest."""
    found = _all(folder)
    if not found:
        return None
    path = found[-1] / RECORD
    with _readable(path):
        content = path.read_bytes() if path.is_file() else b""
    try:
        record = dict(json.loads(content))
        own = {name: value for name, value in record.items() if name != "digest"}
        sound = digest_json(own) == record["digest"] and content == json_bytes(record)
        sound = sound and own.keys() >= FIELDS
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise _broken(path)
    with _readable(path.parent):
        # what begins with a dot is a file system's or a desktop's
        own_files = [one for one in path.parent.iterdir() if not one.name.startswith(".")]
        sizes = {one.name: one.stat().st_size for one in own_files}
    for name in sizes.keys() ^ {RECORD, *record["shards"]}:
        raise _broken(path.parent / name)
    for name, shard in record["shards"].items():
        if sizes[name] != shard["bytes"]:
            raise _broken(path.parent / name)
    return {**record, "folder": path.parent}


def restore(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` from the checkpoint of a record, however it was cut when it was saved.

    Args:
        tensors: Tensors or DTensors of any mesh and placement, one for each name in the record; a
            rank may leave out what others have.
    Raises: IntegrityError, on every rank and before a tensor is touched, if a byte differs or a
        tensor does not fit: training never starts over by itself.
    """
    folder, kept = Path(record["folder"]), record["tensors"]
    own, world_size = ranks.place()
    pieces = {name: piece_of(name, tensor) for name, tensor in tensors.items()}

    def check() -> list[str]:
        for index, (name, shard) in enumerate(record["shards"].items()):
            if index % world_size == own:
                with _readable(folder / name):
                    found = sha256(folder / name)
                if found != shard["sha256"]:
                    raise _broken(folder / name)
        for name, piece in pieces.items():
            wanted = [list(piece.shape), piece.box["dtype"]]
            shape, dtype = kept.get(name, (None, None))
            if shape != wanted[0] or not (dtype == wanted[1] or {dtype, wanted[1]} == EITHER):
                raise _misfit(folder, f"{name} is {wanted} and was {kept.get(name, 'not there')}")
        return sorted(pieces)

    everyone = {name for names in ranks.together(check) for name in names}
    for name in kept.keys() - everyone:
        raise _misfit(folder, f"nothing takes {name}")

    def fill() -> None:
        found = dict.fromkeys(pieces, 0)
        with torch.no_grad():
            for name in record["shards"]:
                with _readable(folder / name):
                    read = read_shard(folder / name, pieces)
                for key, number in read.items():
                    found[key] += number
        for name, piece in pieces.items():
            if found[name] != piece.values.numel():
                raise _misfit(folder, f"it holds {found[name]} of {piece.values.numel()} {name}")

    ranks.together(fill)


def room_for(record: Mapping[str, Any], prefix: str, device: str = "cpu") -> dict[str, Tensor]:
    """Empty tensors for the saved ones whose names begin so; by their whole names. On the device
    "meta" they take no memory, and say shapes and types."""
    return {
        name: torch.empty(shape, dtype=DTYPES[dtype], device=device)
        for name, (shape, dtype) in record["tensors"].items()
        if name.startswith(prefix)
    }


def _all(folder: Path) -> list[Path]:
    """Checkpoints, the oldest first; what else a person or a system put there is not ours."""
    ours = (one for one in folder.glob("step-*") if NAME.fullmatch(one.name) and one.is_dir())
    return sorted(ours, key=_moment)


def _moment(path: Path) -> tuple[int, int]:
    """The step, and how many checkpoints of that step there were before."""
    found = NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1]), int(found[2] or 0)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _boxes(taken: Taken) -> Boxes:
    """Of what there is something to write; of an empty tensor, its name."""
    return {
        name: piece.box
        for name, piece in taken.items()
        if piece.values.numel() or not math.prod(piece.shape)
    }


def _key(name: str, box: Box) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    return name, tuple(box["offsets"]), tuple(box["sizes"])


def _writers(boxes: list[Boxes]) -> dict[Any, int]:
    """Which rank writes each piece: of those that have it, the one with least to write so far."""
    holders: dict[Any, list[int]] = {}
    for rank, own in enumerate(boxes):
        for name, box in own.items():
            holders.setdefault(_key(name, box), []).append(rank)
    load, writers = [0] * len(boxes), {}
    for key, having in holders.items():
        writers[key] = min(having, key=lambda rank: load[rank])
        load[writers[key]] += math.prod(key[2])
    return writers


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _broken(path, f"can't be read: {error.strerror or error}") from error


def _broken(path: Path, why: str = "is not what was written") -> IntegrityError:
    return IntegrityError(
        f"the checkpoint's {path} {why}",
        expected="the files, sizes and SHA-256 of its record",
        repair=f"remove the newest step-* folder in {path.parent.parent} to go back to the one "
        "before",
    )


def _misfit(folder: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{folder} does not fit this recipe's model: {why}",
        expected="a checkpoint of the same run",
        repair=f"remove {folder.parent} to train from the start, or go back to the old recipe",
    )

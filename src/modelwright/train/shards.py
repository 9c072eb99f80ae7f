"""Pieces of tensors in safetensors files: cut as ranks hold them, put together as they need them.

A file is one rank's share: whole tensors, and the pieces of DTensors that lie on it. Where a piece
begins stands in the file's header, in the words of torch.distributed.checkpoint, whose
HuggingFaceStorageReader can read such a folder too; what a rank holds is asked by DCP's own
protocol for DTensors (docs/decisions/0011-own-shards-in-torchs-format.md).
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from modelwright.core.errors import Unsupported

OFFSETS = "DCP_SHARDING_INFO"  # torch's key in the header
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
WORDS = {dtype: word for word, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Piece:
    """A box of a tensor: all of it, or what one rank holds.

    shape: of the whole tensor; offsets: where the box begins; values: what is in it.
    """

    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    values: Tensor

    @property
    def box(self) -> dict[str, Any]:
        """What others need to know of it, as plain JSON."""
        return {
            "shape": list(self.shape),
            "dtype": WORDS[self.values.dtype],
            "offsets": list(self.offsets),
            "sizes": list(self.values.shape),
        }


def is_cut(tensor: Tensor) -> bool:
    """Whether it is a piece of a larger one: a DTensor, whose class takes long to load."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Any) -> Tensor:
    """This rank's piece of a Tensor or DTensor, sharing its memory."""
    return torch.as_tensor(tensor.to_local() if hasattr(tensor, "to_local") else tensor)


def piece_of(name: str, tensor: Tensor) -> Piece:
    """What this rank holds of a Tensor or DTensor, sharing its memory.

    Raises: Unsupported if that is no single box, or of a dtype without a name in safetensors.
    """
    tensor = tensor.detach()
    if tensor.dtype not in WORDS:
        raise Unsupported(f"a checkpoint cannot hold {name}: it is {tensor.dtype}")
    shape = tuple(tensor.shape)
    if not hasattr(tensor, "__create_chunk_list__"):
        return Piece(shape, (0,) * len(shape), tensor)
    chunks = tensor.__create_chunk_list__()
    own = local(tensor)
    if len(chunks) != 1 or tuple(chunks[0].sizes) != tuple(own.shape):
        raise Unsupported(f"a checkpoint cannot hold {name}: a rank has several parts of it")
    return Piece(shape, tuple(chunks[0].offsets), own)


@torch.no_grad()
def fill(model: nn.Module, name: str, whole: Tensor) -> None:
    """Give this rank's piece of a parameter or buffer its values, if the model has one of that
    name."""
    owner, _, own = name.rpartition(".")
    try:
        module = model.get_submodule(owner)
    except AttributeError:  # of a block that another has
        return
    found = getattr(module, own, None)
    if isinstance(found, Tensor):
        piece = piece_of(name, found)
        end = [start + size for start, size in zip(piece.offsets, piece.values.shape, strict=True)]
        piece.values.copy_(whole[_within(list(piece.offsets), end, (0,) * whole.ndim)])


def require_whole(name: str, boxes: Sequence[Mapping[str, Any]]) -> None:
    """
    Args:
        boxes: all different ones of a tensor, as `Piece.box` gives them.
    Raises: Unsupported if they differ in what they are a part of, overlap or leave a gap.
    """
    shape, dtype = boxes[0]["shape"], boxes[0]["dtype"]
    whole = sum(math.prod(box["sizes"]) for box in boxes) == math.prod(shape)
    whole = whole and all((box["shape"], box["dtype"]) == (shape, dtype) for box in boxes)
    if whole and len(boxes) > 1:  # as many values as needed, but are they all different?
        begin = torch.tensor([box["offsets"] for box in boxes])
        end = begin + torch.tensor([box["sizes"] for box in boxes])
        meet = torch.maximum(begin[:, None], begin) < torch.minimum(end[:, None], end)
        whole = int(meet.all(-1).sum()) == len(boxes)  # each with itself alone
    if not whole:
        raise Unsupported(
            f"a checkpoint cannot hold {name}: what the ranks have of it overlaps or leaves a gap",
            expected="shards that put together are the tensor",
        )


def write_shard(path: Path, pieces: Mapping[str, Piece]) -> dict[str, Any]:
    """Write pieces on this machine's CPU to a file, through to the disk.

    Returns: its size and SHA-256, computed from memory and not read back.
    Raises: OSError if the disk refuses.
    Source: the format, github.com/huggingface/safetensors; done here because its own writer
        makes two more copies of everything, and its errors are not the system's.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, piece in pieces.items():
        begin, end = end, end + piece.values.nbytes
        header[name] = {
            "dtype": WORDS[piece.values.dtype],
            "shape": list(piece.values.shape),
            "data_offsets": [begin, end],
        }
    starts = {name: {"saved_offsets": piece.offsets} for name, piece in pieces.items()}
    header["__metadata__"] = {OFFSETS: json.dumps(starts)}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for content in (len(head).to_bytes(8, "little") + head, *map(_bytes, pieces.values())):
            digest.update(content)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": 8 + len(head) + end, "sha256": digest.hexdigest()}


def read_shard(path: Path, pieces: Mapping[str, Piece]) -> dict[str, int]:
    """Copy into `pieces` what a file holds of them; gives how many values of each that were."""
    found = dict.fromkeys(pieces, 0)
    with safe_open(path, framework="pt") as file:
        starts = json.loads(file.metadata()[OFFSETS])
        for name in set(file.keys()) & pieces.keys():
            piece, stored = pieces[name], file.get_slice(name)
            own, sizes = starts[name]["saved_offsets"], stored.get_shape()
            if not sizes:
                piece.values.copy_(file.get_tensor(name))
                found[name] = 1
                continue
            begin = [max(pair) for pair in zip(own, piece.offsets, strict=True)]
            end = [
                min(start + size, wanted + length)
                for start, size, wanted, length in zip(
                    own, sizes, piece.offsets, piece.values.shape, strict=True
                )
            ]
            if any(first >= last for first, last in zip(begin, end, strict=True)):
                continue
            source = _within(begin, end, own)
            target = _within(begin, end, piece.offsets)
            piece.values[target] = stored[source].to(piece.values.device)
            found[name] = math.prod(b - a for a, b in zip(begin, end, strict=True))
    return found


def _within(begin: list[int], end: list[int], origin: Sequence[int]) -> tuple[slice, ...]:
    return tuple(
        slice(first - zero, last - zero)
        for first, last, zero in zip(begin, end, origin, strict=True)
    )


def _bytes(piece: Piece) -> Any:
    """A buffer of the values in C order, without a copy where they lie so."""
    flat = piece.values.contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # type: ignore[arg-type]

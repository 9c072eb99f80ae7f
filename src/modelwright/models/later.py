"""A model whose first values are made later, one tensor after the other, and are those that
building it at once gives.

While it is built, on the meta device, what is done to its tensors is written down. Played from the
seed, in that order, it draws the same numbers and gives the same bits; a tensor that nothing more
is done to is handed out and let go before the next is made. So a process that needs a piece of each
never holds them all.
Source of the idea: torchdistx, deferred initialization (Meta AI 2022).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from modelwright.models.catalog import ModelSpec, build


@dataclass(frozen=True)
class Place:
    """Where a tensor's values lie: in which memory, by number, and how there."""

    memory: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def within(self, memory: dict[int, Tensor]) -> Tensor:
        """The tensor, in memory that is there."""
        flat = memory[self.memory]
        return torch.as_strided(flat.view(self.dtype), self.size, self.stride, self.offset)


@dataclass
class Done:
    """One operation: of which tensors, and what memory it made."""

    operation: Any
    given: tuple[Any, ...]
    keys: dict[str, Any]
    made: list[Place]
    over: list[int] = field(default_factory=list)  # memory that nothing more is done to


class Later:
    """A model on the meta device.

    Raises: ConfigError as `build`.
    """

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        self.seed = seed
        notes = _Notes()
        with notes:
            self.model: nn.Module = build(spec)
        self._done, self._known = notes.done, notes.known
        self._names: dict[int, list[tuple[str, Place]]] = {}
        own = [*self.model.named_parameters(), *self.model.named_buffers()]
        for name, tensor in own:
            if tensor.is_meta:
                place = notes.place(tensor)
                self._names.setdefault(place.memory, []).append((name, place))
        last: dict[int, int] = {}
        for number, one in enumerate(self._done):
            used = [leaf for leaf in tree_leaves((one.given, one.keys)) if isinstance(leaf, Place)]
            last |= {place.memory: number for place in (*used, *one.made)}
        for memory, number in last.items():
            self._done[number].over.append(memory)
        self._plain = [memory for memory in self._names if memory not in last]

    @torch.no_grad()
    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter and buffer by its name, whole, on the CPU; let go with the next one."""
        torch.manual_seed(self.seed)
        memory = {number: flat.clone() for number, flat in self._known.items()}
        for one in self._done:
            given, keys = tree_map_only(
                Place, lambda place: place.within(memory), (one.given, one.keys)
            )
            found = [leaf for leaf in tree_leaves(one.operation(*given, **keys)) if _is(leaf)]
            del given, keys
            for place, tensor in zip(one.made, found, strict=True):
                memory[place.memory] = _flat(tensor)
            found.clear()
            for number in one.over:
                yield from self._own(number, memory)
                del memory[number]
        for number in self._plain:
            yield from self._own(number, memory)

    def _own(self, number: int, memory: dict[int, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, place in self._names.get(number, ()):
            yield name, place.within(memory)


class _Notes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets everything happen on the meta device, and writes it down.

    done: in order; known: memory that was there already, such as of a list of numbers.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[Done] = []
        self.known: dict[int, Tensor] = {}
        self._numbers: dict[int, int] = {}  # of memories, by their addresses
        self._kept: list[Tensor] = []  # so that no address comes twice
        self._doubles: dict[int, Tensor] = {}

    def place(self, tensor: Tensor) -> Place:
        """Of a tensor on the meta device."""
        address = tensor.untyped_storage()._cdata
        if address not in self._numbers:
            self._numbers[address] = len(self._numbers)
            self._kept.append(tensor)
        return Place(
            self._numbers[address], tensor.dtype, tuple(tensor.size()), tuple(tensor.stride()),
            int(tensor.storage_offset()),
        )  # fmt: skip

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: tuple[Any, ...] = (), keys: Any = None
    ) -> Any:
        given, keys = tree_map_only(Tensor, self._double, (given, keys or {}))
        before = len(self._numbers)
        told_given, told_keys = tree_map_only(Tensor, self.place, (given, keys))
        if any(argument.name == "device" for argument in operation._schema.arguments):
            keys = {**keys, "device": torch.device("meta")}
            told_keys = {**told_keys, "device": torch.device("cpu")}
        assert before == len(self._numbers), f"{operation} got a tensor that nothing made"
        found = operation(*given, **keys)
        tensors = [leaf for leaf in tree_leaves(found) if _is(leaf)]
        changes = operation._schema.is_mutable
        if not changes and all(one.untyped_storage()._cdata in self._numbers for one in tensors):
            return found  # looked at otherwise: places say how
        self.done.append(
            Done(operation, told_given, told_keys, [self.place(one) for one in tensors])
        )
        return found

    def _double(self, tensor: Tensor) -> Tensor:
        """A tensor of the meta device in place of one with values."""
        if tensor.is_meta:
            return tensor
        address = tensor.untyped_storage()._cdata
        if address not in self._doubles:
            flat = _flat(tensor)
            self._doubles[address] = twin = torch.empty_like(flat, device="meta")
            self.known[self.place(twin).memory] = flat
        twin = self._doubles[address]
        return torch.as_strided(
            twin.view(tensor.dtype), tensor.size(), tensor.stride(), tensor.storage_offset()
        )


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)


def _flat(tensor: Tensor) -> Tensor:
    """All memory that a tensor lies in."""
    number = math.floor(tensor.untyped_storage().nbytes() / tensor.element_size())
    return torch.as_strided(tensor.detach(), (number,), (1,), 0)

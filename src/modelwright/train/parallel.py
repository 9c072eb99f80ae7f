"""Which processes train together, and how a model lies on them; launch.py says who they are.

A step's batch is the same whoever asks for it (data/loader.py), so every process makes it and takes
its own rows; nothing has to be dealt out, and the loss is the mean over the whole batch in every
layout. Four ways to spread, and their products:

- data: each process has the whole model and some of the rows (DDP);
- sharded: the same with parameters, gradients and moments cut into pieces (FSDP2);
- tensor: matrices of each block cut by heads and by hidden units;
- pipeline: blocks dealt out in turn, rows follow each other through (train/pipes.py).

Launched by torchrun, by SLURM, or as one process, unedited.
Source: Li et al. 2020, arXiv:2006.15704 (DDP); Zhao et al. 2023, arXiv:2304.11277 (FSDP); Shoeybi
et al. 2019, arXiv:1909.08053 (tensor).
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from modelwright.core.errors import ConfigError, ModelwrightError
from modelwright.core.progress import hush
from modelwright.core.recipe import WHOLE_BATCHES, Layout
from modelwright.data.loader import Batch
from modelwright.models.stretch import chain_of, keep_blocks
from modelwright.train.launch import Place, meeting_place, place_of
from modelwright.train.optimizers import squared_norm
from modelwright.train.settings import Settings
from modelwright.train.spread import cut_everything, cut_matrices, synchronize_batch_norms
from modelwright.train.watch import Watch

Result = TypeVar("Result")
AXES = ("pipeline", "data", "sharded", "tensor")  # from the slowest links to the fastest
WAIT = datetime.timedelta(days=1)  # for the gate and the plan; a week hangs after a restart


class Left(ModelwrightError):
    """The first process gave up, and said why."""

    said = True


def resolved(layout: Layout | None, size: int) -> Layout:
    """The degrees to use; those of `auto` are data parallel alone.

    Raises: ConfigError unless they multiply to the number of processes.
    """
    if layout is None:
        return Layout(data=size)
    if layout.pipeline > 1 and (layout.sharded > 1 or layout.tensor > 1):
        raise ConfigError(
            "train.layout: a pipeline together with sharded or tensor",
            expected="a pipeline alone or with data",
            repair="give the processes to data instead",
        )
    if (product := layout.processes) != size:
        text = " x ".join(f"{name} {degree}" for name, degree in layout.degrees.items())
        raise ConfigError(
            f"train.layout: {text} makes {product} processes, and there "
            + ("is one" if size == 1 else f"are {size}"),
            expected="degrees that multiply to the number of processes",
            repair=f"torchrun --nproc-per-node {product} -m modelwright run RECIPE, or other "
            "degrees, or layout: auto",
        )
    return layout


class World:
    """The processes that train together, and this one's place among them.

    mesh: their arrangement, with the axes of AXES, once it is known; None for one alone.
    """

    def __init__(self, place: Place) -> None:
        self.rank, self.local_rank, self.size = place.rank, place.local_rank, place.size
        self.first = place.rank == 0
        self.layout = Layout()
        self._watch: Watch | None = None
        self.patient: dist.ProcessGroup | None = None  # who waits for the first to gate and plan
        self.mesh: DeviceMesh | None = None
        self._device = torch.device("cpu")
        self._shapes: dict[str, tuple[torch.Size, torch.dtype]] = {}  # of a pipeline's whole model
        self.homes: dict[str, int] = {}  # of what only one process of a pipeline has
        self.stretch = (0, 0, 0)  # the blocks of this one, from and to, and of how many

    def arrange(self, layout: Layout | None, device: str = "cpu") -> None:
        """Give every process its place in the layout, and its device of that type.

        Raises: ConfigError if it does not fit their number.
        """
        self.layout = resolved(layout, self.size)
        if self.size > 1:
            degrees = tuple(self.layout.degrees[axis] for axis in AXES)
            self.mesh = init_device_mesh(device, degrees, mesh_dim_names=AXES)

    @contextlib.contextmanager
    def watched(self, folder: Path, minutes: float) -> Iterator[None]:
        """Around what all do together: who waits that long for another gives up, and names it.

        Args:
            folder: of signs of life, seen by all.
        Raises: TrainingFailed with rank, host and last step of those that did not come.
        """
        if self.size == 1:
            yield
            return
        assert self.mesh is not None
        timeout = datetime.timedelta(minutes=minutes)
        for group in (dist.group.WORLD, *(self.mesh.get_group(axis) for axis in AXES)):
            _set_pg_timeout(timeout, group)
        self.first_does(lambda: folder.mkdir(parents=True, exist_ok=True))
        with Watch(folder, self.rank, self.size, timeout.total_seconds()) as self._watch:
            with self._watch.waiting():
                yield
            self._watch = None

    def at(self, step: int) -> None:
        """This process works on that step."""
        if self._watch is not None:
            self._watch.at(step)

    # talking

    def told(self, value: float, *, patient: bool = False) -> float:
        """The first process's value, for all; `patient` is who may wait for it for long."""
        if self.size == 1:
            return value
        number = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(number, 0, group=self.patient if patient else None)
        return float(number.item())

    def told_text(self, text: str) -> str:
        """The same of a text."""
        if self.size == 1:
            return text
        content = bytearray(text.encode() if self.first else b"")
        letters = torch.zeros(int(self.told(len(content))), dtype=torch.uint8)
        if self.first and content:
            letters = torch.frombuffer(content, dtype=torch.uint8)
        if len(letters):
            dist.broadcast(letters, 0)
        return letters.numpy().tobytes().decode()

    def total(self, loss: float) -> float:
        """The sum of every process's share of the batch's loss; rows that several share count
        once."""
        if self.size == 1:
            return loss
        number = torch.tensor([loss * self._readers / self.size], dtype=torch.float64)
        dist.all_reduce(number)
        return float(number.item())

    def total_of_blocks(self, model: nn.Module, squared: float) -> float:
        """The gradient's squared length, with that of blocks that others have, equal in all.

        squared: this process's own.
        """
        if not self.homes:
            return squared
        assert self.mesh is not None
        named = list(model.named_parameters())
        own = squared_norm(value for name, value in named if name in self.homes)
        every = torch.tensor([own], dtype=torch.float64)
        dist.all_reduce(every, group=self.mesh.get_group("pipeline"))
        return squared_norm(v for name, v in named if name not in self.homes) + float(every.item())

    def largest(self, number: int) -> int:
        """Of all processes: what one of them saw, such as a signal, all should know."""
        if self.size == 1:
            return number
        found = torch.tensor([number])
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found.item())

    def first_does(self, work: Callable[[], Result]) -> Result | None:
        """Let the first process do something alone, while the others wait; gives None to those.

        Raises: Left in the others, if it failed there.
        """
        if self.size == 1:
            return work()
        done = None
        if self.first:
            try:
                done = work()
            except BaseException:
                self.told(1.0)
                raise
        if self.told(0.0):
            raise Left("the first process stopped, and has said why")
        return done

    @contextlib.contextmanager
    def summoning(self) -> Iterator[Callable[[bool], None]]:
        """Gives the first process what calls the others to work, or sends them home: once, and at
        the latest at the end."""
        waiting = self.size > 1

        def summon(come: bool) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                self.told(float(come), patient=True)

        try:
            yield summon
        finally:
            summon(False)

    def summoned(self) -> bool:
        """What the first process called the others to; they wait here."""
        return bool(self.told(0.0, patient=True))

    # rows

    @property
    def _readers(self) -> int:
        """How many parts a batch is cut into."""
        return self.layout.data * self.layout.sharded

    @property
    def reader(self) -> int:
        """Which of the parts this process takes."""
        if self.mesh is None:
            return 0
        data, sharded = (self.mesh.get_local_rank(name) for name in ("data", "sharded"))
        return int(data * self.layout.sharded + sharded)

    def require_fit(self, task: str, settings: Settings) -> None:
        """
        Raises: ConfigError unless several processes can share a training of that task.
        """
        batch_size = settings.batch_size
        if self.size > 1 and task in WHOLE_BATCHES:
            raise ConfigError(
                f"train.layout: {task} learns from a batch as a whole, which several processes "
                "can't share",
                expected="one process",
                repair="start it without a launcher",
            )
        if self.size > 1 and settings.goes_back:
            raise ConfigError(
                "train: several processes keep no copy in memory to go back to",
                expected="on_nan: stop, and on_spike: ignore or stop",
                repair="drop skip: the newest checkpoint is where the same command goes on",
            )
        cut = self.layout.sharded > 1 or self.layout.tensor > 1
        if cut and settings.optimizer == "adafactor":
            raise ConfigError(
                "train.optimizer: adafactor keeps means over rows and columns, which torch can't "
                "take over pieces of a matrix",
                expected="adamw, muon or sgd with sharded or tensor",
                repair="another optimizer, or data parallel alone",
            )
        if batch_size % self._readers:
            raise ConfigError(
                f"train.batch_size: {batch_size} rows can't be dealt out evenly to "
                f"{self._readers} processes",
                expected=f"a multiple of {self._readers} (data times sharded)",
                repair="set train.batch_size, or other degrees in train.layout",
            )

    def own(self, batch: Batch) -> Batch:
        """This process's rows of a batch."""
        if self.mesh is None:
            return batch
        return batch.split(len(batch.targets) // self._readers)[self.reader]

    # models

    def place(self, model: nn.Module) -> nn.Module:
        """Lay a model out: the same module, its parameters now pieces where the layout says so.

        Raises: ConfigError for a model that can't be cut that way.
        """
        if self.mesh is None:
            return model
        if self.layout.pipeline > 1:
            self._deal_blocks(model)
        if self._readers > 1:
            synchronize_batch_norms(model, self.mesh["data", "sharded"])
        if self.layout.tensor > 1:
            cut_matrices(model, self.mesh["tensor"])
        if self.cut:
            cut_everything(model, self.mesh["data", "sharded"])
        return model

    @property
    def cut(self) -> bool:
        """Whether parameters are pieces; plain copies are kept equal by DDP instead."""
        degrees = self.layout
        return degrees.sharded > 1 or degrees.tensor > 1

    def _deal_blocks(self, model: nn.Module) -> None:
        """Leave this process its stretch of the blocks, of about equal number."""
        assert self.mesh is not None
        self._device = next(model.parameters()).device
        blocks, parts = chain_of(model), self.layout.pipeline
        if len(blocks) < parts:
            raise ConfigError(
                f"train.layout: pipeline {parts} for {len(blocks)} blocks",
                expected="no more processes than blocks",
                repair="a smaller degree or a larger model",
            )
        homes = [number * parts // len(blocks) for number in range(len(blocks))]
        self._shapes = {
            name: (value.shape, value.dtype) for name, value in model.state_dict().items()
        }
        self.homes = {
            name: home
            for name in self._shapes
            for block, home in zip(blocks, homes, strict=True)
            if any(name.startswith(f"{part}.") for part in block)
        }
        own = self.mesh.get_local_rank("pipeline")
        begin, end = homes.index(own), len(homes) - homes[::-1].index(own)
        self.stretch = (begin, end, len(homes))
        keep_blocks(model, begin, end)

    def wrap(self, model: nn.Module) -> nn.Module:
        """What to call in a step: puts gradients together across processes."""
        if self.mesh is None or self.cut or self._readers == 1 or self.layout.pipeline > 1:
            return model
        # buffers are equal already: batch norms see all rows
        return DistributedDataParallel(
            model, process_group=self.mesh.get_group("data"), forward_sync_buffers=False
        )

    @contextlib.contextmanager
    def passing(self, wrapped: nn.Module, *, last: bool) -> Iterator[None]:
        """Around one of several passes of a step: gradients travel with the last one."""
        if isinstance(wrapped, DistributedDataParallel) and not last:
            with wrapped.no_sync():
                yield
            return
        if self.cut:
            wrapped.set_requires_gradient_sync(last)  # type: ignore[operator]
        yield

    @property
    def scale(self) -> float:
        """What a loss is multiplied by before its gradient is taken: gradients are averaged over
        processes, and should be summed."""
        return float(self._readers)

    def whole(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pieces put together, in every process."""
        found = {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in state.items()
        }
        if self.homes:
            assert self.mesh is not None
            group = self.mesh.get_group("pipeline")
            for name, home in self.homes.items():
                shape, dtype = self._shapes[name]
                value = found.get(name)
                if value is None:
                    value = torch.empty(shape, dtype=dtype, device=self._device)
                value = value.contiguous()
                dist.broadcast(value, group=group, group_src=home)
                found[name] = value
        return found


ALONE = World(Place())


@contextlib.contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[World]:
    """Join the other processes, if there are any; leave them at the end."""
    place = place_of(environment)
    if place.size == 1:
        yield World(place)
        return
    store = meeting_place(environment, place, WAIT)
    # what processes tell each other is on the CPU; gradients are where the model is
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=store, rank=place.rank, world_size=place.size, timeout=WAIT
    )
    if place.rank:
        hush()
    try:
        together = World(place)
        together.patient = dist.new_group(backend="gloo", timeout=WAIT)
        yield together
    finally:
        dist.destroy_process_group()


def local(value: Tensor) -> Tensor:
    """This process's piece of a tensor, sharing its memory."""
    return value.to_local() if isinstance(value, DTensor) else value

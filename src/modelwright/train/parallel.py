"""Which processes train together, and how a model lies on them; launch.py says who they are.

A row of a step's batch is the same whoever makes it (data/loader.py), so every process makes its
own, and nothing has to be dealt out; the loss is the mean over the whole batch in every layout.
Five ways to spread, and their products:

- data: each process has the whole model and some of the rows. Gradients are added up behind all
  passes, and not within the last one as torch's DDP does: memory that ends in one process can then
  be agreed on first (train/out_of_memory.py);
- sharded: the same with parameters, gradients and moments cut into pieces (FSDP2);
- tensor: matrices of each block cut by heads and by hidden units;
- pipeline: blocks dealt out in turn, rows follow each other through (train/pipes.py);
- context: places of each sequence dealt out, which see one another (train/places.py).

Launched by torchrun, by SLURM, or as one process, unedited.
Source: Li et al. 2020, arXiv:2006.15704 (data, buckets); Zhao et al. 2023, arXiv:2304.11277
(FSDP); Shoeybi et al. 2019, arXiv:1909.08053 (tensor).
"""

import contextlib
import copy
import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from modelwright.core.errors import ConfigError, Exit
from modelwright.core.files import make_folder
from modelwright.core.progress import hush
from modelwright.core.recipe import WHOLE_BATCHES, Layout
from modelwright.data.loader import Batch
from modelwright.models.layers import has_batch_norms
from modelwright.train import ranks
from modelwright.train.buckets import sum_together
from modelwright.train.launch import Left, Place, break_off, meet, place_of
from modelwright.train.optimizers import squared_norm
from modelwright.train.watch import Watch, unwatched

if TYPE_CHECKING:
    from modelwright.train.places import Places
    from modelwright.train.spread import Dealt

Result = TypeVar("Result")
# from the slowest links to the fastest
AXES = ("pipeline", "data", "context", "sharded", "tensor")
# for the gate and the plan, and the most that train.stuck_minutes can be: a week hangs in gloo
WAIT = datetime.timedelta(days=1)


def resolved(layout: Layout | None, size: int) -> Layout:
    """The degrees to use; those of `auto` are data parallel alone.

    Raises: ConfigError unless they multiply to the number of processes.
    """
    if layout is None:
        return Layout(data=size)
    if (product := layout.processes) != size:
        text = " x ".join(f"{name} {one}" for name, one in layout.degrees.items() if one > 1)
        raise ConfigError(
            f"train.layout: {text or 'data 1'} makes {product} processes, and there "
            + ("is one" if size == 1 else f"are {size}"),
            expected="degrees that multiply to the number of processes",
            repair=f"torchrun --nproc-per-node {product} -m modelwright run RECIPE, or other "
            "degrees, or layout: auto",
        )
    return layout


def require_fit(layout: Layout, task: str, batch_size: int | None, parts: int = 1) -> None:
    """
    Args:
        batch_size: None where the recipe leaves it to the family, which is not chosen yet.
        parts: of it, one of which is the first step's.
    Raises: ConfigError unless the processes of a layout can share a training of that task.
    """
    if layout.processes > 1 and task in WHOLE_BATCHES:
        raise ConfigError(
            f"train.layout: {task} learns from a batch as a whole, which several processes "
            "can't share",
            expected="one process",
            repair="start it without a launcher",
        )
    if batch_size is not None and batch_size % (parts * layout.readers):
        quarter = f"the quarter of {batch_size} rows that train.batch_warmup_steps begins with"
        rows = f"{batch_size} rows" if parts == 1 else quarter
        raise ConfigError(
            f"train.batch_size: {rows} can't be dealt out evenly to {layout.readers} processes",
            expected=f"a multiple of {parts * layout.readers}",
            repair="set train.batch_size, or other degrees data and sharded in train.layout",
        )


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
        self._same: DeviceMesh | None = None  # those with the same parameters
        self.readers: dist.ProcessGroup | None = None  # those that make a batch's rows together
        self.dealt: Dealt | None = None  # the blocks of a pipeline
        self.places: Places | None = None  # of what is dealt out by places, with their targets

    def arrange(self, layout: Layout | None, device: str = "cpu") -> None:
        """Give every process its place in the layout, and its device of that type.

        Raises: ConfigError if it does not fit their number.
        """
        self.layout = resolved(layout, self.size)
        if self.size > 1:
            degrees = tuple(self.layout.degrees[axis] for axis in AXES)
            self.mesh = init_device_mesh(device, degrees, mesh_dim_names=AXES)
            self._same = self.mesh["data", "context"]._flatten("same")
            self.readers = self.mesh["data", "sharded"]._flatten("readers").get_group()

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
        own = dist.group.WORLD, self.same, self.readers, ranks.channel()
        for group in (*own, *map(self.mesh.get_group, AXES)):
            _set_pg_timeout(timeout, group)
        self.first_does(lambda: make_folder(folder))
        with Watch(folder, self.rank, self.size, timeout.total_seconds()) as self._watch:
            try:
                with self._watch.waiting():
                    yield
            finally:
                self._watch = None  # whose file is closed now

    def at(self, step: int, *, waiting: bool = False) -> None:
        """This process works on that step, or waits for the others in it."""
        if self._watch is not None:
            self._watch.at(step, waiting=waiting)

    # talking

    def told(self, value: float, *, patient: bool = False) -> float:
        """The first process's value, for all; `patient` is who may wait for it for long."""
        if self.size == 1:
            return value
        number = torch.tensor([value], dtype=torch.float64)
        with unwatched() if self._watch is None else contextlib.nullcontext():
            dist.broadcast(number, 0, group=self.patient if patient else None)
        return float(number.item())

    def heard(self, told: Sequence[float], seen: Sequence[float]) -> list[float]:
        """In one message, the first process's numbers and the largest that any has seen, for all;
        none is below 0."""
        if self.size == 1:
            return [*told, *seen]
        own = told if self.first else [0.0] * len(told)
        numbers = torch.tensor([*own, *seen], dtype=torch.float64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return list(numbers.tolist())

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

    def total(self, loss: Tensor) -> Tensor:
        """The sum of every process's share of the batch's loss; rows that several share count
        once."""
        if self.size == 1:
            return loss
        number = loss * self.shares / self.size
        dist.all_reduce(number)
        return number

    def total_of_blocks(self, model: nn.Module, squared: Tensor) -> Tensor:
        """The gradient's squared length, with that of blocks that others have, equal in all.

        squared: this process's own.
        """
        if self.dealt is None:
            return squared
        homes, named = self.dealt.homes, list(model.named_parameters())
        every = squared_norm(value for name, value in named if name in homes).to(squared.device)
        dist.all_reduce(every, group=self.dealt.group)
        return squared_norm(v for name, v in named if name not in homes) + every

    def all(self, so: bool) -> bool:
        """Whether every process says so."""
        return not self.largest(not so)

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
            except BaseException as error:
                self.told(getattr(error, "exit_code", Exit.BUG))
                raise
        if code := self.told(Exit.OK):
            raise Left(int(code))
        return done

    @contextlib.contextmanager
    def summoning(self) -> Iterator[Callable[[bool], None]]:
        """Gives the first process what calls the others to work, or sends them home: once, and at
        the latest at the end; if it fails before, they end as it does."""
        waiting = self.size > 1

        def summon(come: bool, code: int = Exit.OK) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                self.told(-1.0 if come else code, patient=True)

        try:
            yield summon
        except BaseException as error:  # an infeasible recipe is a result
            code = getattr(error, "exit_code", Exit.BUG)
            summon(False, Exit.OK if code == Exit.INFEASIBLE else code)
            raise
        summon(False)

    def summoned(self) -> bool:
        """What the first process called the others to; they wait here.

        Raises: Left, if it failed.
        """
        if (code := int(self.told(0.0, patient=True))) > 0:
            raise Left(code)
        return code < 0

    # rows

    @property
    def reader(self) -> int:
        """Which of the parts this process takes."""
        if self.mesh is None:
            return 0
        data, sharded = (self.mesh.get_local_rank(name) for name in ("data", "sharded"))
        return int(data * self.layout.sharded + sharded)

    @property
    def draw(self) -> int:
        """Which of all dropout masks it takes: another one for other rows, places or blocks."""
        if self.mesh is None:
            return 0
        context, pipeline = map(self.mesh.get_local_rank, ("context", "pipeline"))
        return (self.reader * self.layout.context + context) * self.layout.pipeline + pipeline

    def placed(self, batch: Batch) -> Batch:
        """Rows with the targets of this process's places, where those bring any."""
        if self.places is None:
            return batch
        return replace(batch, targets=self.places.own_targets(batch.targets))

    def of_all_rows(self, weight: Tensor) -> Tensor:
        """The whole batch's weight, of that of this process's rows."""
        if self.layout.readers == 1:
            return weight
        weight = weight.clone()
        dist.all_reduce(weight, group=self.readers)
        return weight

    # models

    def sketch(self, model: nn.Module) -> nn.Module:
        """`place` of a model without data (on the meta device), by this process alone: whether the
        layout takes it, and what of it would lie here.

        Raises: as `place`.
        """
        return copy.copy(self).place(model)

    def place(self, model: nn.Module) -> nn.Module:
        """Lay a model out: the same module, its parameters now pieces where the layout says so.

        Raises: ConfigError for a model that can't be cut that way.
        """
        if self.mesh is None:
            return model
        from modelwright.train import places, spread  # slow to import

        degrees = self.layout
        if degrees.pipeline > 1:
            group = self.mesh.get_group("pipeline")
            self.dealt = spread.deal_blocks(model, group, degrees.virtual_pipeline)
        if self.readers is not None and degrees.readers > 1:
            spread.synchronize_batch_norms(model, self.readers)
        if degrees.tensor > 1:
            spread.cut_matrices(model, self.mesh["tensor"])
        if degrees.tensor > 1 or degrees.context > 1:
            own = places.deal_places(model, self.mesh["context"], self.mesh["tensor"])
            self.places = own if places.deals_targets(model) else None
        if self.cut:
            assert self._same is not None
            spread.cut_everything(
                model, DeviceMesh._concatenate([self._same, self.mesh["sharded"]])
            )
        return model

    @property
    def cut(self) -> bool:
        """Whether parameters are pieces; of plain copies, gradients are added up instead."""
        degrees = self.layout
        return degrees.sharded > 1 or degrees.tensor > 1

    @property
    def parts(self) -> bool:
        """Whether a process holds a part of the model alone."""
        return self.cut or self.layout.pipeline > 1

    def passing(self, model: nn.Module, *, last: bool) -> None:
        """Before one of several passes of a step: gradients of pieces travel with the last one."""
        if self.cut:
            model.set_requires_gradient_sync(last)  # type: ignore[operator]

    def passes_alone(self, model: nn.Module) -> bool:
        """Whether this process's passes wait for no other: so one that fails can be made again."""
        return self.size == 1 or (self.layout.data == self.size and not has_batch_norms(model))

    def add_up(self, model: nn.Module) -> None:
        """Sum the gradients of processes with the same weights, behind their passes. Of pieces that
        has happened already."""
        if self.mesh is None or self.cut or self.copies == 1:
            return
        sum_together([one.grad for one in model.parameters() if one.grad is not None], self.same)

    @property
    def shares(self) -> int:
        """How many shares a batch's loss comes in: one of each reader, or of each one's places."""
        return self.layout.readers * (self.layout.context if self.places is not None else 1)

    @property
    def scale(self) -> float:
        """What a loss is multiplied by before its gradient is taken. Those of pieces are averaged
        over processes, and should be summed over shares; those of copies are summed."""
        return float(self.shares) if self.cut else self.shares / self.copies

    @property
    def same(self) -> dist.ProcessGroup:
        """The processes with the same parameters and other rows or places."""
        assert self._same is not None
        return self._same.get_group()

    @property
    def copies(self) -> int:
        """How many they are."""
        return self.layout.data * self.layout.context

    def each_whole(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Pieces put together, one tensor after the other, in every process."""
        device = next(iter(state.values())).device
        for name in state if self.dealt is None else self.dealt.shapes:
            value = state.get(name)
            if value is not None and hasattr(value, "full_tensor"):  # pieces
                value = value.full_tensor()
            if self.dealt is not None:
                value = self.dealt.send(name, value, device)
            assert value is not None
            yield name, value


ALONE = World(Place())


@contextlib.contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[World]:
    """Join the other processes, if there are any; leave them at the end, with one voice."""
    place = place_of(environment)
    if place.size == 1:
        yield World(place)
        return
    # what processes tell each other is on the CPU; gradients are where the model is
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = meet(environment, place, backend, WAIT)
    if place.rank:
        hush()
    try:
        together = World(place)
        together.patient = dist.new_group(backend="gloo", timeout=WAIT)
        yield together
    except Exception as error:
        break_off(store, place.rank, error)
        raise
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def imagined(layout: Layout | None) -> Iterator[World]:
    """The first process's world in a layout that nobody has started, to `sketch` in."""
    if layout is None or layout.processes == 1:
        yield ALONE
        return
    import torch.testing._internal.distributed.fake_pg  # noqa: F401 - makes the backend known

    place = Place(0, 0, layout.processes)
    dist.init_process_group("fake", store=HashStore(), rank=0, world_size=place.size)
    try:
        world = World(place)
        world.arrange(layout)
        yield world
    finally:
        dist.destroy_process_group()

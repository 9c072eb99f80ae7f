"""The gradient of a batch whose rows pass through several processes, one stretch of blocks each.

Source: Narayanan et al. 2021, arXiv:2104.04473, section 2.2 (one forward, one backward in turn;
interleaved where a process has several stretches).
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Layout, Precision
from modelwright.data.loader import Batch
from modelwright.models.stretch import Stretch
from modelwright.train.gradient import Gradient
from modelwright.train.parallel import World
from modelwright.train.precision import autocast
from modelwright.train.shards import local

if TYPE_CHECKING:
    from torch.distributed.pipelining.schedules import _PipelineSchedule as Schedule
    from torch.distributed.pipelining.stage import _PipelineStageBase
PIECES = 2  # of a batch for each process: half of them idle at its ends
SCHEDULES = 64  # of shapes of batches that are kept: each has buffers for what it gets from others


class Pipe(Gradient):
    """That of a model dealt out by its blocks; arguments as of Gradient."""

    def __init__(
        self, model: nn.Module, *given: Any, precision: Precision, device: torch.device,
        world: World, **keys: Any
    ) -> None:  # fmt: skip
        super().__init__(model, *given, precision=precision, device=device, world=world, **keys)
        assert world.dealt is not None
        self._dealt = dealt = world.dealt
        number = dealt.blocks[-1].stop
        self._stretches = {
            part: _Cast(Stretch(model, own.start, own.stop, number), precision, device.type)
            for part, own in enumerate(dealt.blocks)
            if part % dealt.group.size() == dealt.group.rank()
        }
        self._last = len(dealt.blocks) - 1 in self._stretches
        self._everywhere = [p for name, p in model.named_parameters() if name not in dealt.homes]
        self._schedules: dict[tuple[torch.Size, ...], Schedule] = {}
        self._batch: Batch | None = None
        self._whole = torch.tensor(0)  # its weight

    def __call__(self, batch: Batch) -> Tensor:
        """Gives this process's share of the batch's loss, of its rows alone."""
        own, self._batch = self._world.placed(batch).to(self._device), batch
        self._whole = self._world.of_all_rows(self._weight(batch.targets))
        columns = {f"column_{number}": one for number, one in enumerate(own.inputs.values())}
        targets = own.targets
        if own.targets_mixed is not None:
            targets = torch.stack([targets, own.targets_mixed], 1)
        losses: list[Tensor] = []
        told: dict[str, Any] = {**columns}
        if self._last:
            told |= {"target": targets, "losses": losses}
        self._schedule(columns).step(**told, return_outputs=False)
        self._sum_gradients()
        if not losses:  # that is the last process's of the pipeline
            return torch.zeros((), dtype=torch.float64, device=self._device)
        total = torch.stack(losses).detach().double().sum() / self._enlarged
        return total * self._world.layout.pipeline

    def _schedule(self, columns: dict[str, Tensor]) -> "Schedule":
        """For batches of those shapes; the first one of a shape finds those in between."""
        from torch.distributed import pipelining  # slow to import

        shapes = tuple(column.shape for column in columns.values())
        if shapes in self._schedules:  # the least used are the first
            self._schedules[shapes] = self._schedules.pop(shapes)
        else:
            stages: list[_PipelineStageBase] = [
                pipelining.PipelineStage(
                    stretch, part, len(self._dealt.blocks), self._device, group=self._dealt.group
                )
                for part, stretch in self._stretches.items()
            ]
            pieces = pieces_of(shapes[0][0], self.micro_batch_size, self._world.layout)
            loss = self._share_of_loss
            self._schedules[shapes] = (
                pipelining.Schedule1F1B(stages[0], pieces, loss, scale_grads=False)
                if len(stages) == 1
                else pipelining.ScheduleInterleaved1F1B(stages, pieces, loss, scale_grads=False)
            )
            if len(self._schedules) > SCHEDULES:
                del self._schedules[next(iter(self._schedules))]
        return self._schedules[shapes]

    def _share_of_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of the whole batch's mean, by one piece."""
        assert self._batch is not None
        own, mixed = (targets, None) if self._batch.targets_mixed is None else targets.unbind(1)
        piece = Batch({}, own, mixed, self._batch.mix)
        return self._enlarged * self._share(outputs, piece, self._weight(own), self._whole)

    def _sum_gradients(self) -> None:
        """Of what every process of the pipeline has, over those; World.add_up does the rest."""
        for parameter in self._everywhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(local(parameter.grad), group=self._dealt.group)


def pieces_of(rows: int, most: int, layout: Layout) -> int:
    """In how many equal pieces of at most so many rows a pipeline takes them: the fewest that keep
    its processes busy; as many in each round of an interleaved schedule, as torch's wants it.

    Raises: ConfigError if there is no such number.
    """
    processes, interleaved = layout.pipeline, layout.virtual_pipeline > 1
    fits = [
        number
        for number in range(-(-rows // most), rows + 1)
        if rows % number == 0 and not (interleaved and number % max(1, number // processes))
    ]
    if not fits:
        raise ConfigError(
            f"train.layout: {rows} rows of a pipeline make no equal rounds of {processes}, "
            f"with at most {most} at once",
            expected="with virtual_pipeline, a number of rows that the degree of pipeline divides",
            repair="another train.batch_size or train.micro_batch_size",
        )
    return next((number for number in fits if number >= PIECES * processes), fits[-1])


class _Cast(nn.Module):
    """A stretch in the precision of the training."""

    def __init__(self, stretch: Stretch, precision: Precision, device: str) -> None:
        super().__init__()
        self.stretch, self._precision, self._device = stretch, precision, device

    def forward(self, *carried: Tensor, **columns: Tensor) -> Any:
        with autocast(self._precision, self._device):
            return self.stretch(*carried, **columns)

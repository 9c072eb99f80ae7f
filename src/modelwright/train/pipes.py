"""The gradient of a batch whose rows pass through several processes, one stretch of blocks each.

Source: Narayanan et al. 2021, arXiv:2104.04473, section 2.2 (one forward, one backward in turn).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from modelwright.data.loader import Batch
from modelwright.models.stretch import Stretch
from modelwright.train.gradient import Gradient, mixed_loss
from modelwright.train.parallel import World
from modelwright.train.precision import Precision, autocast

PIECES = 2  # of a batch for each process: half of them idle at its ends


class Pipe(Gradient):
    """That of a model dealt out by its blocks; arguments as of Gradient."""

    def __init__(
        self, model: nn.Module, *given: Any, precision: Precision, device: torch.device,
        world: World, **keys: Any
    ) -> None:  # fmt: skip
        super().__init__(model, *given, precision=precision, device=device, world=world, **keys)
        begin, end, number = world.stretch
        self._part = _Cast(Stretch(model, begin, end, number), precision, device.type)
        self._last = end == number
        self._everywhere = [p for name, p in model.named_parameters() if name not in world.homes]
        self._parameters = list(model.parameters())
        self._schedules: dict[tuple[torch.Size, ...], Schedule1F1B] = {}
        self._batch: Batch | None = None

    def __call__(self, batch: Batch) -> float:
        """Gives this process's share of the batch's loss."""
        own, self._batch = self._world.own(batch).to(self._device), batch
        columns = {f"column_{number}": one for number, one in enumerate(own.inputs.values())}
        targets = own.targets
        if own.targets_mixed is not None:
            targets = torch.stack([targets, own.targets_mixed], 1)
        losses: list[Tensor] = []
        told: dict[str, Any] = {**columns}
        if self._last:
            told |= {"target": targets, "losses": losses}
        self._schedule(columns).step(**told)
        self._sum_gradients()
        total = sum(float(value.item()) for value in losses) / self._scale.factor
        return total * self._world.layout.pipeline  # the others of the pipeline have none

    def _schedule(self, columns: dict[str, Tensor]) -> Schedule1F1B:
        """For batches of those shapes; the first one of a shape finds those in between."""
        shapes = tuple(column.shape for column in columns.values())
        if shapes not in self._schedules:
            world, rows = self._world, shapes[0][0]
            most = min(self.micro_batch_size, -(-rows // (PIECES * world.layout.pipeline)))
            size = next(one for one in range(most, 0, -1) if rows % one == 0)
            assert world.mesh is not None
            stage = PipelineStage(
                self._part,
                world.mesh.get_local_rank("pipeline"),
                world.layout.pipeline,
                self._device,
                group=world.mesh.get_group("pipeline"),
            )
            self._schedules[shapes] = Schedule1F1B(
                stage, rows // size, loss_fn=self._share_of_loss, scale_grads=False
            )
        return self._schedules[shapes]

    def _share_of_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of the whole batch's mean, by one piece."""
        assert self._batch is not None
        own, mixed = (targets, None) if self._batch.targets_mixed is None else targets.unbind(1)
        piece = Batch({}, own, mixed, self._batch.mix)
        share = self._weight(own) / self._weight(self._batch.targets)
        return self._scale.factor * share * mixed_loss(self._loss, outputs, piece)

    def _sum_gradients(self) -> None:
        """Over the readers; of what every process of the pipeline has, also over those."""
        world = self._world
        assert world.mesh is not None
        for parameter in self._everywhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad, group=world.mesh.get_group("pipeline"))
        if world.layout.data > 1:
            for parameter in self._parameters:
                dist.all_reduce(parameter.grad, group=world.mesh.get_group("data"))


class _Cast(nn.Module):
    """A stretch in the precision of the training."""

    def __init__(self, stretch: Stretch, precision: Precision, device: str) -> None:
        super().__init__()
        self.stretch, self._precision, self._device = stretch, precision, device

    def forward(self, *carried: Tensor, **columns: Tensor) -> Any:
        with autocast(self._precision, self._device):
            return self.stretch(*carried, **columns)

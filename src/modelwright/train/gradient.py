"""The gradient of a batch, in as many passes as the memory asks for."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modelwright.core.errors import ConfigError
from modelwright.data.loader import Batch
from modelwright.models.stretch import blocks_of
from modelwright.train.parallel import World
from modelwright.train.precision import Precision, autocast

Loss = Callable[[Tensor, Tensor], Tensor]
Weight = Callable[[Tensor], Tensor]


class Gradient:
    """Adds the gradient of a batch's mean loss to a model's parameters.

    Args:
        weight: what the mean goes over, of targets: tasks/catalog.py.
        micro_batch_size: rows of one pass in one process.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        weight: Weight,
        *,
        micro_batch_size: int,
        precision: Precision,
        world: World,
    ) -> None:
        self.micro_batch_size = micro_batch_size
        self._model, self._loss, self._weight = model, loss, weight
        self._precision, self._world = precision, world

    def __call__(self, batch: Batch) -> float:
        """Gives this process's share of the batch's loss."""
        whole, scale = self._weight(batch.targets), self._world.scale
        pieces = self._world.own(batch).split(self.micro_batch_size)
        losses: list[Tensor] = []
        for number, micro in enumerate(pieces, 1):
            self._world.passing(self._model, last=number == len(pieces))
            with autocast(self._precision):
                outputs = self._model(*micro.inputs.values())
            value = mixed_loss(self._loss, outputs, micro)
            if micro is not batch:  # its share of the whole batch's mean
                value = self._weight(micro.targets) / whole * value
            (value if scale == 1 else value * scale).backward()  # type: ignore[no-untyped-call]
            losses.append(value.detach())
        # looked at last: an accelerator computes on while the next pass is prepared
        return float(sum(value.item() for value in losses))


def recompute_blocks(model: nn.Module) -> None:
    """Let each block keep only what comes in, and compute the rest again on the way back.

    Source: Chen et al. 2016, arXiv:1604.06174.
    Raises: ConfigError for a model without blocks, or with batch norms, which would count twice.
    """
    blocks = blocks_of(model)
    norms = any(isinstance(one, nn.BatchNorm2d) for one in model.modules())
    if norms or not blocks:
        raise ConfigError(
            "train.activation_checkpointing: "
            + ("batch norms would count every row twice" if norms else "the model has no blocks"),
            expected="a chain of blocks without batch norms",
            repair="leave it out; a smaller train.micro_batch_size also saves memory",
        )
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def seed_draws(seed: int) -> None:
    """torch.manual_seed at every step, without the devices that nothing runs on: asking those costs
    as much as a small layer (docs/experiments.md)."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def mixed_loss(loss: Loss, outputs: Tensor, batch: Batch) -> Tensor:
    """A batch's loss; with mixup or cutmix the weighted mean over both targets.

    Source: Zhang et al. 2017, arXiv:1710.09412 (mixup).
    """
    value = loss(outputs, batch.targets)
    if batch.targets_mixed is None:
        return value
    return batch.mix * value + (1 - batch.mix) * loss(outputs, batch.targets_mixed)

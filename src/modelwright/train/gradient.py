"""The gradient of a batch, in as many passes as the memory asks for."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modelwright.data.loader import Batch
from modelwright.train.precision import Precision, autocast

Loss = Callable[[Tensor, Tensor], Tensor]


def backward(
    model: nn.Module, loss: Loss, batch: Batch, *, micro_batch_size: int, precision: Precision
) -> float:
    """Add the gradient of the batch's mean loss to the parameters; gives that loss."""
    total = 0.0
    for micro in split(batch, micro_batch_size):
        share = len(micro.targets) / len(batch.targets)
        with autocast(precision):
            outputs = model(*micro.inputs.values())
        value = share * mixed_loss(loss, outputs, micro)
        value.backward()  # type: ignore[no-untyped-call]
        total += value.item()
    return total


def mixed_loss(loss: Loss, outputs: Tensor, batch: Batch) -> Tensor:
    """A batch's loss; with mixup or cutmix the weighted mean over both targets.

    Source: Zhang et al. 2017, arXiv:1710.09412 (mixup).
    """
    value = loss(outputs, batch.targets)
    if batch.targets_mixed is None:
        return value
    return batch.mix * value + (1 - batch.mix) * loss(outputs, batch.targets_mixed)


def split(batch: Batch, size: int) -> list[Batch]:
    """The batch in pieces of at most `size` rows."""
    if size >= len(batch.targets):
        return [batch]
    targets = torch.split(batch.targets, size)
    columns = [torch.split(value, size) for value in batch.inputs.values()]
    mixed = batch.targets_mixed
    others = [None] * len(targets) if mixed is None else torch.split(mixed, size)
    return [
        Batch(dict(zip(batch.inputs, inputs, strict=True)), own, other, batch.mix)
        for own, other, *inputs in zip(targets, others, *columns, strict=True)
    ]

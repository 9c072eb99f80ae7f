"""The gradient of a batch, in as many passes as the memory asks for."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.core.recipe import Precision
from modelwright.data.loader import Batch
from modelwright.data.rows import Rows
from modelwright.tasks.catalog import Task
from modelwright.train.parallel import World
from modelwright.train.precision import LossScale, autocast
from modelwright.train.settings import Settings

Loss = Callable[[Tensor, Tensor], Tensor]
Weight = Callable[[Tensor], Tensor]


def loss_of(task: Task, settings: Settings, train: Rows, device: torch.device) -> Loss:
    """A task's loss; with label smoothing where it takes that, its own if none is given, and with
    weights of classes where the settings say so."""
    own, given = task.logic.LABEL_SMOOTHING, settings.label_smoothing
    known: dict[str, Any] = {}
    if own is not None:
        known["label_smoothing"] = own if given is None else given
    if settings.class_weights == "balanced":
        known["class_weights"] = balanced(train.classes).to(device)
    return functools.partial(task.logic.loss, **known) if known else task.logic.loss


def balanced(classes: np.ndarray) -> Tensor:
    """Of each class, how much one of its rows counts: all its rows as much as those of any other,
    and the mean over rows is 1.

    classes: (rows,) -> (num_classes,) float32; a class without rows counts 1

    Source: King, Zeng 2001, Political Analysis 9(2), section 4.2.

    >>> balanced(np.array([0, 0, 0, 1]))
    tensor([0.6667, 2.0000])
    """
    counts = np.bincount(classes)
    held = counts > 0
    weights = np.ones(len(counts))
    weights[held] = len(classes) / (held.sum() * counts[held])
    return torch.as_tensor(weights, dtype=torch.float32)


class Gradient:
    """Adds the gradient of a batch's mean loss to a model's parameters.

    Args:
        weight: what the mean goes over, of targets: tasks/catalog.py.
        micro_batch_size: rows of one pass in one process.
        scale: of the loss; gradients come out multiplied by its factor.
        device: where the model is; batches come from the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        weight: Weight,
        *,
        micro_batch_size: int,
        precision: Precision,
        scale: LossScale,
        world: World,
        device: torch.device,
    ) -> None:
        self.micro_batch_size = micro_batch_size
        self._model, self._loss, self._weight = model, loss, weight
        self._called: Callable[..., Tensor] = model
        self._precision, self._scale, self._world = precision, scale, world
        self._device = device

    def compile(self, *, dynamic: bool) -> None:
        """Let passes go through torch.compile from now on; the first ones take long.

        Args:
            dynamic: rows differ in length; one graph serves all.
        """
        # what torch would keep on disk for the next process, it would pickle
        torch.compiler.config.force_disable_caches = True
        warnings.filterwarnings("ignore", "dynamo_pgo force disabled")  # by the line above
        self._called = torch.compile(self._model, dynamic=dynamic)

    def interpret(self) -> None:
        """Back to no compiling."""
        self._called = self._model

    def __call__(self, batch: Batch) -> Tensor:
        """Gives this process's share of the batch's loss, of its rows alone; float64 (), on the
        device, which nobody has waited for."""
        whole = self._world.of_all_rows(self._weight(batch.targets))
        scale, batch, size = self._enlarged, self._world.placed(batch), self.micro_batch_size
        # while they are here: what is there can't be asked without waiting
        weights = [self._weight(piece.targets) for piece in batch.split(size)]
        losses: list[Tensor] = []
        pieces = zip(batch.to(self._device).split(size), weights, strict=True)
        for number, (micro, own) in enumerate(pieces, 1):
            self._world.passing(self._model, last=number == len(weights))
            with autocast(self._precision, self._device.type):
                outputs = self._called(*micro.inputs.values())
            value = self._share(outputs, micro, own, whole)
            (value if scale == 1 else value * scale).backward()  # type: ignore[no-untyped-call]
            losses.append(value.detach())
        return torch.stack(losses).double().sum()

    @property
    def _enlarged(self) -> float:
        """What losses are multiplied by before their gradients are taken."""
        return self._world.scale * self._scale.factor

    def _share(self, outputs: Tensor, piece: Batch, own: Tensor, whole: Tensor) -> Tensor:
        """Of the whole batch's mean, by one piece of it; both their weights."""
        if self._world.places is not None and not own:
            return outputs.sum() * 0.0  # padding alone has no mean, but others wait for a gradient
        return own / whole * mixed_loss(self._loss, outputs, piece)


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

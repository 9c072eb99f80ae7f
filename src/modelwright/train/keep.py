"""Which weights come out: averages over steps, or those of an earlier look that led clearly."""

import math

import torch
from torch import Tensor, nn

from modelwright.core.goals import METRICS
from modelwright.measure.quality import Quality
from modelwright.tasks.catalog import Task
from modelwright.train.shards import local

TWO_SIDED_95 = 1.96  # standard errors on each side of a 95 % interval
Pairs = tuple[list[Tensor], list[Tensor]]


def pairs(averaged: nn.Module, model: nn.Module) -> Pairs:
    """Averaged and current tensors, side by side; counters such as a norm's step are left out."""
    current = model.state_dict()
    floats = [
        (local(value), local(current[name]))
        for name, value in averaged.state_dict().items()
        if value.dtype.is_floating_point
    ]
    return [pair[0] for pair in floats], [pair[1] for pair in floats]


def move_average(both: Pairs, decay: float, step: int) -> None:
    """One step of an exponential average; a young one forgets faster."""
    averaged, current = both
    if any(one.dtype != other.dtype for one, other in zip(averaged, current, strict=True)):
        current = [one.to(of.dtype) for one, of in zip(current, averaged, strict=True)]
    torch._foreach_lerp_(averaged, current, 1 - min(decay, step / (step + 9)))


def was_clearly_better(best_value: float, found: Quality, task: Task, rows: int) -> bool:
    """Whether an earlier look's metric leads by more than one standard error: smaller leads are
    mostly chance.

    Args:
        found: of the last weights, on all of valid.
        rows: the first ones, which every look saw.
    """
    seen = found.statistics[:rows]
    standard_error = (found.high - found.low) / (2 * TWO_SIDED_95)
    standard_error *= math.sqrt(found.rows / len(seen))
    error = METRICS[task.look].error
    return error(task.values(seen)[task.look]) - error(best_value) > standard_error

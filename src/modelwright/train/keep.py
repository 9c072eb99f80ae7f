"""Which weights come out: averages over steps, or those of an earlier look that led clearly."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.core.goals import METRICS
from modelwright.core.units import format_seconds
from modelwright.data.rows import Rows
from modelwright.measure.quality import Quality, bootstrap
from modelwright.tasks.catalog import Task
from modelwright.train.settings import Budget
from modelwright.train.shards import local

Pairs = tuple[list[Tensor], list[Tensor]]
FEWEST_ROWS = 200  # of valid in a look; fewer tell too little
LOOKING = 0.1  # of the time of a training, that looks are to take together, and the last at most
ROWS_A_ROW = 3  # looked at in the time of one that is learned from, there and back
AT_ONCE = 32  # tensors of which there are copies while an average is moved


def pairs(averaged: nn.Module, model: nn.Module) -> Pairs:
    """Averaged and current tensors, side by side; counters such as a norm's step are left out."""
    current = model.state_dict()
    floats = [
        (local(value), local(current[name]))
        for name, value in averaged.state_dict().items()
        if value.dtype.is_floating_point
    ]
    return [pair[0] for pair in floats], [pair[1] for pair in floats]


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Its tensors of now, by name."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def move_average(both: Pairs, decay: float, step: int, held: Tensor | None = None) -> None:
    """One step of an exponential average; a young one forgets faster.

    Args:
        held: a flag on the device; where it is 1, nothing moves.
    """
    averaged, current = both
    if any(one.dtype != other.dtype for one, other in zip(averaged, current, strict=True)):
        current = [one.to(of.dtype) for one, of in zip(current, averaged, strict=True)]
    share = 1 - min(decay, step / (step + 9))
    if held is None:
        torch._foreach_lerp_(averaged, current, share)
        return
    for begin in range(0, len(averaged), AT_ONCE):
        own = averaged[begin : begin + AT_ONCE]
        apart = torch._foreach_sub(current[begin : begin + AT_ONCE], own)
        torch._foreach_mul_(apart, share * (1 - held))
        torch._foreach_add_(own, apart)


def valid_values(found: Quality) -> dict[str, float]:
    """What a look at valid found, by the names that curves have."""
    return {f"valid_{name}": value for name, value in found.values.items()}


def looked_at(number: int, most: int | None) -> np.ndarray:
    """Which of so many rows a look takes: all, or drawn ones in their order, always the same. The
    first ones may be of few classes, as folders and sorted tables have them."""
    return np.sort(np.random.default_rng(0).permutation(number)[:most])


def rows_looked_at(task: Task, most: int, steps: float, batch_size: int, looks: int) -> int:
    """How many rows each of so many looks takes: `most`, or so few that all looks together take
    about a tenth of the training's time, steps in all of it. Where a row is ranked among all
    others, `most`: among fewer it is another figure.
    """
    if task.whole_batches:
        return most
    return min(most, max(FEWEST_ROWS, int(LOOKING * steps * batch_size * ROWS_A_ROW / looks)))


def spared(
    valid: Rows, rows: int, whole_s: float, budget: Budget, task: Task, note: Callable[[str], None]
) -> tuple[Rows, float]:
    """Which rows the last look takes, and the seconds of that.

    All of valid, which takes whole_s, unless that is more than a tenth of a training in minutes:
    then so many as looks before it took, which people are told.
    """
    apart = task.acting or task.whole_batches  # where other rows are another figure
    most_s = math.inf if budget.seconds is None or apart else LOOKING * budget.seconds
    if whole_s <= most_s or rows == len(valid):
        return valid, whole_s
    note(
        f"{rows:,} of {len(valid):,} rows of valid are looked at, at the end too: all of them "
        f"would take {format_seconds(whole_s)}"
    )
    return shortened(valid, rows), whole_s * rows / len(valid)


def shortened(valid: Rows, rows: int) -> Rows:
    """Those of a look at so many; all where there are no more."""
    return valid.take(looked_at(len(valid), rows)) if rows < len(valid) else valid


def was_clearly_better(
    seen: np.ndarray, last: Quality, task: Task, judged: Callable[[int], Quality]
) -> bool:
    """Whether an earlier look leads on the same rows by more than chance explains: the 95 %
    interval of the difference, rows drawn in pairs, lies above nothing.

    Args:
        seen: statistics of the rows looked at, then; `last` is of all rows, now.
        judged: gives that of the rows looked at alone, among which a row's rank is another.
    """
    if task.whole_batches and len(seen) < last.rows:
        last = judged(len(seen))
    rows = looked_at(last.rows, len(seen))
    error, now = METRICS[task.look].error, last.statistics[rows]
    if seen.shape[1:] != now.shape[1:]:  # of a version that counted otherwise
        return False

    def lead(counts: np.ndarray) -> float:
        return error(task.values(now, counts)[task.look]) - error(
            task.values(seen, counts)[task.look]
        )

    # windows that overlap count each by itself: over blocks, weights that know them by heart stay
    units = last.units[rows] if task.whole_batches and last.units is not None else None
    return bootstrap(len(seen), lead, units, task.strata(now))[0] > 0

"""SCHEDULES: the learning rate as a function of step and progress. To add one: a function, a row.
The weight decay may follow the progress too.

Progress is the share of the budget that is spent, in steps or in time. A schedule that ends with
the budget therefore ends with it whichever it is: when a budget of minutes lasts for fewer steps
than hoped, warmup–stable–decay enters its decay that much earlier. Of minutes, training leaves the
last look at valid its time, so that what such a look takes of the decay is left of the rate.
"""

import math
from collections.abc import Callable

from modelwright.core.recipe import ScheduleName

# (step, progress, warmup_steps, decay) -> share of the full rate, once the warmup is over
Schedule = Callable[[int, float, int, float], float]


def wsd(step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """Stable, then a straight line to zero over the last `decay` of the budget.

    Source: Hu et al. 2024, arXiv:2404.06395, section 4 (warmup–stable–decay).
    """
    return min(1.0, max(0.0, (1.0 - progress) / decay)) if decay > 0 else 1.0


def cosine(step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """Half a wave, from the budget's beginning to its end.

    Source: Loshchilov, Hutter 2016, arXiv:1608.03983, equation 5, without restarts.
    """
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))


def inverse_sqrt(step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """One over the root of the step, from the end of the warmup on; the budget changes nothing.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 3.
    """
    return min(1.0, math.sqrt(max(1, warmup_steps) / (step + 1)))


def constant(step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """The full rate to the end."""
    return 1.0


SCHEDULES: dict[ScheduleName, Schedule] = {
    "wsd": wsd,
    "cosine": cosine,
    "inverse_sqrt": inverse_sqrt,
    "constant": constant,
}


def learning_rate_factor(
    step: int,
    progress: float,
    *,
    warmup_steps: int,
    decay: float,
    schedule: ScheduleName = "wsd",
    warmup_share: float | None = None,
) -> float:
    """The share of the full learning rate to use now.

    Rises over the first steps, and is never above what the schedule says.

    Args:
        step: steps done.
        progress: share of the budget spent, by steps or by time.
        decay: share of the budget in which `wsd` falls; the others do not read it.
        warmup_share: of the budget, after which the warmup is over whatever the step.

    >>> [round(learning_rate_factor(s, s / 100, warmup_steps=10, decay=0.5), 2)
    ...  for s in (0, 4, 9, 50, 75, 100)]
    [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    rising = (step + 1) / max(1, warmup_steps)
    if warmup_share is not None:
        rising = max(rising, progress / warmup_share)
    return min(1.0, rising, SCHEDULES[schedule](step, progress, warmup_steps, decay))


def weight_decay_factor(progress: float, begin: float, end: float | None) -> float:
    """The share of the weight decay to use now: a straight line from `begin` to `end`.

    Beside what the learning rate does: decoupled decay is multiplied by that as well.

    >>> [weight_decay_factor(progress, 0.1, 0.0) for progress in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    >>> weight_decay_factor(0.5, 0.1, None)
    1.0
    """
    if end is None:
        return 1.0
    return 1.0 + min(1.0, progress) * (end / begin - 1.0)

"""One step of a training after the other: a gradient, a verdict on it, the weights moved.

The verdict comes first (train/guards.py): a step that is no number moves nothing. But to ask an
accelerator for a loss is to wait until it has nothing left to do, and at every step. There a step's
loss and norm are read when AHEAD further steps have been handed over. Until then the device itself
holds back every step from one on whose loss or norm is no number; the host, when it reads that,
forgets what was held back and takes those steps again. It is what it would have done had it known
at once: which batch a step has depends on its number alone.
"""

import functools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.models.layers import has_batch_norms
from modelwright.train.gradient import seed_draws
from modelwright.train.guards import Guard
from modelwright.train.optimizers import can_hold_back, clip_, hold_back, prepare_step
from modelwright.train.out_of_memory import MicroBatch
from modelwright.train.parallel import World
from modelwright.train.precision import LossScale
from modelwright.train.settings import Settings
from modelwright.train.weights import Weights

AHEAD = {"cpu": 0, "cuda": 2}  # steps, by type of device; a CPU computes what it is told at once


class Reading:
    """Numbers of a device, asked for now and read later; waits for them alone."""

    def __init__(self, numbers: Tensor) -> None:
        self._there: torch.cuda.Event | None = None
        if numbers.is_cuda:
            here = torch.empty_like(numbers, device="cpu", pin_memory=True)
            numbers = here.copy_(numbers, non_blocking=True)
            self._there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._there.record()
        self._numbers = numbers

    def __call__(self) -> list[float]:
        if self._there is not None:
            self._there.synchronize()
        return list(self._numbers.tolist())


@dataclass(frozen=True)
class Taken:
    """A step whose verdict the device has, and the host not yet.

    scale: of the loss, as it was before it.
    """

    number: int
    learning_rate: float
    scale: list[float]
    found: Reading  # loss and norm


@dataclass(frozen=True)
class Known:
    """What came of a step: its loss, and its gradient's norm before it was clipped."""

    number: int
    learning_rate: float
    loss: float
    grad_norm: float


class Steps:
    """
    Args:
        optimizer, guard, scale, micro: of the training whose weights these are.

    number: of the next one, from 0; it falls where steps have to be taken again.
    ahead: steps that are handed over before one is looked back at; 0 while nobody says otherwise.
    last: the last one that is known; known: those that nobody has noted yet.
    """

    def __init__(
        self, settings: Settings, weights: Weights, optimizer: torch.optim.Optimizer, guard: Guard,
        scale: LossScale, micro: MicroBatch, world: World,
    ) -> None:  # fmt: skip
        self.number, self.ahead = 0, 0
        self.last = Known(-1, 0.0, 0.0, 0.0)
        self.known: deque[Known] = deque(maxlen=1 + max(AHEAD.values()))
        self._settings, self._weights, self._optimizer = settings, weights, optimizer
        self._guard, self._scale, self._micro, self._world = guard, scale, micro, world
        # norms that count the rows of each pass would count those of a step that is taken again
        self._able = can_hold_back(optimizer) and not has_batch_norms(weights.model)
        self._taken: deque[Taken] = deque()
        self._held: Tensor | None = None  # 1 on the device from a step on that moves nothing

    def begin(self) -> None:
        """Before the next one: where it can't be judged later, all before it are now."""
        if not self._waits:
            self.look_back()

    @property
    def _waits(self) -> bool:
        """Whether the next step can do without its verdict; an optimizer without a state can't."""
        able = self.ahead > 0 and self._able and bool(self._optimizer.state)
        return able and self._guard.patient(self.number)

    def take(self, passes: Callable[[], Tensor], progress: float) -> None:
        """The next one.

        Args:
            passes: puts the gradient into the parameters; gives this process's share of the loss.
            progress: share of the budget that is spent.
        Raises: TrainingFailed as the guards say, or where memory ends.
        """
        settings, number, waits = self._settings, self.number, self._waits
        model = self._weights.model
        rate, share = settings.rate(number, progress), settings.decay_share(progress)
        prepare_step(self._optimizer, number, learning_rate=rate, decay_share=share)
        if not model.training:
            model.train()

        def gradient() -> Tensor:
            # dropout's draw: one alone has the first process's
            seed_draws(settings.seed * 1_000_003 + number + (self._world.draw << 40))
            return passes()

        own = self._micro.fitting(gradient, f"in step {number}")
        with self._micro.enough(f"behind the gradient of step {number}"):
            loss = self._world.total(own)
            self._world.add_up(model)
            self._scale.unscale(model.parameters())
            every = functools.partial(self._world.total_of_blocks, model)
            norm = clip_(model.parameters(), settings.clip_norm, every)
            found = torch.stack([loss, norm])
            taken = Taken(number, rate, self._scale.position(), Reading(found))
            if waits:
                self._taken.append(taken)
                self._hold_back(found)
                self._scale.count()
            sound = waits or self._judge(taken, *taken.found())
            if sound:
                hold_back(self._optimizer, self._held)
                self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            if sound:
                self._weights.move(number + 1, self._held)
        self.number = number + 1
        self.look_back(self.ahead)

    def look_back(self, ahead: int = 0) -> None:
        """Judge what was handed over, all but the last so many.

        Raises: TrainingFailed as the guards say.
        """
        while len(self._taken) > ahead:
            taken = self._taken.popleft()
            loss, norm = taken.found()
            if math.isfinite(loss) and math.isfinite(norm):
                self._know(taken, loss, norm)
                continue
            self._taken.clear()
            self._held, self.number = None, taken.number
            self._scale.take_up(taken.scale)
            self._judge(taken, loss, norm)
            self.number += 1
        if not self._taken:
            self._held = None

    def _judge(self, taken: Taken, loss: float, norm: float) -> bool:
        """Whether the gradient of a step may move the weights."""
        self._know(taken, loss, norm)
        return not self._scale.overflowed(loss, norm) and self._guard.passes(
            loss, norm, taken.number, taken.learning_rate
        )

    def _know(self, taken: Taken, loss: float, norm: float) -> None:
        self.last = Known(taken.number, taken.learning_rate, loss, norm)
        self.known.append(self.last)

    def _hold_back(self, found: Tensor) -> None:
        """This step and all behind it, on the device, if what was found is no number."""
        bad = found.isfinite().all().logical_not().float()
        self._held = bad if self._held is None else torch.maximum(self._held, bad)

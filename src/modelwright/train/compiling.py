"""Whether a training goes through torch.compile: where that was measured to pay, and said to.

Compiling takes from half a minute to minutes, so a short training is left alone. Any other tries it
on the batch of one step: the same passes with and without, which leave nothing in the weights.
What was decided is in the checkpoints: a resumed training goes on as it began.
Source: Ansel et al. 2024, ASPLOS, "PyTorch 2".
"""

import functools
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.core.progress import working
from modelwright.core.units import format_seconds
from modelwright.train.device import wait_for
from modelwright.train.gradient import Gradient
from modelwright.train.journal import Journal
from modelwright.train.parallel import World

AFTER_STEPS = 10  # the pace is known then
Passes = Callable[[], Tensor]  # put a gradient into the parameters, and give the loss
PASSES, GAIN = 5, 1.05  # timed ways of each kind, the best counts; what is worth another rounding
# Slow steps mean a slow compiler too, and matrices beside which the rest, which compiling spares,
# is little: of 68 steps of 4.4 s, a try took 44 of them, and gained nothing
FEWEST_STEPS = 300


def require_fit(asked: Literal["auto"] | bool, *, apart: bool) -> None:
    """
    Args:
        apart: no process waits for another within a pass.
    Raises: ConfigError where compiling is asked for, and some do.
    """
    if asked is True and not apart:
        raise ConfigError(
            "train.compile: true, and several processes wait for each other within a pass",
            expected="one process, or train.layout: {data: N} and no batch norms",
            repair="leave train.compile out, or start it without a launcher",
        )


class Compiling:
    """Decides once, and takes the decision up again after a resume.

    Args:
        dynamic: rows differ in length, and one graph has to serve all.
        world: the processes that train together. They decide as one, by the first one's clock;
            where they wait for each other within a pass, torch.compile is not used.
        from_s: of training left, from which on it is worth a try.
    taken: whether passes are compiled; None until decided.
    Raises: ConfigError if it was asked for and can't be.
    """

    def __init__(
        self, asked: Literal["auto"] | bool, model: nn.Module, gradient: Gradient,
        device: torch.device, journal: Journal, *, dynamic: bool, world: World, from_s: float,
    ) -> None:  # fmt: skip
        apart = world.passes_alone(model)
        require_fit(asked, apart=apart)
        self._asked, self._model, self._gradient = asked, model, gradient
        self._device, self._journal, self._dynamic = device, journal, dynamic
        self._world, self._from_s = world, from_s
        self.taken = None if apart and asked is not False else False
        self._settled, self._unsaid = False, asked == "auto" and not apart

    def take_up(self, taken: bool | None) -> None:
        """What a checkpoint says of `taken`; one process may have written it, such as the race,
        and several go on that can't."""
        self._unsaid = self._unsaid and taken is not False
        if self.taken is None:
            self.taken = taken

    def due(self, steps: int) -> bool:
        """Whether to `settle` it, after that many steps of this process."""
        if self._unsaid:
            return True
        if self._settled or self.taken is False:
            return False
        return bool(self.taken) or self._asked is True or steps >= AFTER_STEPS

    def settle(self, passes: Passes, left_s: float) -> None:
        """Decide, if that was not done, and compile if it was decided so.

        Args:
            passes: of the next step's batch, to try it on.
            left_s: how long the training goes on as it is.
        Raises: ConfigError if it was asked for, or is how the training began, and fails.
        """
        self._settled = True
        if self._unsaid:
            self._unsaid = False
            self._journal.record.decision(
                "torch.compile is not tried: several processes wait for each other within a pass"
            )
            return
        sure = bool(self.taken) or self._asked is True
        if not sure and left_s < self._from_s:
            self.taken = False
            self._journal.record.decision(
                f"torch.compile is not tried: about {format_seconds(left_s)} of training are left, "
                f"and it is from {format_seconds(self._from_s)} on"
            )
            return
        self._model.train()
        told = self._world.told  # by the first one
        if not sure and (left := told(left_s / self._rehearse(passes))) < FEWEST_STEPS:
            self.taken = False
            self._journal.record.decision(
                f"torch.compile is not tried: about {left:,.0f} steps of training are left, and it "
                f"is from {FEWEST_STEPS} on"
            )
            return
        before_s, compiling_s = told(self._passes_s(passes)), 0.0
        compile_ = functools.partial(self._gradient.compile, dynamic=self._dynamic)
        for act in (compile_, functools.partial(self._rehearse, passes)):
            failure: Exception | None = None
            try:
                with working(f"{self._journal.title}: torch.compile compiles"):
                    compiling_s = act() or 0.0
            except Exception as error:  # whatever a compiler makes of a model, or its absence
                failure = error
            # each time: who fails in a pass has told the others its rows, who fails before has not
            if failed := self._world.largest(0 if failure is None else self._world.rank + 1):
                self._give_up(f"on rank {failed - 1}", failure, sure)
                return
        self._rehearse(passes)
        after_s = told(self._passes_s(passes))
        gain = before_s / after_s
        self.taken = sure or gain >= GAIN
        if not self.taken:
            self._leave_it()
        self._journal.decide(
            f"torch.compile is {'' if self.taken else 'not '}used: the passes of a step take "
            f"{format_seconds(after_s)} with it and {format_seconds(before_s)} without "
            f"({gain:.2f} times as fast); compiling took {format_seconds(compiling_s)}"
        )

    def _give_up(self, where: str, failure: Exception | None, sure: bool) -> None:
        reason = where
        if failure is not None:
            reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
        if sure:
            raise ConfigError(
                f"train.compile: torch.compile failed ({reason})",
                expected="a model it can compile, and a C++ compiler (g++, clang) on a CPU",
                repair="start a new run with train.compile: false",
            ) from failure
        self._leave_it()
        self._journal.decide(f"torch.compile is not used: it failed ({reason})")

    def _leave_it(self) -> None:
        self.taken = False
        self._model.zero_grad(set_to_none=True)
        self._gradient.interpret()
        torch.compiler.reset()

    def _passes_s(self, passes: Passes) -> float:
        return min(self._rehearse(passes) for _ in range(PASSES))

    def _rehearse(self, passes: Passes) -> float:
        """Seconds of a step's passes, after which weights, gradients and buffers are as before."""
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        wait_for(self._device)
        started = time.perf_counter()
        try:
            passes()
            wait_for(self._device)
            return time.perf_counter() - started
        finally:
            self._model.zero_grad(set_to_none=True)
            for buffer, before in buffers:
                buffer.copy_(before)

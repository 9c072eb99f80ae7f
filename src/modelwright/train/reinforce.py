"""The loop where data comes from acting: play, learn from it, keep the weights that play best.

The same budget, schedule, checkpoints, curves and guards as train/loop.py; only where a gradient
comes from differs, which is an algorithm's business (train/dqn.py, train/ppo.py).
Resume is exact: a running episode is a seed and the actions so far, and is played again up to
there; draws are functions of the seed and the step.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.data.environment import TRAIN_SEEDS, Environments
from modelwright.data.rows import Rows
from modelwright.measure.quality import Quality
from modelwright.train.keep import copied
from modelwright.train.loop import Trainer
from modelwright.train.precision import autocast
from modelwright.train.settings import Budget, Settings

LOOKS, LOOK_EPISODES = 24, 50  # how often valid is looked at in the budget, and how much of it
LATEST = 20  # episodes of training whose mean return the curves show


@dataclass(frozen=True)
class Taken:
    """What one action in each of the running episodes led to.

    before, after: (players, length, features), what was seen before and after it; the latter of
        the same episode, even if it is over
    ended: the episode came to its end; over: to its end or its limit of steps
    """

    before: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    after: np.ndarray
    ended: np.ndarray
    over: np.ndarray


class Players:
    """Running episodes, each followed by a new one when it is over.

    Args:
        scale: rewards are divided by it.
    """

    def __init__(self, inputs: dict[str, Any], number: int, scale: float, seed: int) -> None:
        self.worlds = Environments(str(inputs["env_id"]), number, int(inputs["length"]))
        self.scale, self.seed = scale, seed
        self.turns, self.latest = 0, list[float]()
        self._episodes, self._actions = [0] * number, [list[int]() for _ in range(number)]
        self._returns = np.zeros(number)
        self.worlds.start([self._seed(place) for place in range(number)])

    def __len__(self) -> int:
        return len(self.worlds)

    @property
    def seen(self) -> np.ndarray:
        """What each sees now, a copy; float32 (players, length, features)."""
        return self.worlds.observations.copy()

    def act(self, actions: np.ndarray) -> Taken:
        """Take an action in each episode."""
        before = self.seen
        rewards, ended, cut = self.worlds.step(actions)
        after, over = self.seen, ended | cut
        self.turns += 1
        self._returns += rewards
        for place, action in enumerate(actions.tolist()):
            self._actions[place].append(action)
        for place in np.flatnonzero(over).tolist():
            self.latest = [*self.latest, float(self._returns[place])][-LATEST:]
            self._episodes[place] += 1
            self._actions[place], self._returns[place] = [], 0.0
        self.worlds.start([self._seed(place) if new else None for place, new in enumerate(over)])
        scaled = (rewards / self.scale).astype(np.float32)
        return Taken(before, actions.astype(np.int64), scaled, after, ended, over)

    def _seed(self, place: int) -> int:
        """What the running episode of a player begins from."""
        digest = hashlib.sha256(f"{self.seed}/{place}/{self._episodes[place]}".encode()).digest()
        return TRAIN_SEEDS + int.from_bytes(digest[:4])

    def position(self) -> dict[str, Any]:
        """Where every episode is, as plain JSON."""
        return {
            "turns": self.turns, "latest": self.latest, "episodes": list(self._episodes),
            "actions": [list(one) for one in self._actions],
        }  # fmt: skip

    def take_up(self, position: dict[str, Any]) -> None:
        """Play every episode again up to there.

        All end together, as they do now: one with fewer actions waits, which is to begin anew
        before each turn until its own first one.
        """
        self.turns, self.latest = int(position["turns"]), list(position["latest"])
        self._episodes = [int(one) for one in position["episodes"]]
        played = [[int(one) for one in actions] for actions in position["actions"]]
        seeds = [self._seed(place) for place in range(len(self))]
        for left in range(max(map(len, played)), -1, -1):
            waits = np.array([len(one) <= left for one in played])
            self.worlds.start([seeds[at] if wait else None for at, wait in enumerate(waits)])
            self._returns[waits] = 0
            if left:
                turn = [one[-left] if len(one) >= left else 0 for one in played]
                self._returns += self.worlds.step(np.array(turn))[0]
        self._actions = played


class Algorithm(Protocol):
    """How experience becomes a loss; its state is what `position` and `tensors` say.

    cycle: steps from one turn of playing to the next.
    """

    players: Players
    cycle: int

    def loss(self, model: nn.Module, averaged: nn.Module, step: int, progress: float) -> Tensor:
        """Act where that is due, and give the loss of this step's batch.

        torch's random state is a function of the seed and the step when this is called.
        """
        ...

    def tensors(self) -> dict[str, Tensor]: ...

    def take_up(self, tensors: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Way:
    """One algorithm.

    make: (players, settings, number of actions) -> its state.
    players: episodes that run side by side; averages: whether it needs averaged weights.
    kept_bytes: shape of an observation -> the most that earlier turns take, where it keeps many.
    """

    make: Callable[[Players, Settings, int], Algorithm]
    players: int
    averages: bool = False
    kept_bytes: Callable[[Sequence[int]], int] = lambda shape: 0


def draw(seed: int, *purpose: int) -> np.random.Generator:
    """The generator of one purpose."""
    return np.random.default_rng((seed, *purpose))


def scores_of(model: nn.Module, seen: np.ndarray) -> Tensor:
    """(batch, actions) float32 of observations (batch, length, features)."""
    return torch.as_tensor(model(torch.from_numpy(seen)).float())


class Learner(Trainer):
    """A Trainer that learns from acting.

    Valid is looked at often, and the weights that played best there are what comes out: a policy
    that was good may be lost again. `train.stop_at` ends training early.
    """

    evaluations, curve_rows = LOOKS, LOOK_EPISODES

    def __init__(self, way: Way, *given: Any, **more: Any) -> None:
        self._way = way
        super().__init__(*given, **more)

    def _begin(self, train: Rows) -> None:
        settings, outputs, way = self.settings, self.spec.outputs, self._way
        if way.averages and not settings.ema:
            raise ConfigError(
                "train.ema is 0, and this algorithm learns towards what the averaged weights say",
                expected="a share below one, such as 0.99",
                repair="leave train.ema out, or choose train.algorithm: ppo",
            )
        players = Players(self.spec.inputs, way.players, float(outputs["scale"]), settings.seed)
        self.algorithm = way.make(players, settings, int(outputs["num_classes"]))
        self.cycle = self.algorithm.cycle
        self._rows = len(train)
        self.solved = False

    @property
    def steps_per_epoch(self) -> int:
        return -(-self._rows // self.settings.batch_size)

    def examples_before(self, step: int) -> int:
        return step * self.settings.batch_size

    def _passes(self, progress: float) -> Callable[[], Tensor]:
        def passes() -> Tensor:
            with autocast(self.settings.precision):
                value = self.algorithm.loss(self.model, self.averaged, self.step, progress)
            value.backward()  # type: ignore[no-untyped-call]
            return value.detach().double()

        return passes

    def run(self, until: Budget | None = None, *, title: str = "train") -> None:
        """As of a Trainer, with a first look before the first step."""
        if until is None and not self.step and not self.resumed:
            self._consider(self.evaluate(self.curve_rows, thorough=False))
            self.elapsed = self.looked_s
        super().run(until, title=title)

    def _consider(self, found: Quality) -> None:
        super()._consider(found)
        goal = self.settings.stop_at
        if goal is not None and found.value >= goal:  # now on all of valid, with its interval
            self.solved = self.evaluate().low >= goal

    def _better(self, value: float, than: float | None) -> bool:
        return than is None or value >= than  # of those that reach the limit, the last

    def _chosen(self, found: Quality) -> Quality:
        """Of the last weights and those that looked best, what is no worse on all of valid."""
        if self._best:
            last = copied(self.result)
            self.result.load_state_dict(self._best)
            best = self.evaluate()
            self.went_back = best.value > found.value
            if self.went_back:
                return best
            self.result.load_state_dict(last)
        return found

    def _spent(self, limit: Budget, first_step: int, first_elapsed: float) -> bool:
        return self.solved or super()._spent(limit, first_step, first_elapsed)

    def _observed(self) -> dict[str, float]:
        players = self.algorithm.players
        found = super()._observed() | {"actions": float(players.turns * len(players))}
        return found | ({"return": float(np.mean(players.latest))} if players.latest else {})

    def _position(self) -> dict[str, Any]:
        own = {"players": self.algorithm.players.position(), "solved": self.solved}
        return super()._position() | own

    def _tensors(self) -> dict[str, Tensor]:
        return self.algorithm.tensors()

    def _take_up(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super()._take_up(position, {})  # no guard of an acting task keeps tensors
        self.solved = bool(position["solved"])
        self.algorithm.players.take_up(position["players"])
        self.algorithm.take_up(tensors)

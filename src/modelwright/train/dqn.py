"""DQN: learn what each action is worth from what was played before.

Double, dueling, three steps at a time, from a replay buffer; the averaged weights are the target.
Sources: Mnih et al. 2015, Nature 518 (DQN); van Hasselt et al. 2015, arXiv:1509.06461 (double);
Wang et al. 2015, arXiv:1511.06581 (dueling, models/heads.py); Hessel et al. 2017, arXiv:1710.02298
(several steps); Lillicrap et al. 2015, arXiv:1509.02971 (slowly moving target).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.tasks.control import loss
from modelwright.train.reinforce import Players, draw, scores_of
from modelwright.train.settings import Settings

CAPACITY = 50_000  # transitions that are kept
FIRST = 1_000  # transitions of random play before the first step
STEPS = 3  # rewards that are summed before the rest is estimated
RANDOM_FIRST, RANDOM_LAST, RANDOM_UNTIL = 1.0, 0.02, 0.2  # share of random actions, of the budget


def kept_bytes(shape: Sequence[int]) -> int:
    """What a full replay buffer takes, of observations of that shape.

    >>> kept_bytes((1, 4))
    2300000
    """
    return CAPACITY * sum(column.nbytes for column in _empty(1, 1, shape).values())


def _empty(turns: int, players: int, shape: Sequence[int]) -> dict[str, np.ndarray]:
    return {
        "before": np.zeros((turns, players, *shape), np.float32),
        "after": np.zeros((turns, players, *shape), np.float32),
        "actions": np.zeros((turns, players), np.int64),
        "rewards": np.zeros((turns, players), np.float32),
        "ended": np.zeros((turns, players), np.bool_),
        "over": np.zeros((turns, players), np.bool_),
    }


class DQN:
    """The replay buffer, and the loss of a batch from it.

    The buffer holds what each player saw and did, turn by turn: (turns, players, …), a ring.
    """

    cycle = 1

    def __init__(self, players: Players, settings: Settings, num_actions: int) -> None:
        self.players, self.settings, self.num_actions = players, settings, num_actions
        number, turns = len(players), CAPACITY // len(players)
        shape = players.worlds.observations.shape[1:]
        self._ring = _empty(turns, number, shape)

    def loss(self, model: nn.Module, averaged: nn.Module, step: int, progress: float) -> Tensor:
        """One turn of every player, then the loss of a batch of earlier ones."""
        players = self.players
        chance = draw(self.settings.seed, step)
        while players.turns * len(players) < FIRST:
            self._keep(chance.integers(self.num_actions, size=len(players)))
        share = min(progress / RANDOM_UNTIL, 1.0)
        share = RANDOM_FIRST + share * (RANDOM_LAST - RANDOM_FIRST)
        with torch.no_grad():
            actions = scores_of(model, players.seen).argmax(1).numpy()
        random = chance.random(len(players)) < share
        self._keep(np.where(random, chance.integers(self.num_actions, size=len(players)), actions))
        return self._loss(model, averaged, chance)

    def _keep(self, actions: np.ndarray) -> None:
        place = self.players.turns % self._turns
        taken = self.players.act(actions)
        for name, column in self._ring.items():
            column[place] = getattr(taken, name)

    def _loss(self, model: nn.Module, averaged: nn.Module, chance: np.random.Generator) -> Tensor:
        size, discount = self.settings.batch_size, self.settings.discount
        oldest = max(0, self.players.turns - self._turns)
        turns = chance.integers(oldest, self.players.turns - STEPS + 1, size=size)
        who = chance.integers(len(self.players), size=size)
        ring = self._ring
        first = (turns % self._turns, who)
        summed, going = np.zeros(size, np.float32), np.ones(size, np.bool_)
        last, factor = turns.copy(), np.ones(size, np.float32)
        for ahead in range(STEPS):
            at = ((turns + ahead) % self._turns, who)
            summed += np.where(going, discount**ahead * ring["rewards"][at], 0)
            last = np.where(going, turns + ahead, last)
            factor = np.where(going, np.float32(discount ** (ahead + 1)), factor)
            going &= ~ring["over"][at]
        at = (last % self._turns, who)
        with torch.no_grad():
            after = ring["after"][at]
            best = scores_of(model, after).argmax(1, keepdim=True)
            worth = scores_of(averaged, after).gather(1, best)[:, 0]
            left = torch.from_numpy(factor * ~ring["ended"][at])
            wanted = torch.from_numpy(summed) + left * worth
        scores = scores_of(model, ring["before"][first])
        actions = torch.from_numpy(ring["actions"][first])
        return loss(scores, torch.stack([actions.float(), wanted], dim=1))

    @property
    def _turns(self) -> int:
        return len(self._ring["over"])

    def tensors(self) -> dict[str, Tensor]:
        filled = min(self.players.turns, self._turns)
        return {name: torch.from_numpy(one[:filled]) for name, one in self._ring.items()}

    def take_up(self, tensors: dict[str, Tensor]) -> None:
        for name, one in tensors.items():
            self._ring[name][: len(one)] = one.numpy()

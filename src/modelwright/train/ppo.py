"""PPO: prefer actions that turned out better than expected, in small steps.

Generalised advantages, a clipped ratio, several passes over what was just played. The worth of a
situation is the mean of the head's scores, the preferences are their differences.
Sources: Schulman et al. 2017, arXiv:1707.06347; Schulman et al. 2015, arXiv:1506.02438
(advantages); Huang et al. 2022, "The 37 implementation details of PPO", ICLR blog.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.train.reinforce import Players, draw, scores_of
from modelwright.train.settings import Settings

TURNS = 128  # that are played before they are learned from
PASSES = 4  # over them
LAMBDA = 0.95  # how far advantages look beyond what the worth says
CLIP = 0.2  # how far a preference may move from what was played
WORTH, ENTROPY = 0.5, 0.01  # weights in the loss


class PPO:
    """What was played last, and the loss of a part of it.

    Raises: ConfigError for a batch that what is played can't be cut into.
    """

    def __init__(self, players: Players, settings: Settings, num_actions: int) -> None:
        self.players, self.settings = players, settings
        self._size = TURNS * len(players)
        if self._size % settings.batch_size:
            raise ConfigError(
                f"train.batch_size: {settings.batch_size} does not divide the {self._size} actions "
                "that ppo takes before it learns from them",
                expected=f"a divisor of {self._size}, such as 128",
                repair="set train.batch_size, or leave it out",
            )
        self._parts = self._size // settings.batch_size
        self.cycle = PASSES * self._parts
        self._played: dict[str, Tensor] = {}

    def loss(self, model: nn.Module, averaged: nn.Module, step: int, progress: float) -> Tensor:
        """The clipped loss of one batch of what was played; play first where all was used."""
        round_, place = divmod(step, self.cycle)
        if not place:
            self._play(model)
        pass_, part = divmod(place, self._parts)
        order = draw(self.settings.seed, round_, pass_).permutation(self._size)
        chosen = torch.from_numpy(np.array_split(order, self._parts)[part])
        own = {name: value[chosen] for name, value in self._played.items()}
        scores = torch.as_tensor(model(own["seen"]).float())
        worth, logs = scores.mean(1), scores.log_softmax(1)
        ratio = (logs.gather(1, own["actions"][:, None])[:, 0] - own["logs"]).exp()
        gain = own["advantages"]
        gain = (gain - gain.mean()) / (gain.std(correction=0) + 1e-8)
        policy = -torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
        error = (worth - own["returns"]).square().mean()
        entropy = -(logs.exp() * logs).sum(1).mean()
        return policy + WORTH * error - ENTROPY * entropy

    @torch.no_grad()
    def _play(self, model: nn.Module) -> None:
        """TURNS turns of every player, with their advantages."""
        players, discount = self.players, self.settings.discount
        turns: list[tuple[Any, Tensor, Tensor, Tensor]] = []
        for _ in range(TURNS):
            scores = scores_of(model, players.seen)
            logs = scores.log_softmax(1)
            actions = torch.multinomial(logs.exp(), 1)
            taken = players.act(actions[:, 0].numpy())
            turns.append((taken, scores.mean(1), logs.gather(1, actions)[:, 0], actions[:, 0]))
        after = np.concatenate([one[0].after for one in turns])
        next_worth = scores_of(model, after).mean(1).reshape(TURNS, -1)
        worth = torch.stack([one[1] for one in turns])
        advantages = torch.zeros_like(worth)
        later = torch.zeros_like(worth[0])
        for turn in reversed(range(TURNS)):
            taken = turns[turn][0]
            ended, over = (torch.from_numpy(~one).float() for one in (taken.ended, taken.over))
            step = torch.from_numpy(taken.rewards) + discount * next_worth[turn] * ended
            later = step - worth[turn] + discount * LAMBDA * over * later
            advantages[turn] = later
        self._played = {
            "seen": torch.from_numpy(np.concatenate([one[0].before for one in turns])),
            "actions": torch.cat([one[3] for one in turns]),
            "logs": torch.cat([one[2] for one in turns]),
            "advantages": advantages.flatten(),
            "returns": (advantages + worth).flatten(),
        }

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._played)

    def take_up(self, tensors: dict[str, Tensor]) -> None:
        self._played = tensors

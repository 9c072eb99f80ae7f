"""DQN and PPO against their papers, number by number, over made-up play."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modelwright.core import recipe
from modelwright.models.catalog import ModelSpec
from modelwright.train import dqn, ppo
from modelwright.train.reinforce import Taken
from modelwright.train.settings import Budget, fill_in

TURNS, PLAYERS, DISCOUNT = 7, 3, 0.9
INPUTS = {"kind": "observation", "env_id": "made", "length": 1, "features": 2,
          "channels": ["a", "b"], "mean": [0.0, 0.0], "std": [1.0, 1.0]}  # fmt: skip


class Play:
    """Episodes whose observations, rewards and ends are drawn once."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.turns, self.worlds = 0, SimpleNamespace(observations=np.zeros((PLAYERS, 1, 2)))
        self.made = draw.normal(size=(TURNS + 1, PLAYERS, 1, 2)).astype(np.float32)
        self.after = draw.normal(size=(TURNS, PLAYERS, 1, 2)).astype(np.float32)
        self.rewards = draw.normal(size=(TURNS, PLAYERS)).astype(np.float32)
        self.over = draw.random((TURNS, PLAYERS)) < 0.3
        self.ended = self.over & (draw.random((TURNS, PLAYERS)) < 0.5)

    def __len__(self) -> int:
        return PLAYERS

    @property
    def seen(self) -> np.ndarray:
        return self.made[self.turns]

    def act(self, actions: np.ndarray) -> Taken:
        turn = self.turns
        self.turns += 1
        return Taken(
            self.made[turn], actions, self.rewards[turn], self.after[turn], self.ended[turn],
            self.over[turn],
        )  # fmt: skip


class Scores(torch.nn.Module):
    """Scores of two actions: a product with what is seen."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(weights))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations[:, -1] @ self.weights


def settings_of(batch_size: int):
    spec = ModelSpec("cnn", "tiny", INPUTS, {"kind": "actions", "num_classes": 2, "scale": 1.0})
    filled = fill_in(recipe.Train(batch_size=batch_size), spec, "32-true", Budget(steps=10))
    return dataclasses.replace(filled, discount=DISCOUNT)


@pytest.fixture
def played(monkeypatch):
    """A PPO that has played, its play and its model."""
    monkeypatch.setattr(ppo, "TURNS", TURNS)
    torch.manual_seed(0)
    play, model = Play(), Scores([[0.5, -0.3], [0.2, 0.8]])
    learner = ppo.PPO(play, settings_of(TURNS * PLAYERS), 2)
    learner._play(model)
    return learner, play, model


def test_advantages_are_the_papers_sum(played):
    """The sum over later turns of (discount · lambda)^k times the surprise there, up to the end of
    the episode: arXiv:1506.02438, equation 16; what is cut short still has a worth behind it."""
    learner, play, model = played
    with torch.no_grad():
        worth = [model(torch.from_numpy(one)).mean(1) for one in play.made[:TURNS]]
        behind = [model(torch.from_numpy(one)).mean(1) for one in play.after]
    wanted = torch.zeros(TURNS, PLAYERS)
    for turn in range(TURNS):
        for player in range(PLAYERS):
            for ahead in range(turn, TURNS):
                rest = 0.0 if play.ended[ahead, player] else DISCOUNT * behind[ahead][player]
                surprise = play.rewards[ahead, player] + rest - worth[ahead][player]
                wanted[turn, player] += (DISCOUNT * ppo.LAMBDA) ** (ahead - turn) * surprise
                if play.over[ahead, player]:
                    break

    assert play.ended.any() and (play.over & ~play.ended).any()
    torch.testing.assert_close(wanted.flatten(), learner._played["advantages"])
    torch.testing.assert_close(
        wanted.flatten() + torch.cat(worth), learner._played["returns"], rtol=1e-5, atol=1e-5
    )


def test_the_clipped_loss_is_the_papers(played):
    """Row by row min(r A, clip(r) A), the squared error of the worth, the entropy:
    arXiv:1707.06347, equations 7 and 9. The weights have moved, so that some ratios are cut."""
    learner, _, model = played
    with torch.no_grad():
        model.weights += torch.tensor([[0.9, -0.6], [-0.7, 0.5]])
        found = learner.loss(model, model, 1, 0.1)  # the second pass over what was played
    own = learner._played
    gains = own["advantages"].double()
    gains = ((gains - gains.mean()) / gains.std(correction=0)).tolist()
    total, cut = 0.0, 0
    for row, gain in enumerate(gains):
        scores = model(own["seen"][row : row + 1])[0].tolist()
        whole = math.log(sum(math.exp(one) for one in scores))
        logs = [one - whole for one in scores]
        ratio = math.exp(logs[int(own["actions"][row])] - float(own["logs"][row]))
        held = min(max(ratio, 1 - ppo.CLIP), 1 + ppo.CLIP)
        cut += min(ratio * gain, held * gain) != ratio * gain
        total -= min(ratio * gain, held * gain)
        total += ppo.WORTH * (sum(scores) / 2 - float(own["returns"][row])) ** 2
        total += ppo.ENTROPY * sum(math.exp(one) * one for one in logs)

    assert cut > 0
    assert pytest.approx(total / len(gains), rel=1e-4) == float(found)


def test_the_model_chooses_and_the_averaged_one_judges(monkeypatch):
    """Double DQN: the action that the model prefers afterwards is worth what the averaged weights
    say of it, arXiv:1509.06461, equation 4; not the best that either of them knows."""
    play = Play()
    learner = dqn.DQN(play, settings_of(256), 2)
    for turn in range(TURNS):
        learner._keep(np.full(PLAYERS, turn % 2))
    model, averaged = Scores([[1.0, -1.0], [0.0, 0.0]]), Scores([[0.0, 0.0], [2.0, -3.0]])
    seen = {}
    monkeypatch.setattr(dqn, "loss", lambda scores, told: seen.update(told=told) or scores.sum())
    learner._loss(model, averaged, np.random.default_rng(3))
    chance = np.random.default_rng(3)
    turns = chance.integers(0, TURNS - dqn.STEPS + 1, size=256)
    who = chance.integers(PLAYERS, size=256)
    apart = 0
    for turn, player, target in zip(turns, who, seen["told"][:, 1].tolist(), strict=True):
        wanted, factor = 0.0, 1.0
        for at in range(turn, turn + dqn.STEPS):
            wanted += factor * play.rewards[at, player]
            factor *= DISCOUNT
            if play.over[at, player]:
                break
        if not play.ended[at, player]:
            after = torch.from_numpy(play.after[at, player][None])
            judged, chosen = averaged(after)[0].detach(), model(after)[0].argmax()
            wanted += factor * float(judged[chosen])
            apart += int(chosen != judged.argmax())

        assert pytest.approx(wanted, rel=1e-4, abs=1e-5) == target
    assert apart > 0

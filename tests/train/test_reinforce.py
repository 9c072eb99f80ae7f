"""Learning from acting: exact resume, the weights that played best, and that it learns at all."""

import dataclasses
import json
import random

import numpy as np
import pytest
import torch

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, Exit, TrainingFailed
from modelwright.data import catalog as data_catalog
from modelwright.measure.quality import evaluate
from modelwright.models.catalog import ModelSpec, fresh_model
from modelwright.runtime.torch_session import TorchSession
from modelwright.tasks.catalog import TASKS
from modelwright.train import dqn
from modelwright.train.catalog import ALGORITHMS, make_trainer
from modelwright.train.reinforce import Players
from modelwright.train.settings import Budget, fill_in

from .conftest import differing, weights_of

gymnasium = pytest.importorskip("gymnasium")


@pytest.fixture(scope="module")
def data():
    section = recipe.Data(source="gymnasium:CartPole-v1", episodes=20, window=2)
    return data_catalog.load(section, "observation", "actions")


@pytest.fixture
def learner_of(data, tmp_path):
    """A learner whose checkpoints lie in the folder of that name."""

    def make(name="learner", family="cnn", size="tiny", budget=None, **keys):
        spec = ModelSpec(family, size, data.inputs, data.outputs)
        budget = budget or Budget(steps=200)
        section = recipe.Train.model_validate({"batch_size": 16, **keys})
        settings = fill_in(section, spec, "32-true", budget)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return make_trainer(
            fresh_model(spec, settings.seed), spec, TASKS["control"], data.parts["train"],
            data.parts["valid"], settings, budget, folder, metrics=folder / "metrics.jsonl",
        )  # fmt: skip

    return make


def test_a_replay_buffer_takes_what_the_plan_is_told(learner_of, data):
    """To the byte, once it is full."""
    made = learner_of(algorithm="dqn").algorithm
    made.players.turns = dqn.CAPACITY  # as if it were
    shape = (data.inputs["length"], data.inputs["features"])

    assert dqn.kept_bytes(shape) == sum(one.nbytes for one in made.tensors().values())


@pytest.mark.parametrize(
    ("algorithm", "family"),
    [("dqn", "cnn"), ("dqn", "rnn"), ("dqn", "transformer"), ("ppo", "cnn"),
     *(pytest.param("ppo", family, marks=pytest.mark.slow) for family in ("rnn", "transformer"))],
)  # fmt: skip
def test_resume_is_exact(learner_of, family, algorithm, monkeypatch):
    """Stopped at random steps, in the middle of episodes and of passes over them, losses, weights,
    replay and running episodes are bitwise those of a training that ran through."""
    monkeypatch.setattr(dqn, "CAPACITY", 1200)  # so that the ring is written over
    number = 60 if algorithm == "dqn" else 530
    keys = {"family": family, "algorithm": algorithm, "batch_size": 16, "ema": 0.9}
    straight = learner_of("straight", **keys)
    wanted = [straight.train_step() for _ in range(number)]
    stops = sorted(random.Random(f"{family}{algorithm}").sample(range(1, number), 2))
    losses = []
    for until in (*stops, number):
        learner = learner_of("stopped", **keys)
        torch.manual_seed(until)  # what another process drew does not matter
        np.random.seed(until)
        losses += [learner.train_step() for _ in range(until - learner.step)]
        learner.save()

    assert wanted == losses
    assert [] == differing(weights_of(straight), weights_of(learner))
    assert straight.algorithm.players.position() == learner.algorithm.players.position()
    for name, value in straight.algorithm.tensors().items():
        assert torch.equal(value, learner.algorithm.tensors()[name]), name


@pytest.mark.parametrize("algorithm", ["dqn", pytest.param("ppo", marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_weights(learner_of, algorithm, monkeypatch):
    """Killed between two looks at valid, a run goes on to the same best weights and figures."""
    keys = {"algorithm": algorithm, "budget": Budget(steps=60), "checkpoint_steps": 1}
    straight = learner_of("straight", **keys)
    straight.run()
    found = straight.finish()
    first = learner_of("killed", **keys)
    step = first.train_step

    def killed():
        if first.step == 33:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(first, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = learner_of("killed", **keys)
    second.run()

    assert second.resumed and 33 == first.step
    assert found == second.finish()
    assert straight.best_value == second.best_value
    assert [] == differing(weights_of(straight), weights_of(second))


def test_the_players_have_episodes_of_their_own(data):
    """No two players see the same, and another seed gives others."""
    first, again, other = (Players(data.inputs, 4, 1.0, seed) for seed in (0, 0, 1))

    assert 4 == len({one.tobytes() for one in first.seen})
    assert np.array_equal(first.seen, again.seen)
    assert not np.array_equal(first.seen, other.seen)


def test_what_follows_an_episode_is_not_its_next_observation(data):
    """At an episode's end `after` is its own last observation, and a new one begins."""
    players = Players(data.inputs, 1, 2.0, 0)
    taken = players.act(np.zeros(1, np.int64))
    while not taken.over[0]:
        assert np.array_equal(taken.after, players.seen)
        taken = players.act(np.zeros(1, np.int64))

    assert taken.ended[0]
    assert not np.array_equal(taken.after, players.seen)
    assert (players.seen[0, 0] == players.seen[0, 1]).all()  # the first observation fills both
    assert 0.5 == taken.rewards[0]
    assert 1 == len(players.latest)


def test_a_limit_of_steps_is_no_end(data):
    """An episode that is cut short is over but not ended, and what it led to is its own last
    observation, so that the worth behind it still counts."""
    worlds = {**data.inputs, "env_id": "MountainCar-v0", "length": 1}
    players, alone = Players(worlds, 2, 1.0, 0), gymnasium.make("MountainCar-v0")
    alone.reset(seed=players._seed(0))
    for _ in range(199):
        assert not players.act(np.ones(2, np.int64)).over.any()
        alone.step(1)
    taken = players.act(np.ones(2, np.int64))

    assert taken.over.all() and not taken.ended.any()
    assert np.array_equal(alone.step(1)[0], taken.after[0, -1])
    assert [-200.0, -200.0] == players.latest


def test_episodes_of_unlike_lengths_are_taken_up(data):
    """Played again, each running episode stands where it stood: observations, returns, what
    follows; one that has just begun too, and one that was over while others waited."""
    players, draw = Players(data.inputs, 4, 1.0, 3), np.random.default_rng(0)
    lengths = set()
    for _ in range(40):
        over = players.act(draw.integers(2, size=4)).over
        if over.any():
            position = players.position()
            again = Players(data.inputs, 4, 1.0, 3)
            again.take_up(position)
            lengths.add(tuple(map(len, position["actions"])))

            assert position == again.position()
            assert np.array_equal(players.seen, again.seen)
            assert np.array_equal(players._returns, again._returns)
    actions = np.ones(4, np.int64)
    again.take_up(players.position())
    for _ in range(20):
        ours, theirs = players.act(actions), again.act(actions)
        assert np.array_equal(ours.after, theirs.after) and np.array_equal(ours.over, theirs.over)
    assert len(lengths) > 3 and all(0 in one and max(one) > 0 for one in lengths)


def test_the_best_weights_come_out(learner_of, monkeypatch):
    """Weights that played best on valid are those that are written, whatever came after them."""
    learner = learner_of(algorithm="ppo")
    learner.train_step()
    kept = {name: value.clone() for name, value in learner.averaged.state_dict().items()}
    bias, real = learner.averaged.head.linear.bias, learner.evaluate

    def judged(rows=None, *, thorough=True):
        found = real(rows, thorough=thorough)
        value = 10.0 if bias[1] == 9 else 100.0
        return dataclasses.replace(found, values={**found.values, "mean_return": value})

    monkeypatch.setattr(learner, "evaluate", judged)
    learner._consider(learner.evaluate(5))
    with torch.no_grad():
        learner.steps.number += 1
        bias[1] = 9.0
    found = learner.finish()

    assert learner.went_back and 100 == found["valid_mean_return"]
    assert all(torch.equal(kept[name], one) for name, one in learner.averaged.state_dict().items())


def test_training_ends_when_valid_is_surely_reached(learner_of):
    """train.stop_at ends it before the budget; a goal that nothing reaches does not."""
    early = learner_of("early", algorithm="ppo", stop_at=1.0)
    early.run()
    late = learner_of("late", algorithm="ppo", stop_at=10_000.0, budget=Budget(steps=30))
    late.run()

    assert early.solved and early.step < 200
    assert not late.solved and 30 == late.step


def test_the_curves_show_returns(learner_of, tmp_path):
    """Each look at valid is a line, and lines of training have the returns of late episodes."""
    learner = learner_of(algorithm="dqn", budget=Budget(steps=30))
    learner.run()
    lines = [json.loads(one) for one in (tmp_path / "learner/metrics.jsonl").open()]

    assert 0 == lines[0]["step"] and "valid_mean_return" in lines[0]
    assert any("return" in one and "loss" in one for one in lines)


def test_dqn_needs_averaged_weights(learner_of):
    """With train.ema 0 there is nothing to learn towards, and that is said."""
    with pytest.raises(ConfigError, match=r"train\.ema is 0") as caught:
        learner_of(algorithm="dqn", ema=0)

    assert Exit.BAD_INPUT == caught.value.exit_code
    assert learner_of(algorithm="ppo", ema=0).train_step()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_loss_that_is_no_number_stops(learner_of, algorithm):
    """NaN in the weights stops the training, with the step and what to do."""
    learner = learner_of(algorithm=algorithm)
    learner.train_step()
    with torch.no_grad():
        learner.averaged.head.linear.bias.fill_(float("nan"))
        learner.model.head.linear.weight.fill_(float("nan"))
    with pytest.raises((TrainingFailed, RuntimeError), match=r"nan|inf"):
        for _ in range(600):
            learner.train_step()


def test_n_step_targets_are_the_sums_of_what_was_played(data):
    """Of a made-up play the targets are what a plain loop says, at ends and limits too."""
    spec = ModelSpec("cnn", "tiny", data.inputs, data.outputs)
    settings = dataclasses.replace(
        fill_in(recipe.Train(batch_size=512), spec, "32-true", Budget(steps=10)), discount=0.9
    )
    one = dqn.DQN(Players(data.inputs, 2, 1.0, 0), settings, 2)
    draw = np.random.default_rng(0)
    for _ in range(60):
        one._keep(draw.integers(2, size=2))
    seen = {}

    class Model(torch.nn.Module):
        def forward(self, observations):
            worth = observations[:, -1, 0] + 1
            return torch.stack([worth, worth - 1], 1)

    real, dqn.loss = dqn.loss, lambda scores, targets: seen.update(targets=targets) or scores.sum()
    try:
        one._loss(Model(), Model(), np.random.default_rng(3))
    finally:
        dqn.loss = real
    chance = np.random.default_rng(3)
    turns, who = chance.integers(0, 58, size=512), chance.integers(2, size=512)
    ring = one._ring
    for turn, player, target in zip(turns, who, seen["targets"][:, 1].tolist(), strict=True):
        wanted, factor = 0.0, 1.0
        for at in range(turn, turn + dqn.STEPS):
            wanted += factor * ring["rewards"][at, player]
            factor *= 0.9
            if ring["over"][at, player]:
                break
        if not ring["ended"][at, player]:
            wanted += factor * (ring["after"][at, player, -1, 0] + 1)
        assert pytest.approx(wanted, rel=1e-5) == target
    assert ring["ended"].any()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("family", ["cnn", "rnn", "transformer"])
def test_it_learns(learner_of, data, family, algorithm):
    """A tiny model of each family learns by each algorithm to hold the pole on unseen episodes."""
    learner = learner_of(
        family=family, algorithm=algorithm, batch_size=64, stop_at=150.0, budget=Budget(steps=3000)
    )
    learner.run()
    learner.finish()
    session = TorchSession(learner.averaged, learner.spec, 1)

    assert evaluate(session, data.parts["test"], TASKS["control"]).value > 120


def test_a_batch_that_what_is_played_has_no_parts_of_is_refused(learner_of):
    """2,048 actions are cut into equal batches."""
    with pytest.raises(ConfigError, match="100 does not divide the 2048 actions"):
        learner_of(algorithm="ppo", batch_size=100)


def test_the_first_look_takes_its_time_from_the_budget(learner_of, monkeypatch):
    """What is reckoned as spent holds it, as it does those that follow."""
    learner = learner_of(algorithm="ppo", budget=Budget(steps=1))
    look = learner.evaluate

    def slow(*given, **how):
        learner.looked_s += 1000  # seconds, that no step takes
        return look(*given, **how)

    monkeypatch.setattr(learner, "evaluate", slow)
    learner.run()

    assert 1000 < learner.looked_s < learner.elapsed < 2000

"""Environments: by id alone, several side by side, the same episode from the same seed."""

import json

import numpy as np
import pytest

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError, Exit, Unsupported
from modelwright.data import catalog, environment
from modelwright.data.environment import TRAIN_SEEDS, Environments, create, episode

gymnasium = pytest.importorskip("gymnasium")
CARTPOLE = "gymnasium:CartPole-v1"


def loaded(source=CARTPOLE, **keys):
    section = recipe.Data(source=source, episodes=keys.pop("episodes", 8), **keys)
    return catalog.load(section, "observation", "actions")


def test_parts_are_episodes_that_share_no_seed():
    """Valid and test are as many episodes as asked for; no seed is in two parts, nor trained on."""
    data = loaded()
    seeds = {part: set(rows.targets[:, 0].tolist()) for part, rows in data.parts.items()}

    assert 8 == len(data.parts["valid"]) == len(data.parts["test"])
    assert not seeds["valid"] & seeds["test"] and not seeds["train"] & (
        seeds["valid"] | seeds["test"]
    )
    assert max(map(max, seeds.values())) < TRAIN_SEEDS
    assert ("CartPole-v1", min(seeds["test"])) == episode(data.parts["test"].origins[0])


def test_another_split_has_other_episodes():
    """data.split_seed gives other episodes; the same one gives the same rows to the last bit."""
    first, again, other = loaded(), loaded(), loaded(split_seed=1)

    assert first.digest == again.digest != other.digest
    assert not set(first.parts["test"].origins) & set(other.parts["test"].origins)


def test_what_is_learned_comes_from_bounds_and_random_play():
    """A number with bounds is spread by them, another by what random play shows of it."""
    data = loaded()
    seen = data.parts["train"].inputs["observation"][:, -1]

    assert [0, 0] == [data.inputs["mean"][place] for place in (0, 2)]
    assert pytest.approx([4.8, 0.4189], abs=1e-3) == [data.inputs["std"][p] for p in (0, 2)]
    assert pytest.approx(seen.std(0)[1], rel=1e-3) == data.inputs["std"][1]
    assert 2 == data.outputs["num_classes"] and 5 < data.outputs["scale"] < 30
    assert ["push left", "push right"] == data.labels


def test_a_window_holds_the_last_observations():
    """The first observation fills the window; each further one goes behind the others."""
    worlds = Environments("CartPole-v1", 1, 3)
    worlds.start([5])
    first = worlds.observations[0, -1].copy()
    assert (worlds.observations[0] == first).all()
    worlds.step(np.array([1]))

    assert (worlds.observations[0, :2] == first).all()
    assert (worlds.observations[0, 2] != first).any()


def test_an_episode_is_a_function_of_seed_and_actions():
    """Played again, the same actions lead to the very same numbers, whatever was played before."""
    found = []
    worlds = Environments("Acrobot-v1", 1, 1)
    for _ in range(2):
        worlds.start([7])
        steps = [worlds.step(np.array([place % 3])) for place in range(50)]
        found.append((steps, worlds.observations.copy()))

    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("env_id", ["CartPole-v1", "FrozenLake-v1", "Blackjack-v1"])
def test_stepped_together_they_are_plain_environments(env_id):
    """Several at once see, earn and end as each alone in gymnasium's own loop, whatever kind of
    observation it is; one that is over shows its last observation until it is started again."""
    worlds, space = Environments(env_id, 3, 1), create(env_id).observation_space
    alone = [create(env_id) for _ in range(3)]
    draw, ends = np.random.default_rng(0), 0
    worlds.start([0, 1, 2])
    seen = [one.reset(seed=place)[0] for place, one in enumerate(alone)]
    for turn in range(60):
        actions = draw.integers(alone[0].action_space.n, size=3)
        told = [one.step(int(action)) for one, action in zip(alone, actions, strict=True)]
        rewards, ended, cut = worlds.step(actions)
        seen = [gymnasium.spaces.flatten(space, one[0]) for one in told]

        assert np.array_equal(np.stack(seen).astype(np.float32), worlds.observations[:, -1])
        assert [one[1:4] for one in told] == list(
            zip(rewards.tolist(), ended.tolist(), cut.tolist(), strict=True)
        )
        over, seed = ended | cut, 3 * turn + 3
        worlds.start([seed + place if new else None for place, new in enumerate(over)])
        for place in np.flatnonzero(over).tolist():
            first = alone[place].reset(seed=seed + place)[0]
            first = gymnasium.spaces.flatten(space, first).astype(np.float32)
            assert np.array_equal(first, worlds.observations[place, -1])
        ends += over.sum()
    assert ends > 3


@pytest.mark.parametrize(
    ("env_id", "error", "text"),
    [
        ("os:CartPole-v1", ConfigError, "names a module"),
        ("antigravity:Anything-v0", ConfigError, "no code comes from a recipe"),
        ("CartPol-v1", ConfigError, "did you mean 'CartPole-v1'"),
        ("CartPole", ConfigError, "CartPole-v"),
        ("Pendulum-v1", Unsupported, "a few actions to choose from"),
        ("", ConfigError, "no environment"),
    ],
)
def test_what_cannot_be_acted_in_is_refused(env_id, error, text, monkeypatch):
    """A module, an unknown id, continuous actions: each stops with the reason; nothing is run."""
    real = gymnasium.make
    made = []
    monkeypatch.setattr(gymnasium, "make", lambda *a, **k: made.append(a) or real(*a, **k))
    with pytest.raises(error) as caught:
        loaded(f"gymnasium:{env_id}")

    assert text in str(caught.value)
    assert Exit.BAD_INPUT == caught.value.exit_code
    assert [] == made or error is Unsupported


def test_pictures_are_refused(monkeypatch):
    """More numbers than a small model should see are refused, by their count."""
    monkeypatch.setattr(environment, "MOST_FEATURES", 3)
    with pytest.raises(Unsupported, match="4 numbers"):
        create("CartPole-v1")


def test_numbered_situations_become_one_hot():
    """An observation that is one of a few is as many numbers, one of them 1."""
    data = loaded("gymnasium:FrozenLake-v1")
    seen = data.parts["valid"].inputs["observation"]

    assert (8, 1, 16) == seen.shape
    assert (seen.sum((1, 2)) == 1).all()


INPUTS = {"length": 2, "features": 3, "channels": ["a", "b", "c"]}


@pytest.mark.parametrize(
    "content",
    [b"4, 5,6", b"4 5 6", b"[4, 5, 6]", b'{"observation": [[4, 5, 6]]}', b"4;5;6\n"],
)
def test_one_observation_fills_the_window(content):
    """One observation, however it is written, is taken for the first of an episode."""
    found = environment.read_input(content, INPUTS, {})["observation"]

    assert [[[4, 5, 6], [4, 5, 6]]] == found.tolist()
    assert np.float32 == found.dtype


def test_a_whole_window_is_taken_as_it_is():
    """As many numbers as the window has are the last observations, oldest first."""
    found = environment.read_input(b"1,2,3\n4,5,6", INPUTS, {})["observation"]

    assert [[[1, 2, 3], [4, 5, 6]]] == found.tolist()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"1, 2", b"a, b, c", b"1,2,nan", b"{", b"\xff", b"[[1],2]",
        b"1, 2, 1e39", b"[1, 2, -1e39]", b"[1, 2, 1%s]" % (b"0" * 400),
    ],
)  # fmt: skip
def test_what_is_no_observation_says_what_was_expected(content):
    """Too few numbers, texts, NaN, what 32 bits don't hold: an error that names the numbers that
    are wanted."""
    with pytest.raises(DataError) as caught:
        environment.read_input(content, INPUTS, {})

    assert "3 numbers with commas between: a, b, c" in str(caught.value)


def test_the_report_of_the_gate_is_plain(tmp_path):
    """What the gate writes about an environment is JSON."""
    data = loaded()

    assert json.loads(json.dumps([data.inputs, data.outputs])) == [data.inputs, data.outputs]


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("forecasting", "data.episodes=5"), ("recommendation", "train.algorithm=ppo"),
        ("tagging", "train.stop_at=0"), ("tagging", "train.discount=0.5"),
        ("control", "train.label_smoothing=0.1"), ("control", "train.micro_batch_size=8"),
        ("control", "train.augment=[{flip: horizontal}]"), ("control", "data.horizon=3"),
    ],
)  # fmt: skip
def test_keys_that_have_no_effect_are_refused(task, key, tmp_path):
    """Keys of acting are for control alone, and keys of rows are not for control."""
    from modelwright.core import recipe_file

    path = tmp_path / "recipe.yaml"
    extra = "  horizon: 3\n" if task == "forecasting" else ""
    path.write_text(f"task: {task}\ndata:\n  source: {CARTPOLE}\n{extra}")
    name, _, value = key.partition("=")
    with pytest.raises(ConfigError, match=name.rpartition(".")[2]):
        recipe_file.read(path, {name: value})

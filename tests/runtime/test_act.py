"""Episodes played by a session."""

import numpy as np
import pytest

from modelwright.core import recipe
from modelwright.core.errors import IntegrityError
from modelwright.data import catalog
from modelwright.measure.compare import compare
from modelwright.measure.quality import evaluate
from modelwright.models.catalog import ModelSpec
from modelwright.runtime import act
from modelwright.tasks.catalog import TASKS

gymnasium = pytest.importorskip("gymnasium")


@pytest.fixture(scope="module")
def data():
    section = recipe.Data(source="gymnasium:CartPole-v1", episodes=6)
    return catalog.load(section, "observation", "actions")


class Rule:
    """A session that is a rule: push where the pole falls, or always left."""

    def __init__(self, data, gain=1.0):
        self.signature = ModelSpec("cnn", "tiny", data.inputs, data.outputs).signature
        self.gain = gain

    def __call__(self, batch):
        seen = batch["observation"][:, -1]
        side = self.gain * (seen[:, 2] + 0.2 * seen[:, 3] + 0.02 * seen[:, 0] + 0.05 * seen[:, 1])
        scores = np.stack([np.zeros_like(side), side], axis=1)
        return {"scores": scores, "values": scores}

    def close(self):
        pass


def test_returns_are_those_of_plain_episodes(data):
    """Played side by side, each episode gives what gymnasium's own loop gives."""
    rows = data.parts["test"]
    session = Rule(data)
    found = act.play(session, rows)
    world = gymnasium.make("CartPole-v1")
    for place, seed in enumerate(rows.targets[:, 0].tolist()):
        seen, _ = world.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            batch = {"observation": np.asarray(seen, np.float32)[None, None]}
            seen, reward, ended, cut, _ = world.step(int(session(batch)["scores"].argmax()))
            total, over = total + float(reward), ended or cut
        assert total == found["return"][place] == found["length"][place]


def test_a_better_policy_is_judged_better(data, monkeypatch):
    """The judge tells a good rule from a bad one, with an interval, and pairs episodes."""
    monkeypatch.setattr(act, "MOST_TOGETHER", 4)
    task, rows = TASKS["control"], data.parts["test"]
    good, bad = (evaluate(Rule(data, gain), rows, task) for gain in (1.0, -1.0))
    difference = compare(good, bad, task)

    assert good.value > 400 > 20 > bad.value
    assert bad.low <= bad.value <= bad.high
    assert difference.drop == good.value - bad.value and difference.flipped is None
    assert difference.low <= difference.drop <= difference.high
    assert {"mean_return", "mean_length"} == set(good.values)


def test_a_policy_that_gives_nan_is_refused(data):
    """NaN among the scores is no action."""
    with pytest.raises(IntegrityError, match="NaN"):
        act.play(Rule(data, float("nan")), data.parts["test"])

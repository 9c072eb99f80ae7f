"""The road of a policy: from an environment's id to a deploy folder that acts."""

import json
import re
from pathlib import Path

import pytest

from modelwright import verbs
from modelwright.core.errors import ConfigError

pytest.importorskip("gymnasium")
RECIPES = Path(__file__).parents[2] / "recipes"
TINY = {
    "budget.train_minutes": None, "budget.train_steps": 3, "data.episodes": 4, "goals": {},
    "model": {"family": "cnn", "size": "tiny"}, "train.batch_size": 16, "train.stop_at": None,
}  # fmt: skip


@pytest.mark.parametrize("name", ["cartpole", pytest.param("acrobot", marks=pytest.mark.slow)])
def test_our_recipes_run_at_a_tiny_size(name, tmp_path):
    """Each recipe of control goes the whole road, and its report shows what was played."""
    override = {**TINY, "train.algorithm": "dqn"}
    found = verbs.run(RECIPES / f"{name}.yaml", override, out=tmp_path)
    run = Path(found["run"])
    certificate = json.loads((run / "certify/certificate.json").read_bytes())
    page = (run / "report.html").read_text()

    assert "certified" == found["verdict"]
    assert 4 == len(certificate["episodes"]["return"])
    assert certificate["mean_return"] == sum(certificate["episodes"]["return"]) / 4
    assert "Returns of the test episodes" in page and "Mean return on valid" in page
    assert verbs.verify(run)["passed"]
    assert certificate["mean_return"] == verbs.evaluate(run, part="test")["mean_return"]


def test_no_code_comes_from_a_recipe(tmp_path):
    """An id that names a module stops the run before anything is written or imported."""
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    with pytest.raises(ConfigError, match="names a module"):
        verbs.plan(RECIPES / "cartpole.yaml", {"data.source": "gymnasium:evil:Env-v0"})


def test_init_writes_a_recipe_for_an_environment(tmp_path):
    """A starter recipe for an id reads back as one of control."""
    found = verbs.init("gymnasium:CartPole-v1", tmp_path / "pole.yaml")

    assert re.search("^task: control$", Path(found["recipe"]).read_text(), re.M)
    assert ["push left", "push right"] == found["labels"]

"""Control: what episodes add up to, the answer, and its goals."""

import numpy as np
import pytest
import torch

from modelwright.core.goals import METRICS, parse_goal
from modelwright.tasks import control
from modelwright.tasks.catalog import TASKS


def test_values_are_means_over_episodes():
    """The metric is the mean sum of rewards, beside it the mean number of steps."""
    played = {"return": np.array([-80.0, -100.0]), "length": np.array([81.0, 101.0])}
    table = control.statistics(played, np.zeros((2, 1)))

    assert {"mean_return": -90.0, "mean_length": 91.0} == TASKS["control"].values(table)
    assert -100 == TASKS["control"].values(table, np.array([0, 3]))["mean_return"]


def test_the_loss_judges_the_action_that_was_taken():
    """Only its score counts, squared near the target and straight far from it."""
    scores = torch.tensor([[1.0, 7.0], [3.0, 0.0]])

    assert 0.125 == pytest.approx(control.loss(scores[:1], torch.tensor([[0.0, 1.5]])).item())
    assert 9.5 == pytest.approx(control.loss(scores[1:], torch.tensor([[1.0, 10.0]])).item())


def test_goals_are_rewards_below_zero_too():
    """A bound may be negative, and nothing is the best return."""
    goal, metric = parse_goal("mean_return", ">= -100"), METRICS["mean_return"]

    assert goal.met_by(-99.5) and not goal.met_by(-101)
    assert metric.error(500) < metric.error(-100) < metric.error(-200)
    assert -100 == metric.at_error(metric.error(-100))


def test_the_answer_is_the_best_action():
    """Actions come with what they are worth, best first."""
    said = control.answer({"values": np.array([-3.0, -1.0, -2.0])}, ["a", "b", "c"])

    assert "b" == said["answer"]
    assert ["b", "c", "a"] == [one["label"] for one in said["values"]]

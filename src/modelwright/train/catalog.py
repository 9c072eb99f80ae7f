"""ALGORITHMS: how a task that acts is learned; and the trainer that fits a task.

To add one: write a file, add a row.
"""

from pathlib import Path

from torch import nn

from modelwright.data.rows import Rows
from modelwright.models.catalog import ModelSpec
from modelwright.models.later import Later
from modelwright.tasks.catalog import Task
from modelwright.train import dqn
from modelwright.train.journal import Record
from modelwright.train.loop import Trainer
from modelwright.train.parallel import ALONE, World
from modelwright.train.ppo import PPO
from modelwright.train.reinforce import Learner, Way
from modelwright.train.settings import Budget, Settings

ALGORITHMS: dict[str, Way] = {
    "dqn": Way(dqn.DQN, players=8, averages=True, kept_bytes=dqn.kept_bytes),
    "ppo": Way(PPO, players=16),
}
AUTO = "ppo"  # docs/experiments.md


def make_trainer(
    model: nn.Module | Later,
    spec: ModelSpec,
    task: Task,
    train: Rows,
    valid: Rows,
    settings: Settings,
    budget: Budget,
    folder: Path,
    *,
    metrics: Path | None = None,
    record: Record | None = None,
    asked: Path | None = None,
    world: World = ALONE,
) -> Trainer:
    """A Trainer of rows, or of acting where the task is about that; arguments as of Trainer."""
    given = (model, spec, task, train, valid, settings, budget, folder)
    if not task.acting:
        return Trainer(*given, metrics=metrics, record=record, asked=asked, world=world)
    return Learner(way_of(settings), *given, metrics=metrics, record=record, asked=asked)


def way_of(settings: Settings) -> Way:
    """How a task that acts is learned."""
    return ALGORITHMS[AUTO if settings.algorithm == "auto" else settings.algorithm]

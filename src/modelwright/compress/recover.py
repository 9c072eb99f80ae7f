"""A short training after a change, so that what is left can make up for what was removed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from modelwright.core.recipe import Precision, Recipe
from modelwright.data.rows import Rows
from modelwright.models.catalog import Model, ModelSpec
from modelwright.tasks.catalog import task_of
from modelwright.train.catalog import make_trainer
from modelwright.train.journal import Record
from modelwright.train.settings import fill_in, training_budget

LEARNING_RATE_SHARE = 0.3  # of the first training's: the model starts near a good place


def recover(
    model: Model,
    spec: ModelSpec,
    recipe: Recipe,
    share: float,
    train: Rows,
    valid: Rows,
    folder: Path,
    *,
    precision: Precision,
    title: str,
    note: Callable[[str], None],
) -> Model:
    """Train the changed model for `share` of the recipe's budget; resumes from `folder`.

    `note` is told what training did otherwise than asked.
    """
    budget = training_budget(recipe).part(share)
    settings = fill_in(recipe.train, spec, precision, budget)
    rate = LEARNING_RATE_SHARE * settings.learning_rate
    settings = replace(
        settings, learning_rate=rate, schedule="wsd", decay=1.0, compile=False,
        batch_warmup_steps=0, window_warmup_steps=0,
    )  # fmt: skip
    trainer = make_trainer(
        model, spec, task_of(recipe), train, valid, settings, budget, folder,
        record=Record(note=note),
    )  # fmt: skip
    trainer.run(title=title)
    trainer.finish(title=title)
    averaged = trainer.result
    assert isinstance(averaged, Model)
    return averaged.eval()

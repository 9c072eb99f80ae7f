"""Forecasting: loss, errors and answer against their formulas."""

import numpy as np
import pytest
import torch

from modelwright.tasks import forecast
from modelwright.tasks.catalog import TASKS, Task

RANDOM = np.random.default_rng(0)
FOUND, TRUE = RANDOM.standard_normal((2, 3, 5, 2))  # 3 rows, horizon 5, 2 series


def test_errors_are_means_over_every_value():
    """mse and mae over rows, steps and series; plain numbers, the one of the goals first."""
    rows = forecast.statistics({"scaled": FOUND}, TRUE)
    values = forecast.values(rows.sum(0))

    assert (3, 3) == rows.shape
    assert ((FOUND - TRUE) ** 2).mean() == pytest.approx(values["mse"])
    assert np.abs(FOUND - TRUE).mean() == pytest.approx(values["mae"])
    assert forecast.METRIC == next(iter(values))
    assert {float} == {type(value) for value in values.values()}


def test_the_loss_is_half_absolute_half_squared():
    """In float32, whatever the precision of what comes in."""
    found = forecast.loss(torch.tensor(FOUND).bfloat16(), torch.tensor(TRUE, dtype=torch.float32))
    error = FOUND - TRUE

    assert torch.float32 == found.dtype
    assert 0.5 * np.abs(error).mean() + 0.5 * (error**2).mean() == pytest.approx(
        found.item(), rel=0.02
    )


def test_an_answer_is_one_list_a_series():
    """The next values of each series under its name."""
    found = forecast.answer({"forecast": np.array([[1.0, 10.0], [2.0, 20.0]])}, ["load", "oil"])

    assert {"load": [1.0, 2.0], "oil": [10.0, 20.0]} == found["answer"]


def test_the_catalog_names_this_task():
    """Forecasting is this file."""
    assert Task("series", "horizon", forecast) == TASKS["forecasting"]

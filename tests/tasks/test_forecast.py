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

    assert (3, 4) == rows.shape
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


@pytest.mark.parametrize(
    ("windows", "horizon", "blocks"), [(1, 5, 1), (2, 5, 2), (40, 5, 2), (75, 5, 5), (999, 1, 10)]
)
def test_intervals_draw_long_blocks_of_windows(windows, horizon, blocks):
    """Neighbours stay together, three horizons or more; two to ten blocks, one of a lone window."""
    nothing = np.zeros((windows, horizon, 1))
    table = forecast.statistics({"scaled": nothing}, nothing)
    units = TASKS["forecasting"].units(table)

    assert list(range(blocks)) == np.unique(units).tolist()
    assert (np.diff(units) >= 0).all()
    assert blocks <= 2 or np.bincount(units).min() >= 3 * horizon


def test_an_answer_is_one_list_a_series():
    """The next values of each series under its name."""
    found = forecast.answer({"forecast": np.array([[1.0, 10.0], [2.0, 20.0]])}, ["load", "oil"])

    assert {"load": [1.0, 2.0], "oil": [10.0, 20.0]} == found["answer"]


@pytest.mark.parametrize(("times", "wanted"), [
    (["2024-02-27", "2024-02-28"], ["2024-02-29", "2024-03-01"]),
    (["2024-01-01 23:00", "2024-01-01 23:30"], ["2024-01-02 00:00", "2024-01-02 00:30"]),
    (["2024-01-01T05:00", "2024-01-01T06:00"], ["2024-01-01T07:00", "2024-01-01T08:00"]),
    (["2023-10", "2023-11"], ["2023-12", "2024-01"]),
    (["2023-06-30", "2023-09-30", "2023-12-31"], ["2024-03-31", "2024-06-30"]),
    (["2023-10-15", "2023-11-15"], ["2023-12-15", "2024-01-15"]),
    (["1998", "1999"], ["2000", "2001"]),
    (["20231230", "20231231"], ["20240101", "20240102"]),
    (["2024-01-01", "2024-01-02", "2024-01-04"], []),  # nobody knows which day comes next
    (["01/02/2024", "02/02/2024"], []), (["1", "2"], []), (["2024-01-01"], []), ([], []),
    (["9999-12-30", "9999-12-31"], []), (["2024-01-01", "2024-01-01"], []),
])  # fmt: skip
def test_a_forecast_goes_on_in_time(times, wanted):
    """Where times are evenly apart, be it by months, in a form that says which they are."""
    found = forecast.answer({"forecast": np.ones((2, 1))}, ["load"], times)

    assert wanted == found.get("times", [])


def test_the_catalog_names_this_task():
    """Forecasting is this file."""
    assert Task("series", "horizon", forecast) == TASKS["forecasting"]

"""What a curve promises of errors of any size."""

import pytest

from modelwright.plan.curve import LEAST_ERROR, expected_error


def test_small_errors_of_a_forecast_are_told_apart():
    """In data of small values all errors are small; what falls with them is followed as well."""
    curve = [(10, 2e-7), (20, 1e-7)]

    assert pytest.approx(5e-8) == expected_error(curve, 80, "")
    assert 0 < expected_error([(10, 0.0), (20, 0.0)], 80, "") < 1e-9


def test_a_share_without_error_may_hide_one():
    """As much as the rows that were looked at can't tell from nothing."""
    assert pytest.approx(LEAST_ERROR) == expected_error([(10, 0.0), (20, 0.0)], 80, "share")

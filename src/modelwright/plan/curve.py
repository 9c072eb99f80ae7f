"""What a learning curve promises: an error falls as a power of what is spent.

Source: Hestness et al. 2017, arXiv:1712.00409.
"""

import math
from collections.abc import Sequence

from modelwright.train.loop import CURVE_ROWS

DAMPED = 0.5  # of a curve's slope: curves flatten, the steepest ones most (docs/experiments.md)
LEAST_ERROR = 1 / (2 * CURVE_ROWS)  # what an accuracy of one on the rows looked at may hide
LEAST = 1e-300  # of what is no share: its size says nothing, but it needs a logarithm


def expected_error(curve: Sequence[tuple[float, float]], horizon: float, unit: str) -> float:
    """Error that a learning curve promises once `horizon` is spent.

    A straight line through the logarithms of spending and error, by least squares. Its slope is
    held between 0 (learns no more) and -1; from the last point on, DAMPED of it is followed.

    Args:
        curve: budget spent (seconds or steps) and error, in order.
        unit: the metric's; a share of few rows may be without error by luck.

    >>> round(expected_error([(10, 0.2), (20, 0.1)], 80, "share"), 3)
    0.05
    """
    times = [math.log(spent) for spent, _ in curve]
    least = LEAST_ERROR if unit == "share" else LEAST
    errors = [math.log(max(error, least)) for _, error in curve]
    mean_time, mean_error = sum(times) / len(times), sum(errors) / len(errors)
    spread = sum((time - mean_time) ** 2 for time in times)
    slope = 0.0
    if spread > 0:
        pairs = zip(times, errors, strict=True)
        slope = sum((one - mean_time) * (error - mean_error) for one, error in pairs) / spread
    slope = min(0.0, max(-1.0, slope))
    reached = mean_error + slope * (times[-1] - mean_time)
    return math.exp(reached + DAMPED * slope * (math.log(horizon) - times[-1]))

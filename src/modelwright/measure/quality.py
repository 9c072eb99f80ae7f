"""How good a model's answers are on given rows, with an interval for what the rows cannot tell.

Reads a Session of any runtime, images and targets; gives a Quality.
"""

import math
from dataclasses import dataclass

import numpy as np

from modelwright.core.errors import DataError, IntegrityError
from modelwright.runtime.catalog import Session


@dataclass(frozen=True, eq=False)
class Quality:
    """Accuracy on some rows, with its 95 % interval, and every single answer.

    low, high: Clopper-Pearson, exact: over repeated draws of rows they enclose the true accuracy
        at least 95 times in 100
    confusion: (num_classes, num_classes) int64; truth down, answer across
    probabilities: (rows, num_classes) float32
    answers, targets: (rows,) int64
    """

    rows: int
    accuracy: float
    low: float
    high: float
    confusion: np.ndarray
    probabilities: np.ndarray
    answers: np.ndarray
    targets: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(rows,) bool."""
        return np.asarray(self.answers == self.targets)


def evaluate(
    session: Session,
    images: np.ndarray,
    targets: np.ndarray,
    num_classes: int,
    batch_size: int = 256,
) -> Quality:
    """Run a session over rows and judge its answers.

    images: (rows, channels, height, width) uint8
    targets: (rows,), whole numbers below num_classes

    The answer is the class with the largest logit, the first of them in a tie.

    Raises: DataError if rows and targets do not fit; IntegrityError if an output is not a number.
    """
    targets = np.asarray(targets)
    rows = len(images)
    if rows == 0 or targets.shape != (rows,):
        raise DataError(
            f"evaluate: {rows} images and targets of shape {targets.shape}",
            expected="at least one image, and one target for each",
        )
    if targets.min() < 0 or targets.max() >= num_classes:
        raise DataError(
            f"evaluate: targets from {targets.min()} to {targets.max()}",
            expected=f"classes 0 to {num_classes - 1}",
        )
    answers = np.empty(rows, np.int64)
    probabilities = np.empty((rows, num_classes), np.float32)
    for start in range(0, rows, batch_size):
        part = slice(start, start + batch_size)
        outputs = session({"image": images[part]})
        if not (
            np.isfinite(outputs["logits"]).all() and np.isfinite(outputs["probabilities"]).all()
        ):
            raise IntegrityError(
                f"evaluate: the model gives NaN or infinity within rows {start} to "
                f"{min(start + batch_size, rows) - 1}",
                expected="finite logits and probabilities",
                repair="take an earlier checkpoint, or train again with a lower learning rate",
            )
        answers[part] = outputs["logits"].argmax(1)
        probabilities[part] = outputs["probabilities"]
    targets = targets.astype(np.int64)
    confusion = np.bincount(targets * num_classes + answers, minlength=num_classes**2)
    correct = int((answers == targets).sum())
    low, high = clopper_pearson(correct, rows)
    return Quality(
        rows=rows,
        accuracy=correct / rows,
        low=low,
        high=high,
        confusion=confusion.reshape(num_classes, num_classes),
        probabilities=probabilities,
        answers=answers,
        targets=targets,
    )


def clopper_pearson(
    successes: int, trials: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """The exact two-sided interval of a share.

    The lower end is the share at which `successes` or more has probability (1 - confidence) / 2;
    the upper end likewise, for `successes` or fewer.

    Raises: DataError unless 0 <= successes <= trials and trials >= 1.
    Source: Clopper and Pearson 1934, Biometrika 26(4), 404-413.

    >>> [round(end, 4) for end in clopper_pearson(8, 10)]
    [0.4439, 0.9748]
    """
    if not 0 <= successes <= trials or trials < 1:
        raise DataError(
            f"clopper_pearson: {successes} successes in {trials} trials",
            expected="at least one trial, and no more successes than trials",
        )
    outside = (1 - confidence) / 2
    low = _lower_end(successes, trials, outside)
    return low, 1 - _lower_end(trials - successes, trials, outside)


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """P(X >= successes) for X of `trials` at a `share` of at most successes / trials.

    Terms fall from the first one on, so those beyond forty standard deviations are left out.

    >>> round(binomial_tail(8, 10, 0.5), 6)
    0.054688
    """
    if successes == 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    first = (
        math.lgamma(trials + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(trials - successes + 1)
        + successes * math.log(share)
        + (trials - successes) * math.log1p(-share)
    )
    last = min(trials, successes + 20 * math.isqrt(trials) + 50)
    steps = np.arange(successes, last, dtype=np.float64)
    ratios = np.log((trials - steps) / (steps + 1)) + (math.log(share) - math.log1p(-share))
    return min(1.0, math.exp(first) * (1 + float(np.exp(np.cumsum(ratios)).sum())))


def _lower_end(successes: int, trials: int, outside: float) -> float:
    if successes == 0:
        return 0.0
    low, high = 0.0, successes / trials
    for _ in range(60):  # halving 60 times reaches the resolution of a float
        middle = (low + high) / 2
        if binomial_tail(successes, trials, middle) < outside:
            low = middle
        else:
            high = middle
    return (low + high) / 2

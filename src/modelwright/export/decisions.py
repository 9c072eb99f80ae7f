"""Decisions as a task counts them, where they are more than the largest of some scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modelwright.models.catalog import ModelSpec
from modelwright.tasks.catalog import Task


def judge_agreement(
    hop: dict[str, Any],
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    spec: ModelSpec,
    task: Task,
) -> list[str]:
    """Fill in the hop's decisions, by the task's own `agreement`; gives the failures.

    before, after: each of the signature's outputs, one row a row, flattened
    """
    same, total = task.logic.agreement(
        *(
            {
                one.name: value.reshape(len(value), *one.shape[1:])
                for one, value in zip(spec.signature.outputs, form, strict=True)
            }
            for form in (before, after)
        )
    )
    hop["decisions_equal"], hop["decisions_total"] = same, total
    changed, share = total - same, max(hop["decision_tolerance"], hop["tolerance"] or 0.0)
    if changed <= max(1.0, share * total):  # one may be a tie
        return []
    return [f"{changed} of {total} decisions change (at most {share:.1%})"]

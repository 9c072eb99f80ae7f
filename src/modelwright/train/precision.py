"""Where casts happen."""

import contextlib
from typing import Literal

import torch

Precision = Literal["32-true", "bf16-mixed"]


def autocast(precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context of a forward pass: weights stay float32, matrix products run in bf16 if mixed."""
    if precision == "bf16-mixed":
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext()

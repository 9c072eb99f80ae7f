"""Augmentation of batches of texts and of series: of what goes in, never of what should come out.

Random numbers come from the generator given, so that the same generator gives the same batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from modelwright.core.recipe import Augment
from modelwright.data.augment import key_and_value
from modelwright.data.text import NOTHING, UNKNOWN

Inputs = dict[str, Tensor]


def drop_tokens(inputs: Inputs, share: float, generator: Generator) -> Inputs:
    """Every token, with that probability, as if it were unknown.

    ids: int64 (batch, time, features)

    Source: Iyyer et al. 2015, "Deep Unordered Composition Rivals Syntactic Methods", section 2.2.
    """
    ids = inputs["ids"]
    chosen = torch.rand(ids.shape[:2], generator=generator) < share
    chosen &= ids[..., 0] != NOTHING
    return {**inputs, "ids": ids.masked_fill(chosen[..., None], UNKNOWN)}


def jitter(inputs: Inputs, share: float, generator: Generator) -> Inputs:
    """Noise on what is looked back at, `share` of each series' spread within its window.

    window: float32 (batch, length, channels). The values to forecast stay as they are.

    Source: Um et al. 2017, arXiv:1706.00527, section 3. Their scaling would change nothing here:
    the model brings each window to one mean and spread itself (models/embed.py).
    """
    window = inputs["window"]
    noise = torch.randn(window.shape, generator=generator)
    return {**inputs, "window": window + share * window.std(1, keepdim=True) * noise}


STEPS: dict[str, Callable[[Inputs, Any, Generator], Inputs]] = {
    "drop_tokens": drop_tokens,
    "jitter": jitter,
}


def apply(inputs: Mapping[str, Tensor], steps: Sequence[Augment], generator: Generator) -> Inputs:
    """A batch's inputs after its steps, in the order written."""
    found = dict(inputs)
    for step in steps:
        key, value = key_and_value(step)
        found = STEPS[key](found, value, generator)
    return found

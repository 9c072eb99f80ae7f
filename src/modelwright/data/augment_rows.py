"""Augmentation of batches of texts and of series: of what goes in, never of what should come out.

Random numbers come from the draw given, so that the same draw gives the same batch, or some rows of
it (data/draw.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modelwright.core.recipe import Augment
from modelwright.data.augment import key_and_value
from modelwright.data.draw import Draw
from modelwright.data.text import NOTHING, UNKNOWN

Inputs = dict[str, Tensor]


def drop_tokens(inputs: Inputs, share: float, draw: Draw) -> Inputs:
    """Every token that a model reads, with that probability, as if it were unknown.

    ids: int64 (batch, time, features); or source and target, int64 (batch, time), whose end and
    beginning stay

    Source: Iyyer et al. 2015, "Deep Unordered Composition Rivals Syntactic Methods", section 2.2;
    Bowman et al. 2015, arXiv:1511.06349, section 3.1 (of what a decoder is given).
    """
    found = dict(inputs)
    for name in ("ids", "source", "target"):
        if name not in inputs:
            continue
        ids = inputs[name]
        first = ids[..., 0] if ids.ndim == 3 else ids
        chosen = draw.uniform(*first.shape) < share
        chosen &= first != NOTHING
        if name == "source":  # its last token is its end
            chosen[:, -1] = False
            chosen[:, :-1] &= first[:, 1:] != NOTHING
        if name == "target":  # its first is what it begins with
            chosen[:, 0] = False
        unknown = torch.full_like(ids, NOTHING)  # without further features, as Vocabulary.ids
        (unknown[..., 0] if ids.ndim == 3 else unknown).fill_(UNKNOWN)
        found[name] = torch.where(chosen[..., None] if ids.ndim == 3 else chosen, unknown, ids)
    return found


def jitter(inputs: Inputs, share: float, draw: Draw) -> Inputs:
    """Noise on what is looked back at, `share` of each series' spread within its window.

    window: float32 (batch, length, channels). The values to forecast stay as they are.

    Source: Um et al. 2017, arXiv:1706.00527, section 3. Their scaling would change nothing here:
    the model brings each window to one mean and spread itself (models/embed.py), and a forecast
    that is scaled with its window is the same forecast, of another weight in the loss.
    """
    window = inputs["window"]
    noise = draw.normal(*window.shape)
    spread = window.std(1, correction=0, keepdim=True)  # 0 of one step, not NaN
    return {**inputs, "window": window + share * spread * noise}


STEPS: dict[str, Callable[[Inputs, Any, Draw], Inputs]] = {
    "drop_tokens": drop_tokens,
    "jitter": jitter,
}


def apply(inputs: Mapping[str, Tensor], steps: Sequence[Augment], draw: Draw) -> Inputs:
    """A batch's inputs after its steps, in the order written."""
    found = dict(inputs)
    for step in steps:
        key, value = key_and_value(step)
        found = STEPS[key](found, value, draw)
    return found

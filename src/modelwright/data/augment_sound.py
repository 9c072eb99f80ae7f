"""Augmentation of batches of recordings, one row a step, before frames are made of them.

Samples are float32 (batch, time), lengths int64 (batch,), the real samples of each row; behind them
is silence, and stays. Random numbers come from the draw given, so that the same draw gives the same
batch. Of some rows of it (data/draw.py) the samples are of those, the lengths of all: how long the
longest is decides how long all are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modelwright.core.recipe import Augment
from modelwright.core.signature import PAD_MULTIPLE
from modelwright.data.augment import key_and_value
from modelwright.data.draw import Draw

Sound = tuple[Tensor, Tensor]  # samples, of rows that are made; lengths, of all


def mask_time(sound: Sound, share: float, rate: int, draw: Draw) -> Sound:
    """Silence over one stretch of each recording, of up to `share` of it.

    Source: Park et al. 2019, arXiv:1904.08779, section 2 (SpecAugment).
    """
    samples, lengths = sound
    real, number = draw.own(lengths), len(samples)
    width = share * real * draw.uniform(number)
    start = (real - width) * draw.uniform(number)
    places = torch.arange(samples.shape[1])
    inside = (places >= start[:, None]) & (places < (start + width)[:, None])
    return samples.masked_fill(inside, 0), lengths


def mask_frequency(sound: Sound, share: float, rate: int, draw: Draw) -> Sound:
    """One band of each recording taken out, of up to `share` of the mel scale.

    The model brings each of its bands to mean zero over the recording (models/embed.py), so that
    a band without sound is as good as one set to the mean.
    Source: as of mask_time.
    """
    samples, lengths = sound
    width = share * draw.uniform(len(samples))
    start = (1 - width) * draw.uniform(len(samples))
    spectrum = torch.fft.rfft(samples)
    hertz = torch.linspace(0, rate / 2, spectrum.shape[1])
    mels = torch.log1p(hertz / 700)  # O'Shaughnessy 1987, up to a factor
    place = mels / mels[-1]
    inside = (place >= start[:, None]) & (place < (start + width)[:, None])
    found = torch.fft.irfft(spectrum.masked_fill(inside, 0), samples.shape[1])
    real = torch.arange(samples.shape[1]) < draw.own(lengths)[:, None]
    return found * real, lengths


def speed(sound: Sound, share: float, rate: int, draw: Draw) -> Sound:
    """Each recording played faster or slower by up to `share`, pitch and all.

    Source: Ko et al. 2015, Interspeech, "Audio Augmentation for Speech Recognition".
    """
    samples, lengths = sound
    every = 1 + share * (2 * draw.whole.uniform(len(lengths), 1) - 1)
    played = (lengths / every[:, 0]).long().clamp_min(1)
    time = -(-int(played.max()) // PAD_MULTIPLE) * PAD_MULTIPLE
    where = torch.arange(time) * draw.own(every)
    before = where.long().clamp_max(samples.shape[1] - 1)
    behind = (before + 1).clamp_max(samples.shape[1] - 1)
    found = torch.lerp(samples.gather(1, before), samples.gather(1, behind), where - before)
    return found * (torch.arange(time) < draw.own(played)[:, None]), played


STEPS: dict[str, Callable[[Sound, Any, int, Draw], Sound]] = {
    "mask_time": mask_time,
    "mask_frequency": mask_frequency,
    "speed": speed,
}


def apply(
    inputs: Mapping[str, Tensor], lengths: Tensor, steps: Sequence[Augment], rate: int, draw: Draw
) -> dict[str, Tensor]:
    """A batch's inputs after its steps, in the order written; a step may come more than once.

    lengths: of all rows of the batch, whichever the inputs are of
    """
    sound = inputs["samples"], lengths
    for step in steps:
        key, value = key_and_value(step)
        sound = STEPS[key](sound, value, rate, draw)
    return {"samples": sound[0], "lengths": draw.own(sound[1])}

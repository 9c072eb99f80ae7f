"""Augmentation of recordings: what each step does to sound, exactly repeatable."""

import numpy as np
import pytest
import torch
from torch import Generator

from modelwright.core import recipe
from modelwright.core.errors import ConfigError
from modelwright.data import augment_sound
from modelwright.data.augment_sound import Sound, mask_frequency, mask_time, speed
from modelwright.data.draw import Draw
from modelwright.data.loader import Loader
from modelwright.data.rows import Rows, ragged

RATE = 8000


def tones(rows: int = 6, time: int = 4000) -> Sound:
    """Tones of 300 to 3,000 Hz, the later rows shorter, silence behind them."""
    places = torch.arange(time) / RATE
    samples = sum(torch.sin(2 * torch.pi * hertz * places) for hertz in (300, 1000, 3000)) / 3
    lengths = torch.tensor([time - 200 * row for row in range(rows)])
    return samples * (torch.arange(time) < lengths[:, None]), lengths


def draw(seed: int = 0) -> Draw:
    return Draw(Generator().manual_seed(seed))


@pytest.mark.parametrize("step", augment_sound.STEPS.values(), ids=augment_sound.STEPS)
def test_the_same_draw_gives_the_same_sound(step):
    """A step is a function of the batch and the generator; another draw gives another batch."""
    first, again, other = (step(tones(), 0.3, RATE, draw(seed)) for seed in (1, 1, 2))

    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert first[0].shape != other[0].shape or not torch.equal(first[0], other[0])


@pytest.mark.parametrize("step", augment_sound.STEPS.values(), ids=augment_sound.STEPS)
def test_behind_a_recording_stays_silence(step):
    """Padding is zero before and after, and no sample is no number."""
    samples, lengths = step(tones(), 0.3, RATE, draw())
    behind = torch.arange(samples.shape[1]) >= lengths[:, None]

    assert torch.isfinite(samples).all()
    assert 0 == (samples * behind).abs().max()
    assert lengths.max() <= samples.shape[1]


def test_a_stretch_of_time_is_silenced():
    """At most the share asked for is set to zero, in one piece; the rest is untouched."""
    before, lengths = tones()
    before = before + 0.5 * (torch.arange(before.shape[1]) < lengths[:, None])  # no other zeros
    after, _ = mask_time((before, lengths), 0.3, RATE, draw())
    for old, new, length in zip(before, after, lengths, strict=True):
        changed = torch.nonzero(old != new)[:, 0]

        assert len(changed) <= 0.3 * length + 1
        assert 0 == new[changed].abs().max() if len(changed) else True
        assert len(changed) == 0 or len(changed) == changed[-1] - changed[0] + 1


def test_a_band_is_taken_out():
    """Of three tones some go, the others stay as loud as they were."""
    rows = 40
    before, lengths = tones(rows=1)
    after, _ = mask_frequency((before.repeat(rows, 1), lengths.repeat(rows)), 0.3, RATE, draw())
    spectrum = torch.fft.rfft(after).abs() / torch.fft.rfft(before).abs().max()
    loud = spectrum[:, [150, 500, 1500]]

    assert set() < set(loud.lt(0.1).sum(1).tolist()) <= {0, 1, 2}
    assert ((loud < 0.1) | (loud > 0.9)).all()


def test_speed_moves_pitch_and_length_together():
    """Played at a factor, a recording is that much shorter and its tone that much higher."""
    place = torch.arange(8000) / RATE
    samples, lengths = torch.sin(2 * torch.pi * 500 * place).repeat(8, 1), torch.full((8,), 8000)
    after, played = speed((samples, lengths), 0.1, RATE, draw())
    factor = 8000 / played
    for row in range(8):
        spectrum = torch.fft.rfft(after[row, : played[row]], 8000).abs()

        assert 0.9 <= factor[row] <= 1.1
        assert abs(500 * factor[row] - int(spectrum.argmax())) <= 2
    assert 0 == after.shape[1] % 8
    assert len(set(played.tolist())) > 1


def loader(steps: list[dict[str, float]]) -> Loader:
    own = np.random.default_rng(0)
    column = ragged(
        [own.integers(-9000, 9000, 800 + 40 * row).astype(np.int16) for row in range(9)]
    )
    rows = Rows({"samples": column}, np.arange(9) % 2, [""] * 9)
    asked = [recipe.Augment.model_validate(step) for step in steps]
    return Loader(rows, batch_size=4, seed=3, augment=asked, rate=RATE)


def test_a_batch_is_a_function_of_seed_and_step():
    """Any step's batch can be made without those before it: resume is exact."""
    steps = [{"speed": 0.1}, {"mask_time": 0.2}, {"mask_time": 0.2}, {"mask_frequency": 0.2}]
    in_turn = loader(steps)
    third = [in_turn.batch(step) for step in range(4)][3]
    alone = loader(steps).batch(3)

    assert ["samples", "lengths"] == list(alone.inputs)
    assert all(torch.equal(third.inputs[name], alone.inputs[name]) for name in alone.inputs)
    assert torch.equal(third.targets, alone.targets)


def test_a_step_of_nothing_is_refused():
    """A share of 0 changes nothing, and says so before training."""
    with pytest.raises(ConfigError, match="mask_time: 0"):
        loader([{"mask_time": 0.0}])


@pytest.mark.parametrize(
    ("task", "step", "words"),
    [
        ("transcription", {"flip": "both"}, "transcription does not take flip, only mask_time"),
        ("audio-classification", {"crop": 2}, "does not take crop"),
        ("image-classification", {"speed": 0.1}, "does not take speed"),
        ("detection", {"crop": 2}, "does not take crop, only flip"),
        ("image-text-matching", {"mixup": 0.2}, "does not take mixup"),
        ("control", {"jitter": 0.1}, "does not take jitter, nor any other step"),
        ("tagging", {"erase": 0.1}, "tagging does not take erase, only drop_tokens"),
    ],
)
def test_steps_of_other_data_are_refused(task, step, words):
    """A recipe does what it says or stops: a step that a task cannot follow is an error."""
    with pytest.raises(ValueError, match=words):
        recipe.Recipe.model_validate(
            {"task": task, "data": {"source": "x"}, "train": {"augment": [step]}}
        )

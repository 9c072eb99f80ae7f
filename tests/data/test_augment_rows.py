"""Augmentation of texts and series: what goes in changes as it should, what comes out stays."""

import numpy as np
import torch

from modelwright.core.recipe import Augment
from modelwright.data.augment_rows import jitter
from modelwright.data.draw import Draw
from modelwright.data.loader import Loader
from modelwright.data.rows import Rows, Windows, ragged


def loader_of(inputs, targets, **step):
    rows = Rows(inputs, targets, [""] * len(targets))
    return Loader(rows, batch_size=8, seed=3, augment=[Augment(**step)])


def texts():
    """Rows of 4 to 35 tokens with two features each; no id is that of an unknown token."""
    draw = np.random.default_rng(0)
    return ragged([draw.integers(2, 50, (4 + row, 2)) for row in range(32)])


def test_tokens_are_dropped_by_their_share():
    """A fifth of the real tokens, and no padding becomes unknown."""
    column, dropped, real = texts(), 0, 0
    plain = Loader(Rows({"ids": column}, np.zeros(32, int), [""] * 32), batch_size=8, seed=3)
    changed = loader_of({"ids": column}, np.zeros(32, int), drop_tokens=0.2)
    for step in range(40):
        before, after = plain.batch(step).inputs["ids"], changed.batch(step).inputs["ids"]
        gone = (before != after).any(-1)
        assert (after[gone] == torch.tensor([1, 0])).all()  # as an unknown token comes
        assert torch.equal(before[~gone], after[~gone])
        assert not gone[before[..., 0] == 0].any()
        dropped, real = dropped + int(gone.sum()), real + int((before[..., 0] != 0).sum())

    assert 0.17 < dropped / real < 0.23


def test_noise_follows_each_series_spread():
    """Noise is a tenth of each channel's spread in its window; targets stay as they are."""
    table = np.random.default_rng(0).normal(0, 1, (500, 2)).astype(np.float32) * [1, 100]
    table = table.astype(np.float32)
    inputs = {"window": Windows(table, np.arange(400), 60)}
    targets = Windows(table, np.arange(400) + 60, 5)
    plain = Loader(Rows(inputs, targets, [""] * 400), batch_size=64, seed=3)
    noisy = loader_of(inputs, targets, jitter=0.1)
    noisy.batch_size = 64
    before, after = plain.batch(0), noisy.batch(0)
    noise = (after.inputs["window"] - before.inputs["window"]).std((0, 1)).numpy()

    np.testing.assert_allclose(noise, [0.1, 10], rtol=0.05)
    assert torch.equal(before.targets, after.targets)


def test_a_batch_is_the_same_whenever_it_is_asked_for():
    """What is drawn depends on seed and step alone, so that resuming is exact."""
    one, other = (loader_of({"ids": texts()}, np.zeros(32, int), drop_tokens=0.3) for _ in "ab")
    other.batch(5)

    assert torch.equal(one.batch(2).inputs["ids"], other.batch(2).inputs["ids"])


def test_both_sides_of_a_translation_keep_their_marks():
    """Sources keep their end and targets their beginning; what is to be written stays whole."""
    sources = ragged([np.append(np.arange(10, 12 + row), 99) for row in range(32)])
    targets = ragged([np.append(98, np.arange(20, 21 + row)) for row in range(32)])
    rows = Rows({"source": sources, "target": targets}, targets, [""] * 32)
    before = Loader(rows, batch_size=8, seed=3).batch(1)
    after = loader_of(rows.inputs, targets, drop_tokens=0.5).batch(1)

    assert torch.equal(before.targets, after.targets)
    for name, mark in (("source", 99), ("target", 98)):
        one, other = before.inputs[name], after.inputs[name]
        gone = one != other

        assert 0.3 < float(gone.sum() / (one != 0).sum()) < 0.6
        assert (other[gone] == 1).all() and not gone[(one == mark) | (one == 0)].any()


def test_a_window_of_one_step_has_no_spread_to_be_noisy_by():
    """It stays as it is, and does not become NaN."""
    window = torch.tensor([[[1.0, -2.0]]])
    noisy = jitter({"window": window}, 0.5, Draw(torch.Generator().manual_seed(0)))

    assert torch.equal(window, noisy["window"])

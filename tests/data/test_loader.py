"""Batches: the same for the same step, every row once an epoch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.core.errors import ConfigError, DataError
from modelwright.core.recipe import Augment
from modelwright.core.signature import NO_TARGET
from modelwright.data.loader import Loader
from modelwright.data.rows import Rows, Windows, ragged

from .conftest import rows

STEPS = (Augment(flip="both"), Augment(crop=1), Augment(rotate=10), Augment(cutmix=1.0))


def loader(number: int = 20, batch_size: int = 6, seed: int = 0, augment=()) -> Loader:
    return Loader(rows(number), batch_size=batch_size, seed=seed, augment=augment, num_classes=2)


@settings(max_examples=40, deadline=None)
@given(number=st.integers(1, 50), batch_size=st.integers(1, 70), epochs=st.integers(1, 3))
def test_every_row_once_an_epoch(number, batch_size, epochs):
    """The stream of all batches is a row of whole permutations, whatever the batch size."""
    source = loader(number, batch_size)
    steps = -(-number * epochs // batch_size)
    stream = torch.cat([source.indices(step) for step in range(steps)])

    assert batch_size * steps == len(stream)
    for epoch in range(epochs):
        seen = stream[epoch * number : (epoch + 1) * number]
        assert list(range(number)) == sorted(seen.tolist())


@settings(max_examples=40, deadline=None)
@given(number=st.integers(1, 50), quarter=st.integers(1, 8), growing=st.integers(0, 12))
def test_a_batch_that_grows_leaves_no_row_out(number, quarter, growing):
    """A quarter of the rows, then half, then all, and still whole permutations one by one."""
    source = Loader(
        rows(number), batch_size=4 * quarter, seed=0, num_classes=2, batch_steps=growing
    )
    taken = [source.indices(step) for step in range(growing + 3)]
    sizes = [len(one) for one in taken]
    early = growing // 2

    assert [quarter] * early == sizes[:early]
    assert [2 * quarter] * (growing - early) == sizes[early:growing]
    assert [4 * quarter] * 3 == sizes[growing:]
    assert list(itertools.accumulate(sizes, initial=0)) == [
        source.rows_before(step) for step in range(growing + 4)
    ]
    stream = torch.cat(taken)
    for epoch in range(len(stream) // number):
        seen = stream[epoch * number : (epoch + 1) * number]
        assert list(range(number)) == sorted(seen.tolist())


def test_windows_that_grow_hold_the_same_tokens():
    """A quarter as long, four times as many; each place keeps its target."""
    ids = np.arange(200, dtype=np.int32)
    source = Rows({"ids": Windows(ids[:, None], np.arange(0, 180), 16)},
                  Windows(ids, np.arange(1, 181), 16), [""] * 180)  # fmt: skip
    whole, short = (Loader(source, batch_size=3, seed=0, window_steps=steps) for steps in (0, 4))
    shapes = [tuple(short.batch(step).inputs["ids"].shape) for step in range(5)]

    assert [(12, 4, 1), (12, 4, 1), (6, 8, 1), (6, 8, 1), (3, 16, 1)] == shapes
    for step in range(5):
        one, other = whole.batch(step), short.batch(step)
        assert torch.equal(one.inputs["ids"].flatten(), other.inputs["ids"].flatten())
        assert torch.equal(one.targets.flatten(), other.targets.flatten())
        assert torch.equal(other.inputs["ids"][..., 0] + 1, other.targets)


def test_a_batch_depends_on_its_step_alone():
    """A new loader asked for step 9 first gives what an old one gave after eight others."""
    old, new = loader(augment=STEPS), loader(augment=STEPS)
    batches = [old.batch(step) for step in range(10)]

    for step in (9, 0, 4):
        again = new.batch(step)
        assert torch.equal(batches[step].inputs["image"], again.inputs["image"])
        assert torch.equal(batches[step].targets, again.targets)
        assert torch.equal(batches[step].targets_mixed, again.targets_mixed)
        assert batches[step].mix == again.mix


def test_seed_and_epoch_change_the_order():
    """Another seed and another epoch bring another order."""
    first = loader(batch_size=20)

    assert not torch.equal(first.indices(0), first.indices(1))
    assert not torch.equal(first.indices(0), loader(batch_size=20, seed=1).indices(0))


def test_global_random_numbers_are_left_alone():
    """Drawing a batch neither uses nor moves PyTorch's own generator."""
    before = torch.get_rng_state()
    loader(augment=STEPS).batch(3)

    assert torch.equal(before, torch.get_rng_state())


def test_rows_keep_their_targets():
    """Without steps a batch is the rows as they are, still uint8."""
    source = rows(20)
    batch = loader().batch(2)
    chosen = loader().indices(2).numpy()

    assert torch.uint8 == batch.inputs["image"].dtype
    assert np.array_equal(source.images[chosen], batch.inputs["image"].numpy())
    assert np.array_equal(source.targets[chosen], batch.targets.numpy())
    assert (None, 1.0) == (batch.targets_mixed, batch.mix)


def test_steps_per_epoch_counts_the_last_short_one():
    """20 rows in batches of 6 take 4 steps; a batch larger than the data takes one."""
    assert (4, 1) == (loader().steps_per_epoch, loader(batch_size=64).steps_per_epoch)


def test_what_cannot_be_loaded_is_refused():
    """No rows, an unknown class and a step without effect are typed errors."""
    with pytest.raises(DataError, match="no rows"):
        loader(0)
    with pytest.raises(DataError, match="targets go from 0 to 1"):
        Loader(rows(4), batch_size=2, seed=0, num_classes=1)
    with pytest.raises(ConfigError, match=r"shift: 0\.0 changes nothing"):
        loader(augment=(Augment(shift=0),))


def of_lengths(lengths) -> Rows:
    """Texts of those lengths whose first id is their number, labelled place by place."""
    texts = [np.full(length, row + 1) for row, length in enumerate(lengths)]
    return Rows({"ids": ragged(texts)}, ragged([text % 3 for text in texts]), [""] * len(texts))


def unequal(number: int, batch_size: int, seed: int = 0) -> Loader:
    lengths = np.random.default_rng(7).integers(1, 200, number)
    return Loader(of_lengths(lengths), batch_size=batch_size, seed=seed, num_classes=3)


@settings(max_examples=40, deadline=None)
@given(number=st.integers(1, 150), batch_size=st.integers(1, 40), epochs=st.integers(1, 3))
def test_every_row_of_unequal_length_once_an_epoch(number, batch_size, epochs):
    """Putting similar lengths together neither loses a row nor brings one twice."""
    source = unequal(number, batch_size)
    steps = -(-number * epochs // batch_size)
    stream = torch.cat([source.indices(step) for step in range(steps)])

    assert batch_size * steps == len(stream)
    for epoch in range(epochs):
        seen = stream[epoch * number : (epoch + 1) * number]
        assert list(range(number)) == sorted(seen.tolist())


def test_a_batch_of_unequal_rows_depends_on_seed_and_step_alone():
    """A new loader gives for any step what an old one gave; another seed gives other batches."""
    old, new = unequal(100, 8), unequal(100, 8)
    batches = [old.batch(step) for step in range(30)]

    for step in (29, 0, 13):
        assert torch.equal(batches[step].inputs["ids"], new.batch(step).inputs["ids"])
        assert torch.equal(batches[step].targets, new.batch(step).targets)
    other = unequal(100, 8, seed=1)
    assert any(not torch.equal(old.indices(step), other.indices(step)) for step in range(12))
    assert not torch.equal(old.indices(0), old.indices(13))


def test_a_batch_holds_similar_lengths():
    """Padding stays small though lengths go from 1 to 200, and all lengths take turns."""
    source = unequal(1600, 16)
    shapes = [source.batch(step).inputs["ids"].shape[1] for step in range(100)]
    real = sum(int((source.batch(step).inputs["ids"] > 0).sum()) for step in range(100)) / sum(
        16 * shape for shape in shapes
    )

    assert 0.9 <= real
    falls = sum(one > other for one, other in itertools.pairwise(shapes))
    assert 30 <= falls <= 70


@pytest.mark.parametrize("number", [1600, 1603, 1591])
def test_padding_stays_small_in_every_epoch(number):
    """Also where an epoch ends within a batch: buckets begin where batches do."""
    source = unequal(number, 16)
    for epoch in range(1, 4):
        steps = range(epoch * number // 16 + 1, (epoch + 1) * number // 16)
        batches = [source.batch(step).inputs["ids"] for step in steps]
        real = sum(int((one > 0).sum()) for one in batches) / sum(one.numel() for one in batches)
        assert 0.88 <= real, (epoch, real)


def test_padding_is_no_target():
    """Behind a row's end stand the id 0 and the target that no loss counts."""
    batch = unequal(40, 8).batch(3)

    assert batch.inputs["ids"].shape == batch.targets.shape
    assert torch.equal(batch.inputs["ids"] == 0, batch.targets == NO_TARGET)
    real = batch.inputs["ids"] > 0
    assert torch.equal((batch.inputs["ids"] % 3)[real], batch.targets[real])


def test_windows_are_loaded_with_what_comes_next():
    """A batch of windows is cut out of the table as it is asked for."""
    table = np.arange(60, dtype=np.float32).reshape(30, 2)
    starts = np.arange(20)
    source = Rows({"window": Windows(table, starts, 5)}, Windows(table, starts + 5, 3), [""] * 20)
    loader = Loader(source, batch_size=6, seed=0)
    batch, chosen = loader.batch(1), loader.indices(1).numpy()

    assert [table[n : n + 5].tolist() for n in chosen] == batch.inputs["window"].tolist()
    assert [table[n + 5 : n + 8].tolist() for n in chosen] == batch.targets.tolist()

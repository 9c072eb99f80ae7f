"""Columns of every form: saved ones come back, padding is padding, rows stay whole."""

import json

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.core.errors import IntegrityError
from modelwright.core.signature import NO_TARGET, PAD_MULTIPLE
from modelwright.data import rows as module
from modelwright.data.rows import (
    SOUND_SCALE,
    Rows,
    Windows,
    dataset,
    joined,
    load_files,
    load_part,
    ragged,
    row_hashes,
    save,
    typical,
)

LENGTHS = (3, 1, 17, 8, 9, 2)


def texts(lengths=LENGTHS, seed=0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(1, 50, length) for length in lengths]


def classified(lengths=LENGTHS, seed=0) -> Rows:
    """Texts with one class each."""
    number = len(lengths)
    return Rows({"ids": ragged(texts(lengths, seed))}, np.arange(number) % 2,
                [f"text {n}" for n in range(number)])  # fmt: skip


def tagged(lengths=LENGTHS, seed=0) -> Rows:
    """Texts with a label at each place."""
    found = texts(lengths, seed)
    return Rows({"ids": ragged(found)}, ragged([text % 5 for text in found]), [""] * len(found))


def recorded(lengths=LENGTHS, seed=0) -> Rows:
    """Sounds with one class each."""
    random = np.random.default_rng(seed)
    sounds = [random.integers(-32768, 32767, 10 * n, np.int16) for n in lengths]
    return Rows({"samples": ragged(sounds)}, np.arange(len(sounds)) % 2, [""] * len(sounds))


def forecast(number=6, seed=0) -> Rows:
    """Windows of four steps of two series, and the three steps that come next."""
    table = np.random.default_rng(seed).standard_normal((40, 2)).astype(np.float32)
    starts = 2 * np.arange(number)
    return Rows({"window": Windows(table, starts, 4)}, Windows(table.copy(), starts + 4, 3),
                [""] * number)  # fmt: skip


KINDS = {"classified": classified, "tagged": tagged, "recorded": recorded, "forecast": forecast}


def plain(column) -> list[np.ndarray]:
    return [np.asarray(column[row]) for row in range(len(column))]


def same(one, other) -> bool:
    """Whether two columns have the same form and the same rows."""
    return type(one) is type(other) and len(one) == len(other) and all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(plain(one), plain(other), strict=True)
    )  # fmt: skip


def of(make) -> module.Dataset:
    parts = {"train": make(), "valid": make(seed=1), "test": make(seed=2)}
    return dataset(parts, ["a", "b"], "made", [], {"kind": "made"}, {"kind": "made"},
                   {"words.json": b"[1]"})  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_saved_columns_come_back(tmp_path, kind):
    """Every form of a column is loaded as it was saved: its form, its type, its rows."""
    data = of(KINDS[kind])
    save(data, tmp_path)

    for part, rows in data.parts.items():
        back = load_part(tmp_path, part)
        assert list(rows.inputs) == list(back.inputs)
        assert all(same(rows.inputs[name], back.inputs[name]) for name in rows.inputs)
        assert same(rows.targets, back.targets)
        assert (rows.origins, rows.nbytes) == (back.origins, back.nbytes)
        every = np.arange(len(rows))
        for name, value in rows.batch(every).items():
            np.testing.assert_array_equal(value, back.batch(every)[name])


def test_origins_lie_beside_the_columns_and_not_in_the_header(tmp_path):
    """Texts of any size come back, halves of characters too, and the header stays as small."""
    made = classified()
    origins = ["text", "two\nlines", "", "日本 ä", "half \ud83d of a character", "x" * 10_000]
    rows = Rows(made.inputs, made.targets, origins)
    parts = {"train": rows, "valid": classified(seed=1), "test": classified(seed=2)}
    save(dataset(parts, ["a", "b"], "made", [], {}, {}), tmp_path)
    with safetensors.safe_open(tmp_path / "train.safetensors", "np") as file:
        header, tensors = file.metadata(), set(file.keys())

    assert {"inputs": '["ids"]'} == header
    assert {"ids", "ids.offsets", "targets", ".origins"} == tensors
    assert origins == load_part(tmp_path, "train").origins


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_without_rows_comes_back(tmp_path, kind):
    """An empty part keeps its columns' forms."""
    data = of(KINDS[kind])
    nothing = np.arange(0)
    parts = {**data.parts, "valid": data.parts["valid"].take(nothing)}
    save(dataset(parts, [], "made", [], {}, {}), tmp_path)
    back = load_part(tmp_path, "valid")

    assert 0 == len(back)
    assert all(same(parts["valid"].inputs[name], back.inputs[name]) for name in back.inputs)
    assert same(parts["valid"].targets, back.targets)


def test_files_travel_with_the_rows(tmp_path):
    """What belongs to the data besides rows is saved and verified like them."""
    save(of(classified), tmp_path)

    assert {"words.json": b"[1]"} == load_files(tmp_path, ["words.json"])
    (tmp_path / "words.json").write_bytes(b"[2]")
    with pytest.raises(IntegrityError, match=r"words\.json"):
        load_files(tmp_path, ["words.json"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_follows_every_column(kind):
    """Another value anywhere, in inputs or targets, gives another digest; the same rows, none."""
    digests = {of(KINDS[kind]).digest, of(KINDS[kind]).digest}
    assert 1 == len(digests)
    for index in range(2):
        data = of(KINDS[kind])
        rows = data.parts["test"]
        column = [*rows.inputs.values(), rows.targets][index]
        (column if isinstance(column, np.ndarray) else column.values).flat[0] += 1
        digests.add(dataset(data.parts, data.labels, "made", [], {}, {}).digest)

    assert 3 == len(digests)


@pytest.mark.parametrize("kind", KINDS)
def test_taking_and_joining_keep_rows_whole(kind):
    """Rows taken in any order and put after others are the rows that they were."""
    first, second = KINDS[kind](), KINDS[kind](seed=1)
    order = np.array([4, 0, 0, 5])
    both = joined(first.take(order), second)

    assert [first.origins[i] for i in order] + second.origins == both.origins
    for one, other, found in (
        *((first.inputs[n], second.inputs[n], both.inputs[n]) for n in first.inputs),
        (first.targets, second.targets, both.targets),
    ):
        wanted = [plain(one)[i] for i in order] + plain(other)
        assert len(wanted) == len(found)
        assert all(np.array_equal(a, b) for a, b in zip(wanted, plain(found), strict=True))


def test_padding_comes_behind_each_row():
    """Ids are filled up with 0, labels with NO_TARGET, to a whole multiple of eight places."""
    rows, chosen = tagged(), np.array([4, 1, 0])
    ids, targets = rows.batch(chosen)["ids"], rows.batch_targets(chosen)

    assert (3, 2 * PAD_MULTIPLE) == ids.shape == targets.shape
    assert (np.int64, np.int64) == (ids.dtype, targets.dtype)
    for place, row in enumerate(chosen):
        length = LENGTHS[row]
        np.testing.assert_array_equal(plain(rows.inputs["ids"])[row], ids[place, :length])
        np.testing.assert_array_equal(plain(rows.targets)[row], targets[place, :length])
        assert {0} == set(ids[place, length:].tolist())
        assert {NO_TARGET} == set(targets[place, length:].tolist())


def test_sound_brings_its_lengths():
    """Recordings become numbers from -1 to 1 with silence behind them, and their lengths."""
    rows, chosen = recorded(), np.array([3, 1])
    found = rows.batch(chosen)

    assert ["samples", "lengths"] == list(found)
    assert [80, 10] == found["lengths"].tolist()
    assert (np.float32, (2, 80)) == (found["samples"].dtype, found["samples"].shape)
    np.testing.assert_array_equal(
        plain(rows.inputs["samples"])[1] / np.float32(SOUND_SCALE), found["samples"][1, :10]
    )
    assert 0 == np.abs(found["samples"][1, 10:]).max()


def test_windows_are_cut_where_they_begin():
    """A window holds its stretch of the table, and its target what comes next."""
    rows = forecast()
    table = rows.inputs["window"].values
    window, targets = rows.batch(np.array([2, 0]))["window"], rows.batch_targets(np.array([2, 0]))

    np.testing.assert_array_equal([table[4:8], table[0:4]], window)
    np.testing.assert_array_equal([table[8:11], table[4:7]], targets)
    assert None is rows.lengths


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=1, max_size=8))
def test_equal_rows_have_equal_hashes(values):
    """Two rows of any length hash alike exactly where they are alike."""
    rows = [np.array(value, np.int64) for value in values]
    hashes = row_hashes({"ids": ragged(rows)})

    for one, first in enumerate(values):
        for other, second in enumerate(values):
            assert (first == second) == (hashes[one] == hashes[other])


def test_typical_rows_are_of_the_median_length():
    """One row of the middle, or as many as asked for, again and again where there are fewer."""
    rows = classified((1, 50, 9, 2, 60))

    assert [2] == typical(rows, 1).tolist()
    assert 12 == len(typical(rows, 12))
    assert [0, 1, 2] == typical(forecast(), 3).tolist()


def test_a_long_origin_is_cut_short():
    """A row is known by the beginning of its text."""
    rows = Rows({"ids": ragged(texts((2,)))}, np.zeros(1, np.int64), ["word " * 40])

    assert rows.name("test", 0).startswith("test 0 (word word") and rows.name("test", 0)[-2] == "…"
    assert 80 > len(rows.name("test", 0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_column_is_refused(tmp_path, kind):
    """A byte changed in any part's file is an error that names it."""
    save(of(KINDS[kind]), tmp_path)
    path = tmp_path / "train.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)

    assert "train" in json.loads((tmp_path / module.HASHES).read_bytes())
    with pytest.raises(IntegrityError, match=r"train\.safetensors"):
        load_part(tmp_path, "train")


@pytest.mark.parametrize("lost", ["words.json", module.HASHES])
def test_a_file_that_is_gone_is_refused(tmp_path, lost):
    """What travels with the model is as it was saved, or an error that names it."""
    save(of(classified), tmp_path)
    (tmp_path / lost).unlink()

    with pytest.raises(IntegrityError, match=r"words\.json is not the file"):
        load_files(tmp_path, ["words.json"])

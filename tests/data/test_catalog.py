"""Sources, the cut into parts and the files that the gate leaves."""

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.core.errors import ConfigError, DataError, IntegrityError
from modelwright.core.recipe import TASKS_OF_KEY
from modelwright.data import catalog
from modelwright.data.catalog import SOURCES, load, recognise, source_of
from modelwright.data.rows import Rows, load_part, save
from modelwright.tasks.catalog import TASKS

from .conftest import noise, of, rows, section, sound, write_folder

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write_idx(path: Path, array: np.ndarray, magic: int | None = None) -> None:
    head = struct.pack(">I", magic or 0x800 + array.ndim)
    content = head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    """A folder in MNIST's format, one half of it compressed."""
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", noise(20, (5, 4)))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(20, dtype=np.uint8) % 2)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", noise(6, (5, 4), seed=1))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(6, dtype=np.uint8) % 2)
    return tmp_path


def npz(path: Path, **arrays: np.ndarray) -> Path:
    file = path / "data.npz"
    np.savez(file, **arrays)
    return file


def test_digits_are_scaled_to_the_whole_range():
    """The digits' values 0..16 become 0..255, in the three parts that the recipe asks for."""
    data = load(section("digits"))

    assert (1, 8, 8) == data.inputs["shape"]
    assert 255 == max(part.images.max() for part in data.parts.values())
    assert 1797 == sum(len(part) for part in data.parts.values())
    assert [str(digit) for digit in range(10)] == data.labels


def test_every_class_gives_its_share():
    """Each part holds each digit in the share asked for, to one row and a half."""
    data = load(section("digits"))
    counts = {p: np.bincount(r.targets, minlength=10) for p, r in data.parts.items()}
    whole = sum(counts.values())

    assert np.abs(counts["test"] - 0.2 * whole).max() <= 1.5
    assert np.abs(counts["valid"] - 0.1 * (whole - counts["test"])).max() <= 1.5


def test_same_seed_same_rows():
    """The digest depends on the split seed and on nothing else."""
    digests = [load(section("digits", split_seed=seed)).digest for seed in (0, 0, 1)]

    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_statistics_come_from_train_alone():
    """Mean and standard deviation are those of the train pixels, whatever the test part holds."""
    parts = sound()
    before = of(parts)
    parts["test"].images[:] = 255
    after = of(parts)

    assert before.inputs == after.inputs
    assert parts["train"].images.mean() == pytest.approx(after.inputs["mean"][0])
    assert parts["train"].images.std() == pytest.approx(after.inputs["std"][0])
    assert before.digest != after.digest


def test_a_flat_channel_has_a_usable_std():
    """A channel of one value has a standard deviation of 1, never of 0."""
    parts = sound()
    parts["train"].images[:] = 7
    inputs = of(parts).inputs

    assert ((7.0,), (1.0,)) == (inputs["mean"], inputs["std"])


@settings(max_examples=40, deadline=None)
@given(
    targets=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    copies=st.integers(1, 4),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_a_cut_loses_nothing_and_leaks_nothing(targets, copies, share, seed):
    """Every row lands on one side, equal images on the same one, and no class is taken whole."""
    single = rows(len(targets), seed=seed)
    whole = Rows(
        {"image": np.repeat(single.images, copies, axis=0)},
        np.repeat(np.array(targets, np.int64), copies),
        [str(index) for index in range(len(targets) * copies)],
    )
    stay, off = catalog.cut(whole, share, seed)

    assert sorted(whole.origins) == sorted(stay.origins + off.origins)
    assert not {i.tobytes() for i in stay.images} & {i.tobytes() for i in off.images}
    if 0 < share < 1:
        assert set(targets) == set(stay.targets.tolist())


@pytest.mark.parametrize("seed", range(8))
def test_many_equal_rows_do_not_make_a_part_small_or_large(seed):
    """Where 60 of 100 images are one, a tenth is still ten, wherever the draw has put the 60."""
    images = np.repeat(rows(41).images, [1] * 40 + [60], axis=0)
    stay, off = catalog.cut(Rows({"image": images}, np.zeros(100, np.int64), [""] * 100), 0.1, seed)

    assert (90, 10) == (len(stay), len(off))


def test_idx_parts_are_taken_as_they_are(idx):
    """MNIST-named files give train and test; valid is cut from train."""
    data = load(section(idx))

    assert {"train": 18, "valid": 2, "test": 6} == {p: len(r) for p, r in data.parts.items()}
    assert (1, 5, 4) == data.inputs["shape"]
    assert np.array_equal(noise(6, (5, 4), seed=1)[:, None], data.parts["test"].images)


def test_idx_without_test_files_is_cut(idx):
    """Without t10k files a test part is cut off."""
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz"):
        (idx / name).unlink()

    assert 4 == len(load(section(idx)).parts["test"])


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"])
def test_truncated_idx_file_is_named(idx, name):
    """A file that ends early stops the load, and the error names it."""
    path = idx / name
    path.write_bytes(path.read_bytes()[:-5])

    with pytest.raises(DataError, match=name):
        load(section(idx))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\x08\x03" + b"\0\0\0\x01" * 3 + b"abc", "too long"),
        (b"\0\0\x0d\x03" + b"\0\0\0\x01" * 3 + b"a", "00 00 0d 03"),
        (b"\0\0\x08\x03\0", "cannot be read|cut short"),
        (b"", "nothing"),
        (b"\0\0\x08\x03" + b"\x01\0\0\0" * 3 + b"a", "cut short: its header announces 16777216 ×"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"abc", "cut short"),
        (b"\0\0\x08\x03" + b"\xff" * 4 + b"\0" * 4 + b"\xff" * 4, "holds nothing: 4294967295 × 0"),
    ],
)
def test_wrong_idx_file_is_refused(idx, content, words):
    """A wrong magic number, a short header and spare bytes are each told."""
    (idx / "t10k-images-idx3-ubyte").write_bytes(content)

    with pytest.raises(DataError, match=words):
        load(section(idx))


def test_idx_counts_have_to_agree(idx):
    """Labels for another number of images are refused."""
    write_idx(idx / "train-labels-idx1-ubyte", np.zeros(19, np.uint8))

    with pytest.raises(DataError, match="19 labels for 20 images"):
        load(section(idx))


def test_missing_idx_companion_is_named(idx):
    """A test image file without its labels is an error, not an undivided source."""
    (idx / "t10k-labels-idx1-ubyte.gz").unlink()

    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte is missing"):
        load(section(idx))


@pytest.mark.parametrize("shape", [(20, 6, 5), (20, 6, 5, 1), (20, 1, 6, 5), (20, 6, 5, 3)])
def test_npz_layouts_become_channels_first(tmp_path, shape):
    """Every layout of an array ends as (rows, channels, height, width) with the same pixels."""
    x = noise(20, shape[1:])
    data = load(section(npz(tmp_path, x=x, y=np.arange(20) % 2), test=0, valid=0))
    channels = 3 if shape[-1] == 3 else 1

    assert (channels, 6, 5) == data.inputs["shape"]
    expected = x.reshape(20, 6, 5, channels).transpose(0, 3, 1, 2)
    assert np.array_equal(expected, data.parts["train"].images)


def test_npz_floats_are_scaled(tmp_path):
    """Floats in [0, 1] become 0..255 by rounding."""
    x = noise(20, (4, 4))
    file = npz(tmp_path, x=(x / 255).astype(np.float32), y=np.arange(20) % 2)

    assert np.array_equal(x[:, None], load(section(file, test=0, valid=0)).parts["train"].images)


def test_npz_parts_and_labels(tmp_path):
    """Named parts are kept and the classes carry the names given."""
    y = np.arange(20) % 2
    file = npz(
        tmp_path, x_train=noise(20), y_train=y, x_valid=noise(4, seed=1), y_valid=y[:4],
        x_test=noise(6, seed=2), y_test=y[:6], labels=np.array(["cat", "dog"]),
    )  # fmt: skip
    data = load(section(file))

    assert {"train": 20, "valid": 4, "test": 6} == {p: len(r) for p, r in data.parts.items()}
    assert ["cat", "dog"] == data.labels


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": noise(4) * 1.0, "y": np.arange(4)}, "has floats from"),
        ({"x": noise(4).astype(np.int32), "y": np.arange(4)}, "x is int32"),
        ({"x": noise(4), "y": np.arange(3)}, "x has 4 rows and y has 3"),
        ({"x": noise(4), "y": np.arange(4) / 2}, "y is float64"),
        ({"x": noise(4, (2, 6, 6)), "y": np.arange(4)}, "has the shape"),
        ({"x": noise(4, (3, 6, 3)), "y": np.arange(4)}, "has the shape"),
        ({"x": noise(4)}, "no array 'y'"),
        ({"z": noise(4)}, "holds z"),
        ({"x_train": noise(4), "y_train": np.arange(4), "x_tets": noise(1)}, "mean 'x_test'"),
        (
            {"x_train": noise(4), "y_train": np.arange(4), "x_test": noise(1, (1, 5, 5)),
             "y_test": np.arange(1)},
            "differ in shape",
        ),
        ({"x": np.array([{}, {}]), "y": np.arange(2)}, "cannot be read as NPZ"),
    ],
)  # fmt: skip
def test_wrong_npz_is_refused(tmp_path, arrays, words):
    """Each wrong array is told by name; objects, which would need pickle, are never read."""
    with pytest.raises(DataError, match=words):
        load(section(npz(tmp_path, **arrays)))


def test_broken_npz_is_refused(tmp_path):
    """What is no archive of arrays, ends early or is encrypted is a data error."""
    file = npz(tmp_path, x=noise(4), y=np.arange(4))
    alone, other = io.BytesIO(), io.BytesIO()
    np.save(alone, noise(4))
    with zipfile.ZipFile(other, "w") as packed:
        packed.writestr("x", b"some text")
    locked = bytearray(file.read_bytes())
    locked[locked.index(b"PK\1\2") + 8] |= 1  # the flag of an encrypted file
    for content in (
        b"", b"PK not really", file.read_bytes()[:100], alone.getvalue(), other.getvalue(), locked
    ):  # fmt: skip
        file.write_bytes(content)

        with pytest.raises(DataError, match="cannot be read as NPZ"):
            load(section(file))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"source": "nowhere"}, "'nowhere' is not there"),
        ({"source": "x", "format": "digits"}, "data.format is digits"),
    ],
)
def test_unknown_sources_say_what_is_known(keys, words):
    """A wrong source is an error that lists every format."""
    with pytest.raises(ConfigError, match=words) as caught:
        load(section(**keys))

    images = [one for one in catalog.SOURCES.values() if one.kind == "image"]
    known = [one for one in images if "classes" in one.answers]
    assert all(source.looks_like in str(caught.value) for source in known)


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    """A CSV file is no source of images."""
    (tmp_path / "a.csv").write_text("1,2")

    with pytest.raises(ConfigError, match="of no kind that is known"):
        load(section(tmp_path / "a.csv"))


LOOSE = {  # files at the root -> what the folder is all the same
    "folder": ([f"{label}/{n}.png" for label in ("cats", "dogs") for n in range(4)],
               {"README.txt": "who took them", "labels.csv": "file,label\ncats/0.png,cats\n"}),
    "yolo": ([f"images/train/{n}.png" for n in range(4)],
             {"classes.txt": "cat\ndog\n", "train.txt": "images/train/0.png\n",
              **{f"labels/train/{n}.txt": "0 0.5 0.5 0.5 0.5\n" for n in range(4)}}),
    "text_folder": ([], {"readme.txt": "who wrote them", "list.csv": "a,b\n",
                         **{f"{label}/{n}.txt": f"{label} {n}"
                            for label in ("good", "bad") for n in range(4)}}),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOSE)
def test_loose_files_do_not_hide_what_a_folder_holds(tmp_path, name):
    """A text or a list beside class folders or boxes is no table to train on."""
    pictures, texts = LOOSE[name]
    write_folder(tmp_path, pictures)
    for file, text in texts.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    row = SOURCES[name]

    assert row is recognise(section(tmp_path))
    assert row is source_of(section(tmp_path), row.kind, row.answers[0])


def test_tables_that_the_recipe_names_may_have_any_name(tmp_path):
    """With data.files a folder is read by its tables, whatever else lies in it."""
    write_folder(tmp_path, ["cats/0.png", "dogs/0.png"])
    for name, number in (("mine.csv", 20), ("yours.csv", 4)):
        lines = [f"{name} {n},{'ab'[n % 2]}" for n in range(number)]
        (tmp_path / name).write_text("\n".join(["text,label", *lines]))
    asked = section(tmp_path, files={"train": "mine.csv", "test": "yours.csv"}, valid=0.1)
    data = load(asked, "text")

    assert SOURCES["text_table"] is source_of(asked, "text", "classes")
    assert {"train": 18, "valid": 2, "test": 4} == {p: len(r) for p, r in data.parts.items()}


def test_saved_parts_come_back(tmp_path):
    """What is saved is what is loaded, file names of rows included, empty parts too."""
    parts = sound()
    parts["valid"] = parts["valid"].take(np.array([], np.int64))
    parts["test"] = Rows(
        parts["test"].inputs, parts["test"].targets, [f"ä/{n}.png" for n in range(6)]
    )
    save(of(parts), tmp_path)

    for name, part in parts.items():
        back = load_part(tmp_path, name)
        assert np.array_equal(part.images, back.images)
        assert np.array_equal(part.targets, back.targets)
        assert part.origins == back.origins
    assert "test 2 (ä/2.png)" == back.name("test", 2)


def test_reading_one_part_opens_no_other(tmp_path):
    """Train can be read where the test file is not."""
    save(of(sound()), tmp_path)
    (tmp_path / "test.safetensors").unlink()

    assert 12 == len(load_part(tmp_path, "train"))
    with pytest.raises(DataError, match=r"test\.safetensors is missing"):
        load_part(tmp_path, "test")


def test_damaged_part_is_refused(tmp_path):
    """A part cut short, or an unknown one, is a typed error."""
    save(of(sound()), tmp_path)
    path = tmp_path / "train.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(IntegrityError, match=r"train\.safetensors"):
        load_part(tmp_path, "train")
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        load_part(tmp_path, "trian")


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_fashion_mnist_loads():
    """The published files give the published counts, balanced by class."""
    data = load(section(SHARED / "fashion_mnist"))

    assert {
        "train": 54000,
        "valid": 6000,
        "test": 10000,
    } == {part: len(rows_) for part, rows_ in data.parts.items()}
    assert [600] * 10 == np.bincount(data.parts["valid"].targets).tolist()


KEYS_OF_FORMATS = sorted({key for row in SOURCES.values() for key in row.reads})


@pytest.mark.parametrize("key", KEYS_OF_FORMATS)
def test_a_task_reads_what_one_of_its_formats_does(key):
    """What the recipe refuses by the task and what loading refuses by the format agree."""
    reading = {
        name
        for name, task in TASKS.items()
        for row in SOURCES.values()
        if row.kind == task.inputs and task.outputs in row.answers and key in row.reads
    }

    assert set(TASKS_OF_KEY[f"data.{key}"]) == reading


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"image_size": 32}, "data.image_size: 'digits' is read as digits, which does not"),
        ({"clean": [{"normalize": "NFC"}]}, "data.clean: 'digits' is read as digits"),
        ({"files": {"train": "a"}}, "data.files: 'digits' is read as digits"),
    ],
)
def test_a_key_that_the_format_does_not_read_is_refused(keys, what):
    """Whoever set it learns which formats do, and how to go on."""
    with pytest.raises(ConfigError, match=what) as caught:
        load(section("digits", **keys))

    assert "one of the formats that do: " in caught.value.expected
    assert "leave data." in caught.value.repair


@pytest.mark.parametrize("act", [catalog.load, catalog.recognise])
def test_a_folder_that_may_not_be_looked_into_is_refused(tmp_path, monkeypatch, act):
    """As on a disk's lost+found: a typed error, not the system's own."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot be read: .*Permission denied"):
        act(section(tmp_path))

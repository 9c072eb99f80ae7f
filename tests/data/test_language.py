"""Texts as one stream: reading and dividing them, tokens, windows and what comes next."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from modelwright.core import recipe
from modelwright.core.errors import ConfigError, DataError, MissingExtra
from modelwright.data import catalog, checks, language, text_stream
from modelwright.data.rows import PARTS, Ragged, Windows, joined, load_part, save

from .conftest import section
from .test_audio import prepare_script

SHAKESPEARE = Path(__file__).parents[3] / "shared/data/tinyshakespeare/input.txt"
SENTENCE = "the quick brown fox jumps over a lazy dog; größer, 天 地 … and so on\n"
TEXT = " ".join(np.random.default_rng(0).choice(SENTENCE.split(" "), 600))


@pytest.fixture(params=["characters", "bytes", "bpe"])
def unit(request):
    if request.param == "bpe":
        pytest.importorskip("tokenizers")
    return request.param


def load(path, unit="auto", **keys):
    tokens = {"unit": unit, "vocab_size": 300}
    keys = {"valid": 0.2, "test": 0.2, "window": 16, "tokens": tokens, **keys}
    return catalog.load(section(path, **keys), "stream", "next")


def file_of(folder, text=TEXT, name="text.txt"):
    content = text.encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def tokens_of(data):
    return language.tokens_of(data.files)


def predicted(data, part):
    """Every target of a part that is not padding, batch by batch, and the ids before it."""
    rows, befores, targets = data.parts[part], [], []
    for start in range(0, len(rows), 7):
        chosen = np.arange(start, min(start + 7, len(rows)))
        wanted = rows.batch_targets(chosen)
        ids = rows.batch(chosen)["ids"]

        assert (np.int64, np.int64) == (ids.dtype, wanted.dtype)
        assert (*wanted.shape, 1) == ids.shape
        befores.append(ids[..., 0][wanted != -100])
        targets.append(wanted[wanted != -100])
    return np.concatenate(befores), np.concatenate(targets)


def test_each_token_is_predicted_once(tmp_path, unit):
    """In valid and test, every token but the part's first, each from what stands before it."""
    data = load(file_of(tmp_path), unit)
    known, text = tokens_of(data), TEXT
    first, second = int(0.6 * len(text)), int(0.8 * len(text))
    for part, own in (("valid", text[first:second]), ("test", text[second:])):
        before, after = predicted(data, part)
        ids = known.encode(own)

        assert np.array_equal(ids[:-1], before)
        assert np.array_equal(ids[1:], after)
        assert own == known.decode(ids)
        assert own[: len(own) - 1].startswith(data.parts[part].origins[0])


def test_windows_of_train_overlap(tmp_path):
    """They begin at every fourth of a window, and their targets are one place further on."""
    data = load(file_of(tmp_path))
    rows, ids = data.parts["train"], tokens_of(data).encode(TEXT[: int(0.6 * len(TEXT))])
    assert isinstance(rows.inputs["ids"], Windows)
    starts = np.arange(0, len(ids) - 16, 4)

    assert np.array_equal(starts, rows.inputs["ids"].starts)
    assert 4 == data.inputs["overlap"]
    for row in (0, 5, len(rows) - 1):
        start = starts[row]
        assert np.array_equal(ids[start : start + 16], rows.batch(np.array([row]))["ids"][0, :, 0])
        assert np.array_equal(ids[start + 1 : start + 17], rows.batch_targets(np.array([row]))[0])


def test_the_vocabulary_comes_from_train_alone(tmp_path):
    """A character that only test has is unknown, and is said so; one of train is not."""
    data = load(file_of(tmp_path, TEXT + "ß" + TEXT[:10]))
    labels = data.outputs["labels"]

    assert "ß" in labels  # of größer
    other = load(file_of(tmp_path, TEXT + "Ω" + TEXT[:10], "other.txt"))
    assert "Ω" not in other.outputs["labels"]
    assert 1 == (predicted(other, "test")[1] == language.UNKNOWN).sum()
    assert sorted(set(TEXT[: int(0.6 * len(TEXT))])) == labels[2:]


def test_the_description_fits_the_vocabulary(tmp_path, unit):
    """As many classes as ids, a label each; the kinds are those of the tables."""
    data = load(file_of(tmp_path), unit)
    known = tokens_of(data)

    assert ("stream", "next") == (data.inputs["kind"], data.outputs["kind"])
    assert data.inputs["vocab_size"] == data.outputs["num_classes"] == len(known)
    assert known.labels == data.outputs["labels"]
    assert (16, 16, unit) == tuple(data.inputs[key] for key in ("length", "max_length", "unit"))
    assert {"bytes": 258, "bpe": 300}.get(unit, len(known)) == len(known)


def test_labels_survive_json(tmp_path, unit):
    """Bytes that are a part of a character too; the labels of all ids are all the bytes."""
    known = tokens_of(load(file_of(tmp_path), unit))
    again = language.Tokens.from_bytes(known.to_bytes())

    assert json.loads(json.dumps(known.labels)) == again.labels
    assert np.array_equal(known.encode(TEXT), again.encode(TEXT))
    spelled = [language.label_bytes(label) for label in again.labels]
    assert TEXT.encode() == b"".join(spelled[one] for one in again.encode(TEXT))


def test_bpe_learns_the_same_again():
    """Pairs of bytes are a function of the text; any text can be written with them."""
    pytest.importorskip("tokenizers")
    one, two = (language.learn(TEXT, "bpe", 290) for _ in range(2))

    assert one.labels == two.labels
    assert one.bpe == two.bpe
    for text in ("Ωμέγα\n\n  x", "the quick", " "):
        assert text == one.decode(one.encode(text))
    assert len(one.encode("the quick brown")) < len("the quick brown")


def test_too_few_ids_for_bytes_are_refused():
    """Every byte has an id."""
    pytest.importorskip("tokenizers")
    with pytest.raises(ConfigError, match="at least 258"):
        language.learn(TEXT, "bpe", 257)


def test_bpe_without_its_library_names_the_extra(monkeypatch):
    """The message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r"modelwright\[text\]"):
        language.learn(TEXT, "bpe", 300)


def test_a_folder_brings_its_parts(tmp_path):
    """Named by their files; a part that is missing is cut off the end of train."""
    file_of(tmp_path, TEXT, "train.txt.gz")
    file_of(tmp_path, "the dog jumps over", "test.txt")
    data = load(tmp_path)
    known = tokens_of(data)

    assert "the dog jumps ove" == known.decode(predicted(data, "test")[0])
    assert TEXT[int(0.8 * len(TEXT)) : -1] == known.decode(predicted(data, "valid")[0])
    assert TEXT[:16] == known.decode(data.parts["train"].inputs["ids"][0][:, 0])


def test_folders_named_for_parts_are_parts(tmp_path):
    """At any depth: what is held out there is not trained on."""
    for name, text in (("en/train/a", TEXT), ("en/train/b", TEXT), ("en/test/x", "the dog jumps")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        file_of(tmp_path, text, f"{name}.txt")
    data = load(tmp_path, format="text_stream")

    assert "the dog jump" == tokens_of(data).decode(predicted(data, "test")[0])
    assert int(0.8 * (2 * len(TEXT) + 1)) == len(data.parts["train"].inputs["ids"].values)


@pytest.mark.parametrize(
    ("names", "odd"),
    [
        (["train/a", "test/b", "c"], "and c.txt for no"),
        (["a/b", "test/c"], "and a/b.txt for no"),
        (["dev/a", "test/b"], "valid and test, and none for train"),
        (["a", "test"], "test, and a.txt for no"),
    ],
)
def test_a_text_held_out_is_never_trained_on(tmp_path, names, odd):
    """Where some texts are named for a part, and others for none or none to train on."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        file_of(tmp_path, TEXT, f"{name}.txt")
    with pytest.raises(DataError, match=odd) as caught:
        load(tmp_path, format="text_stream")

    assert "into a folder train" in caught.value.repair


def test_split_rows_count_characters(tmp_path):
    """The parts have as many as the recipe says."""
    data = load(file_of(tmp_path), split_rows=[1000, 100, 50])

    assert (99, 49) == tuple(len(predicted(data, part)[0]) for part in ("valid", "test"))
    assert 1000 == len(data.parts["train"].inputs["ids"].values)


@pytest.mark.parametrize(("text", "keys", "words"), [
    (TEXT, {"split_rows": [1000, 100, 99_999]}, "data.split_rows asks for"),
    (TEXT, {"valid": 0.0}, "the valid part .* has 0 characters"),
    (TEXT, {"valid": 0.6, "test": 0.6}, "the train part .* has 0 characters"),
    (TEXT[:40], {"window": 30}, "the train part has 24 characters, and data.window is 30"),
    ("x", {}, "has 0 characters"),
])  # fmt: skip
def test_too_little_text_is_refused(tmp_path, text, keys, words):
    """With the part and the numbers."""
    with pytest.raises(DataError, match=words):
        load(file_of(tmp_path, text), **keys)


@pytest.mark.parametrize("content", [b"\xff\xfe broken", b"\x1f\x8b\x08"])
def test_what_is_no_text_is_refused(tmp_path, content):
    """Bytes that are not UTF-8, and an archive that is cut."""
    path = tmp_path / ("x.txt" if content[0] == 255 else "x.txt.gz")
    path.write_bytes(content * 3)
    with pytest.raises(DataError, match="cannot be read"):
        load(path, format="text_stream")


def test_parts_survive_the_disk(tmp_path, unit):
    """Columns, windows and origins are the same after saving; ids take 32 bits there."""
    data = load(file_of(tmp_path), unit)
    (tmp_path / "parts").mkdir()
    save(data, tmp_path / "parts")
    for part in PARTS:
        again, rows = load_part(tmp_path / "parts", part), data.parts[part]
        chosen = np.arange(min(len(rows), 9))

        assert np.int32 == again.inputs["ids"].values.dtype
        assert rows.origins == again.origins
        assert np.array_equal(rows.batch(chosen)["ids"], again.batch(chosen)["ids"])
        assert np.array_equal(rows.batch_targets(chosen), again.batch_targets(chosen))


def test_valid_and_train_can_be_joined(tmp_path):
    """For the proof of parity: whole windows behind those that may be short."""
    parts = load(file_of(tmp_path)).parts
    some = parts["train"].take(np.array([3, 1]))
    both = joined(parts["valid"], some)
    last = np.arange(len(both) - 2, len(both))

    assert isinstance(both.inputs["ids"], Ragged) and isinstance(both.targets, Ragged)
    assert np.array_equal(some.batch(np.arange(2))["ids"], both.batch(last)["ids"])
    assert np.array_equal(some.batch_targets(np.arange(2)), both.batch_targets(last))
    assert 16 == both.lengths[-1]


def test_the_gate_finds_nothing(tmp_path):
    """Rows that repeat are no finding of a stream."""
    keys = section(file_of(tmp_path, "ab" * 2000), window=16)
    _, report = checks.check(catalog.load(keys, "stream", "next"), keys)
    checks.refuse(report)

    assert [] == report["findings"]
    assert not any("duplicates" in name for name in report["checked"])


@pytest.mark.parametrize(("name", "content", "right"), [
    ("a.txt", TEXT, True),
    ("a.txt.gz", TEXT, True),
    ("a.txt", "one line", True),
    ("a.csv", "text,label\na,b\n", False),
    ("a.txt", "a\tb\n" * 20, False),
    ("a.txt", "New B-LOC\nYork I-LOC\n\n" * 20, False),
])  # fmt: skip
def test_running_text_is_told_from_tables(tmp_path, name, content, right):
    """By what stands in it; so `init` names the right task."""
    path = file_of(tmp_path, content, name)

    assert right == text_stream.is_here(path)
    if right:
        assert "stream" == catalog.recognise(recipe.Data(source=str(path))).kind


def test_a_prompt_is_read_as_the_text_was(tmp_path, unit):
    """The last window of it, in the model's ids; an empty one is refused."""
    data = load(file_of(tmp_path), unit)
    made = language.read_input(b"the quick brown fox jumps", data.inputs, data.files)["ids"]
    known = tokens_of(data)

    assert np.int64 == made.dtype
    assert np.array_equal(known.encode("the quick brown fox jumps")[-16:], made[0, :, 0])
    for content, words in ((b"", "empty"), (b"\xff", "not UTF-8")):
        with pytest.raises(DataError, match=words):
            language.read_input(content, data.inputs, data.files)


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="the text is not here")
def test_the_last_tenth_of_shakespeare():
    """The usual division: 111,540 characters of test, all but the first predicted once."""
    data = load(SHAKESPEARE, valid=0.1, test=0.1, window=None)
    before, after = predicted(data, "test")
    text = SHAKESPEARE.read_text()

    assert 111_540 == len(after) + 1
    assert text[-111_540:] == tokens_of(data).decode([before[0], *after])
    assert 65 + 2 == data.inputs["vocab_size"]
    assert 128 == data.inputs["length"]


def test_tinyshakespeare_is_divided_as_nanogpt_does(tmp_path):
    """Test is the last tenth, and nothing is missing right before it; valid is the beginning."""
    text = "".join(chr(97 + place % 26) for place in range(1000))
    (tmp_path / "input.txt").write_text(text)
    written = prepare_script().shakespeare(tmp_path / "input.txt", tmp_path / "made")

    assert {"train": 880, "valid": 20, "test": 100} == written
    parts = ("valid", "train", "test")
    assert text == "".join((tmp_path / "made" / f"{part}.txt").read_text() for part in parts)

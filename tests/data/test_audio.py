"""Recordings to samples at one rate, and folders of them."""

import importlib.util
import io
import sys
import tarfile
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.core.errors import DataError, MissingExtra
from modelwright.data import audio
from modelwright.data.catalog import SOURCES, load, recognise
from modelwright.data.checks import check
from modelwright.data.kinds import KINDS

from .conftest import section, write_folder

ROOT = Path(__file__).parents[2]


def sine(hertz: float, seconds: float, rate: int, level: float = 0.5) -> np.ndarray:
    """int16 samples."""
    time = np.arange(round(seconds * rate)) / rate
    return np.rint(level * 32767 * np.sin(2 * np.pi * hertz * time)).astype(np.int16)


def hiss(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, number).astype(np.int16)


def wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    """A WAV file of int16 (time,) or (time, channels)."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def other(samples: np.ndarray, rate: int = 8000, **form: Any) -> bytes:
    """A file in another format."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **form)
    return buffer.getvalue()


def write_recordings(root: Path, names: list[str], rate: int = 8000) -> None:
    """A WAV of hiss under each name, each longer than the one before."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(wav(hiss(400 + 10 * seed, seed), rate))


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder of two classes with ten recordings each."""
    root = tmp_path / "recordings"
    write_recordings(root, [f"{label}/{n:02}.wav" for label in ("no", "yes") for n in range(10)])
    return root


def loaded(root: Path, **keys: Any) -> Any:
    return load(section(root, **keys), "audio", "classes")


def test_sixteen_bits_come_out_as_they_are():
    """WAV and FLAC of one channel give back the very samples that were written."""
    samples = hiss(1001)

    for content in (wav(samples, 11025), other(samples, 11025, format="FLAC")):
        found, rate = audio.decode(content)
        assert (np.int16, 11025) == (found.dtype, rate)
        assert np.array_equal(samples, found)


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_other_depths_are_brought_to_sixteen_bits(subtype):
    """Deeper integers and floats give the samples that 16 bits would have held."""
    samples = hiss(500)
    content = other(samples / 32768, format="WAV", subtype=subtype)

    assert np.array_equal(samples, audio.decode(content)[0])


def test_channels_are_mixed_to_their_mean():
    """Two channels become the mean of both; a channel alone is not louder than it was."""
    left, right = hiss(300, 1) // 2 * 2, hiss(300, 2) // 2 * 2

    assert np.array_equal((left + right) // 2, audio.decode(wav(np.stack([left, right], 1)))[0])


def test_floats_beyond_the_range_are_cut_off():
    """A float file that is too loud is cut at the ends of the range; it does not wrap around."""
    content = other(np.array([1.5, -1.5, 0.0]), format="WAV", subtype="FLOAT")

    assert [32767, -32768, 0] == audio.decode(content)[0].tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "neither WAV nor FLAC"),
        (b"just words", "neither WAV nor FLAC"),
        (other(hiss(900), format="OGG"), "neither WAV nor FLAC"),
        (b"RIFF\x04\0\0\0WAVE", "cannot be read"),
        (b"fLaC" + b"\0" * 60, "cannot be read"),
        (wav(hiss(900))[:1000], "cut short at 1,000 of 1,844 bytes"),
        (other(hiss(90000), format="FLAC")[:5000], "cannot be read"),
        (wav(hiss(0)), "holds no sample"),
        (wav(hiss(9), rate=100), "has 100 samples a second"),
        (wav(hiss(9), rate=500_000), "has 500,000 samples a second"),
        (wav(hiss(601_000), rate=1000), "announces 601 seconds"),
        (other(np.array([0.0, np.nan]), format="WAV", subtype="FLOAT"), "no numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "bytes",  # libsndfile writes the time
)
def test_what_cannot_be_decoded_is_a_data_error(content, words):
    """Empty, foreign, damaged, cut, endless and senseless files are each told in plain words."""
    with pytest.raises(DataError, match=words) as caught:
        audio.decode(content)

    assert "object" not in str(caught.value)


def test_a_wav_of_unknown_length_is_read():
    """A file that was written to a pipe announces no length; it is not taken for a cut one."""
    content = bytearray(wav(hiss(900)))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"

    assert np.array_equal(hiss(900), audio.decode(bytes(content))[0])


def test_missing_soundfile_names_the_extra(recordings, monkeypatch):
    """Without soundfile, recordings and folders of them say what to install."""
    monkeypatch.setitem(sys.modules, "soundfile", None)

    with pytest.raises(MissingExtra, match=r"modelwright\[audio\]"):
        audio.decode(b"")
    with pytest.raises(MissingExtra, match="soundfile"):
        loaded(recordings)


@pytest.mark.parametrize("old", [8000, 11025, 16000, 44100, 48001])
@pytest.mark.parametrize("new", [8000, 16000, 22050])
def test_a_sine_stays_that_sine(old, new):
    """At another rate a tone has the same frequency, phase, level and length."""
    found = audio.resample(sine(1000, 0.5, old), old, new)
    inside = slice(new // 20, -new // 20)

    assert abs(len(found) - 0.5 * new) <= 1
    expected = sine(1000, 0.51, new)[: len(found)].astype(float)
    assert np.abs(expected - found)[inside].max() <= 3


def test_a_tone_beyond_the_new_band_vanishes():
    """What the lower rate cannot hold is taken out; it does not come back as another tone."""
    found = audio.resample(sine(5000, 0.5, 16000), 16000, 8000)

    assert np.abs(found[400:-400]).max() <= 3


def test_the_end_does_not_sound_into_the_beginning():
    """A loud end leaves a silent beginning silent."""
    samples = np.concatenate([np.zeros(4000, np.int16), sine(500, 0.5, 16000, 0.9)])
    found = audio.resample(samples, 16000, 8000)

    assert np.abs(found[:1500]).max() <= 3


@settings(max_examples=30, deadline=None)
@given(
    number=st.integers(1, 3000),
    old=st.sampled_from([1000, 8000, 11025, 44100, 192_000]),
    new=st.sampled_from([1000, 8000, 12345, 48000]),
)
def test_resampled_length_is_rounded_up(number, old, new):
    """Every length at every rate keeps its duration to a sample; a full swing never wraps."""
    samples = np.where(np.arange(number) % 7 < 3, 32767, -32768).astype(np.int16)
    found = audio.resample(samples, old, new)

    assert -(-number * new // old) == len(found)
    assert np.int16 == found.dtype
    assert found is samples or old != new


def test_folder_gives_classes_by_name(recordings):
    """Folder names in order are the labels; each row knows its file and holds its samples."""
    data = loaded(recordings, test=0, valid=0)
    train = data.parts["train"]

    assert ["no", "yes"] == data.labels
    assert [0] * 10 + [1] * 10 == train.targets.tolist()
    assert "yes/03.wav" == train.origins[13]
    assert ["samples"] == list(train.inputs)
    assert np.array_equal(hiss(530, 13), train.inputs["samples"][13])


def test_inputs_are_described(recordings):
    """Rate, bands, the median length of train and the longest recording of all parts are told."""
    write_recordings(recordings / "train", [f"{c}/{n}.wav" for c in "ab" for n in range(3)])
    write_recordings(recordings / "test", [f"{c}/{n}.wav" for c in "ab" for n in range(10)])
    for label in ("no", "yes"):
        (recordings / label).rename(recordings.parent / label)
    data = loaded(recordings, valid=0)

    assert {
        "kind": "audio", "rate": 8000, "num_mels": 40, "length": 425, "max_length": 590,
    } == data.inputs  # fmt: skip
    assert ("a/0.wav", 6, 20) == (
        data.parts["train"].origins[0].removeprefix("train/"),
        len(data.parts["train"]),
        len(data.parts["test"]),
    )


def test_the_most_common_rate_is_taken(recordings):
    """A file of another rate is brought to the one that most have; data.rate names another."""
    (recordings / "no" / "00.wav").write_bytes(wav(sine(440, 0.1, 16000), 16000))
    common = loaded(recordings, test=0, valid=0)
    named = loaded(recordings, test=0, valid=0, rate=4000)

    assert (8000, 4000) == (common.inputs["rate"], named.inputs["rate"])
    first = common.parts["train"].inputs["samples"]
    assert np.array_equal(audio.resample(sine(440, 0.1, 16000), 16000, 8000), first[0])
    assert [800, 410, 420] == first.lengths[:3].tolist()
    assert [400, 205, 210] == named.parts["train"].inputs["samples"].lengths[:3].tolist()


def test_folder_parts_are_taken_as_they_are(tmp_path):
    """train, val and test folders become the parts."""
    names = [f"{p}/{c}/{n}.wav" for p in ("train", "val", "test") for c in "ab" for n in range(3)]
    write_recordings(tmp_path, names)
    data = loaded(tmp_path)

    assert {"train": 6, "valid": 6, "test": 6} == {p: len(r) for p, r in data.parts.items()}
    assert "val/a/0.wav" == data.parts["valid"].origins[0]


def test_broken_files_become_a_finding(recordings):
    """A damaged recording, a foreign file and an empty class are found and left out."""
    (recordings / "no" / "00.wav").write_bytes(b"RIFF")
    (recordings / "no" / "notes.txt").write_text("hello")
    (recordings / "maybe").mkdir()
    data = loaded(recordings, test=0, valid=0)

    assert [("broken_files", 2), ("empty_class", 1)] == [(f.check, f.count) for f in data.findings]
    assert (("no/00.wav",), ("no/notes.txt",)) == data.findings[0].rows
    assert data.findings[0].text.startswith("2 files are not readable as WAV or FLAC; no/00.wav: ")
    assert "1 class folder has no readable recording: maybe" == data.findings[1].text
    assert 19 == len(data.parts["train"])


def test_a_folder_without_a_recording_says_what_was_expected(tmp_path):
    """Class folders of other files are told how a source looks."""
    write_recordings(tmp_path, ["a/1.wav", "b/1.wav"])
    for file in tmp_path.rglob("*.wav"):
        file.write_bytes(b"")

    with pytest.raises(DataError, match="none of 2 files is a readable WAV or FLAC") as caught:
        loaded(tmp_path)
    assert "one folder for each class, with WAV or FLAC files" in str(caught.value)


def test_silent_recordings_are_noted(recordings):
    """Recordings of one value are named and kept; nothing stops the run."""
    (recordings / "no" / "03.wav").write_bytes(wav(np.full(500, 7, np.int16)))
    data, report = check(loaded(recordings, test=0.2, valid=0.1), section(recordings))
    (found,) = [f for f in report["findings"] if f["check"] == "constant_recordings"]

    assert (1, False) == (found["count"], found["blocking"])
    assert "1 recording holds one value and nothing else" == found["text"]
    assert "no/03.wav" in found["rows"][0][0]
    assert 20 == sum(len(rows) for rows in data.parts.values())


def test_sounds_and_images_are_told_apart(recordings, images):
    """What most of the first files are says which kind of folder it is, whatever lies beside."""
    (recordings / "no" / "0.png").write_bytes(b"")
    (images / "cats" / "0.wav").write_bytes(b"")

    assert SOURCES["audio_folder"] is recognise(section(recordings))
    assert SOURCES["folder"] is recognise(section(images))


def test_an_empty_folder_holds_no_sound(tmp_path):
    """A folder without files, or behind a link, is not taken for recordings."""
    write_recordings(tmp_path / "elsewhere", ["a/1.wav"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    write_folder(tmp_path / "mixed", ["a/1.png"])

    assert [False, False] == [audio.is_here(tmp_path / name) for name in ("empty", "mixed")]


def test_read_input_is_what_training_saw(recordings):
    """The bytes of a file, read for an answer, are the very batch that training was given."""
    (recordings / "no" / "00.wav").write_bytes(wav(hiss(999), 16000))
    (recordings / "no" / "01.flac").write_bytes(other(hiss(777), 8000, format="FLAC"))
    data = loaded(recordings, test=0, valid=0)
    train = data.parts["train"]

    for row, origin in enumerate(train.origins):
        content = (recordings / origin).read_bytes()
        found = KINDS["audio"].read_input(content, data.inputs, {})
        expected = train.batch(np.array([row]))
        assert {"samples": np.float32, "lengths": np.int64} == {
            n: a.dtype for n, a in found.items()
        }
        assert all(np.array_equal(expected[name], found[name]) for name in found)


@pytest.mark.parametrize(("rate", "hop"), [(22_050, 220), (8_000, 80)])
def test_times_of_places_follow_the_models_hop(rate, hop):
    """A hop is a whole number of samples, so that at some rates it is less than 10 ms."""
    content, number = wav(hiss(6 * rate), rate), 6 * rate // (2 * hop)
    found = audio.tokens(content, {"rate": rate, "stack": 2})

    assert [*(f"{2 * hop * place / rate:.2f}" for place in range(number + 1)), "6.00"] == found


def test_batches_are_padded_with_silence(recordings):
    """Shorter rows end in zeros; lengths say where; samples are shares of the whole range."""
    samples, lengths = loaded(recordings, test=0, valid=0).parts["train"].batch(
        np.array([4, 0])
    ).values()  # fmt: skip

    assert [440, 400] == lengths.tolist()
    assert (2, 440) == samples.shape
    assert np.array_equal(hiss(400) / np.float32(32768), samples[1, :400])
    assert 0 == np.abs(samples[1, 400:]).max()


def test_the_manifest_says_what_is_done(recordings):
    """Rate and mixing stand in the manifest's preprocess entry."""
    told = KINDS["audio"].preprocess(loaded(recordings).inputs)

    assert (8000, 1) == (told["rate"], told["channels"])


def prepare_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "benchmarks" / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(path: Path, *names: str, link: bool = False) -> Path:
    """A tar of small WAV files; the last name may be a link out of it."""
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member, content = tarfile.TarInfo(name), wav(hiss(50))
            if link and name == names[-1]:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_spoken_digits_are_divided_as_published(tmp_path):
    """The first five recordings of each digit and speaker are the test part."""
    names = [f"recordings/{d}_ann_{n}.wav" for d in range(2) for n in (0, 4, 5, 49)]
    source = archive(tmp_path / "a.tar.gz", *names)

    assert {"train": 4, "test": 4} == prepare_script().fsdd(source, tmp_path / "out")
    assert (tmp_path / "out/test/1/1_ann_4.wav").is_file()
    assert (tmp_path / "out/train/0/0_ann_49.wav").is_file()
    assert ["0", "1"] == loaded(tmp_path / "out").labels


@pytest.mark.parametrize(
    ("name", "link"),
    [("recordings/11.wav", False), ("0_ann_50.wav", False), ("0_ann_7.wav", True)],
)
def test_other_names_and_links_are_refused(tmp_path, name, link):
    """A file that is no recording of the set, or a link, stops the unpacking."""
    source = archive(tmp_path / "a.tar.gz", "0_ann_0.wav", name, link=link)

    with pytest.raises(ValueError, match="is no recording"):
        prepare_script().fsdd(source, tmp_path / "out")


def test_no_path_of_an_archive_is_followed(tmp_path):
    """A member that would climb out of the folder is written inside it."""
    source = archive(tmp_path / "a.tar.gz", "../../0_ann_0.wav", "/0_ann_9.wav")
    prepare_script().fsdd(source, tmp_path / "out")

    assert ["a.tar.gz", "out"] == sorted(path.name for path in tmp_path.iterdir())
    assert 2 == len(list((tmp_path / "out").rglob("*.wav")))

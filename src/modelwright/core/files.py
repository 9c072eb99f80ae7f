"""Write files so that a crash, a kill or a full disk leaves the old one or the new one whole."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelwright.core.errors import ConfigError, StorageError


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into an error with a repair."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            expected="room and permission to write; what was saved before is intact",
            repair="free disk space or choose another folder with --out, then run the same "
            "command again",
        ) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the system's refusal to read `path` into an error that says why."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror or error}",
            expected="the path of something that you may read",
            repair="check how it is spelled, and who may read it",
        ) from error


def make_folder(path: Path) -> Path:
    """`path`, a folder from now on.

    Raises: StorageError when the disk refuses.
    """
    with storage(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, whole or not at all.

    Raises: StorageError when the disk refuses; the old file is then untouched.
    """
    # a name of its own: of two who write the same file at once, the later one's stays
    partial = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.partial")
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, whole or not at all; NaN is refused."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes `path` only when the block ends without an error.

    An older `path` is replaced. A leftover of an earlier crash is removed.
    """
    partial, old = (path.with_name(f".{path.name}.{end}") for end in ("partial", "old"))
    with storage(path):
        if old.exists() and not path.exists():  # a crash came between the two renames below
            os.replace(old, path)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    try:
        with storage(path):  # the block's own writes too
            yield partial
            for file in partial.iterdir():
                if file.is_file():
                    _sync(file)
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                os.replace(path, old)
            try:
                os.replace(partial, path)
            except OSError:
                if old.exists():
                    os.replace(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """Hex SHA-256 of a value in canonical JSON (sorted keys, no blanks)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder through to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Which rank stands still: each says in a file of its own where it is, the others read it.

A rank that waits for another in a collective can't be told by it what is wrong; the group's timeout
ends the wait, and the files say whom it waited for. They need one folder that all ranks see, and
no clock but that folder's.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.core.errors import TrainingFailed
from modelwright.core.files import storage
from modelwright.core.units import format_seconds
from modelwright.train.ranks import Lost

BEAT_S = 5.0  # between two signs of life, but at least four in the time that is waited
FILE_BYTES = 512  # a host's name is no longer than 255
SILENT_BEATS = 3  # that may be missing before a rank counts as silent
# what gloo, NCCL and the store say when another rank does not answer or is gone
SAID = ("timed out", "timeout", "connection closed by peer", "connection reset by peer",
        "connection refused", "broken pipe", "socket closed")  # fmt: skip


def _is_about_others(error: RuntimeError) -> bool:
    """torch's DistError and its kinds are such."""
    return any(one in str(error).lower() for one in SAID)


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Around what needs the other ranks before they train, when none says where it is.

    Raises: TrainingFailed if one is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_about_others(error):
            raise
        raise TrainingFailed(
            "another process ended before the training began, or does not answer",
            expected="all of them until the first has planned",
            repair="see what that one said, or its machine's log; then run the same command again",
        ) from error


@dataclass(frozen=True)
class Seen:
    """What one rank's file says, and how many seconds ago; host is "" where there is no file."""

    rank: int
    host: str
    step: int
    waiting: bool
    age_s: float


class Watch:
    """Signs of life of this rank, and the names of those that give none.

    `rank-3` is written at each step, and by a thread every few seconds: a process that is stopped,
    killed or cut off falls silent; one that is busy or asleep elsewhere shows an older step than
    those that wait for it. Other machines see it as soon as the file system lets them: an age is
    told with each step.

    Args:
        folder: such as runs/digits-001/train/ranks, seen by all ranks.
        timeout_s: what the process group waits; train.stuck_minutes.
    Raises: StorageError if the file can't be made.
    """

    def __init__(self, folder: Path, rank: int, world_size: int, timeout_s: float) -> None:
        self.folder, self.rank, self.world_size = folder, rank, world_size
        self.timeout_s, self.beat_s = timeout_s, min(BEAT_S, timeout_s / 4)
        self._where: dict[str, Any] = {
            "host": socket.gethostname(), "pid": os.getpid(), "step": 0, "waiting": False,
        }  # fmt: skip
        path = self._file(rank)
        with storage(path):
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="watch")

    def __enter__(self) -> "Watch":
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        os.close(self._descriptor)

    def at(self, step: int, *, waiting: bool = False) -> None:
        """This rank works on `step`, or has all that it needs for it but the others."""
        self._where |= {"step": step, "waiting": waiting}
        self._write()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what needs the other ranks: an error that says they don't answer gets names.

        Raises: TrainingFailed with rank, host and last step of those it waited for.
        """
        self._where["waiting"] = True
        try:
            yield
        except (RuntimeError, Lost) as error:
            if isinstance(error, RuntimeError) and not _is_about_others(error):
                raise
            self._write()  # the others' ages are counted from this
            said = str(error).splitlines()[0].rpartition("] ")[2]
            saving = " at a checkpoint" if isinstance(error, Lost) else ""
            raise self.failure(said + saving) from error
        self._where["waiting"] = False

    def look(self) -> list[Seen]:
        """What every rank's file says now, in the order of ranks."""
        try:
            now = self._file(self.rank).stat().st_mtime
        except OSError:
            now = 0.0
        return [self._read(rank, now) for rank in range(self.world_size)]

    def late(self) -> list[Seen]:
        """The ranks that the others wait for: silent ones, else those that are behind."""
        seen = [one for one in self.look() if one.rank != self.rank]
        silent = [one for one in seen if one.age_s > SILENT_BEATS * self.beat_s]
        if silent:
            return silent
        own = (int(self._where["step"]), bool(self._where["waiting"]))
        return [one for one in seen if (one.step, one.waiting) < own]

    def failure(self, reason: str) -> TrainingFailed:
        """The error that names whom this rank waited for in vain; `reason` is what torch said."""
        late = self.late()
        names = "; ".join(
            f"rank {one.rank} on {one.host or 'an unknown host'}, last seen at step {one.step}"
            + (f", {format_seconds(one.age_s)} ago" if one.age_s < float("inf") else "")
            for one in late
        )
        return TrainingFailed(
            f"train: rank {self.rank} waited at step {self._where['step']} for "
            + (names or "the others, none of which is behind by what its file says")
            + f" ({reason})",
            expected=f"every rank at the same step within {format_seconds(self.timeout_s)} "
            "(train.stuck_minutes)",
            repair="look at that process and its machine, then run the same command again: it "
            "goes on from the newest checkpoint; or raise train.stuck_minutes",
        )

    def _beat(self) -> None:
        while not self._over.wait(self.beat_s):
            self._write()

    def _write(self) -> None:
        """In place, always as long, and without waiting for the disk: a few microseconds."""
        content = json.dumps(self._where).encode().ljust(FILE_BYTES)
        with contextlib.suppress(OSError):  # a full disk ends training elsewhere
            os.pwrite(self._descriptor, content, 0)

    def _file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}"

    def _read(self, rank: int, now: float) -> Seen:
        path = self._file(rank)
        try:
            found, written = json.loads(path.read_bytes()), path.stat().st_mtime
            age_s = max(0.0, now - written)
            return Seen(rank, str(found["host"]), int(found["step"]), bool(found["waiting"]), age_s)
        except (OSError, ValueError, KeyError, TypeError):
            return Seen(rank, "", 0, False, float("inf"))

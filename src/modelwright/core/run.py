"""A run's folder and its ledger: every stage writes, the report only reads.

The ledger is run.jsonl, one JSON object a line, append-only. A line cut short by a crash is no
event, and the next process that works in the run drops it. docs/reference/run-folder.md lists the
events.
"""

import contextlib
import datetime
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from modelwright.core.errors import ConfigError, IntegrityError
from modelwright.core.files import reading, storage, write_bytes, write_json

STAGES = ("gate", "plan", "train", "compress", "export", "certify")
FOLDERS = {"gate": "data"}  # a stage's folder is its name, but for these


@dataclass(frozen=True)
class Number:
    """One figure: value, unit, predicted or measured, how, and on which machine."""

    value: float
    unit: str
    kind: Literal["predicted", "measured"]
    how: str
    machine: str
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def ledger(self) -> Path:
        return self.folder / "run.jsonl"

    def stage_folder(self, stage: str) -> Path:
        return self.folder / FOLDERS.get(stage, stage)

    def write(self, stage: str, event: str, **fields: Any) -> None:
        """Append one event to the ledger."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self.write_again([{"time": now, "stage": stage, "event": event, **fields}])

    def write_again(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Append events as they are."""
        lines = "".join(json.dumps(event, allow_nan=False) + "\n" for event in events)
        with storage(self.ledger):
            size = self.ledger.stat().st_size if self.ledger.is_file() else 0
            try:
                with open(self.ledger, "ab") as file:
                    file.write(lines.encode())
            except OSError:  # half a line would spoil the next one
                with contextlib.suppress(OSError):
                    os.truncate(self.ledger, size)
                raise

    @property
    def began(self) -> dict[str, Any]:
        """How it started, as the ledger has it."""
        return next(self.events("run", "started"), {})

    def mend(self) -> None:
        """Drop the ledger's last line if it was cut short; only who works alone in the run may."""
        with storage(self.ledger), open(self.ledger, "r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)

    def figure(self, stage: str, subject: str, name: str, number: Number) -> None:
        """Record one figure about `subject` ("run", or a candidate's name)."""
        self.write(stage, "figure", subject=subject, name=name, number=number.to_json())

    def events(
        self, stage: str | None = None, event: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """The ledger's events in order, of one stage or kind if asked."""
        with reading(self.ledger):
            content = self.ledger.read_bytes()
        for line in content[: content.rfind(b"\n") + 1].splitlines():
            try:
                entry = json.loads(line)
                known = entry["stage"], entry["event"]
            except (ValueError, KeyError, TypeError) as error:
                raise IntegrityError(
                    f"{self.ledger} holds a line that no stage wrote: {error}",
                    expected="one JSON object a line, with stage and event",
                    repair="start another run with --new",
                ) from error
            if stage in (None, known[0]) and event in (None, known[1]):
                yield entry

    def done(self, stage: str) -> bool:
        return (self.stage_folder(stage) / "done.json").is_file()

    def mark_done(self, stage: str, **summary: Any) -> None:
        """The last write of a stage: from here on it is skipped."""
        write_json(self.stage_folder(stage) / "done.json", {"finished": time.time(), **summary})


def create(
    root: Path, name: str, recipe_text: str, digest: str, *, version: str, **more: Any
) -> Run:
    """A new run folder `root/name-001` (or the next free number) with the resolved recipe.

    Args:
        more: what else the ledger says of how it starts.
    """
    with storage(root):
        root.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1_000_000):
            folder = root / f"{name}-{number:03d}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            break
        write_bytes(folder / "recipe.yaml", recipe_text.encode())
        run = Run(folder)
        run.write("run", "started", recipe_digest=digest, version=version, **more)
        return run
    raise AssertionError("unreachable")


def reopen(folder: Path) -> Run:
    """An existing run.

    Raises: ConfigError if the folder is no run.
    """
    run = Run(folder)
    with reading(folder):
        whole = run.ledger.is_file() and (folder / "recipe.yaml").is_file()
    if not whole:
        raise ConfigError(
            f"{folder} is not a run folder", expected="a folder with recipe.yaml and run.jsonl"
        )
    return run


def refusal(events: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The refusal that a run ended with; None if it went on after the last one."""
    last = None
    for event in events:
        if event["event"] in ("started", "resumed", "stage_started", "stage_finished"):
            last = None
        elif event["event"] == "refused" and event.get("final"):
            last = event
    return last


def find_unfinished(root: Path, name: str, digest: str) -> Run | None:
    """The newest run of the same recipe that has not come to its end, if there is one."""
    for run in runs_of(root, name):
        events = list(run.events(stage="run"))
        if events and events[0].get("recipe_digest") == digest:
            return None if events[-1]["event"] == "finished" else run
    return None


def runs_of(root: Path, name: str) -> Iterator[Run]:
    """The runs of that name, the newest first."""
    with reading(root):
        folders = [
            folder for folder in root.glob(f"{name}-[0-9]*")
            if (folder / "run.jsonl").is_file() and (folder / "recipe.yaml").is_file()
        ]  # fmt: skip
    folders.sort(key=lambda one: (len(one.name), one.name), reverse=True)
    yield from map(Run, folders)

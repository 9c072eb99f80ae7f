"""One run of the whole road, done once and copied by the tests that harm it."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import safetensors
import torch

from modelwright import cli, verbs
from modelwright.core.files import digest_json, sha256, write_json

RECIPE = """\
task: image-classification
data: {source: digits}
budget: {train_steps: 60}
goals: {accuracy: [">= 0.3", "drop <= 5 pt"], size_mb: "<= 1", latency_p99_ms: "<= 500 ms"}
model: {family: cnn, size: tiny}
train: {batch_size: 128, precision: 32-true, learning_rate: 0.01}
compress: [quantize]
"""
STAGES = ("gate", "plan", "train", "compress", "export", "certify")

torch.set_num_threads(1)


class Finished:
    """A certified run, what it gave, and which stage opened which part of the data."""

    def __init__(self, folder: Path, result: dict[str, Any], opened: list[tuple[str, str]]) -> None:
        self.folder, self.result, self.opened = folder, result, opened


def stage_in_hand() -> str:
    """The stage whose function is being run, read off the stack."""
    frame = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name in STAGES and code.co_filename.endswith("stages.py"):
            return code.co_name
        frame = frame.f_back
    return ""


def made(factory: pytest.TempPathFactory, name: str, **overrides: Any) -> Finished:
    out = factory.mktemp(name)
    (out / "easy.yaml").write_text(RECIPE)
    opened: list[tuple[str, str]] = []
    safe_open = safetensors.safe_open

    def watched(path: Any, *arguments: Any, **keys: Any) -> Any:
        opened.append((stage_in_hand(), Path(path).stem))
        return safe_open(path, *arguments, **keys)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(safetensors, "safe_open", watched)
        result = verbs.run(out / "easy.yaml", overrides, out=out / "runs")
    return Finished(out / "runs/easy-001", result, opened)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The whole road to int8; read only."""
    return made(tmp_path_factory, "finished")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The whole road without compression: what ships is float32; read only."""
    return made(tmp_path_factory, "plain", compress="none")


@pytest.fixture
def run_copy(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may harm."""
    return copy_of(finished, tmp_path)


def copy_of(finished: Finished, tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / finished.folder.name
    shutil.copytree(finished.folder, folder)
    return folder


def undo(run: Path, *stages: str) -> None:
    """Make the run one that was stopped before these stages were marked as done."""
    for stage in stages:
        (run / stage / "done.json").unlink()
    ledger = run / "run.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(line for line in lines if json.loads(line)["event"] != "finished"))


def tamper(folder: Path, change: Callable[[Any], None]) -> None:
    """Change an artifact's graph and rewrite its manifest, so that only parity can tell."""
    proto = onnx.load(folder / "model.onnx")
    change(proto.graph)
    onnx.save(proto, folder / "model.onnx")
    file = folder / "model.onnx"
    entry = {"sha256": sha256(file), "bytes": file.stat().st_size}
    restate(folder, lambda manifest: manifest["files"].update({"model.onnx": entry}))


def restate(folder: Path, change: Callable[[Any], None]) -> None:
    """Change an artifact's manifest and renew its digest, so that it is sound by itself."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest.pop("digest")
    change(manifest)
    manifest["digest"] = digest_json(manifest)
    write_json(path, manifest)


def flip(path: Path, place: int = -100) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


class Said:
    """What a command said: exit code, stdout, stderr, and its JSON object."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run one command line in this process."""

    def call(*words: str | os.PathLike[str]) -> Said:
        capsys.readouterr()
        code = cli.call([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe's file, for overrides."""
    path = tmp_path / "easy.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def no_training() -> Iterator[None]:
    """Any training is an error; the steps that the plan times are none."""
    from modelwright.train.loop import Trainer

    def refuse(trainer: Any, *given: Any, **named: Any) -> None:
        raise AssertionError("a model was trained")

    with pytest.MonkeyPatch.context() as context:
        context.setattr(Trainer, "run", refuse)
        yield

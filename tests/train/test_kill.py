"""kill -9 at any moment: the same command goes on, and the model is the one of a quiet day."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modelwright import cli

from .conftest import rows

STEPS = 240
RECIPE = """\
task: image-classification
data: {{source: {source}}}
budget: {{train_steps: {steps}}}
model: {{family: {family}, size: tiny}}
train:
  batch_size: 16
  precision: 32-true
  checkpoint_steps: 3
  micro_batch_size: 8
  augment: [{{shift: 0.2}}, {{mixup: 0.4}}]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    train, test = rows(120), rows(40, 1)
    path = tmp_path_factory.mktemp("kill") / "stripes.npz"
    np.savez(path, x_train=train.images[:, 0], y_train=train.targets,
             x_test=test.images[:, 0], y_test=test.targets)  # fmt: skip
    return path


def recipe_of(folder: Path, data: Path, family: str) -> Path:
    path = folder / "stripes.yaml"
    path.write_text(RECIPE.format(source=data, steps=STEPS, family=family))
    return path


def newest_step(run: Path) -> int:
    return max((int(f.name[5:13]) for f in run.glob("train/checkpoints/step-*")), default=0)


def model_of(out: Path) -> bytes:
    return (out / "stripes-001/train/model/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory, data):
    """family -> the weights of a training that nothing interrupts, made once."""
    made: dict[str, bytes] = {}

    def get(family: str) -> bytes:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            recipe = recipe_of(folder, data, family)
            assert 0 == cli.call(["train", str(recipe), "--out", str(folder)])
            made[family] = model_of(folder)
        return made[family]

    return get


def start(recipe: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "modelwright", "train", recipe, "--out", out]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def kill_after(process: subprocess.Popen, run: Path, step: int, pause: float) -> None:
    """kill -9 a little after the checkpoint of a step is there."""
    while newest_step(run) < step and process.poll() is None:
        time.sleep(0.005)
    time.sleep(pause)
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("family", "kills"),
    [("transformer", 2), *(pytest.param(f, 20, marks=pytest.mark.slow) for f in ("cnn", "rnn"))],
)
@pytest.mark.xdist_group("kill")
def test_kills_change_nothing(tmp_path, data, quiet, family, kills):
    """However often it is killed, the run that goes on ends with the uninterrupted weights."""
    recipe, wanted = recipe_of(tmp_path, data, family), quiet(family)
    out, chance, killed = tmp_path / "killed", random.Random(kills), []
    for step in sorted(chance.sample(range(1, STEPS - 60), kills)):
        process = start(recipe, out)
        kill_after(process, out / "stripes-001", step, chance.random() * 0.02)
        killed.append(process.returncode)
    last = start(recipe, out)
    said = last.communicate()[1]

    assert -signal.SIGKILL in killed
    assert (0, "train: continues at step") == (last.returncode, said[said.find("train: c") :][:24])
    assert ["stripes-001"] == [folder.name for folder in out.iterdir()]
    assert wanted == model_of(out)
    curve = (out / "stripes-001/train/metrics.jsonl").read_text()
    assert STEPS == curve.count('"loss"')


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
@pytest.mark.xdist_group("kill")
def test_signal_saves_and_the_same_command_continues(
    tmp_path, data, quiet, monkeypatch, capsys, number, code
):
    """A signal in the middle ends with its own exit code; the same command ends the training
    as if nothing had been."""
    from modelwright.train.loop import Trainer

    wanted, train_step = quiet("transformer"), Trainer.train_step
    recipe = recipe_of(tmp_path, data, "transformer")
    command = ["train", str(recipe), "--out", str(tmp_path / "stopped")]

    def signalled(trainer):
        if trainer.step == 100 and trainer.journal.path:
            os.kill(os.getpid(), number)
        return train_step(trainer)

    with monkeypatch.context() as context:
        context.setattr(Trainer, "train_step", signalled)
        assert code == cli.call(command)
    said = capsys.readouterr().err

    assert f"stopped by {number.name}" in said and "same command continues" in said
    assert 101 == newest_step(tmp_path / "stopped/stripes-001")
    assert 0 == cli.call(command)
    assert wanted == model_of(tmp_path / "stopped")


@pytest.mark.xdist_group("kill")
def test_nan_loss_is_exit_2_and_keeps_the_checkpoint(tmp_path, data, monkeypatch, capsys):
    """A loss that is no number ends the command with exit 2 and words; the state before it is
    kept and the same command, the cause gone, ends the training."""
    from modelwright.train.loop import Trainer

    recipe, train_step = recipe_of(tmp_path, data, "transformer"), Trainer.train_step
    command = ["train", str(recipe), "--out", str(tmp_path / "runs")]

    def poisoned(trainer):
        if trainer.step == 50 and trainer.journal.path:  # not while the plan takes times
            trainer.model.head.linear.bias.data[0] = float("nan")
        return train_step(trainer)

    with monkeypatch.context() as context:
        context.setattr(Trainer, "train_step", poisoned)
        assert 2 == cli.call(command)
    said = capsys.readouterr().err

    assert "the loss became nan at step 50" in said and "repair:" in said
    assert 48 == newest_step(tmp_path / "runs/stripes-001")
    assert 0 == cli.call(command)

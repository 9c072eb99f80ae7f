"""What can go wrong around a save: a kill, a full disk, a wrong bit. The samples here are small;
`scripts/check --all` takes all of them."""

import builtins
import errno
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from modelwright import cli
from modelwright.core.errors import Exit, IntegrityError, StorageError
from modelwright.train import checkpoint, state
from modelwright.train.saver import Saver

from .processes import start_ranks

EVERY = 2  # steps from save to save
WIDTHS = {"small": 8, "medium": 96, "large": 512}


def training(width):
    """A model, its optimizer, both as a seed gives them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def step_of(model, optimizer, step):
    """One step, a function of the state and the step alone."""
    torch.manual_seed(step)
    inputs = torch.randn(4, model[0].in_features)
    (model(inputs) - inputs).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def everything(model, optimizer):
    return state.gather(model, optimizer, average={}, best={}, more={})


def resumed(folder, width):
    """Model and optimizer of the newest checkpoint, and its step; 0 without one."""
    model, optimizer = training(width)
    record = checkpoint.newest(folder)
    if record is None:
        return model, optimizer, 0
    checkpoint.restore(record, state.make_room(record, model, optimizer, average={}))
    return model, optimizer, record["step"]


def train_on(rank, folder, width, begun):
    """Train from the newest checkpoint on and save again and again, until killed."""
    model, optimizer, step = resumed(folder, width)
    saver = Saver(folder, keep=2)
    while True:
        step_of(model, optimizer, step)
        step += 1
        if step % EVERY == 0:
            saver.begin(step=step, tensors=everything(model, optimizer), position={"step": step})
            begun.value = step


SAMPLES = [("small", 1, 4), ("medium", 1, 2), ("large", 1, 2), ("medium", 2, 3)]
WHOLE = [(size, number, 50) for size in WIDTHS for number in (1, 2)]


@pytest.mark.parametrize(
    ("size", "number", "kills"),
    [*SAMPLES, *(pytest.param(*one, marks=pytest.mark.slow) for one in WHOLE)],
)
def test_a_kill_loses_only_the_save_in_flight(tmp_path, size, number, kills):
    """kill -9 at random moments around saves, of all processes or of one: the newest checkpoint
    can always be loaded and holds its step's weights bit by bit, at most the save in flight is
    lost, and the next process goes on from it and saves."""
    folder, chance, width = tmp_path / "kept", random.Random(f"{size}{number}"), WIDTHS[size]
    quiet, last, reached = training(width), 0, 0
    for _ in range(kills):
        job = start_ranks(tmp_path, number, train_on, folder, width)
        some = last + EVERY * chance.randint(1, 4)
        while job.shared.value < some and job.alive():
            time.sleep(0.0005)
        assert job.alive(), "ended by itself: the save collided or the checkpoint was refused"
        time.sleep(chance.random() * 0.03)
        job.kill(chance.choice([None, *range(number)]))
        begun = job.shared.value
        model, optimizer, last = resumed(folder, width)
        while reached < last:
            step_of(*quiet, reached)
            reached += 1
        wanted, found = everything(*quiet), everything(model, optimizer)

        assert begun - EVERY <= last <= begun + EVERY  # killed before it could say that it began
        assert wanted.keys() == found.keys()
        assert [] == [name for name in wanted if not torch.equal(wanted[name], found[name])]
    assert last > EVERY


class Faults:
    """Fails the n-th call that writes: opening to write, writing, syncing, renaming, removing."""

    def __init__(self, monkeypatch, code):
        self.code, self.calls, self.failing = code, 0, None
        writes = ((os, "fsync"), (os, "replace"), (shutil, "rmtree"))
        mkdir = os.mkdir  # of what is there already, it writes nothing
        new = self.counted(mkdir)
        monkeypatch.setattr(
            os, "mkdir", lambda path, *mode: (mkdir if Path(path).is_dir() else new)(path, *mode)
        )
        for module, name in writes:
            monkeypatch.setattr(module, name, self.counted(getattr(module, name)))
        real_open = builtins.open
        faults = self

        def counted_open(file, mode="r", *arguments, **keys):
            if not {"w", "a", "x", "+"} & set(mode):
                return real_open(file, mode, *arguments, **keys)
            faults.count()
            return Writing(real_open(file, mode, *arguments, **keys), faults)

        monkeypatch.setattr(builtins, "open", counted_open)

    def count(self):
        self.calls += 1
        if self.calls - 1 == self.failing:
            raise OSError(self.code, os.strerror(self.code))

    def counted(self, act):
        def call(*arguments, **keys):
            self.count()
            return act(*arguments, **keys)

        return call


class Writing:
    """An open file whose writes count; a failing one leaves half of its content."""

    def __init__(self, file, faults):
        self.file, self.faults = file, faults

    def write(self, content):
        try:
            self.faults.count()
        except OSError:
            self.file.write(content[: len(content) // 2])
            raise
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *arguments):
        self.file.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_whichever_write_fails_the_older_checkpoint_stays(tmp_path, monkeypatch, code):
    """Whichever write of a save the disk refuses, the error is a StorageError with the system's
    words, what was there can be loaded, nothing half-written is left, and the next save works."""
    model, optimizer = training(4)
    step_of(model, optimizer, 0)

    def save(step):
        tensors = everything(model, optimizer)
        checkpoint.save(tmp_path, step=step, tensors=tensors, position={}, keep=2)

    save(1)
    save(2)
    faults = Faults(monkeypatch, code)
    save(3)
    writes, newest = faults.calls, 3
    for failing in range(writes):
        faults.calls, faults.failing = 0, failing
        with pytest.raises(StorageError) as caught:
            save(newest + 1)
        faults.failing = None
        names = sorted(path.name for path in tmp_path.iterdir())

        assert os.strerror(code) in caught.value.what and Exit.BAD_INPUT == caught.value.exit_code
        assert resumed(tmp_path, 4)[2] in (newest, newest + 1)  # only dropping the old one failed
        assert [] == [name for name in names if not name.startswith(("step-", ".step-"))]
        newest = resumed(tmp_path, 4)[2] + 1
        save(newest)
        assert [newest] == [resumed(tmp_path, 4)[2]]
    assert 2 == len(list(tmp_path.iterdir()))
    assert 12 + len(everything(model, optimizer)) <= writes


RECIPE = """\
task: image-classification
data: {source: digits}
budget: {train_steps: 40}
model: {family: cnn, size: tiny}
train: {precision: 32-true, checkpoint_steps: 5}
"""


@pytest.mark.parametrize("code", [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_command_with_words(tmp_path, monkeypatch, capsys, code):
    """A save that fails in the background ends the command with exit 2, the file and a repair; the
    same command goes on from the checkpoint before."""
    (tmp_path / "digits.yaml").write_text(RECIPE)
    command = ["train", str(tmp_path / "digits.yaml"), "--out", str(tmp_path / "runs")]
    write_shard = checkpoint.write_shard

    def full(path, pieces):
        if path.parent.name.startswith(".step-00000020"):
            raise OSError(code, os.strerror(code))
        return write_shard(path, pieces)

    with monkeypatch.context() as context:
        context.setattr(checkpoint, "write_shard", full)
        assert 2 == cli.call(command)
    said = capsys.readouterr().err

    assert f"cannot write {tmp_path}" in said and os.strerror(code) in said
    assert "shard-00000.safetensors" in said and "repair:" in said
    assert 0 == cli.call(command)
    assert "continues at step 15 " in capsys.readouterr().err


@pytest.mark.parametrize("number", [120, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_wrong_bit_and_every_cut_is_found(tmp_path, number):
    """One bit flipped anywhere, or any file cut short: refused before a tensor is touched, with
    exit code 4, and the file is named."""
    model, optimizer = training(16)
    step_of(model, optimizer, 0)
    checkpoint.save(
        tmp_path, step=1, tensors=everything(model, optimizer), position={"a": [1, 2]}, keep=1
    )
    (folder,) = tmp_path.iterdir()
    chance, accepted = random.Random(number), []
    for _ in range(number):
        path = chance.choice(sorted(folder.iterdir()))
        content = bytearray(whole := path.read_bytes())
        place, cut = chance.randrange(len(content)), chance.random() < 0.3
        if cut:
            del content[place:]
        else:
            content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        fresh = training(16)
        try:
            record = checkpoint.newest(tmp_path)
            checkpoint.restore(record, state.make_room(record, *fresh, average={}))
            accepted.append((path.name, place, cut))
        except IntegrityError as error:
            assert path.name in error.what and Exit.REFUSED == error.exit_code
            assert all(map(torch.equal, fresh[0].parameters(), training(16)[0].parameters()))
        path.write_bytes(whole)

    assert [] == accepted
    assert 1 == resumed(tmp_path, 16)[2]

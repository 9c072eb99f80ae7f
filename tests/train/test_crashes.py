"""What can go wrong around a save: a full disk, a wrong bit. The samples here are small;
`scripts/check --all` takes all of them."""

import errno
import functools
import os
import random
import shutil
import signal

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from modelwright import cli
from modelwright.core.errors import Exit, IntegrityError, StorageError
from modelwright.train import checkpoint, state
from modelwright.train.saver import Saver

from .faults import Faults
from .processes import run_ranks, save_now, start_command
from .stripes import loaded, model_of, newest_step, run_in, write_recipe

pytestmark = pytest.mark.filterwarnings("ignore")
CODES = [errno.ENOSPC, errno.EIO]


def training(width, number=1):
    """A model, its optimizer, both as a seed gives them; in pieces where there are two of us."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
    if number > 1:
        fully_shard(model, mesh=init_device_mesh("cpu", (number,)))
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


def resumed(folder, *size):
    """Model and optimizer of the newest checkpoint, and its step."""
    model, optimizer = training(*size)
    record = checkpoint.newest(folder)
    checkpoint.restore(record, state.make_room(record, model, optimizer, average={}))
    return model, optimizer, record["step"]


def fail_each_write(rank, number, folder, code, faulty, background):
    """Refuse one write after the other of rank `faulty`; gives how many there were.

    Each save has to fail on all ranks, to leave nothing but whole checkpoints, and to be followed
    by one that works.
    """
    model, optimizer = training(4, number)
    step_of(model, optimizer, 0)
    saver = Saver(folder, keep=2)

    def save(step):
        given = {"step": step, "tensors": everything(model, optimizer), "position": {}}
        if background:
            saver.begin(**given)
            saver.wait()
        else:
            save_now(folder, keep=2, **given)

    save(1)
    save(2)
    faults = Faults(folder, code)
    save(3)
    writes = torch.tensor([faults.calls])
    if number > 1:
        dist.broadcast(writes, faulty)
    newest = 3
    for failing in range(int(writes)):
        if rank == faulty:
            faults.begin(failing)
        with pytest.raises(StorageError) as caught:
            save(newest + 1)
        faults.begin(None)
        if number > 1:
            dist.barrier()
        names = sorted(path.name for path in folder.iterdir())

        assert os.strerror(code) in caught.value.what and Exit.BAD_INPUT == caught.value.exit_code
        assert ("" if rank == faulty else f"rank {faulty}: ") + "cannot write" in caught.value.what
        assert resumed(folder, 4, number)[2] in (newest, newest + 1)  # only dropping an old failed
        assert [] == [name for name in names if not name.startswith(("step-", ".step-"))]
        newest = resumed(folder, 4, number)[2] + 1
        save(newest)
        assert newest == resumed(folder, 4, number)[2]
    if number > 1:
        dist.barrier()
    assert 2 == len(list(folder.iterdir()))
    return int(writes)


@pytest.mark.parametrize("background", [False, True], ids=["waiting", "in the background"])
@pytest.mark.parametrize(
    ("code", "number", "faulty"),
    [(errno.ENOSPC, 1, 0), (errno.EIO, 2, 1),
     *(pytest.param(*one, marks=pytest.mark.slow) for one in [
         (errno.EIO, 1, 0), (errno.ENOSPC, 2, 1), (errno.EIO, 2, 0), (errno.ENOSPC, 2, 0)])],
)  # fmt: skip
def test_whichever_write_fails_the_older_checkpoint_stays(
    tmp_path, code, number, faulty, background
):
    """Whichever write of a save the disk refuses, of whichever process, the error is a StorageError
    with the system's words in all of them, what was there can be loaded, nothing half-written is
    left, and the next save works."""
    given = (number, tmp_path / "kept", code, faulty, background)
    one, *others = run_ranks(tmp_path, number, fail_each_write, *given)

    assert others == [one] * (number - 1)
    assert (12 if faulty == 0 else 3) < one


class Stopping:
    """SIGTERM in a step, from within."""

    def __init__(self, step):
        self.step = step

    def __call__(self, rank):
        from modelwright.train.loop import Trainer

        train_step = Trainer.train_step

        def act(trainer):
            if trainer.step == self.step and trainer.journal.path:
                os.kill(os.getpid(), signal.SIGTERM)
            return train_step(trainer)

        Trainer.train_step = act


def refuse_the_first(folder, code, failing, lasting, calls, rank):
    if rank == 0:
        Faults(folder, code, failing=failing, lasting=lasting, calls=calls)


@pytest.mark.parametrize(
    ("number", "code", "lasting", "every"),
    [(1, errno.ENOSPC, True, 40),
     *(pytest.param(*one, marks=pytest.mark.slow) for one in [
         (1, errno.EIO, False, 1), (1, errno.ENOSPC, True, 3), (2, errno.EIO, False, 7)])],
)  # fmt: skip
def test_whichever_write_of_the_command_fails_nothing_is_lost(
    tmp_path, number, code, lasting, every
):
    """Whichever write of a continued training the disk refuses, once or from then on: the command
    ends with exit 2, the file and a repair, checkpoints can be loaded, and the same command, with
    room again, ends with the weights of a training that nothing interrupted."""
    keys = ("train.optimizer=sgd", "train.ema=0")
    recipe = write_recipe(tmp_path, "cnn", steps=6, every=2)
    command = ("train", recipe, *keys, "--out")
    ready, out = tmp_path / "ready", tmp_path / "out"
    assert [0] * number == start_command(tmp_path, number, *command, tmp_path / "q").ends_with()
    stopped = start_command(tmp_path, number, *command, ready, before=Stopping(2))
    assert [143] * number == stopped.ends_with()
    failing, tolerated = 0, []
    while True:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(ready, out)

        calls = Faults.counter()
        refuse = functools.partial(refuse_the_first, out, code, failing, lasting, calls)
        codes = start_command(tmp_path, number, "train", run_in(out), before=refuse).ends_with()
        if calls.value <= failing:  # there are no more
            break
        said = "".join((tmp_path / f"said-{rank}.txt").read_text() for rank in range(number))
        if codes == [0] * number:
            tolerated.append(failing)
        else:
            # the others have left when the training is over
            over = 6 == loaded(run_in(out) / "train/checkpoints")["step"]
            assert 2 == codes[0] and all(code in ((0, 2) if over else (2,)) for code in codes), said
            assert f"cannot write {out}" in said and os.strerror(code) in said, said
            assert "repair:" in said
        assert 3 <= loaded(run_in(out) / "train/checkpoints")["step"]
        again = start_command(tmp_path, number, "train", run_in(out)).ends_with()
        assert [0] * number == again, (tmp_path / "said-0.txt").read_text()
        assert model_of(tmp_path / "q") == model_of(out)
        failing += every
    assert failing >= 80
    assert [] == tolerated


RECIPE = """\
task: image-classification
data: {source: digits}
budget: {train_steps: 40}
model: {family: cnn, size: tiny}
train: {precision: 32-true, checkpoint_steps: 5}
"""


def test_a_full_disk_ends_the_command_with_words(tmp_path, monkeypatch, capsys):
    """A save that fails in the background ends the command with exit 2, the file and a repair; the
    same command goes on from the checkpoint before."""
    (tmp_path / "digits.yaml").write_text(RECIPE)
    command = ["train", str(tmp_path / "digits.yaml"), "--out", str(tmp_path / "runs")]
    write_shard = checkpoint.write_shard

    def full(path, pieces):
        if path.parent.name.startswith(".step-00000020"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_shard(path, pieces)

    with monkeypatch.context() as context:
        context.setattr(checkpoint, "write_shard", full)
        assert 2 == cli.call(command)
    said = capsys.readouterr().err

    assert f"cannot write {tmp_path}" in said and os.strerror(errno.ENOSPC) in said
    assert "shard-00000.safetensors" in said and "repair:" in said
    assert 0 == cli.call(command)
    assert "continues at step 15 " in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_wrong_bit_ends_the_command_with_exit_4(tmp_path, number):
    """Training does not start over: the command names the file and the way back, and behind that
    goes on from the checkpoint before."""
    recipe, out = write_recipe(tmp_path, steps=6, every=2), tmp_path / "out"
    command = (tmp_path, number, "train", recipe, "--out", out)
    assert [143] * number == start_command(*command, before=Stopping(2)).ends_with()
    *_, newest = sorted((run_in(out) / "train/checkpoints").glob("step-*"))
    path = newest / f"shard-{number - 1:05d}.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 8
    path.write_bytes(content)

    assert [4] * number == start_command(*command).ends_with()
    said = "".join((tmp_path / f"said-{rank}.txt").read_text() for rank in range(number))
    assert 1 == said.count("is not what was written") == said.count(path.name)
    assert "remove the newest step-* folder" in said and newest.name[:13] == "step-00000003"
    shutil.rmtree(newest)
    step = newest_step(out)
    assert [0] * number == start_command(*command).ends_with()
    assert f"continues at step {step} " in (tmp_path / "said-0.txt").read_text() and 0 < step < 3


def damage_again_and_again(rank, number, folder, times):
    """Flip a bit or cut the end of a file of a checkpoint, and try to take it up; gives what was
    taken up all the same, or refused under another name."""
    model, optimizer = training(16, number)
    step_of(model, optimizer, 0)
    tensors = everything(model, optimizer)
    save_now(folder, step=1, tensors=tensors, position={"a": [1, 2]}, keep=1)
    (kept,) = folder.iterdir()
    chance, accepted = random.Random(times), []
    untouched = [value.clone() for value in map(local, training(16, number)[0].parameters())]
    for _ in range(times):
        path = chance.choice(sorted(kept.iterdir()))
        content = bytearray(whole := path.read_bytes())
        place, cut = chance.randrange(len(content)), chance.random() < 0.3
        if cut:
            del content[place:]
        else:
            content[place] ^= 1 << chance.randrange(8)
        together(number)
        if rank == 0:
            path.write_bytes(content)
        together(number)
        fresh = training(16, number)
        try:
            record = checkpoint.newest(folder)
            checkpoint.restore(record, state.make_room(record, *fresh, average={}))
            accepted.append((path.name, place, cut, "taken up"))
        except IntegrityError as error:
            if path.name not in error.what or Exit.REFUSED != error.exit_code:
                accepted.append((path.name, place, cut, error.what))
            assert all(map(torch.equal, map(local, fresh[0].parameters()), untouched))
        together(number)
        if rank == 0:
            path.write_bytes(whole)
        together(number)
    return accepted, resumed(folder, 16, number)[2]


def together(number):
    if number > 1:
        dist.barrier()


def local(value):
    return value.to_local() if hasattr(value, "to_local") else value


@pytest.mark.parametrize(
    ("times", "number"),
    [(120, 1), (40, 2), *(pytest.param(1000, n, marks=pytest.mark.slow) for n in (1, 2))],
)
def test_every_wrong_bit_and_every_cut_is_found(tmp_path, times, number):
    """Wherever a bit flips or a file ends early, in the record or in a shard of one process or of
    two: it is refused by all of them, before a tensor is touched, with exit code 4, and the file is
    named."""
    given = (number, tmp_path / "kept", times)

    assert [([], 1)] * number == run_ranks(tmp_path, number, damage_again_and_again, *given)

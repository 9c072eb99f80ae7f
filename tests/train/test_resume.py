"""Resume is exact, and a checkpoint that cannot be restored stops the run."""

import builtins
import errno
import json
import os
import random

import pytest
import torch

from modelwright.core.errors import ConfigError, Exit, IntegrityError, StorageError
from modelwright.train import checkpoint
from modelwright.train.settings import Budget

from .conftest import AUGMENT, FAMILIES, differing, trainer_of, weights_of

AUGMENTS = [step.model_dump(exclude_none=True) for step in AUGMENT]
EVERYTHING = {"augment": AUGMENTS, "micro_batch_size": 4, "ema": 0.9}
DROPOUT = {"dim": 128, "num_layers": 1}  # from 128 on, the transformer drops out


def steps_of(trainer, number):
    """The losses and the rows of the next steps."""
    losses, indices = [], []
    for _ in range(number):
        indices.append(trainer.loader.indices(trainer.step).tolist())
        losses.append(trainer.train_step())
    return losses, indices


CASES = [
    *((family, "adamw", "32-true", None, EVERYTHING) for family in FAMILIES),
    *((family, "sgd", "32-true", None, EVERYTHING) for family in FAMILIES),
    *((family, "adamw", "bf16-mixed", None, {}) for family in FAMILIES),
    ("transformer", "adamw", "32-true", DROPOUT, EVERYTHING),
    ("cnn", "adamw", "32-true", None, {"ema": 0}),
    ("cnn", "adafactor", "32-true", None, {"clip_norm": 0.1}),
    ("transformer", "muon", "32-true", None, {"cautious": True, "schedule": "cosine"}),
]


@pytest.mark.parametrize(("family", "optimizer", "precision", "args", "keys"), CASES)
def test_resume_is_exact(tmp_path, family, optimizer, precision, args, keys):
    """Stopped three times at random steps, mid-epoch too, the losses, rows and every tensor are
    bitwise those of a training that ran through."""
    keys = {**keys, "optimizer": optimizer, "precision": precision, "args": args}
    straight = trainer_of(tmp_path / "straight", family, **keys)
    wanted = steps_of(straight, 30)
    stops = sorted(random.Random(f"{family}{optimizer}{precision}").sample(range(1, 30), 3))
    losses, indices = [], []
    for until in (*stops, 30):
        trainer = trainer_of(tmp_path / "stopped", family, **keys)
        torch.manual_seed(until)  # what another process drew does not matter
        more = steps_of(trainer, until - trainer.step)
        trainer.save()
        losses, indices = losses + more[0], indices + more[1]

    assert wanted == (losses, indices)
    assert [] == differing(weights_of(straight), weights_of(trainer))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_resume_is_exact_at_every_step(tmp_path, family):
    """Wherever in the first two epochs it stops, fifty further steps have equal losses."""
    for stop in range(1, 10):
        straight = trainer_of(tmp_path / f"straight-{stop}", family, **EVERYTHING)
        steps_of(straight, stop)
        first = trainer_of(tmp_path / f"stopped-{stop}", family, **EVERYTHING)
        steps_of(first, stop)
        first.save()
        second = trainer_of(tmp_path / f"stopped-{stop}", family, **EVERYTHING)

        assert steps_of(straight, 50) == steps_of(second, 50)
        assert [] == differing(weights_of(straight), weights_of(second))


def test_the_loop_resumes_as_the_steps_do(tmp_path):
    """Two calls of run with a new trainer between give the weights and evaluations of one."""
    whole = trainer_of(tmp_path / "whole", metrics=tmp_path / "whole.jsonl")
    whole.run()
    found = whole.finish()
    first = trainer_of(tmp_path / "parts", metrics=tmp_path / "parts.jsonl")
    first.run(Budget(steps=23))
    first.save()
    second = trainer_of(tmp_path / "parts", metrics=tmp_path / "parts.jsonl")
    second.run()

    assert second.resumed and not whole.resumed
    assert found == second.finish()
    assert [] == differing(weights_of(whole), weights_of(second))


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of steps 10 and 20."""
    trainer = trainer_of(tmp_path)
    for step in (10, 20):
        trainer.run(Budget(steps=step))
        trainer.save()
    return tmp_path


def positions(path, count, seed=0):
    return random.Random(seed).sample(range(path.stat().st_size), count)


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_flipped_bytes_stop_the_run(saved, kind):
    """One byte changed anywhere in the newest checkpoint, weights or commit record, is refused
    with the file's name; training neither starts over nor goes on from something else."""
    path = saved / f"step-00000020.{kind}"
    whole = path.read_bytes()
    accepted = []
    for place in positions(path, 40):
        content = bytearray(whole)
        content[place] ^= 1 << (place % 7)
        path.write_bytes(content)
        try:
            trainer_of(saved)
            accepted.append((place, bytes(whole[max(0, place - 20) : place + 20])))
        except IntegrityError as error:
            assert "step-00000020" in error.what
            assert Exit.REFUSED == error.exit_code

    assert [] == accepted


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_truncation_stops_the_run(saved, kind):
    """A newest checkpoint cut short at any place is refused with the file's name."""
    path = saved / f"step-00000020.{kind}"
    whole = path.read_bytes()
    for length in [0, 1, len(whole) - 2, *positions(path, 10)]:
        path.write_bytes(whole[:length])

        with pytest.raises(IntegrityError, match="step-00000020"):
            trainer_of(saved)


def test_missing_weights_stop_the_run(saved):
    """A commit record whose weights are gone is refused; the older checkpoint is not taken
    unasked."""
    (saved / "step-00000020.safetensors").unlink()

    with pytest.raises(IntegrityError, match="step-00000020") as caught:
        trainer_of(saved)
    assert "to go back to the one before" in caught.value.repair


@pytest.mark.parametrize("field", ["step", "file", "bytes", "sha256", "position"])
def test_incomplete_record_stops_the_run(saved, field):
    """A commit record without one of its fields is refused with its name."""
    path = saved / "step-00000020.json"
    record = json.loads(path.read_bytes())
    del record[field]
    path.write_text(json.dumps(record))

    with pytest.raises(IntegrityError, match="step-00000020"):
        trainer_of(saved)


def test_the_repair_repairs(saved):
    """Removing the newest pair, as the error says, goes back to the checkpoint before."""
    for kind in ("json", "safetensors"):
        (saved / f"step-00000020.{kind}").unlink()

    assert 10 == trainer_of(saved).step


def test_uncommitted_weights_are_not_used(saved):
    """Weights without a commit record are of a save that never ended: the one before is used."""
    (saved / "step-00000020.json").unlink()

    assert 10 == trainer_of(saved).step


@pytest.mark.parametrize(
    "keys", [{"seed": 1}, {"learning_rate": 0.5}, {"batch_size": 8}, {"ema": 0.5},
             {"augment": [{"shift": 0.1}]}, {"optimizer": "sgd"}],
)  # fmt: skip
def test_other_settings_are_refused(saved, keys):
    """A checkpoint of other settings is not continued with new ones."""
    with pytest.raises(ConfigError, match="other settings") as caught:
        trainer_of(saved, **keys)

    assert Exit.BAD_INPUT == caught.value.exit_code


def test_saving_more_often_is_no_other_training(saved):
    """When to save may change between two starts: it changes no weight."""
    assert 20 == trainer_of(saved, checkpoint_steps=3).step


def test_other_model_is_refused(saved):
    """Weights that do not fit the model are refused, not loaded in part."""
    with pytest.raises(IntegrityError, match="does not fit"):
        trainer_of(saved, args={"widths": (8, 8)})


class Faults:
    """Fails the n-th call that writes: opening to write, writing, syncing, replacing."""

    def __init__(self, monkeypatch, code):
        self.code, self.calls, self.failing = code, 0, None
        for module, name in ((os, "fsync"), (os, "replace")):
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
def test_a_failed_write_leaves_the_older_checkpoint(tmp_path, monkeypatch, code):
    """Whichever write of a save the disk refuses, the error is a StorageError, a checkpoint
    still loads, and the same training can go on and save."""
    trainer = trainer_of(tmp_path)
    trainer.run(Budget(steps=5))
    trainer.save()
    with monkeypatch.context() as context:
        faults = Faults(context, code)
        trainer.train_step()
        trainer.save()
        writes = faults.calls  # of one whole save
        for failing in range(writes):
            before = checkpoint.newest(tmp_path)["step"]
            trainer.train_step()
            faults.calls, faults.failing = 0, failing
            with pytest.raises(StorageError) as caught:
                trainer.save()
            faults.failing = None

            assert os.strerror(code) in caught.value.what
            assert Exit.BAD_INPUT == caught.value.exit_code
            assert trainer_of(tmp_path).step in (before, trainer.step)
            trainer.save()
            assert [] == differing(weights_of(trainer), weights_of(trainer_of(tmp_path)))

    assert 8 <= writes


def test_failing_to_drop_old_checkpoints_is_a_storage_error(saved, monkeypatch):
    """A disk that refuses to remove an old checkpoint is reported as such, not as a bug."""
    trainer = trainer_of(saved)
    trainer.train_step()

    def refuse(path, missing_ok=False):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as context:
        context.setattr("pathlib.Path.unlink", refuse)
        with pytest.raises(StorageError):
            trainer.save()
    assert 21 == trainer_of(saved).step


def test_partial_files_of_a_killed_save_are_removed(saved):
    """What a killed process left half-written is gone after the next save."""
    leftover = saved / ".step-00000030.safetensors.partial"
    leftover.write_bytes(b"half")
    trainer = trainer_of(saved)
    trainer.train_step()
    trainer.save()

    assert not leftover.exists()
    assert 21 == trainer_of(saved).step

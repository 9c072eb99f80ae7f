"""Resume is exact, and a checkpoint that cannot be restored stops the run."""

import errno
import json
import multiprocessing
import os
import random
import shutil

import pytest
import torch

from modelwright.core.errors import ConfigError, Exit, IntegrityError, StorageError
from modelwright.train.launch import Place
from modelwright.train.loop import SEEN
from modelwright.train.parallel import World
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
    *((family, "adamw", "bf16-mixed", None, EVERYTHING) for family in FAMILIES),
    ("transformer", "adamw", "32-true", DROPOUT, EVERYTHING),
    ("cnn", "adamw", "32-true", None, {"ema": 0}),
    ("cnn", "adafactor", "32-true", None, {"clip_norm": 0.1}),
    ("transformer", "muon", "32-true", None, {"cautious": True, "schedule": "cosine"}),
    ("cnn", "adamw", "32-true", None,
     {"batch_warmup_steps": 21, "weight_decay": 0.1, "weight_decay_end": 0.0}),
    ("transformer", "muon", "32-true", None,
     {"cautious": True, "weight_decay_end": 0.5, "batch_warmup_steps": 9, "micro_batch_size": 8}),
]  # fmt: skip


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


class Ahead:
    """Batches that two other processes make, several steps ahead and in whatever order."""

    def __init__(self, loader, pool):
        self.loader, self.pool, self.coming = loader, pool, {}

    def __call__(self, step):
        for one in range(step, step + 4):
            if one not in self.coming:
                self.coming[one] = self.pool.apply_async(batch_of, (self.loader, one))
        return self.coming.pop(step).get()


def batch_of(loader, step):
    return loader.batch(step)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_resume_is_exact_at_twenty_random_steps(tmp_path, family):
    """Wherever it stops, mid-epoch, the next fifty steps have bitwise equal losses and equal rows,
    with accumulation, bf16, averaged weights and every augmentation; and so if two other processes
    make the batches, which the training that was not stopped makes itself."""
    keys = {**EVERYTHING, "precision": "bf16-mixed", "budget": Budget(steps=300)}
    stops = sorted(random.Random(family).sample(range(1, 100), 20))
    through = trainer_of(tmp_path / "kept", family, keep_checkpoints=1000, **keys)
    losses, indices = [], []
    for step in range(stops[-1] + 50):
        if step in stops:
            through.save()
        one = steps_of(through, 1)
        losses, indices = losses + one[0], indices + one[1]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for stop in stops:
            (kept,) = (tmp_path / "kept").glob(f"step-{stop:08d}*")
            shutil.copytree(kept, tmp_path / str(stop) / kept.name)
            trainer = trainer_of(tmp_path / str(stop), family, **keys)
            trainer._batches = Ahead(trainer.loader, pool)
            torch.manual_seed(stop)  # what another process drew does not matter

            assert stop == trainer.step
            assert (losses[stop : stop + 50], indices[stop : stop + 50]) == steps_of(trainer, 50)


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


@pytest.mark.parametrize("rank", [0, 1])
def test_what_rows_added_to_the_metric_is_the_first_process_s(tmp_path, monkeypatch, rank):
    """All read it from the checkpoint; the others, who never look at valid, do not keep it."""
    trainer, seen = trainer_of(tmp_path), torch.arange(6.0).view(3, 2)
    monkeypatch.setattr(trainer, "world", World(Place(rank, rank, 2)))
    trainer._take_up(trainer._position(), {SEEN: seen})

    assert ([SEEN] if rank == 0 else []) == list(trainer._tensors())


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with the checkpoints of steps 10 and 20."""
    trainer = trainer_of(tmp_path_factory.mktemp("saved"))
    for step in (10, 20):
        trainer.run(Budget(steps=step))
        trainer.save()
    return trainer.folder


@pytest.fixture
def saved(once, tmp_path):
    """A copy of it."""
    return shutil.copytree(once, tmp_path / "saved")


def test_missing_weights_stop_the_run(saved):
    """A commit record whose weights are gone is refused; the older checkpoint is not taken
    unasked."""
    (saved / "step-00000020/shard-00000.safetensors").unlink()

    with pytest.raises(IntegrityError, match="step-00000020") as caught:
        trainer_of(saved)
    assert "to go back to the one before" in caught.value.repair


@pytest.mark.parametrize("field", ["step", "shards", "tensors", "position", "digest"])
def test_incomplete_record_stops_the_run(saved, field):
    """A commit record without one of its fields is refused with its name."""
    path = saved / "step-00000020/checkpoint.json"
    record = json.loads(path.read_bytes())
    del record[field]
    path.write_text(json.dumps(record))

    with pytest.raises(IntegrityError, match="step-00000020"):
        trainer_of(saved)


def test_the_repair_repairs(saved):
    """Removing the newest folder, as the error says, goes back to the checkpoint before."""
    shutil.rmtree(saved / "step-00000020")

    assert 10 == trainer_of(saved).step


def test_what_was_not_committed_is_not_used(saved):
    """A folder under the name of one that is being written is no checkpoint: the one before is."""
    (saved / "step-00000020").rename(saved / ".step-00000020.partial")

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
    assert f"{next(iter(keys))} " in caught.value.what and ", now " in caught.value.what


@pytest.mark.parametrize("keys", [
    {"checkpoint_steps": 3}, {"checkpoint_minutes": 1, "checkpoint_steps": None},
    {"keep_checkpoints": 5},
    {"grace_seconds": 9}, {"stuck_minutes": 2}, {"device": "cpu"}, {"layout": {"data": 2}},
])  # fmt: skip
def test_saving_more_often_is_no_other_training(saved, keys):
    """How to save, and where a training runs, may change between two starts."""
    assert 20 == trainer_of(saved, **keys).step


def test_other_model_is_refused(saved):
    """Weights that do not fit the model are refused, not loaded in part."""
    with pytest.raises(IntegrityError, match="does not fit"):
        trainer_of(saved, args={"widths": (8, 8)})


def test_failing_to_drop_old_checkpoints_is_a_storage_error(saved, monkeypatch):
    """A disk that refuses to remove an old checkpoint is reported as such, not as a bug."""
    trainer = trainer_of(saved)
    trainer.train_step()

    def refuse(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as context:
        context.setattr("shutil.rmtree", refuse)
        with pytest.raises(StorageError):
            trainer.save()
    assert 21 == trainer_of(saved).step


def test_partial_files_of_a_killed_save_are_removed(saved):
    """What a killed process left half-written is gone after the next save."""
    leftover = saved / ".step-00000030.partial"
    leftover.mkdir()
    (leftover / "shard-00000.safetensors").write_bytes(b"half")
    trainer = trainer_of(saved)
    trainer.train_step()
    trainer.save()

    assert not leftover.exists()
    assert 21 == trainer_of(saved).step

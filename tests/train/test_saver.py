"""Saving in the background: what is saved, how many stay, what asks for it, what stops it."""

import errno
import os
import shutil
import signal
import threading
import time

import pytest

from modelwright.core.errors import IntegrityError, StorageError, TrainingFailed
from modelwright.train import checkpoint, state
from modelwright.train.guards import StopRequested
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget

from .conftest import differing, trainer_of, weights_of


@pytest.fixture
def slow_disk(monkeypatch):
    """Lets no file be written until its event is set."""
    ready, write_shard = threading.Event(), checkpoint.write_shard

    def wait(path, pieces):
        ready.wait()
        return write_shard(path, pieces)

    monkeypatch.setattr(checkpoint, "write_shard", wait)
    yield ready
    ready.set()


def steps_in(folder):
    return [int(path.name[5:13]) for path in sorted(folder.glob("step-*"))]


def test_training_goes_on_while_it_is_saved(tmp_path, slow_disk):
    """Steps done while the disk is busy change nothing of what is saved: the checkpoint is the
    state at its step."""
    trainer = trainer_of(tmp_path)
    trainer.run(Budget(steps=3))
    wanted = weights_of(trainer)
    trainer.save(wait=False)
    trainer.run(Budget(steps=6))

    assert [] == steps_in(tmp_path)
    slow_disk.set()
    trainer._saver.wait()
    resumed = trainer_of(tmp_path)
    assert 3 == resumed.step
    assert [] == differing(wanted, weights_of(resumed))


def test_one_save_at_a_time(tmp_path, slow_disk):
    """A save that is due while another is in flight waits for it; both are there afterwards."""
    trainer = trainer_of(tmp_path)
    trainer.train_step()
    trainer.save(wait=False)
    trainer.train_step()
    threading.Timer(0.05, slow_disk.set).start()
    trainer.save()

    assert [1, 2] == steps_in(tmp_path)


def test_a_failed_save_stops_at_the_next_step(tmp_path, monkeypatch):
    """What the disk refused in the background is raised by the loop, not by the end of training."""

    def full(path, pieces):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_shard", full)
    trainer = trainer_of(tmp_path, checkpoint_steps=5)

    with pytest.raises(StorageError, match="No space left"):
        trainer.run(Budget(steps=2000))
    assert 5 < trainer.step < 12


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_stay_as_the_recipe_says(tmp_path, keep):
    """train.keep_checkpoints of the newest checkpoints are there, and nothing else."""
    trainer = trainer_of(tmp_path, keep_checkpoints=keep)
    for _ in range(5):
        trainer.train_step()
        trainer.save()

    assert list(range(6 - keep, 6)) == steps_in(tmp_path)
    assert keep == len(list(tmp_path.iterdir()))


def test_saves_by_the_clock(tmp_path, monkeypatch):
    """Where the recipe says minutes, a save is due when so many have gone by since the last."""
    seconds, train_step = [0.0], Trainer.train_step

    def slow(trainer):
        seconds[0] += 7
        return train_step(trainer)

    monkeypatch.setattr(Trainer, "train_step", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    keys = {"checkpoint_steps": None, "checkpoint_minutes": 0.5, "keep_checkpoints": 9}
    trainer = trainer_of(tmp_path, **keys)
    trainer.run(Budget(steps=17))
    trainer._saver.wait()

    assert [5, 10, 15] == steps_in(tmp_path)


def test_the_best_on_valid_stays(tmp_path, monkeypatch):
    """Beside the newest checkpoints the one of the best look so far stays, by its name: it holds
    the weights of that look, and a training that goes on from it ends as the first one did."""
    verdicts = [True, False, True, False, False, False, False]
    coming = iter(verdicts)
    monkeypatch.setattr(Trainer, "_better", lambda *_: next(coming))
    trainer = trainer_of(tmp_path, checkpoint_steps=5)
    trainer.run()
    trainer.save()
    wanted, names = weights_of(trainer), sorted(one.name for one in tmp_path.iterdir())

    assert ["step-00000024.best", "step-00000059", "step-00000060"] == names
    for name in names[1:]:
        shutil.rmtree(tmp_path / name)
    record = checkpoint.newest(tmp_path)
    kept = checkpoint.room_for(record, "")
    checkpoint.restore(record, kept)
    best, average = state.part("best", kept), state.part("average", kept)
    assert best.keys() >= average.keys() and [] == differing(
        {name: best[name] for name in average}, average
    )
    coming = iter(verdicts[3:])
    again = trainer_of(tmp_path, checkpoint_steps=5)
    assert 24 == again.step
    again.run()
    assert [] == differing(wanted, weights_of(again))


def test_only_the_newest_best_stays(tmp_path):
    """One that was the best before goes when its time has come; a second save of a step is newer
    than its first, whichever of them was the best."""
    trainer = trainer_of(tmp_path, keep_checkpoints=1)
    for step in range(1, 6):
        trainer.train_step()
        trainer.save(best=step in (2, 3))
    assert ["step-00000003.best", "step-00000005"] == sorted(p.name for p in tmp_path.iterdir())
    trainer.save(best=True)
    trainer.look(24)
    trainer.save()

    assert ["step-00000005.001.best", "step-00000005.002"] == sorted(
        one.name for one in tmp_path.iterdir()
    )
    assert 1 == len(trainer_of(tmp_path).looks)


def test_another_look_at_the_same_step_replaces_nothing(tmp_path):
    """A step that is saved again, after a look at valid, gets a second folder, which is the newer;
    the first stays whole until then."""
    trainer = trainer_of(tmp_path)
    trainer.train_step()
    trainer.save()
    trainer.look(24)
    trainer.save()

    assert ["step-00000001", "step-00000001.001"] == sorted(one.name for one in tmp_path.iterdir())
    assert 1 == len(trainer_of(tmp_path).looks)


def test_touching_a_file_saves(tmp_path, capsys):
    """A file with the asked name makes a checkpoint of that step, is removed and answered."""
    asked = tmp_path / "checkpoint-now"
    asked.touch()
    trainer = trainer_of(tmp_path / "kept")
    trainer._asked = asked
    trainer.run(Budget(steps=3))

    assert [1] == steps_in(tmp_path / "kept")
    assert not asked.exists()
    assert "step 1 is saved, as checkpoint-now asked" in capsys.readouterr().err


def signalled(monkeypatch, step):
    train_step = Trainer.train_step

    def act(trainer):
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(trainer)

    monkeypatch.setattr(Trainer, "train_step", act)


@pytest.mark.parametrize("busy", [False, True], ids=["own save", "save in flight"])
def test_grace_is_no_longer_than_the_recipe_says(
    tmp_path, monkeypatch, capsys, slow_disk, busy
):  # fmt: skip
    """After SIGTERM a save that takes longer than train.grace_seconds is given up, with a line that
    says so; the checkpoint before is intact."""
    slow_disk.set()
    trainer = trainer_of(tmp_path, grace_seconds=0.2)
    trainer.run(Budget(steps=2))
    trainer.save()
    slow_disk.clear()
    if busy:
        trainer.train_step()
        trainer.save(wait=False)
    signalled(monkeypatch, 4)

    with pytest.raises(StopRequested, match="SIGTERM"):
        trainer.run()
    said = capsys.readouterr().err
    assert "step 5 could not be saved in train.grace_seconds: 0.2" in said
    assert [2] == steps_in(tmp_path)
    slow_disk.set()
    trainer._saver.wait()


def test_a_signal_saves_and_says_so(tmp_path, monkeypatch, capsys):
    """After SIGTERM the step in hand is saved, and a line says which."""
    signalled(monkeypatch, 4)

    with pytest.raises(StopRequested):
        trainer_of(tmp_path).run()
    assert [5] == steps_in(tmp_path)
    assert "train: step 5 is saved" in capsys.readouterr().err


def test_a_signal_in_the_last_look_ends_it_with_everything_saved(tmp_path, monkeypatch):
    """The last step is saved before the look, which may take long; it is done after a resume."""
    trainer = trainer_of(tmp_path, budget=Budget(steps=6))
    trainer.run()
    with monkeypatch.context() as patch:
        patch.setattr(
            Trainer, "evaluate", lambda *given, **keys: os.kill(os.getpid(), signal.SIGTERM)
        )
        with pytest.raises(StopRequested, match="SIGTERM"):
            trainer.finish()
    assert 6 == steps_in(tmp_path)[-1]

    again = trainer_of(tmp_path, budget=Budget(steps=6))
    again.run()
    assert 6 == again.step and "valid_loss" in again.finish()


def test_a_signal_in_the_last_save_lets_it_end(tmp_path, monkeypatch, capsys):
    trainer, save = trainer_of(tmp_path, budget=Budget(steps=6)), Trainer.save

    def signalled(trainer, **keys):
        os.kill(os.getpid(), signal.SIGTERM)
        save(trainer, **keys)

    trainer.run()
    monkeypatch.setattr(Trainer, "save", signalled)
    with pytest.raises(StopRequested, match="SIGTERM"):
        trainer.finish()
    assert 6 == steps_in(tmp_path)[-1]
    assert "train: step 6 is saved" in capsys.readouterr().err


def test_a_signal_behind_broken_weights_keeps_what_was_saved(tmp_path, monkeypatch, capsys):
    """A checkpoint of weights that are no numbers would be of no use to anybody."""
    trainer = trainer_of(tmp_path, checkpoint_steps=3)
    signalled(monkeypatch, 4)
    monkeypatch.setattr(trainer.weights, "finite", lambda: trainer.step < 5)
    with pytest.raises(StopRequested):
        trainer.run()

    assert [3] == steps_in(tmp_path)
    assert "step 5 is not saved: its weights are no numbers" in capsys.readouterr().err


def test_a_new_training_waits_for_the_save_of_an_interrupted_one(tmp_path, slow_disk):
    """In the same process, a training that was given up may still be writing: the next one starts
    from what it leaves, and neither is in the other's way."""
    first = trainer_of(tmp_path)
    first.run(Budget(steps=3))
    first.save(wait=False)
    threading.Timer(0.05, slow_disk.set).start()

    assert 3 == trainer_of(tmp_path).step


def test_a_failed_step_keeps_the_save_in_flight(tmp_path, monkeypatch, slow_disk):
    """A step that raises waits for the checkpoint that is being written, the last good one."""
    trainer, train_step = trainer_of(tmp_path, checkpoint_steps=2), Trainer.train_step

    def fail(trainer):
        if trainer.step == 3:
            threading.Timer(0.05, slow_disk.set).start()
            raise TrainingFailed("no number")
        return train_step(trainer)

    monkeypatch.setattr(Trainer, "train_step", fail)
    with pytest.raises(TrainingFailed):
        trainer.run()
    assert [2] == steps_in(tmp_path)


def test_a_failed_save_does_not_hide_what_failed_before(tmp_path, monkeypatch, capsys):
    trainer = trainer_of(tmp_path)

    def fail(trainer):
        trainer._saver._failure = StorageError("the disk is full")
        raise TrainingFailed("no number")

    monkeypatch.setattr(Trainer, "train_step", fail)
    with pytest.raises(TrainingFailed, match="no number"):
        trainer.run()
    assert "the last save failed too: the disk is full" in capsys.readouterr().err


def test_memory_that_ends_while_the_state_is_copied_is_said(tmp_path, monkeypatch):
    def short(*given, **keys):
        raise MemoryError

    trainer = trainer_of(tmp_path, checkpoint_steps=2)
    monkeypatch.setattr(checkpoint, "take", short)
    with pytest.raises(TrainingFailed, match="while step 2 was copied to be saved"):
        trainer.run()


@pytest.mark.parametrize(
    "name", ["step-00000001.keep", "step-00000003 copy", "step-00000004.tar", "step-final", "notes"]
)
@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_what_a_person_puts_beside_checkpoints_stays(tmp_path, name, folder):
    """It is none of them: it is not counted, not opened and not removed."""
    trainer = trainer_of(tmp_path, keep_checkpoints=1)
    foreign = tmp_path / name
    foreign.mkdir() if folder else foreign.write_text("mine")
    for _ in range(5):
        trainer.train_step()
        trainer.save()

    assert {name, "step-00000005"} == {one.name for one in tmp_path.iterdir()}
    assert 5 == trainer_of(tmp_path).step


def test_a_desktops_file_in_a_checkpoint_is_passed_over(tmp_path):
    """One whose name begins with a dot; any other is none that was written."""
    trainer = trainer_of(tmp_path)
    trainer.train_step()
    trainer.save()
    (tmp_path / "step-00000001/.DS_Store").write_text("icons")

    assert 1 == trainer_of(tmp_path).step
    (tmp_path / "step-00000001/more").touch()
    with pytest.raises(IntegrityError, match="more is not what was written"):
        trainer_of(tmp_path)


def test_a_signal_breaks_a_look_off(tmp_path, monkeypatch):
    """It may take longer than a scheduler waits: the step is saved at once, the look is made when
    training goes on, and that ends as one that was left alone."""
    straight = trainer_of(tmp_path / "straight", budget=Budget(steps=16))
    straight.run()

    trainer = trainer_of(tmp_path / "stopped", budget=Budget(steps=16))
    evaluate, begun = Trainer.evaluate, []

    def slow(trainer, *given, **keys):
        begun.append(trainer.step)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return evaluate(trainer, *given, **keys)

    monkeypatch.setattr(Trainer, "evaluate", slow)
    with pytest.raises(StopRequested, match="SIGTERM"):
        trainer.run()
    at = trainer.step
    again = trainer_of(tmp_path / "stopped", budget=Budget(steps=16))
    assert at == again.step == steps_in(tmp_path / "stopped")[-1] == begun[1]
    again.run()

    assert begun[2] == at
    assert [] == differing(weights_of(straight), weights_of(again))
    assert straight.best_value == again.best_value

"""Steps handed over ahead of their verdicts, as an accelerator takes them: nobody waits for one,
and what comes of it is what came of waiting for each."""

import json
import math

import pytest
import torch
from tests.train.conftest import differing, trainer_of, weights_of, world_of
from tests.train.processes import run_ranks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.core.errors import TrainingFailed
from modelwright.train import guards, precision, step
from modelwright.train.journal import Record
from modelwright.train.settings import Budget

READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")
SKIP = {"on_nan": "skip", "checkpoint_steps": 10}


@pytest.fixture
def ahead(monkeypatch):
    """This CPU as an accelerator: three steps are handed over before one is looked back at."""
    monkeypatch.setitem(step.AHEAD, "cpu", 3)


def planted(trainer, *steps, value=math.nan):
    """The trainer, whose batches of these steps give that loss and a gradient to match."""
    logic = trainer._gradient._loss

    def loss(outputs, targets):
        found = logic(outputs, targets)
        return found * value if trainer.step in steps else found

    trainer._gradient._loss = loss
    return trainer


class Waits(TorchDispatchMode):
    """Counts what makes a host wait for a device: values asked for, copies brought here."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, op, types, given=(), keys=None):
        asked = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        self.number += op in asked
        return op(*given, **(keys or {}))


@pytest.mark.parametrize("family", ["rnn", "transformer"])
@pytest.mark.parametrize(
    "keys",
    [{}, {"micro_batch_size": 4, "clip_norm": 0.5, "ema": 0.9},
     {"precision": "bf16-mixed", "cautious": True}, {"precision": "16-mixed", "optimizer": "muon"}],
    ids=str,
)  # fmt: skip
def test_nobody_waits_for_a_step(tmp_path, monkeypatch, family, keys):
    """Of ten ordinary steps no number is read but the losses and norms of steps that are behind:
    not by gradient, scale, clipping, guards, optimizer, averages nor curves."""
    if family == "rnn" and keys.get("precision") == "16-mixed":
        pytest.skip("few CPUs compute it")
    trainer = trainer_of(tmp_path, family, metrics=tmp_path / "metrics.jsonl", **keys)
    trainer.steps.ahead = 3
    for _ in range(8):
        trainer.train_step()
    reads = []
    read = step.Reading.__call__

    def known(self):
        reads.append(trainer.step)
        with monkeypatch.context() as own:
            for name in READS:
                own.setattr(Tensor, name, plain[name])
            return read(self)

    plain = {name: getattr(Tensor, name) for name in READS}
    monkeypatch.setattr(step.Reading, "__call__", known)
    asked = []
    for name in READS:

        def reading(self, *given, name=name, **more):
            if self.is_floating_point():
                asked.append(name)
            return plain[name](self, *given, **more)

        monkeypatch.setattr(Tensor, name, reading)
    with Waits() as waits:
        for _ in range(10):
            trainer.train_step()
            trainer._note_steps(trainer.budget)
    monkeypatch.undo()

    assert [] == asked and 0 == waits.number
    assert list(range(9, 19)) == reads
    assert 18 - 3 == trainer.steps.last.number + 1
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert [*range(5, 16)] == lines[-11:]


CASES = [
    ("transformer", {"optimizer": "adamw"}), ("transformer", {"optimizer": "sgd"}),
    ("transformer", {"optimizer": "muon"}), ("rnn", {"optimizer": "adafactor"}),
    ("rnn", {"optimizer": "adamw", "clip_norm": 0.1, "cautious": True}),
    ("transformer", {"precision": "bf16-true", "optimizer": "muon"}), ("cnn", {}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "keys"), CASES, ids=str)
def test_a_step_that_is_known_late_is_skipped_as_at_once(tmp_path, monkeypatch, family, keys):
    """Two steps without a number are gone back from: what is left is, to the bit, what is left if
    every step waits, and so are curves and notes. Optimizers and norms that can't be held back wait
    for their verdicts."""
    monkeypatch.setattr(guards, "SNAPSHOT_STEPS", 8)
    found = []
    for number in (0, 3):
        monkeypatch.setitem(step.AHEAD, "cpu", number)
        metrics, texts = tmp_path / f"{number}.jsonl", []
        trainer = trainer_of(
            tmp_path / str(number), family, metrics=metrics, ema=0, budget=Budget(steps=40),
            record=Record(note=texts.append), **SKIP, **keys,
        )  # fmt: skip
        planted(trainer, 14, 22).run()
        lines = [json.loads(line) for line in metrics.open()]
        names = ("step", "loss", "grad_norm")
        losses = [tuple(line[name] for name in names) for line in lines if "loss" in line]
        found.append((losses, texts, trainer.guard.position(), weights_of(trainer)))
    (waited, *same, weights), (late, *others, after) = found

    assert waited == late and same == others
    assert [[9, 14], [17, 22]] == others[1]["returns"]
    assert [*range(1, 15), *range(16, 23), *range(24, 41)] == [number for number, *_ in late]
    assert [] == differing(weights, after)


def test_averages_are_held_back_too(tmp_path, ahead, monkeypatch):
    """Within what rounding does: behind a step without a number the average stays as well."""
    monkeypatch.setattr(guards, "SNAPSHOT_STEPS", 8)
    late = planted(trainer_of(tmp_path / "late", "transformer", ema=0.9, **SKIP), 14)
    late.run(Budget(steps=20))
    monkeypatch.setitem(step.AHEAD, "cpu", 0)
    waited = planted(trainer_of(tmp_path / "waited", "transformer", ema=0.9, **SKIP), 14)
    waited.run(Budget(steps=20))

    for name, value in weights_of(waited).items():
        torch.testing.assert_close(weights_of(late)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "stop", [14, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (12, 15, 17))]
)
def test_overflows_that_are_known_late_change_nothing(tmp_path, monkeypatch, stop):
    """The loss scale falls and grows at the steps where it does if every step waits, and stopped in
    between and taken up again it ends with the same bits."""
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**36)
    monkeypatch.setattr(precision, "GROWS_AFTER", 4)
    keys = {"precision": "16-mixed", "ema": 0, "budget": Budget(steps=40)}
    ends = []
    for name, number, stops in (("waited", 0, ()), ("late", 3, ()), ("stopped", 3, (stop,))):
        monkeypatch.setitem(step.AHEAD, "cpu", number)
        for until in (*stops, 40):
            trainer = trainer_of(tmp_path / name, "transformer", **keys)
            trainer.run(Budget(steps=until))
            trainer.save()
        ends.append((trainer.scale.position(), weights_of(trainer)))

    assert ends[0][0] == ends[1][0] == ends[2][0]
    assert ends[0][0][2] > 10
    assert [] == differing(ends[0][1], ends[1][1]) == differing(ends[1][1], ends[2][1])


def test_a_loss_without_a_number_stops_where_it_came(tmp_path, ahead):
    """Its step is named, and no weight has moved since; a save behind it is not made."""
    trainer = planted(trainer_of(tmp_path, "transformer", checkpoint_steps=10), 18)
    trainer.run(Budget(steps=18))
    before = weights_of(trainer)
    with pytest.raises(TrainingFailed, match="the loss became nan at step 18"):
        trainer.run()

    assert 18 == trainer.step
    assert [] == differing(before, weights_of(trainer))
    assert ["step-00000010"] == [path.name for path in sorted(tmp_path.glob("step-*"))]


def test_what_is_saved_has_its_verdict(tmp_path, ahead):
    """A checkpoint is due right behind a step without a number: it is made of no such step."""
    trainer = planted(trainer_of(tmp_path, "transformer", checkpoint_steps=10, keep="last"), 9)
    with pytest.raises(TrainingFailed, match="the loss became nan at step 9"):
        trainer.run()

    assert [] == list(tmp_path.glob("step-*"))


def test_the_last_step_can_be_one_to_take_again(tmp_path, ahead, monkeypatch):
    """The budget is spent when its steps are known, and not when they were handed over."""
    monkeypatch.setattr(guards, "SNAPSHOT_STEPS", 8)
    trainer = planted(trainer_of(tmp_path, "rnn", budget=Budget(steps=20), **SKIP), 18)
    trainer.run()

    assert (20, 19) == (trainer.step, trainer.steps.last.number)
    assert [[17, 18]] == trainer.guard.returns


def test_spikes_are_judged_at_once(tmp_path, ahead):
    """Where losses bound the next ones, every verdict comes before its step's weights move."""
    trainer = trainer_of(tmp_path, "transformer", on_spike="stop")
    trainer.steps.ahead = 3
    for number in range(12):
        trainer.train_step()
        assert number == trainer.steps.last.number


def late_together(rank, folder, degrees, number, optimizer):
    """Train on this rank, where the second one's loss is no number at step 9."""
    step.AHEAD["cpu"], guards.SNAPSHOT_STEPS = number, 6
    trainer = trainer_of(
        folder, "transformer", world=world_of(rank, **degrees), budget=Budget(steps=14), ema=0,
        args={"dim": 64, "num_layers": 2}, optimizer=optimizer, clip_norm=0.3, **SKIP,
    )  # fmt: skip
    planted(trainer, *([9] if rank == trainer.world.size - 1 else []))
    trainer.run()
    whole = dict(trainer.world.each_whole(trainer.model.state_dict()))
    return trainer.guard.returns, {k: v.double().sum().item() for k, v in whole.items()}


@pytest.mark.parametrize(
    ("degrees", "optimizer"),
    [({"sharded": 2}, "muon")] + [
        pytest.param({axis: 2}, "adamw", marks=pytest.mark.slow)
        for axis in ("data", "tensor", "pipeline")
    ],
    ids=str,
)  # fmt: skip
def test_processes_know_late_together(tmp_path, degrees, optimizer):
    """All take the same steps again, and end with the bits of those that waited."""
    waited, late = (
        run_ranks(
            tmp_path / str(number), 2, late_together, tmp_path / str(number) / "kept", degrees,
            number, optimizer,
        )
        for number in (0, 2)
    )  # fmt: skip

    assert [[7, 9]] == late[0][0] == waited[0][0]
    assert waited == late


def test_a_reading_is_of_its_time():
    """Numbers that were asked for are read as they were."""
    reading = step.Reading(torch.tensor([1.0, 2.0], dtype=torch.float64))

    assert [1.0, 2.0] == reading()

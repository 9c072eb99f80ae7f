"""Compiling is tried where it can pay, decided by the clock, said, and taken up after a resume."""

from types import SimpleNamespace

import pytest
import torch
from tests.train.conftest import differing, trainer_of, weights_of, world_of
from tests.train.processes import run_ranks

from modelwright.core.errors import ConfigError, TrainingFailed
from modelwright.models.ladders import LADDERS
from modelwright.train import compiling
from modelwright.train.compiling import Compiling
from modelwright.train.gradient import Gradient
from modelwright.train.journal import Record
from modelwright.train.settings import Budget

STEPS = 11


class Told(list):
    """What the ledger gets; how long passes take when compiled, without it 20 ms."""

    with_s, compiled = 0.001, 0


@pytest.fixture
def told(monkeypatch):
    """Passes are done as ever, and compiled by nobody; their seconds are made up."""
    told, plain = Told(), Compiling._rehearse

    def rehearsed(self, passes):
        plain(self, passes)
        return told.with_s if getattr(self._gradient, "stood_in", False) else 0.02

    def compiled(self, *, dynamic):
        self.stood_in = True
        told.compiled += 1

    monkeypatch.setattr(Compiling, "_rehearse", rehearsed)
    monkeypatch.setattr(Gradient, "compile", compiled)
    monkeypatch.setattr(Gradient, "interpret", lambda self: setattr(self, "stood_in", False))
    worth_a_try_from(monkeypatch, 0.0)
    monkeypatch.setattr(compiling, "FEWEST_STEPS", 0)
    return told


def worth_a_try_from(monkeypatch, seconds):
    for kinds in LADDERS.values():
        for one in kinds.values():
            monkeypatch.setitem(vars(one), "compile_from_s", seconds)


def trained(folder, told, **keys):
    trainer = trainer_of(
        folder, budget=Budget(steps=STEPS), record=Record(decision=told.append), **keys
    )
    trainer.run()
    return trainer


def test_a_short_training_is_left_alone(tmp_path, told, monkeypatch):
    worth_a_try_from(monkeypatch, 600.0)
    trainer = trained(tmp_path, told)

    assert trainer.compiling.taken is False and not told.compiled
    assert ["torch.compile is not tried"] == [one[:26] for one in told]


@pytest.mark.parametrize(("left_s", "tries"), [(599, 0), (601, 1)])
def test_ten_minutes_left_are_worth_a_try(tmp_path, monkeypatch, left_s, tries):
    tried, seconds = [], [1.0, 2.0]
    trainer = trainer_of(tmp_path)
    monkeypatch.setattr(Compiling, "_passes_s", lambda *given: seconds.pop())
    monkeypatch.setattr(Gradient, "compile", lambda *given, **keys: tried.append(1))
    trainer.compiling.settle(trainer._passes(0.0), left_s)

    assert tries == len(tried) == trainer.compiling.taken


@pytest.mark.parametrize(("fewest", "tries"), [(290, 1), (310, 0)])
def test_few_slow_steps_are_left_alone(tmp_path, told, monkeypatch, fewest, tries):
    """Six seconds of steps of 20 ms, where a slow machine's compiler would take most of them."""
    monkeypatch.setattr(compiling, "FEWEST_STEPS", fewest)
    trainer = trainer_of(tmp_path, record=Record(decision=told.append))
    trainer.compiling.settle(trainer._passes(0.0), left_s=6.0)

    assert tries == told.compiled == trainer.compiling.taken
    assert tries or "about 300 steps of training are left, and it is from 310 on" in told[0]


def test_a_failing_try_leaves_no_trace_in_batch_norms(tmp_path, monkeypatch):
    """Passes that fail halfway have changed running means already."""
    trainer = trainer_of(tmp_path)
    before = weights_of(trainer)
    forward = trainer._passes(0.0)

    def fails():
        forward()
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        trainer.compiling._rehearse(fails)
    assert [] == differing(before, weights_of(trainer))


@pytest.mark.parametrize(("with_s", "taken"), [(0.001, True), (0.04, False)])
def test_a_long_training_takes_what_is_faster(tmp_path, told, capfd, with_s, taken):
    """And trying leaves nothing behind: weights, moments and batch norms are those of a training
    that never tried."""
    told.with_s = with_s
    trainer = trained(tmp_path / "tried", told)
    untried = trained(tmp_path / "untried", told, compile=False)

    assert taken is trainer.compiling.taken
    assert f"torch.compile is {'' if taken else 'not '}used: the passes of a step take" in told[0]
    assert told[0] in capfd.readouterr().err
    assert [] == differing(weights_of(trainer), weights_of(untried))


def test_a_resumed_training_goes_on_as_it_began(tmp_path, told):
    trained(tmp_path, told).save()
    told.with_s = 0.04  # by the clock it would decide otherwise now
    again = trainer_of(tmp_path, budget=Budget(steps=STEPS), record=Record(decision=told.append))
    again.budget = Budget(steps=STEPS + 2)
    again.run()

    assert again.resumed and again.compiling.taken is True
    assert 2 == told.compiled


@pytest.mark.parametrize(
    ("asked", "kept", "said"),
    [("auto", None, 1), ("auto", True, 1), ("auto", False, 0), (False, None, 0)],
)
def test_several_do_not_try_and_say_so_once(tmp_path, told, asked, kept, said):
    """Those that wait for each other within a pass, whatever one process left open, such as the
    race, or decided; a checkpoint of several has said it already, and who asked for none is not
    told."""
    trainer = trainer_of(tmp_path, record=Record(decision=told.append))
    waiting = SimpleNamespace(passes_alone=lambda model: False)
    several = Compiling(
        asked, trainer.model, trainer._gradient, trainer.device, trainer.journal, dynamic=False,
        world=waiting, from_s=0.0,
    )  # fmt: skip
    several.take_up(kept)
    if several.due(0):
        several.settle(trainer._passes(0.0), 9e9)

    assert several.taken is False and not several.due(100)
    assert said == len(told) == sum("several processes wait for each other" in one for one in told)


def fails(*given):
    raise RuntimeError("no compiler")


def settled(rank, folder, broken, within):
    """Try it in one of two processes, of which the second one's clock says that it does not pay;
    or where the compiler of `broken` fails, at once or `within` a pass."""
    texts, plain = [], Compiling._rehearse

    def rehearsed(self, passes):
        plain(self, passes)
        return 0.1 if rank == 0 and getattr(self._gradient, "stood_in", False) else 0.2

    def compiled(self, *, dynamic):
        if rank == broken and not within:
            raise RuntimeError("no compiler")
        self.stood_in = True
        if rank == broken:
            self._called = fails

    Compiling._rehearse, Gradient.compile, compiling.FEWEST_STEPS = rehearsed, compiled, 0
    trainer = trainer_of(
        folder / "kept", "transformer", world=world_of(rank, data=2), budget=Budget(steps=2),
        record=Record(decision=texts.append),
    )  # fmt: skip
    trainer.compiling._from_s = 0.0
    trainer.compiling.settle(trainer._passes(0.0), 60.0)
    losses = [trainer.train_step() for _ in range(2)]
    return trainer.compiling.taken, losses, texts


@pytest.mark.parametrize(
    ("broken", "within"), [(None, False), (0, False), (1, False), (0, True), (1, True)]
)
def test_processes_decide_as_one(tmp_path, broken, within):
    """By the first one's clock; and none compiles where the compiler of one fails."""
    first, second = run_ranks(tmp_path, 2, settled, tmp_path, broken, within)
    taken = broken is None

    assert taken == first[0] == second[0] and first[1] == second[1]
    if broken is None:
        assert "2.00 times as fast" in first[2][0]
    else:
        assert "RuntimeError: no compiler" in (first, second)[broken][2][0]
        assert f"it failed (on rank {broken})" in (second, first)[broken][2][0]


def test_a_compiler_that_fails_is_said(tmp_path, told, monkeypatch):
    """Auto goes on without; who asked for it gets an error."""

    def broken(self, *, dynamic):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(Gradient, "compile", broken)
    assert trained(tmp_path / "auto", told).compiling.taken is False
    assert ["torch.compile is not used: it failed (RuntimeError: no C++ compiler)"] == told
    with pytest.raises(ConfigError, match=r"torch.compile failed \(RuntimeError: no C\+\+ comp"):
        trained(tmp_path / "true", told, compile=True)


@pytest.mark.slow
def test_a_compiled_training_has_the_same_losses(tmp_path, recwarn):
    """With torch's own compiler, in minutes, which has nothing to say to a person."""
    losses = []
    for name in (True, False):
        trainer = trainer_of(tmp_path / str(name), "transformer", compile=name)
        trainer.run(Budget(steps=1))
        trainer.compiling.settle(trainer._passes(0.0), 0.0)
        losses.append([trainer.train_step() for _ in range(8)])
        assert name is trainer.compiling.taken

    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert [] == [str(one.message) for one in recwarn if "dynamo" in str(one.message)]
    torch.compiler.reset()


def test_memory_that_ends_in_a_try_is_said(tmp_path, told, monkeypatch):
    """The passes that are timed hold as much as a step does, and the plan may have been wrong."""

    def short(self, passes):
        raise MemoryError

    monkeypatch.setattr(Compiling, "_rehearse", short)
    with pytest.raises(TrainingFailed, match=r"memory ended while torch\.compile was tried"):
        trained(tmp_path, told)

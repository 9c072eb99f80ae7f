"""Losses that are no number or far too high: stopped, or gone back from; resumed to the bit."""

import json
import math
import statistics

import pytest
import torch

from modelwright.core.errors import ConfigError, Exit, TrainingFailed
from modelwright.core.recipe import Recipe
from modelwright.train import checkpoint, guards
from modelwright.train.guards import FAR, FEWEST, spike_bound
from modelwright.train.journal import Record
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget

from .conftest import differing, settings_of, trainer_of, weights_of, world_of
from .processes import run_ranks

SKIP = {"on_nan": "skip", "on_spike": "skip", "checkpoint_steps": 10}


def planted(trainer: Trainer, *steps: int, value: float = math.nan) -> Trainer:
    """The trainer, whose batches of these steps give that loss and a gradient to match."""
    logic = trainer._gradient._loss

    def loss(outputs, targets):
        found = logic(outputs, targets)
        return found * value if trainer.step in steps else found

    trainer._gradient._loss = loss
    return trainer


def noted(trainer: Trainer) -> list[str]:
    """What the trainer tells the ledger from here on."""
    texts: list[str] = []
    trainer.journal.record = Record(note=texts.append)
    return texts


@pytest.fixture
def often(monkeypatch):
    """Copies every eight steps, so that a short training has several."""
    monkeypatch.setattr(guards, "SNAPSHOT_STEPS", 8)
    monkeypatch.setattr(guards, "FEWEST", 4)


def test_spikes_are_judged_by_median_and_deviation():
    """The bound is ten robust standard deviations above the median; an outlier moves neither."""
    losses = [1.0 + 0.1 * (number % 5) for number in range(100)]
    middle = statistics.median(losses)
    wanted = middle + FAR * 1.4826 * statistics.median(abs(one - middle) for one in losses)

    assert pytest.approx(wanted) == spike_bound(losses)
    assert pytest.approx(wanted, rel=0.02) == spike_bound([*losses, 1e9])
    assert math.inf == spike_bound(losses[: FEWEST - 1])


@pytest.mark.parametrize("level", [5.0, 0.5])
def test_losses_that_hardly_differ_leave_room(level):
    """Where the last losses are all alike, half as much again is no spike yet."""
    assert pytest.approx(1.5 * level) == spike_bound([level] * 100)


def test_falling_losses_are_no_spikes(tmp_path):
    """An ordinary training on noisy rows has no loss that the rule calls a spike."""
    trainer = trainer_of(tmp_path, budget=Budget(steps=60), on_spike="stop", learning_rate=0.02)
    trainer.run()

    assert 60 == trainer.step == len(trainer.guard.losses)


@pytest.mark.parametrize(
    ("value", "keys", "words"),
    [(math.nan, {}, "became nan at step 40"), (math.inf, {}, "became inf at step 40"),
     (1000.0, {"on_spike": "stop"}, r"rose to .* at step 40, where .* is far")],
)  # fmt: skip
def test_stopping_keeps_the_checkpoint(tmp_path, value, keys, words):
    """Unless told to skip, a bad loss ends in exit 2 before its gradient moves a weight."""
    keys = {**keys, "keep": "last"}
    trainer = trainer_of(tmp_path, "transformer", checkpoint_steps=10, **keys)
    planted(trainer, 40, value=value)
    with pytest.raises(TrainingFailed, match=words) as caught:
        trainer.run()

    assert Exit.BAD_INPUT == caught.value.exit_code
    assert "skip" in caught.value.repair and "train.learning_rate" in caught.value.repair
    assert 40 == checkpoint.newest(tmp_path)["step"]
    again = trainer_of(tmp_path, "transformer", **keys)
    assert [] == differing(weights_of(trainer), weights_of(again))


def test_a_gradient_that_is_no_number_is_called_that(tmp_path):
    """Where the loss is a number, and only its gradient is none."""
    trainer = trainer_of(tmp_path, "transformer")
    logic = trainer._gradient._loss
    trainer._gradient._loss = lambda *given: logic(*given) + (0 * logic(*given)).sqrt()
    with pytest.raises(
        TrainingFailed, match=r"gradient's norm became nan at step 0, of a loss of 1"
    ):
        trainer.run()


def test_a_spike_is_ignored_by_default(tmp_path):
    """Without being asked, a high loss stops nothing and costs no copy of the weights."""
    trainer = planted(trainer_of(tmp_path), 40, value=1000.0)
    trainer.run()

    assert 60 == trainer.step
    assert ({}, [], []) == (
        trainer.guard.tensors(), trainer.guard.losses, trainer.guard.returns,
    )  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, 1000.0])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_skipping_goes_back_and_on(tmp_path, often, value, optimizer):
    """The bad step leaves weights, averages and moments as they were at the copy before it; the
    batches after it are learned from, and people and ledger are told."""
    trainer = trainer_of(tmp_path, "transformer", optimizer=optimizer, **SKIP)
    planted(trainer, 30, value=value)
    texts, states = noted(trainer), {}
    while trainer.step < 31:
        states[trainer.step] = weights_of(trainer)
        trainer.train_step()
    (first, last) = trainer.guard.returns[0]

    assert (25, 30, 31) == (first, last, trainer.step)
    assert [] == differing(states[first], weights_of(trainer))
    assert 1 == len(texts)
    assert "at step 30" in texts[0] and "batches 25 to 30 are skipped (1 of at most 3" in texts[0]
    trainer.run()
    assert 60 == trainer.step and 1 == len(texts)


def poisoned(trainer: Trainer, step: int) -> Trainer:
    """The trainer, whose update of that step leaves a weight that is no number."""
    move = trainer.weights.move

    def after(number, held=None):
        if number == step + 1:
            with torch.no_grad():
                next(trainer.model.parameters()).view(-1)[0] = math.nan
        move(number, held)

    trainer.weights.move = after
    return trainer


@pytest.mark.parametrize(
    ("step", "words"),
    [(29, "loss became nan at step 30"), (59, "weights were no numbers after 60 steps")],
    ids=["in between", "the last one"],
)
def test_an_update_that_breaks_weights_is_the_guards_to_judge(tmp_path, often, step, words):
    """Also where a look at valid and a save are due behind it, or no step comes after: nothing of
    it is kept, and who skips goes on."""
    keys = {**SKIP, "keep": "last"}
    trainer = poisoned(trainer_of(tmp_path / "stop", **(keys | {"on_nan": "stop"})), step)
    trainer.evaluations = 60  # as often as there are steps
    with pytest.raises(TrainingFailed, match=words):
        trainer.run()
        trainer.finish()
    again = trainer_of(tmp_path / "stop", **(keys | {"on_nan": "stop"}))
    assert again.weights.finite() and step - 10 < again.step <= step

    skipping = poisoned(trainer_of(tmp_path / "skip", **keys), step)
    texts = noted(skipping)
    skipping.evaluations = 60
    skipping.run()
    found = skipping.finish()
    assert 60 == skipping.step and math.isfinite(found["valid_loss"])
    assert 1 == len(texts) and words in texts[0]


def test_broken_weights_that_no_loss_shows_are_gone_back_from(tmp_path, often, monkeypatch):
    """Such as a row of an embedding that no batch asks for: at the second step behind them."""
    trainer = trainer_of(tmp_path, **SKIP, keep="last")
    texts = noted(trainer)

    def finite():
        return not 30 <= trainer.step < 33 or bool(trainer.guard.returns)

    monkeypatch.setattr(trainer.weights, "finite", finite)
    trainer.run()

    assert 60 == trainer.step and [[25, 30]] == trainer.guard.returns
    assert 1 == len(texts) and "the weights were no numbers after 31 steps" in texts[0]


def test_skipping_stops_where_it_does_not_help(tmp_path, often):
    """Weights that give no number any more are gone back from three times, then it ends."""
    trainer = planted(trainer_of(tmp_path, **SKIP, keep="last"), *range(30, 60))
    texts = noted(trainer)
    with pytest.raises(TrainingFailed, match="after 3 returns to earlier weights") as caught:
        trainer.run()

    assert 3 == len(texts)
    assert "learning_rate" in caught.value.repair and "skip" not in caught.value.repair
    assert 30 == checkpoint.newest(tmp_path)["step"]


def test_a_bad_first_step_stops(tmp_path):
    """Before anything was learned there is nothing to go back to."""
    with pytest.raises(TrainingFailed, match="before there were weights to go back to"):
        planted(trainer_of(tmp_path, **SKIP), 0).run()


@pytest.mark.parametrize("stop", [23, 31, 38])
def test_resume_around_a_skip_is_exact(tmp_path, often, stop):
    """Stopped before or after a return, however far from a copy, the training that goes on ends
    with the bits of one that was never stopped."""
    quiet = planted(trainer_of(tmp_path / "quiet", **SKIP), 30, 45)
    quiet.run()
    first = planted(trainer_of(tmp_path / "two", **SKIP), 30, 45)
    first.run(Budget(steps=stop))
    first.save()
    second = planted(trainer_of(tmp_path / "two", **SKIP), 30, 45)
    second.run()

    assert stop < second.step == 60
    assert quiet.guard.position() == second.guard.position()
    assert [[25, 30], [41, 45]] == second.guard.returns
    assert [] == differing(weights_of(quiet), weights_of(second))


def test_a_bad_loss_is_not_in_the_curves(tmp_path, often):
    """metrics.jsonl stays JSON that any reader takes: no NaN, one line for each good step."""
    metrics = tmp_path / "metrics.jsonl"
    planted(trainer_of(tmp_path / "c", metrics=metrics, **SKIP), 30).run()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in metrics.open()]

    assert [*range(1, 31), *range(32, 61)] == [line["step"] for line in lines if "loss" in line]


def skip_together(rank, degrees, folder, stops):
    """Train on this rank, where the last one's share of the loss goes wrong at step 6; stopped and
    taken up again at `stops`. Gives what was gone back from and a sum of every weight's bits."""
    guards.SNAPSHOT_STEPS, guards.FEWEST = 4, 4
    for stop in (*stops, 9):
        torch.manual_seed(0)
        trainer = trainer_of(
            folder, "transformer", world=world_of(rank, **degrees), budget=Budget(steps=9),
            args={"dim": 64, "num_layers": 2}, **SKIP,
        )  # fmt: skip
        planted(trainer, *([6] if rank == trainer.world.size - 1 else []))
        trainer.run(Budget(steps=stop))
        trainer.save()
    whole = dict(trainer.world.each_whole(trainer.averaged.state_dict()))
    bits = [(name, value.double().sum().item()) for name, value in sorted(whole.items())]
    return trainer.guard.returns, bits


@pytest.mark.parametrize(
    "degrees",
    [{"sharded": 2}] + [
        pytest.param({axis: 2}, marks=pytest.mark.slow) for axis in ("data", "tensor", "pipeline")
    ],
    ids=str,
)  # fmt: skip
def test_ranks_go_back_together(tmp_path, degrees):
    """A share that is no number on one rank sends all of them back to the same step; stopped in
    between and taken up again, they end with the same bits."""
    quiet, stopped = (
        run_ranks(tmp_path / name, 2, skip_together, degrees, tmp_path / name / "kept", stops)
        for name, stops in (("quiet", ()), ("stopped", (5, 8)))
    )

    assert [[5, 6]] == quiet[0][0] == quiet[1][0]
    assert quiet[0] == quiet[1] == stopped[0] == stopped[1]


@pytest.mark.parametrize(
    ("train", "words"),
    [({"on_nan": "skip"}, "train.on_nan: control takes only stop"),
     ({"on_spike": "stop"}, "train.on_spike: control takes only ignore")],
)  # fmt: skip
def test_acting_takes_no_skips(train, words):
    """A task that acts has more state than weights; the keys that it can't keep are refused."""
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate(
            {"task": "control", "data": {"source": "gymnasium:CartPole-v1"}, "train": train}
        )


def test_other_guards_are_other_settings(tmp_path):
    """What a bad loss does is part of a training; it can't change halfway."""
    trainer = trainer_of(tmp_path)
    trainer.run(Budget(steps=3))
    trainer.save()
    with pytest.raises(ConfigError, match="other settings"):
        trainer_of(tmp_path, on_nan="skip")


def test_copies_are_only_kept_to_go_back_to():
    """Both keys decide, each alone."""
    asked = [{}, {"on_spike": "stop"}, {"on_spike": "skip"}, {"on_nan": "skip"}]

    assert [False, False, True, True] == [settings_of(**keys).goes_back for keys in asked]

"""One step, the budget, and what stops a training."""

import contextlib
import dataclasses
import json
import os
import signal
import time
import types

import numpy as np
import pytest
import torch

from modelwright.core.errors import ConfigError, Exit, TrainingFailed
from modelwright.core.recipe import Train
from modelwright.measure.quality import Quality
from modelwright.models.catalog import MODELS, ModelSpec
from modelwright.tasks.catalog import TASKS
from modelwright.train import checkpoint, gradient, journal, loop
from modelwright.train.guards import ASKING, StopRequested
from modelwright.train.keep import looked_at, rows_looked_at, shortened, was_clearly_better
from modelwright.train.settings import OWN_DEFAULTS, Budget, fill_in

from .conftest import INPUTS, OUTPUTS, differing, rows, settings_of, trainer_of, weights_of


class Clock:
    """A clock that only moves when told to; stands in for the time module."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    return clock


def timed(trainer, clock, step_s, evaluation_s=0.0):
    """The trainer, whose steps and evaluations take what the functions or numbers say."""
    train_step, logic = trainer.train_step, trainer.task.logic

    def slow_step():
        clock.now += step_s(trainer.step) if callable(step_s) else step_s
        return train_step()

    def slow_statistics(*arguments):
        clock.now += evaluation_s
        return logic.statistics(*arguments)

    slow = types.SimpleNamespace(**{**vars(logic), "statistics": slow_statistics})
    trainer.train_step = slow_step
    trainer.task = dataclasses.replace(trainer.task, logic=slow)
    return trainer


def test_a_step_draws_as_torch_does():
    """A step's seed gives the draws of torch.manual_seed."""
    torch.manual_seed(41)
    wanted = torch.rand(3)
    gradient.seed_draws(41)

    assert wanted.tolist() == torch.rand(3).tolist()


def test_a_line_that_nobody_sees_is_not_made(tmp_path, monkeypatch):
    """Without a terminal the journal puts no line together, which takes a look at the memory."""
    trainer, made = trainer_of(tmp_path, budget=Budget(steps=2)), []
    monkeypatch.setattr(trainer.journal, "_line", lambda *given: made.append(given))
    trainer.run()
    monkeypatch.setattr(journal, "shown", lambda: True)
    trainer.run(until=Budget(steps=3))

    assert 1 == len(made)


def test_it_learns(tmp_path):
    """120 steps on stripes bring the averaged weights far above chance on unseen rows."""
    trainer = trainer_of(tmp_path, "cnn", budget=Budget(steps=120))
    trainer.run()

    assert 0.9 <= trainer.finish()["valid_accuracy"]


@pytest.mark.parametrize("step_s", [0.01, 0.037, 0.3])
def test_time_budget_is_kept(tmp_path, clock, step_s):
    """Race slices, steps and the last evaluation together end within half a step of the budget."""
    trainer = timed(trainer_of(tmp_path, budget=Budget(seconds=2.0)), clock, step_s, 0.05)
    trainer.run()
    trainer.finish()

    assert pytest.approx(2.0, abs=0.51 * step_s) == trainer.elapsed
    assert pytest.approx(102.0, abs=0.51 * step_s) == clock.now


def test_uneven_steps_keep_the_budget(tmp_path, clock):
    """Where steps take very different times, the end is missed by one slow step at most."""
    trainer = trainer_of(tmp_path, budget=Budget(seconds=2.0))
    timed(trainer, clock, lambda step: 0.1 if step % 7 == 3 else 0.01, 0.02)
    trainer.run()
    trainer.finish()

    assert pytest.approx(2.0, abs=0.1) == trainer.elapsed


def test_real_time_budget_is_kept(tmp_path):
    """With the machine's own clock, two seconds of a tiny model end within two seconds."""
    trainer = trainer_of(tmp_path, "rnn", budget=Budget(seconds=2.0))
    longest = 0.0
    train_step = trainer.train_step

    def measured_step():
        nonlocal longest
        before = loop.time.perf_counter()
        loss = train_step()
        longest = max(longest, loop.time.perf_counter() - before)
        return loss

    trainer.train_step = measured_step
    trainer.run()
    spent = trainer.elapsed

    assert 2.0 - longest <= spent + trainer.evaluation_seconds
    assert spent <= 2.0 + longest


def test_resumed_time_budget_is_kept(tmp_path, clock):
    """A training that is stopped and continued spends its seconds once, not twice."""
    first = timed(trainer_of(tmp_path, budget=Budget(seconds=2.0)), clock, 0.02)
    first.run(Budget(seconds=0.7))
    first.save()
    clock.now += 1000.0
    second = timed(trainer_of(tmp_path, budget=Budget(seconds=2.0)), clock, 0.02)
    second.run()

    assert pytest.approx(2.0, abs=0.02) == second.elapsed
    assert 0.02 >= abs(100 - second.step) * 0.02


def test_step_budget_is_exact(tmp_path):
    """A budget of 17 steps is 17 steps."""
    trainer = trainer_of(tmp_path, budget=Budget(steps=17))
    trainer.run()

    assert 17 == trainer.step


@pytest.mark.parametrize("clocks", [{}, {"steps": 3, "seconds": 1.0}])
def test_budget_has_one_clock(clocks):
    """Neither no clock nor two are a budget."""
    with pytest.raises(ConfigError, match="steps or seconds"):
        Budget(**clocks)


@pytest.mark.parametrize("family", ["rnn", "transformer"])
@pytest.mark.parametrize("micro", [1, 4, 8])
@pytest.mark.parametrize("augment", [[], [{"mixup": 0.4}]])
def test_accumulation_is_the_whole_batch(tmp_path, family, micro, augment):
    """Micro-batches give the loss and the step of the whole batch within 1e-6."""
    keys = {"optimizer": "sgd", "learning_rate": 0.1, "warmup_steps": 0, "augment": augment}
    whole = trainer_of(tmp_path / "whole", family, **keys)
    parts = trainer_of(tmp_path / "parts", family, micro_batch_size=micro, **keys)
    losses = [[trainer.train_step() for _ in range(3)] for trainer in (whole, parts)]

    assert pytest.approx(losses[0], abs=1e-6) == losses[1]
    for name, value in weights_of(whole).items():
        if name.startswith("model."):
            torch.testing.assert_close(weights_of(parts)[name], value, atol=1e-6, rtol=0)


def test_averaged_weights_are_a_running_mean(tmp_path):
    """The average is the stated mix of its old value and the new weights, step by step."""
    trainer = trainer_of(tmp_path, "transformer", ema=0.5)
    wanted = trainer.averaged.head.linear.weight.detach().clone()
    for step in range(1, 12):
        trainer.train_step()
        decay = min(0.5, step / (step + 9))
        wanted.lerp_(trainer.model.head.linear.weight.detach(), 1 - decay)

    torch.testing.assert_close(trainer.averaged.head.linear.weight.detach(), wanted)


def test_without_average_the_weights_are_judged(tmp_path):
    """With ema 0 the evaluated model is the trained one."""
    trainer = trainer_of(tmp_path, ema=0)

    assert trainer.model is trainer.averaged


@pytest.mark.parametrize("keep", ["best", "last"])
def test_weights_that_were_clearly_better_come_back(tmp_path, keep):
    """A model that breaks at the very end ships as it was at an earlier look, also when resumed."""
    trainer = trainer_of(tmp_path / "a", keep=keep, learning_rate=0.02)
    trainer.run()
    trainer.save()
    again = trainer_of(tmp_path / "a", keep=keep, learning_rate=0.02)
    for one in (trainer, again):
        for parameter in one.averaged.parameters():
            parameter.data.zero_()
    found = trainer.finish()

    assert (keep == "best") == trainer.went_back == (found["valid_accuracy"] > 0.6)
    assert found == again.finish()


def test_a_lead_by_chance_is_none(tmp_path):
    """An earlier look that is not clearly better on the same rows changes nothing."""
    trainer = trainer_of(tmp_path / "a", learning_rate=0.02)
    trainer.run()
    before = weights_of(trainer)
    trainer._seen = trainer.evaluate().statistics.copy()
    wrong = int(trainer._seen[:, 1].argmin())
    trainer._seen[wrong, 1] = 1  # one more answer was right
    trainer.finish()

    assert not trainer.went_back
    assert [] == differing(before, weights_of(trainer))


@pytest.mark.parametrize(("better", "clearly"), [(0.0, False), (0.001, True), (-0.001, False)])
def test_a_small_lead_in_every_row_is_clear(better, clearly):
    """Rows are compared in pairs: what all of them say counts, however far apart they lie."""
    squares = np.random.default_rng(0).uniform(0.0, 10.0, 200)

    def quality(less: float) -> Quality:
        table = np.stack([np.ones(200), squares - less, np.zeros(200)], axis=1)
        return Quality("mse", TASKS["forecasting"].values(table), 0.0, 0.0, table, {}, squares)

    seen = quality(better).statistics[looked_at(200, 150)]
    assert clearly == was_clearly_better(seen, quality(0.0), TASKS["forecasting"], None)


def test_a_lead_in_windows_that_overlap_is_one_row_by_row():
    """Blocks of time, which an interval of forecasts draws, are too few to tell weights apart."""
    task, ones, blocks = TASKS["forecasting"], np.ones(200), np.arange(200) // 100
    leads = np.where(blocks == 0, 0.1, 0.02)
    now, seen = (np.stack([ones, 5 - one, ones, ones], axis=1) for one in (0 * leads, leads))
    last = Quality("mse", task.values(now), 0.0, 0.0, now, {}, ones, blocks)

    assert was_clearly_better(seen, last, task, None)


def test_what_is_ranked_is_compared_among_as_many_rows():
    """A text is found more easily among few: an earlier look at some rows leads by that alone."""
    task, draw = TASKS["image-text-matching"], np.random.default_rng(0)
    images = draw.normal(size=(400, 8))
    table = np.column_stack([np.arange(400), images, images + 1.5 * draw.normal(size=(400, 8))])

    def judged(rows: int) -> Quality:
        found = task.whole(table[:rows])
        return Quality("recall_at_10", task.values(found), 0.0, 0.0, found, {}, found)

    seen, last = judged(40), judged(400)
    assert last.value < 0.7 < seen.value
    assert not was_clearly_better(seen.statistics, last, task, judged)
    assert was_clearly_better(seen.statistics, last, task, lambda _: last)


@pytest.mark.parametrize(("until", "spent"), [(None, True), (Budget(seconds=8.0), False)])
def test_a_slice_of_the_race_keeps_time_for_its_own_look_alone(tmp_path, until, spent):
    """All of valid is looked at once, in the end of the whole budget."""
    trainer = trainer_of(tmp_path, budget=Budget(seconds=8.0))
    trainer.curve_rows = len(trainer.valid) // 4
    trainer.elapsed, trainer.evaluation_seconds, trainer._evaluated_at = 5.0, 4.0, 0.5

    assert spent == trainer._over(until or trainer.budget, 0, 0.0)


def test_lines_of_a_start_that_was_killed_are_dropped(tmp_path):
    """Before its first checkpoint: curves have each step once, and no half a line within."""
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 9.0}\n{"step": 2, "sec')
    trainer_of(tmp_path, budget=Budget(steps=3), metrics=metrics).run()
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]

    assert [1, 2, 3] == [line["step"] for line in lines if "loss" in line]
    assert 9.0 not in [line.get("loss") for line in lines]


def test_memory_that_ends_while_a_batch_is_made_is_said(tmp_path):
    """Not within the passes: with words, and an exit of its own."""
    trainer = trainer_of(tmp_path)

    def short(step: int) -> None:
        raise MemoryError

    trainer._batches = short
    with pytest.raises(TrainingFailed, match="memory ended while the batch of step 0 was made"):
        trainer.run()


def test_a_process_waits_for_others_once_its_rows_are_here(tmp_path, monkeypatch):
    """By that the others know who is behind within a step."""
    trainer, said = trainer_of(tmp_path, budget=Budget(steps=2)), []
    make = trainer._batches
    monkeypatch.setattr(trainer, "_batches", lambda step: said.append("rows") or make(step))
    monkeypatch.setattr(
        type(trainer.world), "at", lambda _, step, waiting=False: said.append((step, waiting))
    )
    trainer.run()

    assert [(0, False), "rows", (0, True), (1, False), "rows", (1, True)] == said


def test_a_look_takes_rows_of_every_class(tmp_path):
    """Folders and sorted tables have one class after the other: the rows that a look takes are
    drawn from all of them, and held against the same rows in the end."""
    trainer = trainer_of(tmp_path)
    many, some = rows(200, 1), 40
    trainer.valid = many.take(np.argsort(many.targets, kind="stable"))
    trainer.weights.gather()
    whole, part = trainer.evaluate(), trainer.evaluate(some)

    assert some == part.rows
    drawn = looked_at(whole.rows, some)
    assert set(whole.targets[:some]) < set(part.targets) == set(whole.targets)
    np.testing.assert_array_equal(part.statistics, whole.statistics[drawn])
    assert np.all(np.diff(drawn) > 0)
    np.testing.assert_array_equal(np.arange(7), looked_at(7, None))


def test_rows_are_held_against_the_same_rows():
    """Weights that led where a look was, and nowhere else, are told from those that led."""
    rows, last = looked_at(400, 100), np.zeros((400, 5))
    last[:, 0] = last[rows, 1] = 1  # right where a look was, and nowhere else
    task = TASKS["image-classification"]
    found = Quality("accuracy", {"accuracy": 0.25}, 0.2, 0.3, last, {}, np.zeros(400))

    assert not was_clearly_better(last[rows], found, task, lambda _: found)
    last[rows[:50], 1] = 0
    assert was_clearly_better(last[rows] + [0, 1, 0, 0, 0], found, task, lambda _: found)


def test_evaluating_changes_no_step(tmp_path):
    """Looking at the valid part between steps leaves the training bitwise as it is."""
    quiet, watched = trainer_of(tmp_path / "a"), trainer_of(tmp_path / "b")
    for _ in range(5):
        quiet.train_step()
        watched.train_step()
        watched.evaluate()

    assert [] == differing(weights_of(quiet), weights_of(watched))


def test_curves_are_whole(tmp_path):
    """The metrics file holds steps with losses, several evaluations, and progress up to 1."""
    trainer = trainer_of(tmp_path / "c", metrics=tmp_path / "metrics.jsonl")
    trainer.run()
    trainer.finish()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "valid_accuracy" in line]

    assert list(range(1, 61)) == [line["step"] for line in steps]
    assert {"step", "seconds", "progress", "loss", "learning_rate", "examples_per_s",
            "memory_bytes", "grad_norm"} == set(steps[0])  # fmt: skip
    assert loop.Trainer.evaluations == len(evaluations)
    assert (60, 1.0) == (evaluations[-1]["step"], evaluations[-1]["progress"])


def test_resuming_drops_the_curve_of_lost_steps(tmp_path):
    """Steps after the checkpoint are done again, and stand in the curve once."""
    metrics = tmp_path / "metrics.jsonl"
    first = trainer_of(tmp_path / "c", metrics=metrics)
    first.run(Budget(steps=20))
    first.save()
    first.run(Budget(steps=27))
    metrics.write_text(metrics.read_text() + '{"step": 28, "lo')  # cut short by a kill
    second = trainer_of(tmp_path / "c", metrics=metrics)
    second.run()
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]

    assert list(range(1, 61)) == [line["step"] for line in lines if "loss" in line]


def test_nan_loss_stops_and_keeps_the_checkpoint(tmp_path):
    """A weight that is no number stops the training; the checkpoint from before is intact."""
    trainer = trainer_of(tmp_path)
    trainer.run(Budget(steps=10))
    trainer.save()
    good = weights_of(trainer)
    with torch.no_grad():
        trainer.model.head.linear.weight[0, 0] = float("nan")
    with pytest.raises(TrainingFailed, match=r"became nan at step 10 .*learning rate") as caught:
        trainer.run()

    assert Exit.BAD_INPUT == caught.value.exit_code
    assert "lower train.learning_rate" in caught.value.repair
    assert [] == differing(good, weights_of(trainer_of(tmp_path)))


def test_huge_learning_rate_stops(tmp_path):
    """A learning rate that blows the weights up ends in an error, not in a model."""
    trainer = trainer_of(tmp_path, "transformer", learning_rate=1e30, warmup_steps=0)

    with pytest.raises(TrainingFailed, match="loss became"):
        trainer.run()


@pytest.mark.parametrize("number", ASKING)
def test_signal_saves_and_stops(tmp_path, number):
    """A signal lets the step end, saves it, and stops; the next trainer goes on from there."""
    trainer = trainer_of(tmp_path)
    train_step = trainer.train_step

    def step_and_signal():
        if trainer.step == 12:
            os.kill(os.getpid(), number)
        return train_step()

    trainer.train_step = step_and_signal
    handler = signal.getsignal(number)
    with pytest.raises(StopRequested, match=number.name):
        trainer.run()

    assert handler == signal.getsignal(number)
    assert 13 == trainer_of(tmp_path).step


def test_a_look_that_a_signal_came_before_is_made_up_for(tmp_path):
    """So that the same weights are judged, and come out, as of a training that went through."""

    def steps_looked_at(name, stop_at=None):
        file = tmp_path / f"{name}.jsonl"
        trainer = trainer_of(tmp_path / name, budget=Budget(steps=16), metrics=file)
        train_step = trainer.train_step

        def step_and_signal():
            if trainer.step + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return train_step()

        trainer.train_step = step_and_signal
        with contextlib.suppress(StopRequested):
            trainer.run()
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return trainer.step, [one["step"] for one in lines if "valid_accuracy" in one]

    straight = steps_looked_at("straight")

    assert (6, [2, 4]) == steps_looked_at("stopped", 6)
    assert straight == steps_looked_at("stopped") == (16, [2, 4, 6, 8, 10, 12, 14])


@pytest.mark.parametrize(("number", "looked"), [(3000, 211), (50, 50)])
def test_looks_of_a_short_training_take_few_rows(tmp_path, number, looked):
    """So that looks take a tenth of it at most; as many after it went on as before, for their
    weights to be compared row by row. The last look takes all rows."""
    seen = []

    def trainer():
        one = trainer_of(tmp_path, budget=Budget(steps=88), batch_size=64)
        one.valid, evaluate = rows(number, 1), one.evaluate

        def look(most=None, **more):
            seen.append(min(most or number, number))
            return evaluate(most, **more)

        one.evaluate = look
        return one

    first = trainer()
    train_step = first.train_step

    def step_and_stop():
        if first.step == 50:
            first.save()
            raise StopRequested("SIGTERM")
        return train_step()

    first.train_step = step_and_stop
    with pytest.raises(StopRequested):
        first.run()
    then = trainer()
    then.run()
    then.finish()

    assert [looked] * 7 + [number] == seen


def test_rows_ranked_among_others_are_as_many_as_ever():
    """Among fewer, a recall is another figure."""
    ranked = TASKS["image-text-matching"]

    assert 2000 == rows_looked_at(ranked, 2000, 60, 32, 8)
    assert 200 == rows_looked_at(TASKS["image-classification"], 2000, 60, 32, 8)


def test_a_spared_valid_part_stays_so_after_a_resume(tmp_path):
    """A training that is killed before its last look has no more time for it than before."""
    trainer = trainer_of(tmp_path, budget=Budget(seconds=0.5))
    trainer.valid = rows(3000, 1)
    trainer.valid = shortened(trainer.valid, 200)
    trainer.curve_rows = 200
    trainer.train_step()
    trainer.save()

    def again():
        one = trainer_of(tmp_path, budget=Budget(seconds=0.5))
        return len(one.valid)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.train.conftest.rows", lambda number, seed=0: rows(3000, seed))
        assert 200 == again()


def test_a_training_is_not_given_up_for_a_last_look(tmp_path):
    """What a race knows of all of valid is more than the budget; the first look settles what the
    last one takes, and until then a tenth of the time is kept for it."""
    trainer = trainer_of(tmp_path, budget=Budget(seconds=100.0))
    trainer.evaluation_seconds = 500.0
    over = []
    for trainer.elapsed in (0.0, 89.0, 91.0):
        over.append(trainer._spent(trainer.budget, 0, 0.0))

    assert [False, False, True] == over


@pytest.mark.parametrize(("budget", "last"), [(0.4, 200), (400.0, 3000)])
def test_what_takes_too_long_to_look_at_is_not_waited_for(tmp_path, budget, last):
    """Where all of valid would take more than a tenth of the minutes, the last look takes as many
    rows as those before it, which is said."""
    told, seen = [], []
    trainer = trainer_of(
        tmp_path, budget=Budget(seconds=budget), record=journal.Record(note=told.append)
    )
    trainer.valid, judge = rows(3000, 1), loop.evaluate

    def slow(session, part, *given, **more):
        seen.append(len(part))
        time.sleep(len(part) / 20_000)  # all of it: 0.15 s
        return judge(session, part, *given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluate", slow)
        trainer.run(None if budget < 1 else Budget(steps=5))
        trainer.finish()

    assert last == seen[-1]
    assert (last < 3000) == any("200 of 3,000 rows of valid are looked at" in one for one in told)


def test_second_interrupt_stops_now(tmp_path):
    """Who presses Ctrl-C twice does not wait for the step to end."""
    trainer = trainer_of(tmp_path)

    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    trainer.train_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.run()


def test_a_late_signal_is_not_lost(tmp_path):
    """A signal after the last step's save still stops the process that goes on to other work."""
    trainer = trainer_of(tmp_path, budget=Budget(steps=3))
    spent = trainer._spent

    def signal_at_the_end(*arguments):
        over = spent(*arguments)
        if over:
            os.kill(os.getpid(), signal.SIGTERM)
        return over

    trainer._spent = signal_at_the_end
    with pytest.raises(StopRequested, match="SIGTERM"):
        trainer.run()


def test_same_seed_same_training(tmp_path):
    """Two trainings with one seed are bitwise equal; another seed gives another model."""
    runs = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(hash(name) % 1000)  # what was drawn before does not matter
        trainer = trainer_of(tmp_path / name, "transformer", seed=seed)
        trainer.run(Budget(steps=8))
        runs.append(weights_of(trainer))

    assert [] == differing(runs[0], runs[1])
    assert [] != differing(runs[0], runs[2])


def test_checkpoints_come_as_often_as_asked(tmp_path, monkeypatch):
    """With checkpoint_steps 7, no more than seven steps lie between a save and the next."""
    saved = []
    commit = checkpoint.commit
    monkeypatch.setattr(
        checkpoint,
        "commit",
        lambda *a, **k: (saved.append(k["step"]), commit(*a, **k)),
    )
    trainer = trainer_of(tmp_path, budget=Budget(steps=20), checkpoint_steps=7)
    trainer.run()

    assert max(after - before for before, after in zip([0, *saved], [*saved, 20], strict=True)) <= 7


def test_only_two_checkpoints_are_kept(tmp_path):
    """Old checkpoints go, the newest two and the best stay, and nothing else lies in the folder."""
    trainer = trainer_of(tmp_path, budget=Budget(steps=50), checkpoint_steps=10)
    trainer.run()
    trainer.save()

    names = sorted(path.name for path in tmp_path.iterdir())
    plain = [name for name in names if not name.endswith(".best")]
    assert "step-00000050" == plain[-1] and 1 <= len(names) - len(plain)
    assert 2 <= len(names) <= 3 and names[0][:-5] not in names


def test_family_defaults_give_way_to_the_recipe():
    """What the recipe says wins; what it leaves open is the family's."""
    settings = settings_of("transformer", learning_rate=0.5, budget=Budget(seconds=9.0))

    assert 0.5 == settings.learning_rate
    assert MODELS["transformer"].ladders["image"].train["weight_decay"] == settings.weight_decay
    assert MODELS["transformer"].ladders["image"].train["warmup_steps"] == settings.warmup_steps


def test_wide_nets_for_pictures_learn_by_muon():
    """At its own rate; small ones and who names another optimizer have AdamW's."""

    def found(size, **keys):
        spec = ModelSpec("cnn", size, INPUTS, OUTPUTS)
        settings = fill_in(Train(**keys), spec, "32-true", Budget(steps=9))
        return settings.optimizer, settings.learning_rate

    assert [("adamw", 0.003)] * 2 + [("muon", 0.01)] * 2 == [
        found(size) for size in ("tiny", "small", "base", "large")
    ]
    assert ("adamw", 0.003) == found("base", optimizer="adamw")
    assert ("muon", 0.003) == found("base", learning_rate=0.003)


def test_smoothing_is_the_tasks_own_unless_the_recipe_says(tmp_path):
    """A tenth where answers are classes; the loss of a step shows it."""
    asked = {"own": {}, "tenth": {"label_smoothing": 0.1}, "none": {"label_smoothing": 0.0}}
    losses = {
        name: trainer_of(tmp_path / name, **keys).train_step() for name, keys in asked.items()
    }

    assert losses["own"] == losses["tenth"] != losses["none"]


@pytest.mark.parametrize("optimizer", OWN_DEFAULTS)
def test_sgd_and_adafactor_have_their_own_rates(optimizer):
    """They do not start with AdamW's learning rate; the recipe's own comes first."""
    family = settings_of("cnn")
    settings = settings_of("cnn", optimizer=optimizer)
    asked = settings_of("cnn", optimizer=optimizer, learning_rate=0.3)

    assert family.learning_rate < OWN_DEFAULTS[optimizer]["learning_rate"] == settings.learning_rate
    assert OWN_DEFAULTS[optimizer].get("weight_decay", family.weight_decay) == settings.weight_decay
    assert 0.3 == asked.learning_rate


def test_rows_are_seen_once_an_epoch(tmp_path):
    """Over nine steps of eight rows, each of the 72 rows is trained on once."""
    trainer = trainer_of(tmp_path, batch_size=8)
    seen = torch.cat([trainer.loader.indices(step) for step in range(9)])

    assert list(range(len(rows(72)))) == sorted(seen.tolist())


def test_settings_are_frozen():
    """Nothing can turn a knob behind the recipe's back."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings_of().seed = 3  # type: ignore[misc]


def test_a_look_that_counted_otherwise_leads_by_nothing():
    """Such as one in a checkpoint of a version before, whose rows say something else."""
    table = np.stack([np.ones(20), np.full(20, 5.0), np.zeros(20)], axis=1)
    found = Quality("mse", TASKS["forecasting"].values(table), 0.0, 0.0, table, {}, table[:, 1])
    seen = np.zeros((20, 4))

    assert not was_clearly_better(seen, found, TASKS["forecasting"], None)

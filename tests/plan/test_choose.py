"""Which candidates are dropped and why, how the race goes, and what it costs."""

import contextlib
import json
from dataclasses import replace

import pytest

from modelwright.core import hardware
from modelwright.core.errors import ConfigError, Exit, Infeasible
from modelwright.models.catalog import MODELS
from modelwright.plan import choose, race
from modelwright.plan.candidate import SIZE_MARGIN, Candidate, from_json, smallest_over_budget
from modelwright.train import loop
from modelwright.train.guards import StopRequested
from modelwright.train.settings import Budget, training_budget

from .conftest import SIZES, data_of, recipe_of, rows

FAMILIES = ("cnn", "rnn", "transformer")


def predicted(**keys):
    """name -> candidate, as the plan leaves them before the race."""
    data = keys.pop("data", None) or data_of()
    return {one.spec.name: one for one in choose.predict(recipe_of(**keys), data)}


def fits(found):
    return {name for name, one in found.items() if one.status == "fits"}


def test_every_family_and_size_is_looked_at(machine):
    """ "auto" predicts all twelve candidates, each with what the table shows."""
    found = predicted()

    assert 12 == len(found)
    for one in found.values():
        assert {"step_s", "epoch_s", "size_bytes", "smallest_bytes", "int8_bytes", "latency_ms",
                "fastest_ms", "memory_bytes"} == set(one.predicted)  # fmt: skip
        assert one.num_params > 0 < one.forward_flops < one.backward_flops


def test_the_largest_that_fits_goes_on(machine):
    """Without goals and with time enough, each family sends its largest; smaller ones say why."""
    found = predicted(budget={"train_minutes": 60})

    assert {f"{family}-large" for family in FAMILIES} == fits(found)
    assert "cnn-large is larger and fits too" == found["cnn-small"].reason


def refusing(machine, monkeypatch, families):
    """Calibration that refuses those families, as torch does a precision."""
    measured = machine.step_seconds

    def step_seconds(spec, task, settings):
        if spec.family in families:
            raise ConfigError(f"no {spec.family} in 16-mixed", repair="another precision")
        return measured(spec, task, settings)

    monkeypatch.setattr(choose.time, "step_seconds", step_seconds)


def test_a_family_that_the_training_does_not_take_is_dropped(machine, monkeypatch):
    """The others are raced; its sizes stand in the table with the reason, and no figures."""
    refusing(machine, monkeypatch, ["rnn"])
    found = predicted(budget={"train_minutes": 60})

    assert {"cnn-large", "transformer-large"} == fits(found)
    assert ("train", "no rnn in 16-mixed") == (found["rnn-tiny"].binds, found["rnn-tiny"].reason)
    assert {} == found["rnn-tiny"].predicted


def test_a_training_that_no_family_takes_is_an_error(machine, monkeypatch):
    """Every reason once, and what to do."""
    refusing(machine, monkeypatch, FAMILIES)
    with pytest.raises(
        ConfigError, match="no cnn in 16-mixed; no rnn in 16-mixed; no tr"
    ) as caught:
        predicted()

    assert "another precision" == caught.value.repair


def test_epoch_is_steps_times_their_time(machine):
    """1,600 rows in batches of 16 are 100 steps an epoch."""
    assert pytest.approx(0.2) == predicted()["cnn-small"].predicted["epoch_s"]


def test_a_size_that_makes_too_few_steps_gives_way(machine):
    """In 5 s the small size makes 2,500 steps and base 1,000: small is raced, and base says why."""
    found = predicted(budget={"train_minutes": 5.0 / 60})

    assert {f"{family}-small" for family in FAMILIES} == fits(found)
    assert found["cnn-base"].reason.startswith("would make ")
    assert found["cnn-base"].reason.endswith("the 2,000 in which it can settle are needed")


def test_sizes_above_one_that_is_too_slow_are_not_timed(machine):
    """In 5 s base makes 1,250 steps, so large would make fewer: it is left out, and says why."""
    found = predicted(budget={"train_minutes": 5 / 60}, model={"family": "cnn"})

    assert "cnn-large" not in {name for name, _ in machine.asked}
    assert {} == found["cnn-large"].predicted
    assert found["cnn-large"].num_params > found["cnn-base"].num_params
    assert ("budget.train_minutes", "not timed: cnn-base would already make 1,250 steps in the "
            "budget; the 2,000 in which it can settle are needed") == (
        found["cnn-large"].binds, found["cnn-large"].reason,
    )  # fmt: skip


def test_a_ladder_that_settles_sooner_races_a_larger_size(machine, monkeypatch):
    """In the same 5 s, the 1,000 steps of base are enough where its ladder says so."""
    ladders = MODELS["cnn"].ladders
    monkeypatch.setitem(ladders, "image", replace(ladders["image"], settles_in=1000))
    found = predicted(budget={"train_minutes": 5.0 / 60})

    assert {"cnn-base", "rnn-small", "transformer-small"} == fits(found)


def test_where_no_size_makes_enough_steps_the_smallest_is_raced(machine):
    """A budget of half a second is no refusal."""
    assert {f"{family}-tiny" for family in FAMILIES} == fits(
        predicted(budget={"train_minutes": 0.6 / 60})
    )


def test_too_few_epochs_are_a_reason(machine, monkeypatch):
    """A candidate that would see the data less than five times is dropped, with the number."""
    monkeypatch.setattr(choose, "_settles", lambda recipe, candidate: True)
    found = predicted(budget={"train_minutes": 3.0 / 60})  # 3 s: 15 epochs of small, 3.75 of large

    assert {f"{family}-base" for family in FAMILIES} == fits(found)
    assert "would see the data 3.8 times in the budget; 5 are needed" == found["cnn-large"].reason


def test_a_named_size_is_not_dropped_for_epochs(machine):
    """Who names a size gets it, however few epochs the budget allows."""
    found = predicted(budget={"train_minutes": 0.01}, model={"family": "cnn", "size": "large"})

    assert {"cnn-large"} == fits(found)


def test_latency_out_of_reach_is_a_reason(machine):
    """Latency is judged at what int8 could make of it, a quarter; an LSTM has no int8 kernel."""
    found = predicted(
        budget={"train_minutes": 60}, goals={"latency_p99_ms": "<= 0.11 ms"},
    )  # fmt: skip

    assert {"cnn-base", "cnn-large-separable", "rnn-tiny", "transformer-base"} == fits(found)
    assert "latency_p99_ms <= 0.11 is out of reach: at best 0.2" == found["cnn-large"].reason
    assert "latency_p99_ms <= 0.11 is out of reach: at best 0.2" == found["rnn-small"].reason


def test_size_out_of_reach_is_a_reason(machine):
    """Without compression the file as exported has to meet the goal."""
    found = predicted(
        budget={"train_minutes": 60}, goals={"size_mb": "<= 0.2"}, compress="none",
    )  # fmt: skip

    assert {"cnn-large-separable", *(f"{one}-small" for one in FAMILIES)} == fits(found)
    assert "size_mb <= 0.2 is out of reach: at best 0.38" == found["cnn-base"].reason


def test_the_best_size_is_one_number(machine):
    """What is judged and said, and what a refusal's nearest misses show: with the same margin."""
    found = predicted(budget={"train_minutes": 60}, goals={"size_mb": "<= 0.2"}, compress="none")
    one = found["cnn-base"]
    best = one.best_values()["size_mb"]

    assert pytest.approx(SIZE_MARGIN * one.predicted["smallest_bytes"] / 1e6) == best
    assert one.reason.endswith(f"at best {best:.3g}")


def test_memory_over_the_budget_is_a_reason(machine, monkeypatch):
    """What training would take beyond budget.memory_gb drops a candidate and names the key."""
    monkeypatch.setattr(choose, "resident_bytes", lambda: 0)
    found = predicted(
        budget={"train_minutes": 60, "memory_gb": 0.03}, model={"family": "transformer"},
    )  # fmt: skip

    assert {"transformer-small"} == fits(found)
    assert found["transformer-base"].reason.startswith("training takes ")
    assert "budget.memory_gb allows 0.03 GB" in found["transformer-base"].reason


def test_a_tight_goal_asks_for_the_lighter_form(machine):
    """Under 0.03 ms at best only tiny full convolutions stay; separable ones of all other sizes are
    looked at as well, and the largest is raced beside them."""
    found = predicted(goals={"latency_p50_ms": "<= 0.03"}, budget={"train_minutes": 60})

    assert {"cnn-tiny", "cnn-base-separable"} == {one for one in fits(found) if "cnn" in one}
    assert "cnn-tiny-separable" not in found
    assert found["cnn-large-separable"].binds == "latency_p50_ms"
    assert {"convolution": "separable"} == found["cnn-base-separable"].spec.args
    assert not any("separable" in name for name in predicted(
        goals={"latency_p50_ms": "<= 0.03"}, model={"family": "cnn", "convolution": "full"}
    ))  # fmt: skip


def test_an_option_without_effect_is_refused(machine):
    """A bag of words has no convolutions: it goes by its plain name, and alone it is an error."""
    text = {"kind": "text", "vocab_size": 20, "max_length": 16, "length": 8, "features": 1}
    asked = {"family": "cnn", "convolution": "separable"}
    found = predicted(model=asked, data={**data_of(), "inputs": text})

    assert ["cnn-tiny-separable", "cnn-small-separable", "cnn-base", "cnn-large"] == list(found)
    with pytest.raises(ConfigError, match="cnn-base has no convolutions"):
        predicted(model={**asked, "size": "base"}, data={**data_of(), "inputs": text})


def test_a_lighter_form_that_cannot_settle_gives_way(machine):
    """Fewer than 2,000 steps are no reason to race a net that learns more slowly."""
    goals, seconds = {"latency_p50_ms": "<= 0.03"}, {"train_minutes": 7 / 60}
    found = predicted(goals=goals, budget=seconds)

    assert {"cnn-tiny", "cnn-small-separable"} == {one for one in fits(found) if "cnn" in one}
    assert found["cnn-base-separable"].reason.startswith("would make 1,750 steps in the budget")
    named = predicted(goals=goals, budget=seconds, model={"family": "cnn", "size": "base"})
    assert {"cnn-base-separable"} == fits(named)


def test_one_that_needs_pruning_gives_way(machine, monkeypatch):
    """Of two that fit, the one that int8 alone brings under the size goal is raced."""
    monkeypatch.setattr(choose, "compressed_bytes", lambda recipe, counted, size: size / 4)
    monkeypatch.setattr(
        choose, "pruned",
        lambda recipe, spec, counted: replace(
            counted, num_params=counted.num_params - SIZES[spec.size] * 1e5 / 8
        ),
    )  # fmt: skip
    found = predicted(
        budget={"train_minutes": 60}, goals={"size_mb": "<= 0.12"}, model={"family": "cnn"},
    )  # fmt: skip

    assert {"cnn-base"} == fits(found)
    assert "cnn-base meets the size goal without pruning" == found["cnn-large"].reason


def test_all_dropped_is_infeasible(machine, tmp_path):
    """Where nothing fits, nothing is trained, and the exit code says so."""
    recipe = recipe_of(goals={"latency_p50_ms": "<= 0.001 ms"})
    candidates = choose.predict(recipe, data_of())
    with pytest.raises(Infeasible, match="nothing was trained") as caught:
        race.run(recipe, candidates, rows(32), rows(16, 1), tmp_path)

    assert Exit.INFEASIBLE == caught.value.exit_code
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("goals", "expected"), [({}, "tiny"), ({"size_mb": "<= 0.0001"}, None)])
def test_the_budget_binds_only_those_that_met_the_goals(machine, goals, expected):
    """A size too slow to be timed was held to no goal, so it does not say what to relax."""
    machine.step_s = dict.fromkeys(machine.step_s, 1.0)
    candidates = choose.predict(recipe_of(budget={"train_minutes": 0.05}, goals=goals), data_of())
    found = smallest_over_budget(candidates)

    assert any(one.binds == "budget.train_minutes" and not one.predicted for one in candidates)
    assert expected == (found.spec.size if found is not None else None)


@pytest.mark.parametrize(
    ("bf16", "wanted", "reason"),
    [(0.5, "bf16-mixed", "2.00 times as fast as float32 here"),
     (0.97, "32-true", "bf16 would be 1.03 times as fast here"),
     (2.0, "32-true", "bf16 would be 0.50 times as fast here")],
)  # fmt: skip
def test_precision_is_the_faster_one(machine, bf16, wanted, reason):
    """bf16 is taken where it is clearly faster, else float32; the reason has the number."""
    machine.bf16 = bf16
    found = predicted(train={"batch_size": 16}, model={"family": "cnn", "size": "tiny"})

    assert (wanted, reason) == (
        found["cnn-tiny"].precision, found["cnn-tiny"].precision_reason,
    )  # fmt: skip
    expected = 1e-3 * (bf16 if wanted == "bf16-mixed" else 1)
    assert pytest.approx(expected) == found["cnn-tiny"].predicted["step_s"]


def test_bf16_is_not_timed_where_no_instruction_has_it(machine, monkeypatch):
    """There it is computed step by step in float32, and timing it takes minutes."""
    monkeypatch.setattr(hardware.Machine, "lacks_bf16", True)
    machine.bf16 = 0.5
    found = predicted(train={"batch_size": 16}, model={"family": "cnn", "size": "tiny"})

    assert (
        ("32-true", "this processor has no instructions for bf16")
        == (found["cnn-tiny"].precision, found["cnn-tiny"].precision_reason)
    )  # fmt: skip


def test_a_named_precision_is_not_questioned(machine):
    """The recipe's precision is the only one that is timed."""
    machine.bf16 = 9.0
    found = predicted(
        train={"batch_size": 16, "precision": "bf16-mixed"},
        model={"family": "cnn", "size": "tiny"},
    )

    assert "bf16-mixed" == found["cnn-tiny"].precision
    assert [("cnn-tiny", "bf16-mixed")] == machine.asked


@pytest.fixture
def fixed_accuracy(monkeypatch):
    """Families whose valid accuracy is known: (family, round) -> accuracy; else 0.5."""
    table: dict[tuple[str, int], float] = {}
    slice_ = race._slice

    def known(recipe, candidate, number, *more):
        found = slice_(recipe, candidate, number, *more)
        accuracy = table.get((candidate.spec.family, number), 0.5)
        return {**found, "value": accuracy, "curve": [(found["steps"], accuracy)]}

    monkeypatch.setattr(race, "_slice", known)
    return table


def raced(recipe, folder):
    candidates = choose.predict(recipe, data_of(64, 16))
    winner, budget = race.run(recipe, candidates, rows(64), rows(16, 1), folder)
    return {one.spec.family: one for one in candidates}, winner, budget


RACE = {"budget": {"train_steps": 100}, "model": {"family": "auto", "size": "tiny"}}


def test_successive_halving(machine, fixed_accuracy, tmp_path):
    """Three start, two go on, one wins; each keeps its rounds, and losers the reason."""
    fixed_accuracy |= {
        ("cnn", 1): 0.6, ("rnn", 1): 0.2, ("transformer", 1): 0.7,
        ("cnn", 2): 0.9, ("transformer", 2): 0.8,
    }  # fmt: skip
    found, winner, _ = raced(recipe_of(**RACE), tmp_path)

    assert "cnn-tiny" == winner.spec.name
    assert {"cnn": "winner", "rnn": "raced", "transformer": "raced"} == {
        family: one.status for family, one in found.items()
    }
    assert {"cnn": [(1, 4), (2, 8)], "rnn": [(1, 4)], "transformer": [(1, 4), (2, 8)]} == {
        family: [(r["round"], r["steps"]) for r in one.rounds] for family, one in found.items()
    }
    assert found["rnn"].reason == (
        "round 1: 20.0% expected once four times as much is spent (20.0% now); "
        "transformer-tiny: 70.0% (70.0% now)"
    )
    assert found["transformer"].reason.startswith("round 2: ")
    assert "(80.0% now); cnn-tiny: " in found["transformer"].reason


def test_a_race_taken_up_behind_its_end_says_the_same(machine, fixed_accuracy, tmp_path):
    """Each round is judged by its own slice, whatever stands in race.json behind it."""
    fixed_accuracy |= {
        ("cnn", 1): 0.6, ("rnn", 1): 0.2, ("transformer", 1): 0.7,
        ("cnn", 2): 0.9, ("transformer", 2): 0.8,
    }  # fmt: skip
    told = []
    for _ in range(2):
        found, winner, budget = raced(recipe_of(**RACE), tmp_path)
        told.append((winner.spec.name, budget, {name: one.reason for name, one in found.items()}))

    assert told[0] == told[1]


@pytest.mark.parametrize(("warmup_steps", "rounds"), [(0, 1), (10_000, 3)])
def test_nobody_leaves_the_race_within_a_warmup(
    machine, fixed_accuracy, tmp_path, warmup_steps, rounds
):
    """Of a budget in minutes, slices that ended there decide nothing, up to the second."""
    for number in (1, 2, 3):
        fixed_accuracy |= {("cnn", number): 0.9, ("rnn", number): 0.2, ("transformer", number): 0.8}
    train = {"batch_size": 16, "warmup_steps": warmup_steps}
    recipe = recipe_of(**{**RACE, "budget": {"train_minutes": 2 / 60}, "train": train})
    found, winner, _ = raced(recipe, tmp_path)

    assert ("cnn", rounds) == (winner.spec.family, len(found["rnn"].rounds))


def test_steps_left_are_all_but_the_losers(machine, fixed_accuracy, tmp_path):
    """The winner's budget is the whole one without the 4 and 8 steps that the losers had."""
    fixed_accuracy |= {("cnn", 1): 0.9, ("transformer", 1): 0.8, ("cnn", 2): 0.9}

    assert Budget(steps=100 - 4 - 8) == raced(recipe_of(**RACE), tmp_path)[2]


def test_seconds_left_are_all_but_the_losers(machine, fixed_accuracy, tmp_path):
    """In minutes, the winner has what the losers' slices left of them."""
    recipe = recipe_of(**{**RACE, "budget": {"train_minutes": 2 / 60}})
    found, winner, budget = raced(recipe, tmp_path)
    lost = sum(one.rounds[-1]["seconds"] for one in found.values() if one is not winner)

    assert pytest.approx(2.0 - lost) == budget.seconds
    assert 0.04 * 2 * 2 <= lost


def test_race_resumes_without_finished_slices(machine, fixed_accuracy, tmp_path, monkeypatch):
    """A race that broke off in its fourth slice has three in race.json, does only the rest, and
    ends as one that ran through."""
    fixed_accuracy |= {("cnn", 1): 0.9, ("transformer", 1): 0.8, ("cnn", 2): 0.9}
    recipe, done = recipe_of(**RACE), []
    slice_ = race._slice

    def breaking(recipe, candidate, number, *more):
        if len(done) == 3:
            raise RuntimeError("power cut")
        done.append((candidate.spec.family, number))
        return slice_(recipe, candidate, number, *more)

    with monkeypatch.context() as context:
        context.setattr(race, "_slice", breaking)
        with pytest.raises(RuntimeError):
            raced(recipe, tmp_path / "race")
    (tmp_path / "straight").mkdir()
    wanted = raced(recipe, tmp_path / "straight")

    assert dict.fromkeys(FAMILIES, 1) == {
        name.removesuffix("-tiny"): len(rounds)
        for name, rounds in json.loads((tmp_path / "race/race.json").read_text()).items()
    }
    again = []
    monkeypatch.setattr(
        race, "_slice",
        lambda recipe, one, number, *more: (
            again.append((one.spec.family, number)) or slice_(recipe, one, number, *more)
        ),
    )  # fmt: skip
    found = raced(recipe, tmp_path / "race")

    assert {("cnn", 2), ("transformer", 2)} == set(again)
    assert (wanted[1].spec.name, wanted[2]) == (found[1].spec.name, found[2])


def test_race_resumes_within_a_slice(machine, tmp_path, monkeypatch):
    """A crash after a slice's checkpoint and before its record costs no step: the slice is not
    trained beyond its share, and the race ends as one that ran through."""
    recipe, write_json = recipe_of(**RACE), race.write_json
    (tmp_path / "straight").mkdir()
    wanted = raced(recipe, tmp_path / "straight")

    def breaking(path, value):
        if len(value) == 2:
            raise RuntimeError("power cut")
        write_json(path, value)

    with monkeypatch.context() as context:
        context.setattr(race, "write_json", breaking)
        with pytest.raises(RuntimeError):
            raced(recipe, tmp_path / "broken")
    found = raced(recipe, tmp_path / "broken")

    def spent(result):
        return {
            family: [(one["steps"], one["value"]) for one in candidate.rounds]
            for family, candidate in result[0].items()
        }

    assert spent(wanted) == spent(found)
    assert (wanted[1].spec.name, wanted[2]) == (found[1].spec.name, found[2])


@pytest.mark.parametrize("stop_after", [None, 0, 1])
def test_a_race_that_was_stopped_looks_at_as_many_rows(machine, tmp_path, monkeypatch, stop_after):
    """Whether it was stopped among the first steps or behind a look: at half as many rows as can be
    looked at in the time of the steps, so that its curves, and who wins, are the same."""
    recipe = recipe_of(**{**RACE, "budget": {"train_steps": 150}, "train": {"batch_size": 256}})
    evaluate, train_step, seen = race.Trainer.evaluate, race.Trainer.train_step, []

    def noted(trainer, number=None, **more):
        seen.append((trainer.spec.family, trainer.step, number))
        return evaluate(trainer, number, **more)

    def stopping(trainer):
        loss = train_step(trainer)
        if not stopped and stop_after == len(trainer.looks):
            stopped.append(True)
            trainer.steps.look_back()
            trainer.save()
            raise StopRequested("SIGTERM")
        return loss

    stopped = []
    monkeypatch.setattr(race.Trainer, "evaluate", noted)
    monkeypatch.setattr(race.Trainer, "train_step", stopping)
    for _ in range(1 if stop_after is None else 2):
        candidates = choose.predict(recipe, data_of(300, 3000))
        with contextlib.suppress(StopRequested):
            race.run(recipe, candidates, rows(300), rows(3000, 1), tmp_path)

    first = [one for one in seen if one[0] == "cnn"][:3]
    assert (stop_after is not None) == bool(stopped)
    assert [("cnn", 2, 768), ("cnn", 4, 768), ("cnn", 6, 768)] == first


@pytest.mark.parametrize(
    ("later", "rounds", "winner"),
    [({("cnn", 3): 0.82, ("rnn", 3): 0.88}, 3, "rnn-tiny"),
     ({("cnn", 3): 0.81, ("rnn", 3): 0.79, ("cnn", 4): 0.81, ("rnn", 4): 0.79}, 4, "cnn-tiny")],
)  # fmt: skip
def test_a_steep_curve_has_to_go_on(machine, fixed_accuracy, tmp_path, later, rounds, winner):
    """One that promises more and is behind wins as soon as it is ahead; it loses if it flattens."""
    fixed_accuracy |= {
        ("cnn", 1): 0.80, ("cnn", 2): 0.81, ("rnn", 1): 0.60, ("rnn", 2): 0.79,
        ("transformer", 1): 0.1, **later,
    }  # fmt: skip
    found, best, _ = raced(recipe_of(**RACE), tmp_path)

    assert winner == best.spec.name
    assert [rounds, rounds, 1] == [len(found[one].rounds) for one in FAMILIES]


@pytest.mark.parametrize(
    ("later", "rounds", "winner"),
    [({("cnn", 3): 0.9, ("rnn", 3): 0.7}, 3, "cnn-tiny"),
     ({("rnn", 3): 0.61, ("rnn", 4): 0.62, ("cnn", 3): 0.6, ("cnn", 4): 0.6}, 4, "rnn-tiny")],
)  # fmt: skip
def test_two_that_promise_nearly_the_same_race_on(
    machine, fixed_accuracy, tmp_path, later, rounds, winner
):
    """Two left within a twentieth of each other's error have another slice, up to the fourth."""
    fixed_accuracy |= {
        ("cnn", 1): 0.6, ("rnn", 1): 0.6, ("transformer", 1): 0.1,
        ("cnn", 2): 0.6, ("rnn", 2): 0.604, **later,
    }  # fmt: skip
    found, best, budget = raced(recipe_of(**RACE), tmp_path)

    assert winner == best.spec.name
    assert [rounds, rounds, 1] == [len(found[one].rounds) for one in FAMILIES]
    assert Budget(steps=100 - 4 - 4 * rounds) == budget


def test_only_one_needs_no_race(machine, tmp_path):
    """A single candidate wins without a slice and has the whole budget."""
    recipe = recipe_of(budget={"train_steps": 50}, model={"family": "cnn", "size": "tiny"})
    _, winner, budget = raced(recipe, tmp_path)

    assert ("the only one that fits", [], Budget(steps=50)) == (
        winner.reason, winner.rounds, budget,
    )  # fmt: skip


def test_a_tiny_budget_leaves_a_step(machine, tmp_path):
    """Where the race eats the budget, one step is left to train rather than none."""
    recipe = recipe_of(budget={"train_steps": 2}, model={"size": "tiny"})

    assert 1 <= raced(recipe, tmp_path)[2].steps


@pytest.mark.parametrize(
    ("section", "wanted"),
    [({"train_minutes": 1.5}, Budget(seconds=90.0)), ({"train_steps": 7}, Budget(steps=7))],
)
def test_budget_of_a_recipe(section, wanted):
    """Minutes become seconds, steps stay steps."""
    assert wanted == training_budget(recipe_of(budget=section))


def test_rows_of_the_plan_can_be_read_again(machine):
    """A candidate that goes to plan.json and back is the same, so that a run can go on from it."""
    one = predicted(model={"family": "rnn", "size": "tiny"})["rnn-tiny"]
    again = from_json(json.loads(json.dumps(one.to_json())))

    assert isinstance(again, Candidate)
    assert one.spec == again.spec
    assert json.dumps(one.to_json()) == json.dumps(again.to_json())


def test_a_goal_that_no_form_meets_goes_before_a_budget(machine):
    """More memory would help nobody."""
    found = predicted(
        budget={"train_minutes": 60, "memory_gb": 0.03}, goals={"size_mb": "<= 0.0001"},
        model={"family": "transformer"}, compress="none",
    )  # fmt: skip

    assert {"size_mb"} == {one.binds for one in found.values() if one.predicted}
    assert smallest_over_budget(list(found.values())) is None


def test_a_list_is_held_to_what_it_prunes(machine):
    """Of a matrix that is cut on both sides little is left; nothing is pruned without asking."""
    sizes = [
        predicted(compress=steps)["cnn-base"].predicted["smallest_bytes"]
        for steps in (["quantize"], "auto", [{"prune": {"ratio": 0.9}}, "quantize"])
    ]

    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("look_s", [0.2, 20.0])
def test_slow_looks_do_not_spend_the_whole_budget(machine, tmp_path, monkeypatch, look_s):
    """The first look takes so few rows that it should not outlast the steps before it, and where it
    does, the next ones take fewer; a race that has taken most of the budget ends as it stands,
    which is said. What is left is never less than the winner has spent."""
    evaluate, looked = race.Trainer.evaluate, []

    def slow(trainer, rows=None, **more):
        looked.append(rows)
        trainer.looked_s += look_s * rows / loop.CURVE_ROWS
        trainer.elapsed += look_s * rows / loop.CURVE_ROWS
        return evaluate(trainer, rows, **more)

    monkeypatch.setattr(race.Trainer, "evaluate", slow)
    recipe = recipe_of(**{**RACE, "budget": {"train_minutes": 3 / 60}})
    told = []
    candidates = choose.predict(recipe, data_of(64, 16))
    winner, budget = race.run(recipe, candidates, rows(64), rows(16, 1), tmp_path, told.append)

    assert race.FEWEST_ROWS <= min(looked) and max(looked) < loop.CURVE_ROWS
    assert budget.seconds >= winner.rounds[-1]["seconds"]
    assert (look_s == 20.0) == any(
        "the race ends with round 1, as it stands" in one for one in told
    )

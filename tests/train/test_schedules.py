"""The rate rises, goes on as the schedule says, and is zero when the budget is spent."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Recipe, ScheduleName, Train
from modelwright.models.catalog import ModelSpec
from modelwright.train.schedules import SCHEDULES, learning_rate_factor
from modelwright.train.settings import Budget, fill_in

from .conftest import settings_of, trainer_of

shares = st.floats(0, 1, allow_nan=False)


@given(step=st.integers(0, 10**6), warmup=st.integers(0, 1000), decay=st.floats(0.01, 1))
def test_zero_when_the_budget_is_spent(step, warmup, decay):
    """At progress 1 the rate is exactly zero, whatever the step, the warmup and the decay."""
    assert 0.0 == learning_rate_factor(step, 1.0, warmup_steps=warmup, decay=decay)


@given(
    step=st.integers(0, 10**6), progress=shares, warmup=st.integers(0, 1000), decay=shares,
    schedule=st.sampled_from(list(SCHEDULES)),
)  # fmt: skip
def test_factor_is_a_share(step, progress, warmup, decay, schedule):
    """No step uses less than nothing or more than the full rate."""
    keys = {"warmup_steps": warmup, "decay": decay, "schedule": schedule}

    assert 0 <= learning_rate_factor(step, progress, **keys) <= 1


@given(
    first=shares, second=shares, decay=st.floats(0.01, 1), schedule=st.sampled_from(list(SCHEDULES))
)
def test_rate_never_rises_after_warmup(first, second, decay, schedule):
    """Once warm, more progress never means a higher rate."""
    keys = {"warmup_steps": 10, "decay": decay, "schedule": schedule}
    early, late = sorted((first, second))
    factors = [
        learning_rate_factor(1000 + round(100 * progress), progress, **keys)
        for progress in (early, late)
    ]

    assert factors[0] >= factors[1]


def test_stable_in_the_middle():
    """Between warmup and decay the rate is the full one, and the fall is a straight line."""
    factors = [
        learning_rate_factor(100, progress, warmup_steps=10, decay=0.4)
        for progress in (0.1, 0.6, 0.8, 0.9)
    ]

    assert pytest.approx([1.0, 1.0, 0.5, 0.25]) == factors


def test_no_decay_stays_up():
    """With decay 0 the rate stays until the end."""
    assert 1.0 == learning_rate_factor(100, 0.999, warmup_steps=0, decay=0.0)


def test_warmup_rises_by_equal_parts():
    """The first step already learns; the last of the warmup has the full rate."""
    factors = [learning_rate_factor(s, 0.0, warmup_steps=4, decay=0.5) for s in range(5)]

    assert [0.25, 0.5, 0.75, 1.0, 1.0] == factors


def test_a_warmup_of_many_steps_ends_with_its_share_of_the_budget():
    """Where steps take long, half of the share is half of the rate, and behind it is all of it."""
    factors = [
        learning_rate_factor(step, progress, warmup_steps=300, decay=0.5, warmup_share=0.1)
        for step, progress in ((1, 0.05), (2, 0.1), (3, 0.15), (149, 0.02), (299, 0.08))
    ]

    assert pytest.approx([0.5, 1.0, 1.0, 0.5, 1.0]) == factors


@pytest.mark.parametrize(
    ("budget", "own", "found"),
    [
        (Budget(seconds=60), None, (300, 0.1)),
        (Budget(seconds=60), 300, (300, None)),  # what is asked for is done
        (Budget(steps=100), None, (10, None)),
        (Budget(steps=100), 300, (300, None)),
    ],
)
def test_a_family_s_warmup_takes_at_most_a_tenth_of_the_budget(budget, own, found):
    """In minutes as in steps."""
    spec = ModelSpec("transformer", "tiny", {"kind": "pairs"}, {"kind": "pairs"})
    settings = fill_in(Train(warmup_steps=own), spec, "32-true", budget)

    assert found == (settings.warmup_steps, settings.warmup_share)


def test_a_root_that_counts_from_the_warmup_keeps_its_warmup():
    """`inverse_sqrt` falls from the end of a warmup counted in steps."""
    spec = ModelSpec("transformer", "tiny", {"kind": "pairs"}, {"kind": "pairs"})
    settings = fill_in(Train(schedule="inverse_sqrt"), spec, "32-true", Budget(seconds=60))

    assert settings.warmup_share is None


def test_a_shorter_budget_of_time_enters_the_decay_earlier():
    """Half the steps a second means half the steps before the decay, and zero at the end."""
    fast, slow = (
        [
            learning_rate_factor(step, budget.progress(step, step * seconds), warmup_steps=0,
                                 decay=0.5)
            for step in range(round(10 / seconds) + 1)
        ]
        for budget, seconds in ((Budget(seconds=10.0), 0.1), (Budget(seconds=10.0), 0.2))
    )  # fmt: skip

    assert (51, 26) == (fast.count(1.0), slow.count(1.0))
    assert (0.0, 0.0) == (fast[-1], slow[-1])


@pytest.mark.parametrize(
    ("budget", "given", "wanted"),
    [(Budget(steps=100), (0.3,), Budget(steps=30)), (Budget(steps=10), (0.26,), Budget(steps=3)),
     (Budget(steps=2), (0.01,), Budget(steps=1)), (Budget(steps=2), (0.1, 4), Budget(steps=4)),
     (Budget(seconds=90.0), (0.5, 4), Budget(seconds=45.0))],
)  # fmt: skip
def test_a_part_of_a_budget_is_of_its_kind(budget, given, wanted):
    """Steps to the nearest, and not fewer than asked for; seconds as they come."""
    assert wanted == budget.part(*given)


def test_a_cosine_is_half_down_in_the_middle():
    """It begins at the full rate, and ends at zero with the budget: arXiv:1608.03983."""
    factors = [
        learning_rate_factor(100, progress, warmup_steps=0, decay=0.0, schedule="cosine")
        for progress in (0.0, 1 / 3, 0.5, 1.0)
    ]

    assert pytest.approx([1.0, 0.75, 0.5, 0.0]) == factors


def test_an_inverse_root_goes_on_from_the_warmup():
    """Four times the warmup's steps later, half the rate is left, whatever the budget."""
    factors = [
        learning_rate_factor(step - 1, 0.9, warmup_steps=25, decay=0.5, schedule="inverse_sqrt")
        for step in (5, 25, 100, 2500)
    ]

    assert pytest.approx([0.2, 1.0, 0.5, 0.1]) == factors


def test_constant_stays_up():
    """To the very end."""
    rate = learning_rate_factor(99, 1.0, warmup_steps=10, decay=0.5, schedule="constant")

    assert 1.0 == rate


@pytest.mark.parametrize("key", [{}, {"cautious": True}])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_weight_decay_goes_to_its_end_in_a_straight_line(tmp_path, optimizer, key):
    """Every step of matrices has its share of the way; what is spared stays spared."""
    trainer = trainer_of(
        tmp_path, "transformer", budget=Budget(steps=4), optimizer=optimizer,
        weight_decay=0.4, weight_decay_end=0.0, **key,
    )  # fmt: skip
    name = "cautious_decay" if key else "weight_decay"
    groups, seen = trainer.optimizer.param_groups, []
    for _ in range(4):
        trainer.train_step()
        seen.append([group[name] for group in groups])
    spared = [one for one in groups if not one["full_decay"]]

    assert [0.4, 0.3, 0.2, 0.1] == pytest.approx([max(one) for one in seen])
    assert 1 == len(spared) and not spared[0][name]


def test_weight_decay_that_ends_without_a_beginning_is_refused():
    """There is no way from nothing that a share could be taken of."""
    for end in (0.1, 0.0):
        with pytest.raises(ConfigError, match="weight_decay_end is about weight decay"):
            settings_of("cnn", weight_decay=0, weight_decay_end=end)


def test_a_batch_without_a_quarter_does_not_grow():
    """The refusal names the key to set."""
    with pytest.raises(ConfigError, match="a quarter of the batch, and 18 has none") as caught:
        settings_of("cnn", batch_size=18, batch_warmup_steps=10)
    assert caught.value.repair.startswith("set train.batch_size")


def test_growing_windows_are_of_running_text_alone():
    """Other tasks refuse the key; a window that has no quarter, too."""
    recipe = {"task": "tagging", "data": {"source": "x"}, "train": {"window_warmup_steps": 10}}
    with pytest.raises(ValidationError, match="tagging does not read it, only language-modeling"):
        Recipe.model_validate(recipe)
    spec = ModelSpec(
        "transformer", "tiny", {"kind": "stream", "vocab_size": 9, "features": 1, "length": 30},
        {"kind": "next", "num_classes": 9},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="a quarter of the window, and 30 has none"):
        fill_in(Train(window_warmup_steps=10), spec, "32-true", Budget(steps=60))


def test_speeds_count_the_rows_of_a_growing_batch(tmp_path):
    """Four steps of a quarter, four of half, and two of all of sixteen rows."""
    trainer = trainer_of(tmp_path, batch_warmup_steps=8)
    trainer.run(Budget(steps=10))

    assert 4 * 4 + 4 * 8 + 2 * 16 == trainer.examples_before(10)
    assert 4 == trainer.settings.first_parts


def test_a_recipe_can_name_every_schedule():
    """The recipe's choices are the table's rows."""
    assert set(SCHEDULES) == set(get_args(ScheduleName))


def test_a_decay_that_nothing_reads_is_refused():
    """Only one schedule has a decay of its own length."""
    with pytest.raises(ValidationError, match="cosine does not read it, only wsd does"):
        Train(schedule="cosine", decay=0.5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_training_follows_its_schedule(tmp_path, schedule):
    """The rate of the optimizer's last step is the schedule's."""
    keys = {"warmup_steps": 4, **({"decay": 0.5} if schedule == "wsd" else {})}
    trainer = trainer_of(
        tmp_path, budget=Budget(steps=10), learning_rate=0.01, schedule=schedule, **keys
    )
    trainer.run()
    wanted = {"wsd": 0.2, "cosine": 0.02447174, "inverse_sqrt": 0.63245553, "constant": 1.0}

    assert pytest.approx(0.01 * wanted[schedule]) == trainer.optimizer.param_groups[0]["lr"]

"""Which candidate is chosen, and what every other one is told."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from modelwright.compress import search
from modelwright.compress.search import (
    FLOAT,
    RUNNER_UP,
    SAFE_DROP,
    Candidate,
    Search,
    choose,
    settle,
)
from modelwright.core.artifact import Artifact
from modelwright.core.goals import parse_goal
from modelwright.core.recipe import Quantize, Recipe

from .conftest import SPEC, rows

ACCURACY = (parse_goal("accuracy", ">= 0.9"),)
BOTH = (*ACCURACY, parse_goal("size_mb", "<= 0.5"))


def candidate(name, accuracy=0.95, size=1.0, latency=1.0, *, bounds=(), drop=0.0, width=0.02):
    measured = {
        "accuracy": accuracy, "accuracy_low": accuracy - width, "accuracy_high": accuracy + width,
        "accuracy_drop": drop, "latency_p50_ms": latency, "latency_p95_ms": latency,
        "latency_p99_ms": latency, "size_mb": size,
    }  # fmt: skip
    meets = {goal.name: goal.met_by(measured[goal.name]) for goal in bounds}
    return Candidate(name, [], Artifact(Path(), {}), SPEC, 1, measured=measured, meets=meets)


def test_least_size_times_latency_wins():
    """Of those that meet every goal, the smallest product of size and latency is chosen."""
    one, two = candidate("one", size=2.0, latency=1.0), candidate("two", size=1.0, latency=1.5)

    assert choose([one, two], (), "auto") is two
    assert ("chosen", "pareto") == (two.status, one.status)
    assert two.reason.startswith("least size")


def test_one_that_meets_beats_one_that_may():
    """A smaller candidate whose interval only reaches the goal gives way to one that meets it."""
    sure = candidate("sure", 0.91, size=2.0, bounds=ACCURACY)
    maybe = candidate("maybe", 0.89, size=0.1, bounds=ACCURACY)

    assert choose([maybe, sure], ACCURACY, "auto") is sure
    assert "misses accuracy" == maybe.reason


def test_one_that_may_meet_is_given_the_chance():
    """Where none meets the goal on valid, one whose interval reaches it goes to the test part."""
    near = candidate("near", 0.89, bounds=ACCURACY)
    far = candidate("far", 0.80, size=0.1, bounds=ACCURACY)

    assert choose([near, far], ACCURACY, "auto") is near
    assert "by less than chance explains" in near.reason


def test_a_choice_names_the_goal_that_its_interval_leaves_open():
    """Be it another than the one that decides."""
    bounds = (*ACCURACY, parse_goal("f1_macro", ">= 0.8"))
    one = candidate("one", bounds=ACCURACY)
    one.measured |= {"f1_macro": 0.79, "f1_macro_low": 0.7, "f1_macro_high": 0.88}
    one.meets["f1_macro"] = False

    assert choose([one], bounds, "auto") is one
    assert one.reason.endswith("on valid its f1_macro misses the goal by less than chance explains")


def test_none_is_chosen_where_none_can_meet():
    """An interval below the goal, or a size above it, leaves nobody; each says what it misses."""
    low = candidate("low", 0.80, size=0.1, bounds=BOTH)
    large = candidate("large", 0.95, size=1.0, bounds=BOTH)

    assert choose([low, large], BOTH, "auto") is None
    assert ["misses accuracy", "misses size_mb"] == [low.reason, large.reason]


def test_no_interval_excuses_a_size():
    """Size is exact: a candidate that misses it by a byte is not eligible."""
    assert choose([candidate("near", size=0.500001, bounds=BOTH)], BOTH, "auto") is None


def test_beaten_candidates_are_dominated():
    """Who is beaten in accuracy, latency and size is marked so; who leads in one is not."""
    best, slow = candidate("best", 0.9, 1.0, 1.0), candidate("slow", 0.9, 1.0, 2.0)
    exact = candidate("exact", 0.99, 5.0, 5.0)
    choose([best, slow, exact], (), "auto")

    assert "best is at least as good, as fast and as small" == slow.reason
    assert {"best": "pareto", "slow": "dominated", "exact": "chosen"} == {
        one.name: one.status for one in (best, slow, exact)
    } or {"best": "chosen", "slow": "dominated", "exact": "pareto"} == {
        one.name: one.status for one in (best, slow, exact)
    }


def test_safe_ones_are_preferred():
    """Without a goal on the drop, one that loses more than half a point is chosen only alone."""
    safe = candidate("safe", size=2.0, drop=SAFE_DROP)
    lossy = candidate("lossy", size=0.5, drop=SAFE_DROP + 0.001)

    assert choose([safe, lossy], (), "auto") is safe
    alone = candidate("lossy", drop=SAFE_DROP + 0.001)
    assert choose([alone], (), "auto") is alone


def test_a_goal_on_the_drop_allows_it():
    """With a goal on the drop, what it allows is safe."""
    bounds = (parse_goal("accuracy", "drop <= 2 pt"),)
    exact = candidate("exact", size=2.0, bounds=bounds)
    lossy = candidate("lossy", size=0.5, drop=0.015, bounds=bounds)

    assert choose([exact, lossy], bounds, "auto") is lossy


def test_a_list_ships_its_last():
    """A listed recipe is done as written: the last candidate or none, whatever the others are."""
    small, last = candidate("small", size=0.1), candidate("last", size=2.0)

    assert choose([small, last], (), "list") is last
    assert "as listed" == last.reason
    assert choose([candidate("a", bounds=ACCURACY), candidate("b", 0.5, bounds=ACCURACY)],
                  ACCURACY, "list") is None  # fmt: skip


@pytest.mark.parametrize("later", [(), ("runner-up",)], ids=["last", "behind a runner-up"])
def test_nothing_ships_in_place_of_a_refused_last(later):
    """Where what the list came to is refused, its parent does not ship for it."""
    parent, last = candidate("parent"), candidate("last")
    last.status = "refused"
    others = [candidate(name) for name in later]
    for one in others:
        one.status = RUNNER_UP

    assert choose([parent, last, *others], (), "list") is None
    assert ("pareto", "refused") == (parent.status, last.status)


def searching(monkeypatch, *statuses, compress):
    """A search with the float candidate alone, whose forms have those statuses in turn, and the
    names of what they are made of."""
    recipe = Recipe.model_validate(
        {"name": "made", "task": "image-classification", "data": {"source": "made"},
         "budget": {"train_steps": 1}, "compress": compress}
    )  # fmt: skip
    first, parents, left = candidate(FLOAT), [], list(statuses)
    first.artifact = SimpleNamespace(file=lambda name: name)

    def rounded(self, parent, name, step, fill):
        parents.append(parent.name)
        made = candidate(name, 0.9 + 0.01 * len(left))
        made.artifact, made.status = parent.artifact, left.pop(0)
        return made

    monkeypatch.setattr(search.onnx, "load", lambda name: None)
    monkeypatch.setattr(search, "rounded_values", lambda graph: set())
    monkeypatch.setattr(search, "observe", lambda graph, part, only: {})
    monkeypatch.setattr(Search, "_rounded", rounded)
    made = Search(None, recipe, None, rows(8), rows(8), "32-true", Path(), [first])
    return made, parents


def test_weights_are_not_rounded_in_place_of_what_was_refused(monkeypatch):
    """A list that was refused ends there: nothing is made of another candidate."""
    steps = [{"quantize": {"calibration": "minmax"}}, "quantize_weights"]
    one, parents = searching(monkeypatch, "refused", compress=steps)
    one._listed(None)

    assert [FLOAT] == parents
    assert choose(one.candidates, (), "list") is None


@pytest.mark.parametrize("statuses", [("", "", "", ""), ("refused", "", "", "refused")])
def test_a_list_goes_on_from_the_calibration_settled_on(monkeypatch, statuses):
    """Neither those that gave way nor those that were refused are what the list came to."""
    one, parents = searching(monkeypatch, *statuses, "", compress=["quantize", "quantize_weights"])
    one._listed(None)
    settled = next(each.name for each in one.candidates[1:] if each.settled)

    assert [*[FLOAT] * 4, settled] == parents
    assert choose(one.candidates, (), "list") is one.candidates[-1]
    assert search.WEIGHTS == one.candidates[-1].name


def test_one_refused_calibration_does_not_stop_a_list(monkeypatch):
    """What was settled on ships, whichever of the others was tried last."""
    one, _ = searching(monkeypatch, "", "", "", "refused", compress=["quantize"])
    one._quantize(one.candidates[0], Quantize())
    chosen = choose(one.candidates, (), "list")

    assert "int8-minmax" == chosen.name
    assert 1 == sum(each.status == "refused" for each in one.candidates)


def test_calibrations_that_gave_way_stay_out():
    """A candidate with a verdict already keeps it and is not chosen."""
    gone, kept = candidate("gone", size=0.1), candidate("kept")
    gone.status, gone.reason = RUNNER_UP, "0.10 pt less accurate"

    assert choose([gone, kept], (), "auto") is kept
    assert (RUNNER_UP, "0.10 pt less accurate") == (gone.status, gone.reason)


def test_a_calibration_is_told_what_it_lost_on():
    """Calibrations of one graph differ by accuracy on valid; winner and runners-up say by what."""
    best, slower = candidate("int8-b", 0.936, latency=0.101), candidate("int8-a", 0.9348)
    settle([slower, best])

    assert choose([slower, best], (), "auto") is best
    assert (
        "least size × latency of those that meet every goal; among 2 calibrations of its graph "
        "accuracy on valid decided, by 0.12 pt" == best.reason
    )
    assert RUNNER_UP == slower.status
    assert slower.reason.startswith("0.12 pt worse on valid than int8-b; size +0.0%")


def test_calibrations_that_tie_are_said_to_tie():
    """Where accuracy on valid does not decide, nobody claims that it did."""
    first, second = candidate("first", latency=0.1), candidate("second", latency=0.099)
    third = candidate("third", 0.9, latency=0.1)
    settle([first, second, third])

    assert choose([first, second, third], (), "list") is first
    assert (
        "as listed; among 3 calibrations of its graph 2 tie in accuracy on valid, "
        "and the first tried was taken" == first.reason
    )
    assert (
        "on valid as good as first, which was tried first; size +0.0%, "
        "median latency -1.0% (noise: the graph is the same)" == second.reason
    )


def test_a_lone_calibration_has_nothing_to_settle():
    """Where the recipe names the calibration, nothing is said of others."""
    one = candidate("one")
    settle([one])

    assert ("", "") == (one.status, one.settled)


def test_one_candidate_is_chosen():
    """Exactly one row of the table has the status "chosen"."""
    rows = [candidate(str(n), 0.9 + n / 100, 1 + n, 1 + n) for n in range(5)]
    chosen = choose(rows, (), "auto")

    assert [chosen] == [one for one in rows if one.status == "chosen"]


@pytest.mark.parametrize("mode", ["auto", "list", "none"])
def test_rows_name_what_they_measured(mode):
    """Each row of compress.json has its folder, figures and goals."""
    one = candidate("one", bounds=BOTH)
    choose([one], BOTH, mode)
    row = one.to_json()

    assert "candidates/one" == row["folder"]
    assert {"accuracy": True, "size_mb": False} == row["meets"]
    assert one.measured == row["measured"]


@pytest.mark.parametrize(("size_mb", "also"), [(0.5, []), (0.9, [FLOAT, "int8-minmax"])])
def test_what_static_int8_leaves_is_rounded_where_it_is_most_of_the_file(
    monkeypatch, size_mb, also
):
    """Though every goal is met: tables of words are most of many a model, and stay in float."""
    one, parents = searching(monkeypatch, *[""] * 6, compress="auto")
    rounded = Search._rounded

    def with_size(*given):
        made = rounded(*given)
        made.measured["size_mb"] = size_mb
        return made

    monkeypatch.setattr(Search, "_rounded", with_size)
    one._quantized(one.candidates[0])

    assert [FLOAT] * 4 + also == parents


@pytest.mark.parametrize(("status", "pruned"), [("", False), ("refused", True)])
def test_what_was_refused_is_no_reason_not_to_prune(monkeypatch, status, pruned):
    """However small and fast it is: it is another model."""
    one, _ = searching(monkeypatch, *[status] * 8, compress="auto")
    asked = []
    monkeypatch.setattr(search, "_small_and_fast", lambda candidate: candidate.name != FLOAT)
    monkeypatch.setattr(Search, "_pruned", lambda self, model, how: asked.append(how.ratio))
    one.run = SimpleNamespace(write=lambda *_, **__: None)
    one._auto(None)

    assert pruned == bool(asked)

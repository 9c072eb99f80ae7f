"""The race: those that fit train in equal slices, until what their curves promise leaves one.

Those go on whose learning curve promises the least error further on, since what learns fastest at
first is often not what ends best. The race runs on the stable part of the schedule, so that the
winner's training simply continues and none of its slices is lost.
Sources: Jamieson, Talwalkar 2015, arXiv:1502.07943 (successive halving); Hestness et al. 2017,
arXiv:1712.00409 (error falls as a power of the data seen).
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelwright.core.errors import Infeasible
from modelwright.core.files import write_json
from modelwright.core.goals import METRICS, Metric
from modelwright.core.progress import say
from modelwright.core.recipe import Recipe
from modelwright.core.units import format_seconds
from modelwright.data.rows import Rows
from modelwright.models.catalog import fresh_model
from modelwright.plan import memory
from modelwright.plan.candidate import Candidate
from modelwright.plan.curve import expected_error
from modelwright.tasks.catalog import task_of
from modelwright.train.journal import Record
from modelwright.train.keep import FEWEST_ROWS, ROWS_A_ROW
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget, fill_in, training_budget

LOOKS = 3  # points of the learning curve in each slice
# times of what is spent that a curve is followed; a power law promises more than can be had
FARTHEST, AHEAD = 4, "once four times as much is spent"
RACE_SLICE = 0.04  # of the budget, for each candidate in each round
# of two whose promised errors differ by less than NEAR, or of which the one that promises less is
# ahead, neither is chosen before round MOST_ROUNDS (docs/experiments.md)
NEAR, MOST_ROUNDS = 0.05, 4
# of the budget: a race that has taken so much of it, as looks or steps are slow, ends as it stands
MOST_SPENT = 0.6
# times its warmup from which on a curve says something; rounds in which that is waited for
WARMED, WAITED = 2, 2


def run(
    recipe: Recipe, candidates: list[Candidate], train: Rows, valid: Rows, folder: Path,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Candidate, Budget]:  # fmt: skip
    """Equal slices for the fit candidates until one is left; gives it and its own budget.

    Finished slices are kept in folder/race.json and are not run again after a crash. `note` is told
    what training did otherwise than asked.

    Raises: Infeasible if no candidate fits.
    """
    alive = [candidate for candidate in candidates if candidate.status == "fits"]
    if not alive:
        raise Infeasible(
            "no architecture fits the budget and the goals; nothing was trained",
            expected="at least one candidate that can meet them",
            repair="see the table for what each one misses, and relax that goal or budget",
        )
    if task_of(recipe).acting:
        return _fastest(recipe, alive)
    whole, metric = training_budget(recipe), METRICS[task_of(recipe).look]
    horizon = whole.steps or whole.seconds or 1.0
    record = _read_record(folder / "race.json")
    for candidate in alive:
        candidate.rounds = record.get(candidate.spec.name, [])
    number = 0
    while len(alive) > 1:
        number += 1
        for candidate in alive:
            if len(candidate.rounds) < number:
                candidate.rounds.append(
                    _slice(recipe, candidate, number, whole, train, valid, folder, note)
                )
                record[candidate.spec.name] = candidate.rounds
                write_json(folder / "race.json", record)
        spent = sum(one.rounds[-1]["seconds"] for one in candidates if one.rounds)
        timed = whole.seconds is not None
        last = timed and spent > MOST_SPENT * horizon
        if not last and number <= WAITED and timed and _warming(recipe, alive, whole, number):
            continue
        for candidate in alive:
            # up to this round, whatever a race that broke off has behind it, and the newest points
            # alone: the first ones lie in the warmup
            points = [point for one in candidate.rounds[:number] for point in one["curve"]]
            errors = [(spent, metric.error(value)) for spent, value in points[-LOOKS:]]
            ahead = min(horizon, FARTHEST * errors[-1][0])
            candidate.expected = metric.at_error(expected_error(errors, ahead, metric.unit))
        alive.sort(key=lambda candidate: metric.error(candidate.expected))
        now = {one.spec.name: one.rounds[number - 1]["value"] for one in alive}
        among_two = len(alive) == 2 and number < MOST_ROUNDS and not last
        if among_two and _undecided(metric, alive[0], alive[1], now):
            continue
        keep = math.ceil(len(alive) / 2) if len(alive) > 2 and not last else 1
        if last:
            text = (
                f"the race ends with round {number}, as it stands: {format_seconds(spent)} of "
                f"{format_seconds(horizon)} are spent, so slow are steps or looks at valid here"
            )
            note(text)
            say(f"plan: {text}")
        best = alive[0]
        for loser in alive[keep:]:
            loser.status = "raced"
            loser.reason = (
                f"round {number}: {shown(metric, loser.expected)} expected {AHEAD} "
                f"({shown(metric, now[loser.spec.name])} now); {best.spec.name}: "
                f"{shown(metric, best.expected)} ({shown(metric, now[best.spec.name])} now)"
            )
        alive = alive[:keep]
    winner = alive[0]
    raced = bool(winner.rounds)
    winner.status = "winner"
    winner.reason = (
        f"{metric.name} {shown(metric, winner.expected)} expected on valid {AHEAD}, the best of all"
        if raced
        else "the only one that fits"
    )
    losers = [candidate for candidate in candidates if candidate is not winner]
    unit = "steps" if whole.steps is not None else "seconds"
    lost = sum(candidate.rounds[-1][unit] for candidate in losers if candidate.rounds)
    if whole.steps is not None:
        return winner, Budget(steps=max(1, whole.steps - int(lost)))
    own = winner.rounds[-1]["seconds"] if raced else 0.0
    return winner, Budget(seconds=max(own, horizon - lost))  # spent, at worst


def _warming(recipe: Recipe, alive: list[Candidate], whole: Budget, number: int) -> bool:
    """Whether the slices of some were too short so far to judge them by, as their steps take long.
    Of a budget in steps, all have the same part of it behind them."""
    return any(
        one.rounds[number - 1]["steps"]
        < WARMED * fill_in(recipe.train, one.spec, one.precision, whole).warmup_steps
        for one in alive
    )


def _undecided(
    metric: Metric, first: Candidate, second: Candidate, now: Mapping[str, float]
) -> bool:
    """Whether another slice has to tell: the second promises nearly as much, or is ahead so far.

    What is steep is behind as long as its slope is that of a beginning, which promises too much.
    """
    near = metric.error(second.expected) < (1 + NEAR) * metric.error(first.expected)
    ours, other = (metric.error(now[one.spec.name]) for one in (first, second))
    return near or other < ours


def _fastest(recipe: Recipe, alive: list[Candidate]) -> tuple[Candidate, Budget]:
    """Without a race, the candidate of the shortest step, which is the most experience.

    The first slices of learning by acting promise nothing: returns stay, then jump.
    """
    winner = min(alive, key=lambda one: one.predicted["step_s"])
    for one in alive:
        one.status = "winner" if one is winner else "dropped"
        one.reason = (
            f"a step of acting and learning takes {format_seconds(one.predicted['step_s'])}"
        )
        if one is not winner:
            one.reason += f", of {winner.spec.name} {format_seconds(winner.predicted['step_s'])}"
        elif len(alive) > 1:
            one.reason += ", the least of all; no race, as early returns promise nothing"
    return winner, training_budget(recipe)


def _slice(
    recipe: Recipe, candidate: Candidate, number: int, whole: Budget,
    train: Rows, valid: Rows, folder: Path, note: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Train one candidate up to the end of its slice and look at its metric on valid."""
    spec = candidate.spec
    settings = fill_in(recipe.train, spec, candidate.precision, whole)
    trainer = Trainer(
        fresh_model(spec, settings.seed), spec, task_of(recipe), train, valid, settings,
        whole, folder / "race" / spec.name,
        record=Record(note=note, planned=memory.in_words(candidate.memory)),
    )  # fmt: skip
    for index in range(len(trainer.looks) + 1, number * LOOKS + 1):
        until = whole.part(RACE_SLICE * index / LOOKS, least_steps=index)
        trainer.run(until, title=f"race {number}: {spec.name}")
        if index == 1 and not trainer.task.whole_batches:  # not timed yet: half of the steps' time
            learned = ROWS_A_ROW * settings.batch_size * trainer.step // 2
            trainer.curve_rows = min(trainer.curve_rows, max(FEWEST_ROWS, learned))
        before_s = trainer.looked_s
        trainer.look(trainer.curve_rows)
        look_s, most_s = trainer.looked_s - before_s, RACE_SLICE / LOOKS * (whole.seconds or 1e9)
        if look_s > most_s / 2:  # half of the steps' time
            trainer.curve_rows = max(FEWEST_ROWS, int(trainer.curve_rows * most_s / look_s / 2))
    trainer.save()
    value, name = trainer.looks[-1][1], trainer.task.look
    say(
        f"race {number}: {spec.name:18} {name} {value:.3f} after {trainer.step} steps, "
        f"{format_seconds(trainer.elapsed)}"
    )
    return {
        "round": number,
        "steps": trainer.step,
        "seconds": trainer.elapsed,
        "metric": name,
        "value": value,
        "curve": trainer.looks[-LOOKS:],
        "look_rows": trainer.curve_rows,
    }


def shown(metric: Metric, value: float) -> str:
    """A value of a metric in a sentence."""
    return f"{value:.1%}" if metric.unit == "share" else f"{value:.4g}"


def _read_record(path: Path) -> dict[str, list[dict[str, Any]]]:
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}

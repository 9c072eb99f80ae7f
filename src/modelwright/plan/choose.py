"""Architectures that fit task, data and budget: predict each, drop most, explain them.

Within a family the size is chosen by prediction: the largest that meets every goal and sees the
data often enough within the budget. Between families a race decides (plan/race.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from modelwright.core.errors import ConfigError
from modelwright.core.hardware import this_machine
from modelwright.core.progress import working
from modelwright.core.recipe import Precision, Recipe
from modelwright.core.units import format_bytes
from modelwright.models.catalog import MODELS, ModelSpec
from modelwright.plan import count, memory, time
from modelwright.plan.candidate import (
    Candidate,
    compressed_bytes,
    fastest_ms,
    pruned,
)
from modelwright.plan.memory import resident_bytes
from modelwright.plan.options import of_effect
from modelwright.plan.shares import shares_of, together
from modelwright.tasks.catalog import TASKS
from modelwright.train import ranks
from modelwright.train.parallel import ALONE, World
from modelwright.train.precision import CHANGING
from modelwright.train.settings import Budget, fill_in, training_budget

ACTING_SIZES = 2  # from the smallest on, where a model is called for every step of an episode
TIGHT = ("size_mb", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
BF16_MARGIN = 1.05  # bf16 has to be this much faster to be worth its rounding


def predict(
    recipe: Recipe, data: Mapping[str, Any], world: World = ALONE,
    note: Callable[[str], None] = lambda text: None,
) -> list[Candidate]:  # fmt: skip
    """Every candidate with its predictions; those to race have the status "fits".

    Args:
        data: the gate's data.json.
        world: the processes that are to train together.
        note: is told of the sizes that are left out.
    Raises: ConfigError if they can train none of them, or for an option that changes none.

    Sizes that a goal on size or latency rules out are looked at in their family's lighter form.
    """
    specs: list[ModelSpec] = []
    for family in MODELS:
        if recipe.model.family in ("auto", family):
            sizes = ModelSpec(family, "", data["inputs"], data["outputs"]).ladder.sizes
            if TASKS[recipe.task].acting:  # acting gains little from size, and costs by it
                sizes = dict(list(sizes.items())[:ACTING_SIZES])
            wanted = list(sizes) if recipe.model.size == "auto" else [recipe.model.size]
            specs += [
                ModelSpec.asked(family, size, data["inputs"], data["outputs"], recipe.model.options)
                for size in wanted
            ]
    specs = of_effect(specs, note)
    all_of_them = _calibrated(recipe, data, specs, world)
    candidates = [one for one in all_of_them if not one.binds]
    process_bytes = resident_bytes()  # after calibration: libraries are loaded now
    for candidate in candidates:
        _judge(recipe, data, candidate, process_bytes)
    forms = [_lighter(recipe, one.spec) for one in candidates if one.binds in TIGHT]
    lighter = _calibrated(recipe, data, [form for form in forms if form is not None], world)
    without = {one.spec.family for one in candidates} - {
        one.spec.family for one in candidates if one.status == "fits"
    }
    for candidate in lighter:
        _judge(recipe, data, candidate, process_bytes)
        slow = not _settles(recipe, candidate) and candidate.spec.family not in without
        if candidate.status == "fits" and slow:
            candidate.binds, candidate.status = "budget.train_minutes", "dropped"
            candidate.reason = (
                f"would make {_steps(recipe, candidate):,.0f} steps in the budget; the "
                f"{_to_settle(candidate.spec):,} in which it can settle are needed"
            )
    for among in (candidates, lighter):
        for family in MODELS:
            _keep_one(recipe, [one for one in among if one.spec.family == family])
    return all_of_them + lighter


def _calibrated(
    recipe: Recipe, data: Mapping[str, Any], specs: Sequence[ModelSpec], world: World
) -> list[Candidate]:
    """Candidates with figures; those that the recipe's training does not take, with the reason.

    Of sizes above one that makes too few steps to settle none is timed: none would be chosen, and
    the largest take longest.

    Args:
        specs: of each family from the smallest on.
    Raises: ConfigError if it takes none.
    """
    found: list[Candidate] = []
    refusals: list[ConfigError] = []
    slow: dict[str, Candidate] = {}  # family -> the smallest that makes too few steps
    shares = shares_of(specs, recipe, world) if specs else []
    with ranks.alone():  # the other processes wait
        for number, (spec, share) in enumerate(shares, 1):
            counted = count.count(spec)
            one = Candidate(spec, counted.num_params, counted.forward_flops, counted.backward_flops)
            found.append(one)
            if (smaller := slow.get(spec.family)) is not None:
                one.binds = "budget.train_minutes"
                one.reason = (
                    f"not timed: {smaller.spec.name} would already make "
                    f"{_steps(recipe, smaller):,.0f} steps in the budget; the "
                    f"{_to_settle(smaller.spec):,} in which it can settle are needed"
                )
                continue
            try:
                if isinstance(share, ConfigError):
                    one.binds = "train.layout"
                    raise share
                one.share = share
                with working(f"plan: calibrating {spec.name} ({number} of {len(shares)})"):
                    _calibrate(recipe, data, one, counted)
                if not _settles(recipe, one):
                    slow[spec.family] = one
            except ConfigError as error:
                one.binds, one.reason = one.binds or "train", error.what
                refusals.append(error)
    if refusals and len(refusals) == len(found):
        raise together(refusals)
    return found


def _lighter(recipe: Recipe, spec: ModelSpec) -> ModelSpec | None:
    """The lighter form of the same size, where the family has one, the recipe leaves it open, and
    it is another model: a bag of words has no convolution."""
    own, asked = MODELS[spec.family].lighter, recipe.model.options
    other = ModelSpec.asked(spec.family, spec.size, spec.inputs, spec.outputs, {**asked, **own})
    lighter = own.keys() - asked.keys() and count.count(other) != count.count(spec)
    return other if lighter else None


def _keep_one(recipe: Recipe, candidates: Sequence[Candidate]) -> None:
    """Of a family's sizes that fit, leave one to the race; say of the others why not."""
    fits = [one for one in candidates if one.status == "fits"]
    if fits:
        # one that also has to be pruned is worth training only where int8 alone saves none
        small = [one for one in fits if _small_in_int8(recipe, one)] or fits[:1]
        settled = [one for one in small if _settles(recipe, one)] or small[:1]
        kept = settled[-1]
        for other in fits:
            if other is kept:
                continue
            other.status = "dropped"
            if other.num_params < kept.num_params:
                other.reason = f"{kept.spec.name} is larger and fits too"
            elif other in small:
                other.reason = (
                    f"would make {_steps(recipe, other):,.0f} steps in the budget; the "
                    f"{_to_settle(other.spec):,} in which it can settle are needed"
                )
            else:
                other.reason = f"{kept.spec.name} meets the size goal without pruning"


def _steps(recipe: Recipe, candidate: Candidate) -> float:
    """Training steps in a budget of minutes; a budget of steps is nobody's to judge."""
    minutes = recipe.budget.train_minutes
    return math.inf if minutes is None else 60 * minutes / candidate.predicted["step_s"]


def _to_settle(spec: ModelSpec) -> int:
    return spec.ladder.steps_to_settle(spec.size)


def _settles(recipe: Recipe, candidate: Candidate) -> bool:
    return _steps(recipe, candidate) >= _to_settle(candidate.spec)


def _calibrate(
    recipe: Recipe, data: Mapping[str, Any], candidate: Candidate, counted: count.Count
) -> None:
    """Time a few of a candidate's steps, export it once.

    Raises: ConfigError if the recipe's training does not take it.
    """
    spec, share = candidate.spec, candidate.share
    assert share is not None
    auto = recipe.train.precision == "auto"
    wanted: list[Precision] = ["32-true", "bf16-mixed"] if auto else [recipe.train.precision]  # type: ignore[list-item]
    why = "as the recipe says"
    budget, seconds = training_budget(recipe), {}
    settings = fill_in(recipe.train, spec, wanted[0], budget)
    if auto and TASKS[recipe.task].acting:  # a batch of a few observations gains nothing from bf16
        wanted, why = ["32-true"], "a few observations at a time gain nothing from bf16"
    elif auto and settings.device == "cpu" and this_machine().lacks_bf16:
        wanted, why = ["32-true"], "this processor has no instructions for bf16"
    for precision in wanted:
        seconds[precision] = time.step_seconds(
            spec, recipe.task, share.alone(replace(settings, precision=precision))
        )
    candidate.precision, candidate.precision_reason = _faster(seconds, why)
    step_s = seconds[candidate.precision] * share.work
    target = time.deployed(spec, recipe.target)
    steps_per_epoch = math.ceil(data["rows"]["train"] / settings.batch_size)
    left = pruned(recipe, spec, counted)
    smaller = target.size_bytes - 4 * (counted.num_params - left.num_params)
    fewer = left.forward_flops / counted.forward_flops
    candidate.predicted = {
        "step_s": step_s,
        "epoch_s": step_s * steps_per_epoch,
        "size_bytes": target.size_bytes,
        "int8_bytes": compressed_bytes(recipe, counted, target.size_bytes),
        "smallest_bytes": compressed_bytes(recipe, left, smaller),
        "latency_ms": target.latency_ms,
        "fastest_ms": fastest_ms(recipe, spec.family, target.latency_ms, fewer),
        **({"sent_bytes": share.sent_bytes} if share.copies else {}),
    }


def _judge(
    recipe: Recipe, data: Mapping[str, Any], candidate: Candidate, process_bytes: int
) -> None:
    """Predict memory, then say whether the candidate fits or why not."""
    budget = training_budget(recipe)
    settings = fill_in(recipe.train, candidate.spec, candidate.precision, budget)
    back = settings.goes_back and settings.device == "cpu"  # a GPU's is kept on the CPU
    beside = candidate.share is not None and candidate.share.copies  # what comes out
    planned = memory.predict(
        candidate.spec,
        micro_batch_size=settings.micro_batch_size,
        share=candidate.share,
        precision=candidate.precision,
        optimizer=settings.optimizer,
        copies=(settings.ema > 0) * (1 + back)
        + back
        + settings.cautious
        + (settings.precision in CHANGING and not settings.ema and not beside),
        moment_copies=1 + back,
        best=settings.keep == "best",
        data_bytes=0 if settings.device == "cuda" else data["bytes"],
        # a GPU has neither; what is written of a checkpoint is copied to the CPU's memory
        process_bytes=0 if settings.device == "cuda" else process_bytes,
        recompute=settings.activation_checkpointing,
        device=settings.device,
    )
    candidate.predicted["memory_bytes"], candidate.memory = planned.total, asdict(planned)
    rows = data["rows"]["train"] / data["inputs"].get("overlap", 1)  # windows that share no place
    steps_per_epoch = math.ceil(rows / settings.batch_size)
    candidate.binds, candidate.reason = _why_not(recipe, candidate, budget, steps_per_epoch)
    candidate.status = "dropped" if candidate.reason else "fits"


def _faster(seconds: Mapping[Precision, float], why: str) -> tuple[Precision, str]:
    if len(seconds) == 1:
        return next(iter(seconds)), why
    gain = seconds["32-true"] / seconds["bf16-mixed"]
    if gain >= BF16_MARGIN:
        return "bf16-mixed", f"{gain:.2f} times as fast as float32 here"
    return "32-true", f"bf16 would be {gain:.2f} times as fast here"


def _small_in_int8(recipe: Recipe, candidate: Candidate) -> bool:
    bound = next((goal for goal in recipe.bounds if goal.name == "size_mb"), None)
    return bound is None or bound.met_by(candidate.predicted["int8_bytes"] / 1e6)


def _why_not(
    recipe: Recipe, candidate: Candidate, budget: Budget, steps_per_epoch: int
) -> tuple[str, str]:
    """The first goal or budget that the candidate cannot meet, with the reason; or two ""."""
    predicted, limit = candidate.predicted, recipe.budget.memory_gb
    best = candidate.best_values()
    for goal in recipe.bounds:  # first: no budget makes up for what no form of it can meet
        if goal.name in best and not goal.met_by(value := best[goal.name]):
            return goal.name, f"{goal.name} {goal.text} is out of reach: at best {value:.3g}"
    if limit is not None and predicted["memory_bytes"] > limit * 1e9:
        return "budget.memory_gb", (
            f"training takes {format_bytes(predicted['memory_bytes'])} of memory; "
            f"budget.memory_gb allows {limit:g} GB"
        )
    steps = budget.steps or (budget.seconds or 0.0) / predicted["step_s"]
    epochs = steps / steps_per_epoch
    named = recipe.model.size != "auto"
    needed = candidate.spec.ladder.epochs
    if budget.seconds is not None and epochs < needed and not named:
        return "budget.train_minutes", (
            f"would see the data {epochs:.1f} times in the budget; {needed:g} are needed"
        )
    return "", ""

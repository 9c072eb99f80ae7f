"""Combine methods under the goals: make candidates, measure each on the target, choose.

Every candidate is exported and measured on the valid part and the target runtime; the test part
is never opened here. "auto" tries int8 first, of weights alone if a goal is still missed or most
bytes are left, and only then prunes.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from modelwright.compress.calibrate import CALIBRATIONS, observe
from modelwright.compress.catalog import METHODS
from modelwright.compress.prune import prune
from modelwright.compress.quantize import quantize_graph, rounded_values
from modelwright.compress.recover import recover
from modelwright.compress.weights import quantize_weights
from modelwright.core.artifact import Artifact, kept, write
from modelwright.core.errors import NothingChanged, ParityError, Unsupported
from modelwright.core.goals import METRICS, Goal
from modelwright.core.hardware import this_machine
from modelwright.core.progress import say, working
from modelwright.core.recipe import Precision, Prune, Quantize, Recipe
from modelwright.core.run import Run
from modelwright.data.rows import Rows, joined, typical
from modelwright.export.catalog import export
from modelwright.measure.compare import flips, losses, pareto
from modelwright.measure.quality import Quality, evaluate
from modelwright.measure.timing import least_disturbed, measure_latency
from modelwright.models.catalog import Model, ModelSpec, count_params
from modelwright.models.heads import HEADS
from modelwright.runtime.catalog import Session, open_session
from modelwright.runtime.torch_session import load_model
from modelwright.tasks.catalog import task_of, tasks_of
from modelwright.train.save import write_trained

AUTO_RATIOS = (0.25, 0.5)  # pruned one after the other while a goal is missed
AUTO_RECOVER = 0.1  # of the budget, after each
FLOAT, WEIGHTS = "fp32", "int8-weights"  # candidates; names of steps that follow stand behind a +
RUNNER_UP = "runner-up"  # status of a calibration that gave way to another of the same graph
# Share of answers that a quantized form may change, and of the metric that it may lose, before it
# counts as a fault; whether the loss is acceptable is the goals' business.
MOST_FLIPPED = 0.05
COSTS = ("error", "latency_p50_ms", "size_mb")
# of the task's metric, that "best" may give away for size and speed where no goal says
SAFE_DROP = 0.005
HALF = 0.5  # of the float file: where static int8 leaves more, weights alone are tried as well
TIMED_SECONDS = 1.0  # of each candidate


@dataclass
class Candidate:
    """One compressed form of the trained model; the rows of compress.json."""

    name: str
    steps: list[dict[str, Any]]
    artifact: Artifact
    spec: ModelSpec
    num_params: int
    base: str = ""  # the float32 candidate it was made from; its own name where it is one
    model: str = ""  # of a float32 candidate: the trained artifact's folder, from the run's folder
    metric: str = "accuracy"  # the task's
    measured: dict[str, float] = field(default_factory=dict)
    meets: dict[str, bool] = field(default_factory=dict)
    status: str = ""
    settled: str = ""  # how it won among the calibrations of its graph
    reason: str = ""

    @property
    def error(self) -> float:
        """How far the metric on valid is from the best that there is."""
        return METRICS[self.metric].error(self.measured[self.metric])

    @property
    def costs(self) -> dict[str, float]:
        """What makes one candidate better than another; less of each."""
        return {
            "error": self.error,
            **{name: self.measured[name] for name in ("latency_p50_ms", "size_mb")},
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "steps": self.steps, "status": self.status, "reason": self.reason,
            "folder": f"candidates/{self.name}", "base": self.base, "model": self.model,
            "num_params": self.num_params, "metric": self.metric,
            "measured": self.measured, "meets": self.meets,
        }  # fmt: skip


@dataclass
class Search:
    """What every step needs: the recipe, the trained model, the rows, where to write."""

    run: Run
    recipe: Recipe
    trained: Artifact
    train: Rows
    valid: Rows
    precision: Precision
    folder: Path
    candidates: list[Candidate] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    baseline: Quality | None = None
    scores: np.ndarray | None = None  # of the first candidate, where the task is to act

    def go(self) -> tuple[Candidate | None, list[dict[str, Any]]]:
        """Make and measure candidates; gives the chosen one (None if none meets the goals)
        and the rows of compress.json."""
        model = load_model(self.trained)
        spec = ModelSpec.from_json(self.trained.manifest["model"])
        self._add(FLOAT, [], model, spec, self.trained)
        if self.recipe.compress.mode == "auto":
            self._auto(model)
        elif self.recipe.compress.mode == "list":
            self._listed(model)
        chosen = choose(self.candidates, self.recipe.bounds, self.recipe.compress.mode)
        return chosen, [candidate.to_json() for candidate in self.candidates] + self.refused

    def _auto(self, model: Model) -> None:
        if not this_machine().has_int8:
            self.run.write(
                "compress", "decision",
                text="this processor has no 8-bit dot products: int8 saves bytes here, not time",
            )  # fmt: skip
        self._quantized(self.candidates[0])
        for ratio in AUTO_RATIOS:
            if any(_small_and_fast(one) for one in self.candidates if one.status != "refused"):
                return  # what accuracy is missing, pruning will not bring
            self.run.write(
                "compress", "decision",
                text=f"no candidate is small and fast enough yet: pruning {ratio:.0%} of the "
                f"channels, with {AUTO_RECOVER:.0%} of the training budget on top for recovery",
            )  # fmt: skip
            pruned = self._pruned(model, Prune(ratio=ratio, recover=AUTO_RECOVER))
            if pruned is not None:
                self._quantized(pruned)

    def _listed(self, model: Model) -> None:
        parent = self.candidates[0]
        for step in sorted(self.recipe.compress.steps, key=lambda step: METHODS[step.method]):
            if step.prune is not None:
                parent, model = self._prune(parent, model, step.prune)
            elif step.quantize is not None:
                self._quantize(parent, step.quantize)
            elif not (made := _listed_last(self.candidates)).status:
                self._round_weights(made)

    def _pruned(self, model: Model, section: Prune) -> Candidate | None:
        """The first candidate with channels taken out; None where there are none to take."""
        try:
            return self._prune(self.candidates[0], model, section)[0]
        except NothingChanged as error:
            self._refuse(f"prune-{section.ratio:g}", error.what)
            return None

    def _prune(self, parent: Candidate, model: Model, section: Prune) -> tuple[Candidate, Model]:
        """A candidate without some channels of its parent, whose model is given, and its model."""
        name = _named(parent, f"prune-{section.ratio:g}")
        smaller, spec = prune(model, parent.spec, section.ratio)
        recovered = recover(
            smaller, spec, self.recipe, section.recover, self.train, self.valid,
            self.folder / "recovery" / name, precision=self.precision, title=f"recover {name}",
            note=lambda text: self.run.write("compress", "fallback", text=text),
        )  # fmt: skip
        trained = write_trained(
            self.folder / "models" / name, recovered, spec, self.trained.manifest,
            self.trained.extras,
        )  # fmt: skip
        steps = [*parent.steps, {"prune": section.model_dump()}]
        return self._add(name, steps, recovered, spec, trained), recovered

    def _quantized(self, plain: Candidate) -> None:
        """Static int8; where that can't be had, misses a goal or leaves more than half of the
        bytes, weights alone, and with what is left in float32 beside it."""
        number = len(self.candidates)
        try:
            self._quantize(plain, Quantize())
        except (Unsupported, NothingChanged) as error:
            self._refuse(_named(plain, "int8"), error.what)
        made = [one for one in self.candidates[number:] if not one.status]
        most_mb = HALF * plain.measured["size_mb"]
        if any(all(one.meets.values()) and one.measured["size_mb"] <= most_mb for one in made):
            return
        for parent in (plain, *made):
            try:
                self._round_weights(parent)
            except NothingChanged as error:
                self._refuse(_named(parent, WEIGHTS), error.what)

    def _quantize(self, parent: Candidate, section: Quantize) -> None:
        """One candidate for each calibration, of which one is settled on."""
        graph = onnx.load(parent.artifact.file("model.onnx"))
        rows = np.linspace(0, len(self.train) - 1, min(section.calibration_rows, len(self.train)))
        rounded = rounded_values(graph)
        with working(f"compress: calibrating {_named(parent, 'int8')}"):
            histograms = observe(graph, self.train.take(rows.astype(np.int64)), rounded)
        names = list(CALIBRATIONS) if section.calibration == "auto" else [section.calibration]
        made = []
        for calibration in names:

            def fill(partial: Path, calibration: str = calibration) -> None:
                quantize_graph(graph, histograms, calibration, partial / "model.onnx")

            step = {"quantize": {**section.model_dump(), "calibration": calibration}}
            made.append(self._rounded(parent, f"int8-{calibration}", step, fill))
        settle([one for one in made if not one.status])
        self.candidates += sorted(made, key=lambda one: not one.status)  # the settled one last

    def _round_weights(self, parent: Candidate) -> None:
        """What a candidate still has in float32, in int8."""
        graph = onnx.load(parent.artifact.file("model.onnx"))

        def fill(partial: Path) -> None:
            quantize_weights(graph, partial / "model.onnx")

        self.candidates.append(self._rounded(parent, WEIGHTS, {"quantize_weights": {}}, fill))

    def _rounded(
        self, parent: Candidate, name: str, step: dict[str, Any], fill: Callable[[Path], None]
    ) -> Candidate:
        """A candidate that `fill` makes of another's graph, measured; refused if it is another
        model."""
        name = _named(parent, name)
        artifact = write(
            self.folder / "candidates" / name, "onnx", model_file="model.onnx", fill=fill,
            signature=parent.artifact.signature, extras=parent.artifact.extras,
            parent=parent.artifact.digest, measured={},
            **kept(parent.artifact.manifest),
        )  # fmt: skip
        candidate = Candidate(
            name, [*parent.steps, step], artifact, parent.spec, parent.num_params, parent.base
        )
        self._measure(candidate)
        flipped = candidate.measured.get("flipped", 0.0)
        if flipped > MOST_FLIPPED:
            self.run.write(
                "compress", "refused",
                text=f"{candidate.name} changes {flipped:.1%} of the answers on valid; beyond "
                f"{MOST_FLIPPED:.0%} it counts as another model",
            )  # fmt: skip
            candidate.status = "refused"
            candidate.reason = f"changes {flipped:.1%} of the answers on valid"
            say(f"compress: {candidate.name}: {candidate.reason}")
        return candidate

    def _add(
        self, name: str, steps: list[dict[str, Any]], model: Model, spec: ModelSpec,
        trained: Artifact,
    ) -> Candidate:  # fmt: skip
        with working(f"compress: exporting {name}"):
            artifact = export(
                model, trained.manifest, self.folder / "candidates" / name, extras=trained.extras
            )
        source = str(trained.folder.relative_to(self.run.folder))
        candidate = Candidate(name, steps, artifact, spec, count_params(model), name, source)
        self._measure(candidate)
        self.candidates.append(candidate)
        return candidate

    def _measure(self, candidate: Candidate) -> None:
        """Accuracy on valid, latency and size on the target."""
        target, bounds = self.recipe.target, self.recipe.bounds
        session = open_session(candidate.artifact, threads=target.threads)
        try:
            task = task_of(self.recipe)
            known, judging = candidate.spec.outputs, f"compress: {candidate.name}: batches judged"
            quality = evaluate(session, self.valid, task, known.get("labels", ()), what=judging)
            if self.baseline is None:
                self.baseline = quality
            changed = flips(self.baseline, quality)
            flipped = None if changed is None else changed / len(quality.answers)
            if task.acting:
                flipped = self._flipped(session, candidate.spec)
            batch = self.valid.batch(typical(self.valid, target.batch_size))
            timed = functools.partial(measure_latency, session, batch, max_seconds=TIMED_SECONDS)
            latency, _ = least_disturbed(timed, bounds, of=lambda one: one)
        finally:
            session.close()
        name = candidate.metric = task.metric
        candidate.measured = {
            **quality.values,
            **losses(self.baseline, quality, tasks_of(self.recipe)),
            **({} if flipped is None else {"flipped": flipped}),
            **{f"latency_{p}_ms": getattr(latency, f"{p}_ms") for p in ("p50", "p95", "p99")},
            "size_mb": candidate.artifact.model_bytes / 1e6,
        }
        candidate.meets = {one.name: one.met_by(candidate.measured[one.name]) for one in bounds}
        asked = ["p50", *(one.name[8:11] for one in bounds if one.name.startswith("latency_"))]
        times = [f"{p} {getattr(latency, f'{p}_ms'):.3f} ms" for p in dict.fromkeys(asked)]
        say(
            f"compress: {candidate.name:24} {name} {quality.value:.4f}  {'  '.join(times)}  "
            f"{candidate.measured['size_mb']:.3f} MB"
        )

    def _flipped(self, session: Session, spec: ModelSpec) -> float:
        """Share of the situations seen in which a model that acts decides otherwise, as parity
        counts it: played, no two models see the same.
        """
        rows = joined(self.valid, self.train)
        found = session(rows.batch(np.arange(len(rows))))[spec.signature.outputs[0].name]
        if self.scores is None:
            self.scores = found
        every, near = np.arange(len(rows)), HEADS[spec.outputs["kind"]].toss
        assert near is not None
        lost = self.scores.max(1) - self.scores[every, found.argmax(1)]
        return float((lost > near(self.scores)).mean())

    def _refuse(self, name: str, why: str) -> None:
        self.run.write("compress", "refused", text=why)
        self.refused.append(
            {"name": name, "steps": [], "status": "refused", "reason": why, "folder": None,
             "num_params": None, "measured": {}, "meets": {}}
        )  # fmt: skip
        say(f"compress: {name}: {why}")


def _named(parent: Candidate, name: str) -> str:
    """Of what is made from a candidate: the steps in a row, of which fp32 is none."""
    return name if parent.name == FLOAT else f"{parent.name}+{name}"


def _small_and_fast(candidate: Candidate) -> bool:
    return all(
        met
        for name, met in candidate.meets.items()
        if not METRICS[name.removesuffix("_drop")].quality
    )


def settle(made: Sequence[Candidate]) -> None:
    """Of one graph's calibrations keep the most accurate on valid, of equals the first tried.

    The others become runners-up, each with what it lost on.
    """
    if len(made) < 2:
        return
    best = min(made, key=lambda one: one.error)
    gaps = []
    for one in (other for other in made if other is not best):
        gaps.append(gap := one.error - best.error)
        size, latency = (
            one.measured[key] / best.measured[key] - 1 for key in ("size_mb", "latency_p50_ms")
        )
        one.status = RUNNER_UP
        one.reason = (
            (f"{_points(gap, one)} worse on valid than" if gap else "on valid as good as")
            + f" {best.name}{'' if gap else ', which was tried first'}; "
            f"size {size:+.1%}, median latency {latency:+.1%} (noise: the graph is the same)"
        )
    ties = gaps.count(0)
    best.settled = f"among {len(made)} calibrations of its graph " + (
        f"{1 + ties} tie in {best.metric} on valid, and the first tried was taken"
        if ties
        else f"{best.metric} on valid decided, by {_points(min(gaps), best)}"
    )


def _points(gap: float, one: Candidate) -> str:
    share = METRICS[one.metric].unit == "share"
    return f"{100 * gap:.2f} pt" if share else f"{gap:.3g}"


def require_sound(candidates: Sequence[Candidate]) -> None:
    """Raises: ParityError where what a list comes to was refused as another model."""
    last = _listed_last(candidates)
    if last.status == "refused":
        raise ParityError(
            f"compress: {last.name}, to which the list comes, {last.reason}",
            expected=f"at most {MOST_FLIPPED:.0%} of them changed",
            repair="leave the step out of the list, or write compress: auto",
        )


def _listed_last(candidates: Sequence[Candidate]) -> Candidate:
    """What a list has come to so far, be it refused."""
    return next(one for one in candidates[::-1] if one.status != RUNNER_UP)


def choose(candidates: list[Candidate], bounds: Sequence[Goal], mode: str) -> Candidate | None:
    """Mark the Pareto set and the best candidate that meets every goal; None if none does.

    Best is the least product of size and latency among those that lose no more of the metric than
    the goal on its drop allows (SAFE_DROP where there is none). Where none reaches the goals on
    quality, those stay eligible whose intervals do not rule them out: the test part decides. A
    list in the recipe is shipped as written: its last candidate is the only one to choose.
    """
    left = [candidate for candidate in candidates if not candidate.status]
    listed = _listed_last(candidates)
    front = pareto([candidate.costs for candidate in left], lower=COSTS)
    for index, candidate in enumerate(left):
        candidate.status = "pareto" if index in front else "dominated"
        missed = [name for name, met in candidate.meets.items() if not met]
        candidate.reason = f"misses {', '.join(missed)}" if missed else ""
        if candidate.status == "dominated" and not missed:
            better = next(other for other in left if _beats(other, candidate))
            candidate.reason = f"{better.name} is at least as good, as fast and as small"
    if mode == "list":  # nothing in its place, where it was refused
        left = [candidate for candidate in left if candidate is listed]
    sure = [candidate for candidate in left if all(candidate.meets.values())]
    eligible = sure or [candidate for candidate in left if _may_meet(candidate, bounds)]
    if not eligible:
        return None
    key = f"{eligible[0].metric}_drop"
    drop = next((goal.bound for goal in bounds if goal.name == key), _safe_drop(candidates[0]))
    safe = [candidate for candidate in eligible if candidate.measured[key] <= drop]
    chosen = min(
        safe or eligible,
        key=lambda one: one.measured["size_mb"] * one.measured["latency_p50_ms"],
    )
    chosen.status = "chosen"
    chosen.reason = {
        "auto": "least size × latency of those that meet every goal",
        "list": "as listed",
        "none": "the recipe asks for no compression",
    }[mode]
    if chosen.settled:
        chosen.reason += f"; {chosen.settled}"
    if not sure:
        open_ones = ", ".join(name for name, met in chosen.meets.items() if not met)
        chosen.reason += f"; on valid its {open_ones} misses the goal by less than chance explains"
    return chosen


def _safe_drop(first: Candidate) -> float:
    """SAFE_DROP; where nothing bounds the metric, as a share of what there is to lose."""
    metric = METRICS[first.metric]
    return SAFE_DROP * (metric.scale if metric.bounded else abs(first.measured[first.metric]))


def _beats(one: Candidate, other: Candidate) -> bool:
    return pareto([other.costs, one.costs], lower=COSTS) == [1]


def _may_meet(candidate: Candidate, bounds: Sequence[Goal]) -> bool:
    for goal in bounds:
        end = "high" if goal.op == ">=" else "low"
        value = candidate.measured[goal.name]
        if not goal.met_by(candidate.measured.get(f"{goal.name}_{end}", value)):
            return False
    return True

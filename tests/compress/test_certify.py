"""Verdicts with their intervals, and what an infeasible recipe is told."""

import dataclasses

import numpy as np
import pytest

from modelwright.compress import certify
from modelwright.compress.certify import infeasible
from modelwright.core.goals import parse_goal
from modelwright.measure.compare import Difference
from modelwright.measure.quality import Quality, clopper_pearson
from modelwright.measure.timing import Latency
from modelwright.tasks.catalog import TASKS

from .conftest import NUM_CLASSES, rows

IMAGES = TASKS["image-classification"]
ACCURACY = parse_goal("accuracy", ">= 0.9")
SIZE = parse_goal("size_mb", "<= 0.1")
LATENCY = parse_goal("latency_p99_ms", "<= 2")


def one(name, **values):
    return {"name": name, "values": values}


def test_nearest_come_first():
    """Fewer missed goals come before more; among equals the smaller relative gap."""
    found = infeasible(
        [one("two missed", accuracy=0.89, size_mb=0.11), one("far", accuracy=0.95, size_mb=0.5),
         one("near", accuracy=0.95, size_mb=0.12)],
        (ACCURACY, SIZE), "on valid",
    )  # fmt: skip

    assert ["near", "far", "two missed"] == [m["candidate"] for m in found["nearest_misses"]]
    assert {"size_mb": {"bound": "<= 0.1", "measured": 0.12}} == found["nearest_misses"][0][
        "missed"
    ]


def test_the_goal_that_most_miss_binds():
    """The binding goal is the one that stops most candidates; the text has the nearest value."""
    found = infeasible(
        [one("a", accuracy=0.85, size_mb=0.2), one("b", accuracy=0.95, size_mb=0.15),
         one("c", accuracy=0.95, size_mb=0.3)],
        (ACCURACY, SIZE), "on the valid part",
    )  # fmt: skip

    assert "size_mb" == found["binding_goal"]
    assert "asked <= 0.1, the nearest was 0.15 on the target" in found["relax"]
    assert "Relax goals.size_mb to <= 0.15, or ask for a smaller model.size" in found["relax"]


@pytest.mark.parametrize(
    ("where", "size", "quality"),
    [("on the valid part", "on the target", "on the valid part"),
     ("by prediction, compressed", "by prediction", "by prediction, compressed")],
)  # fmt: skip
def test_what_would_help_is_told_by_the_kind_of_goal(where, size, quality):
    """More training lowers no latency, and a smaller model does not answer better."""
    costs = infeasible([one("a", size_mb=0.2)], (SIZE,), where)["relax"]
    metric = infeasible([one("a", accuracy=0.8)], (ACCURACY,), where)["relax"]

    assert f"nearest was 0.2 {size}. " in costs and "training" not in costs
    assert f"nearest was 0.8 {quality}. " in metric and "spend more on training" in metric


def test_of_two_that_all_miss_the_harder_binds():
    """Where every candidate misses both, the goal with the larger gap at its best binds."""
    found = infeasible(
        [one("a", size_mb=0.11, latency_p99_ms=9.0), one("b", size_mb=0.12, latency_p99_ms=8.0)],
        (SIZE, LATENCY), "on valid",
    )  # fmt: skip

    assert "latency_p99_ms" == found["binding_goal"]


def test_accuracy_is_relaxed_downwards():
    """The nearest accuracy is the highest, and the bound to write has its sign."""
    found = infeasible([one("a", accuracy=0.5), one("b", accuracy=0.7)], (ACCURACY,), "on valid")

    assert "Relax goals.accuracy to >= 0.7" in found["relax"]


def test_a_drop_is_relaxed_under_its_key():
    """The key to turn is goals.accuracy, and the text to write there says that it is a drop."""
    goal = parse_goal("accuracy", "drop <= 0.5 pt")
    found = infeasible([one("a", accuracy_drop=0.02)], (goal,), "on valid")

    assert "accuracy_drop" == found["binding_goal"]
    assert "Relax goals.accuracy to drop <= 0.02" in found["relax"]


@pytest.mark.parametrize("size", [0.12344, 0.12346])
def test_relaxing_as_told_is_enough(size):
    """With the bound that the text names, the candidate it speaks of is no miss of that goal."""
    found = infeasible([one("a", size_mb=size)], (SIZE,), "on valid")
    advised = found["relax"].split("Relax goals.size_mb to ")[1].split(",")[0]

    assert parse_goal("size_mb", advised).met_by(size)


def test_five_misses_are_listed():
    """The table shows the five nearest, however many there were."""
    candidates = [one(str(n), size_mb=0.2 + n) for n in range(9)]

    assert ["0", "1", "2", "3", "4"] == [
        miss["candidate"] for miss in infeasible(candidates, (SIZE,), "x")["nearest_misses"]
    ]


def test_no_miss_no_binding_goal():
    """Where no goal is missed there is nothing to relax."""
    assert {"nearest_misses": [], "binding_goal": None, "relax": ""} == infeasible(
        [one("a", size_mb=0.05)], (SIZE,), "x"
    )


def quality_of(correct, number=100):
    targets = np.arange(number) % NUM_CLASSES
    answers = np.where(np.arange(number) < correct, targets, (targets + 1) % NUM_CLASSES)
    probabilities = np.full((number, NUM_CLASSES), 0.1, np.float32)
    probabilities[np.arange(number), answers] = 0.5 + np.arange(number) / 1000
    right = (answers == targets).astype(float)
    return Quality(
        "accuracy", {"accuracy": correct / number, "loss": 1.0}, *clopper_pearson(correct, number),
        np.stack([np.ones(number), right, np.ones(number)], 1),
        {"logits": np.log(probabilities), "probabilities": probabilities}, targets,
    )  # fmt: skip


DIFFERENCE = Difference(100, 0.01, -0.01, 0.03, 3)


def latency_of(p99=1.0, low=0.9, high=1.2):
    fields = dict.fromkeys(Latency.__dataclass_fields__, 0.5)
    return Latency(**{**fields, "p99_ms": p99, "p99_low_ms": low, "p99_high_ms": high})


def judge(goal, correct=95, **keys):
    differences = {"accuracy": DIFFERENCE}
    return certify._judge(goal, IMAGES, quality_of(correct), differences, latency_of(**keys), 0.08)


@pytest.mark.parametrize(("correct", "met"), [(95, True), (90, True), (89, False)])
def test_accuracy_is_judged_on_its_value(correct, met):
    """A goal is met by the measured value; the exact interval stands beside it."""
    found = judge(ACCURACY, correct)

    assert (met, correct / 100) == (found["met"], found["measured"])
    assert clopper_pearson(correct, 100) == (found["low"], found["high"])
    assert (">= 0.9", "share", 0.95) == (found["bound"], found["unit"], found["confidence"])


def test_a_drop_has_the_paired_interval():
    """The drop's interval is that of the comparison by rows."""
    found = judge(parse_goal("accuracy", "drop <= 2 pt"))

    assert (0.01, -0.01, 0.03, True) == tuple(found[k] for k in ("measured", "low", "high", "met"))


def test_latency_has_its_interval():
    """The percentile asked for is judged, with the ends that timing found for it."""
    found = judge(LATENCY, p99=1.9, low=1.5, high=2.3)

    assert (1.9, 1.5, 2.3, True, "ms") == tuple(
        found[key] for key in ("measured", "low", "high", "met", "unit")
    )


def test_size_is_exact():
    """A size has no interval: both ends are the value."""
    found = judge(SIZE)

    assert (0.08, 0.08, 0.08, True) == tuple(found[k] for k in ("measured", "low", "high", "met"))


@pytest.mark.parametrize(
    ("correct", "p99", "high", "unsure"),
    [(100, 1.0, 1.5, None), (92, 1.0, 1.5, "accuracy"), (100, 1.9, 2.3, "latency_p99_ms")],
)
def test_text_says_what_chance_leaves_open(correct, p99, high, unsure):
    """A goal that is met but whose interval reaches beyond its bound is named."""
    goals = {
        goal.name: judge(goal, correct, p99=p99, high=high) for goal in (ACCURACY, LATENCY, SIZE)
    }
    text = certify._text(goals, [], quality_of(correct))

    assert text.startswith("All 3 goals hold on 100 test rows")
    assert (unsure is not None) == ("does not rule out" in text)
    assert unsure is None or unsure in text.split("miss of: ")[1]


@pytest.mark.parametrize(("rows", "low", "said"), [(1, 1.0, True), (1, 0.1, False), (2, 1, False)])
def test_text_says_that_one_row_is_no_sample(rows, low, said):
    """Such as a single window of a table, both ends of whose interval are its value."""
    quality = dataclasses.replace(quality_of(rows, rows), low=low, high=1.0)
    text = certify._text({"accuracy": judge(parse_goal("accuracy", ">= 0.9"))}, [], quality)

    assert said == ("One row says nothing of others" in text)


def test_text_of_a_miss_names_it():
    """The verdict's words name each missed goal and how many rows judged it."""
    goals = {"accuracy": judge(ACCURACY, 80)}

    assert "Missed on 100 test rows: accuracy." == certify._text(
        goals, ["accuracy"], quality_of(80)
    )


def test_worst_mistakes_are_the_surest():
    """Wrong answers are listed by their probability, with both labels and a picture."""
    part = rows(100)
    found = certify.worst_mistakes(quality_of(60), part, list("abcd"))

    assert certify.MISTAKES == len(found)
    assert [99, 98, 97] == [mistake["row"] for mistake in found[:3]]
    assert all(mistake["truth"] != mistake["answer"] for mistake in found)
    assert all(m["image"].startswith("data:image/png;base64,") for m in found)


def test_samples_hold_every_class():
    """The pictures for the page take turns through the classes."""
    found = certify.samples(rows(100), list("abcd"))

    assert certify.SAMPLES == len(found)
    assert list("abcd") == sorted(sample["label"] for sample in found[:4])

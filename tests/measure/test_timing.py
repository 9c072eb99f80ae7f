"""Percentiles, their intervals, and the control that tells the noise."""

import dataclasses
import gc
import json
import time

import numpy as np
import pytest

from modelwright.core.errors import ConfigError
from modelwright.core.goals import parse_goal
from modelwright.core.signature import Signature
from modelwright.measure import timing
from modelwright.measure.timing import (
    least_disturbed,
    measure_latency,
    measure_pair,
    quantile_interval,
)


class Busy:
    """A call that takes about as long as asked, by a busy loop."""

    signature = Signature((), ())

    def __init__(self, seconds):
        self.seconds = seconds
        self.calls = 0
        self.collecting = []

    def __call__(self, batch):
        self.calls += 1
        self.collecting.append(gc.isenabled())
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return {}

    def close(self):
        pass


BATCH = {"image": np.zeros((4, 1, 1, 1), np.uint8)}


def test_a_known_duration_is_measured():
    """Percentiles are ordered, lie at the true duration or above, and bound themselves."""
    latency = measure_latency(Busy(0.0005), BATCH, min_calls=100, max_seconds=0.2)

    assert 0.5 <= latency.p50_ms <= latency.p95_ms <= latency.p99_ms
    assert latency.p50_low_ms <= latency.p50_ms <= latency.p50_high_ms
    assert latency.calls == sum(latency.histogram_counts) >= 100
    assert len(latency.histogram_counts) + 1 == len(latency.histogram_edges_ms)
    assert 4 / latency.mean_ms * 1e3 == pytest.approx(latency.throughput_per_s)


def test_the_same_session_has_a_ratio_of_one_to_itself():
    """The A/A control of a steady call is near 1."""
    latency = measure_latency(Busy(0.0003), BATCH, min_calls=200, max_seconds=0.2)

    assert 1 == pytest.approx(latency.control_ratio, abs=0.05)


def test_a_session_twice_as_slow_has_a_ratio_of_two():
    """Two sessions timed in turns give the ratio of their durations, with its interval."""
    pair = measure_pair(Busy(0.0006), Busy(0.0003), BATCH, min_calls=160, max_seconds=0.3)

    assert 2 == pytest.approx(pair.ratio, rel=0.1)
    assert pair.ratio_low <= pair.ratio <= pair.ratio_high
    assert pair.first.calls == pair.second.calls >= 160


def test_the_number_of_calls_keeps_its_bounds():
    """A fast call is made max_calls times at most; a slow one min_calls times, however long."""
    fast = measure_latency(Busy(0.0), BATCH, min_calls=50, max_calls=120, max_seconds=3)
    slow = measure_latency(Busy(0.002), BATCH, min_calls=50, max_calls=120, max_seconds=0.001)

    assert 120 <= fast.calls <= 130
    assert 50 <= slow.calls <= 60


def test_no_garbage_is_collected_while_the_clock_runs():
    """Collection is off during timed calls and as before afterwards."""
    session = Busy(0.0)
    measure_latency(session, BATCH, min_calls=50, max_calls=50)

    assert not any(session.collecting[-50:])
    assert gc.isenabled()


def test_blocks_take_turns_as_abba():
    """A drift of the machine falls on both halves alike."""
    assert [0, 1, 1, 0, 0, 1, 1, 0] == list(timing._turns(4))


def test_a_latency_is_the_certificates_json():
    """The JSON has the contract's keys and no NaN; an end that is unknown is null."""
    latency = measure_latency(Busy(0.0), BATCH, min_calls=50, max_calls=50)
    value = json.loads(json.dumps(latency.to_json(), allow_nan=False))

    contract = {"p50_ms", "p95_ms", "p99_ms", "calls", "control_ratio", "histogram"}
    assert set(value) >= contract
    assert {"edges_ms", "counts"} == set(value["histogram"])
    assert value["p99_high_ms"] is None


def test_bounds_that_contradict_are_refused():
    """A maximum below the minimum is an error of the caller."""
    with pytest.raises(ConfigError, match="between 10 and 5 calls"):
        measure_latency(Busy(0.0), BATCH, min_calls=10, max_calls=5)


def test_p99_is_bounded_from_above_from_368_calls_on():
    """1 - 0.99^n reaches 97.5 % at n = 368."""
    assert quantile_interval(np.arange(367.0), 0.99)[2] is None
    assert 367.0 == quantile_interval(np.arange(368.0), 0.99)[2]


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
def test_the_interval_holds_the_true_quantile(quantile):
    """Over many samples the interval encloses the true quantile at least 95 times in 100."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        _, low, high = quantile_interval(rng.random(500), quantile)
        held += low <= quantile <= high

    assert held >= 940


@pytest.mark.parametrize(
    ("p99s", "bound", "least", "times", "said"),
    [
        ([1.0], 2.0, 1.0, 1, False),  # met
        ([9.0, 1.0], 2.0, 1.0, 2, False),  # disturbed once
        ([9.0, 8.0, 9.5], 2.0, 8.0, 3, True),  # all the time
        ([0.4], 0.3, 0.4, 1, False),  # missed, and no more than calls differ
        ([9.0], 0.05, 9.0, 1, False),  # so is the median
    ],
)
def test_of_disturbed_measurements_the_least_counts(capfd, p99s, bound, least, times, said):
    """Other work makes calls slower and none faster; where it goes on, that is said."""
    one = measure_latency(Busy(0.0001), BATCH, min_calls=4, max_calls=4)
    coming = iter([dataclasses.replace(one, p50_ms=0.1, p99_ms=p99) for p99 in p99s])
    goal = parse_goal("latency_p99_ms", f"<= {bound}")
    found, number = least_disturbed(lambda: next(coming), [goal], of=lambda one: one)

    assert (least, times) == (found.p99_ms, number)
    assert said == ("as where other work runs" in capfd.readouterr().err)

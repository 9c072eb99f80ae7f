"""Quantities: text to numbers and back to words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.core.errors import ConfigError
from modelwright.core.units import (
    UNITS,
    format_bytes,
    format_count,
    format_seconds,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [("2", "ms", 2.0), ("2 ms", "ms", 2.0), ("2ms", "ms", 2.0), ("500 us", "ms", 0.5),
     ("90 s", "min", 1.5), ("1 h", "min", 60.0), ("500 kB", "mb", 0.5), ("1 MiB", "mb", 1.048576),
     (".5 GB", "mb", 500.0), ("97 %", "share", 0.97), ("0.5 pt", "share", 0.005),
     ("1e-3", "share", 0.001), ("-2", "ms", -2.0), (3, "gb", 3.0), (0.25, "gb", 0.25),
     ("  7  min ", "min", 7.0)],
)  # fmt: skip
def test_a_quantity_is_read_in_the_unit_asked_for(text, unit, expected):
    """A number with a unit is converted; a bare number is in the unit already."""
    assert math.isclose(expected, parse_quantity(text, unit))


@pytest.mark.parametrize(
    ("text", "unit"),
    [("2 MB", "ms"), ("2 ms", "mb"), ("2 parsecs", "ms"), ("97 %", "ms"), ("", "ms"), ("ms", "ms"),
     ("two ms", "ms"), ("2 3", "ms"), ("0x10", "ms"), ("nan", "ms"), ("inf", "ms"), ("1_0", "ms"),
     (True, "ms"), (False, "share")],
)  # fmt: skip
def test_what_is_no_quantity_is_refused(text, unit):
    """A unit of another kind, a word and a truth value are errors which say what would be right."""
    with pytest.raises(ConfigError) as caught:
        parse_quantity(text, unit)

    assert repr(text) in caught.value.what
    assert caught.value.expected


def test_a_wrong_unit_names_the_right_ones():
    """The error lists the units that measure what the key is about."""
    with pytest.raises(ConfigError, match="does not measure time") as caught:
        parse_quantity("2 MB", "min")

    assert "a time in one of: h, min, minutes, ms, s, sec, us" == caught.value.expected


@given(st.floats(-1e12, 1e12), st.sampled_from(sorted(UNITS)))
def test_a_number_keeps_its_value_in_its_own_unit(value, unit):
    """Writing a number with the unit asked for changes nothing."""
    assert math.isclose(value, parse_quantity(f"{value!r} {unit}", unit))


@given(st.floats(1e-6, 1e6), st.sampled_from(sorted(UNITS)), st.sampled_from(sorted(UNITS)))
def test_there_and_back(value, one, other):
    """A quantity converted to another unit of its kind and back is the same quantity."""
    if UNITS[one][0] == UNITS[other][0]:
        there = parse_quantity(f"{value!r} {one}", other)

        assert math.isclose(value, parse_quantity(f"{there!r} {other}", one))


@pytest.mark.parametrize(
    ("text", "found"),
    [("0 B", format_bytes(0)), ("999 B", format_bytes(999)), ("1 kB", format_bytes(1000)),
     ("1.23 GB", format_bytes(1.234e9)), ("0.5 µs", format_seconds(5e-7)),
     ("2.5 ms", format_seconds(0.0025)), ("59 s", format_seconds(59)),
     ("1:00 min", format_seconds(60)), ("1:05 h", format_seconds(3900)), ("0", format_count(0)),
     ("1k", format_count(1000)), ("25.6M", format_count(25_557_032)),
     ("4.09G", format_count(4.09e9)), ("1.2T", format_count(1.2e12)),
     ("1 MB", format_bytes(999_700)), ("1M", format_count(999_700)), ("1 kB", format_bytes(999.7)),
     ("1 s", format_seconds(0.9997)), ("1 ms", format_seconds(0.0009997)),
     ("1:00 min", format_seconds(59.97)), ("1:01 min", format_seconds(61.4))],
)  # fmt: skip
def test_numbers_are_printed_for_people(text, found):
    """Three digits and the unit that fits."""
    assert text == found

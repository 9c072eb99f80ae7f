"""Errors: three lines for a person, one exit code for a program."""

import inspect

import pytest

from modelwright.core import errors
from modelwright.core.errors import ConfigError, Exit, MissingExtra, ModelwrightError, did_you_mean

FAMILIES = [
    one for _, one in inspect.getmembers(errors, inspect.isclass)
    if issubclass(one, ModelwrightError) and one is not ModelwrightError
]  # fmt: skip


def test_an_error_has_three_lines():
    """What happened, what was expected and how to repair it, in that order."""
    assert "it broke\n  expected: that it holds\n  repair:   glue" == str(
        ConfigError("it broke", expected="that it holds", repair="glue")
    )


def test_lines_without_content_are_left_out():
    """An error with nothing to add is one line."""
    assert "it broke" == str(ConfigError("it broke"))


def test_the_parts_can_be_read():
    """A program finds what, expected and repair without taking the text apart."""
    error = ConfigError("a", expected="b", repair="c")

    assert ("a", "b", "c") == (error.what, error.expected, error.repair)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.__name__)
def test_no_error_for_the_user_says_bug(family):
    """Every family that is meant for the user has an exit code of its own kind; 1 is for bugs."""
    assert family.exit_code in (Exit.BAD_INPUT, Exit.INFEASIBLE, Exit.REFUSED)


def test_exit_codes_are_the_documented_ones():
    """0 done, 1 our bug, 2 bad input, 3 infeasible, 4 refused."""
    assert [0, 1, 2, 3, 4] == [
        Exit.OK, Exit.BUG, errors.ConfigError.exit_code, errors.Infeasible.exit_code,
        errors.ParityError.exit_code,
    ]  # fmt: skip
    assert 4 == errors.IntegrityError.exit_code


def test_a_missing_library_names_its_extra():
    """The repair can be pasted."""
    error = MissingExtra("PIL", "vision", "reading images")

    assert "reading images needs the library 'PIL', which is not installed." == error.what
    assert "pip install 'modelwright[vision]'" == error.repair


@pytest.mark.parametrize(
    ("name", "expected"),
    [("acuracy", "did you mean 'accuracy'?"), ("size", "did you mean 'size_mb'?"),
     ("zzz", "one of: accuracy, latency_p99_ms, size_mb"), ("", "one of: accuracy, "
                                                           "latency_p99_ms, size_mb")],
)  # fmt: skip
def test_the_nearest_name(name, expected):
    """A near name is asked about; without one, all are listed."""
    assert expected == did_you_mean(name, {"size_mb", "latency_p99_ms", "accuracy"})

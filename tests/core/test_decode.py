"""How text is written: what a recipe may say of it, and what holds beside what was shipped."""

import pytest

from modelwright.core.decode import Decode, checked, idle, settle
from modelwright.core.errors import ConfigError
from modelwright.core.recipe import WRITES, Recipe

PAIR = {"source": "texts", "pair": ["de", "en"]}


def recipe(task, **decode):
    data = PAIR if task == "translation" else {"source": "texts"}
    return Recipe.model_validate({"task": task, "data": data, "decode": decode})


@pytest.mark.parametrize(("task", "decode", "words"), [
    ("language-modeling", {"beam": 2}, "decode.beam: language-modeling does not read it"),
    ("translation", {"stop": "x"}, "decode.stop: translation does not read it"),
    ("image-classification", {"seed": 1}, "decode.seed: image-classification does not read it"),
    ("translation", {"top_k": 3}, "decode.top_k: nothing reads it"),
    ("translation", {"beam": 3, "temperature": 1}, "decode.beam: nothing reads it"),
    ("translation", {"beam": 1, "length_penalty": 0}, "decode.length_penalty: nothing reads it"),
    ("language-modeling", {"temperature": 0, "seed": 1}, "decode.seed: nothing reads it"),
    ("translation", {"beam": 65}, "decode.beam"),
    ("translation", {"top_p": 0, "temperature": 1}, "decode.top_p"),
])  # fmt: skip
def test_a_key_without_effect_is_refused(task, decode, words):
    """What the task, or the way that it writes, does not read; what is out of range."""
    with pytest.raises(ValueError, match=words):
        recipe(task, **decode)


@pytest.mark.parametrize(("task", "decode"), [
    ("translation", {"beam": 2, "length_penalty": 0.5, "max_new": 40}),
    ("translation", {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 2}),
    ("language-modeling", {"top_k": 5, "stop": "END", "max_new": 9}),
    ("language-modeling", {"temperature": 0}),
])  # fmt: skip
def test_what_has_an_effect_is_taken(task, decode):
    """Given keys and no others."""
    assert decode == recipe(task, **decode).decode.given
    assert {} == idle(WRITES[task], decode)


def test_what_is_given_goes_over_what_was_shipped():
    """And what it makes idle is left out, unless it was given itself."""
    shipped = {"temperature": 0.8, "top_k": 9, "seed": 3}

    assert shipped == settle("anew", {}, shipped)
    assert {**shipped, "top_k": 2} == settle("anew", {"top_k": 2}, shipped)
    assert {"temperature": 0, "beam": 2} == settle("anew", {"temperature": 0, "beam": 2}, shipped)
    with pytest.raises(ConfigError, match="beam: nothing reads it"):
        settle("anew", {"beam": 2}, shipped)


def test_what_is_out_of_range_is_named():
    """With its value and what was expected."""
    with pytest.raises(ConfigError, match="temperature is -1") as refused:
        checked({"temperature": -1})

    assert "greater than or equal to 0" in str(refused.value)
    assert {} == checked(dict.fromkeys(Decode.model_fields))

"""How a model that writes chooses its tokens: the recipe's section `decode`, and what of it counts.

The same names stand on the command line and in requests; runtime/decode.py does what they say.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from modelwright.core.errors import ConfigError
from modelwright.core.recipe_data import Real, Section, Whole

SEARCHED, DRAWN = ("beam", "length_penalty"), ("top_k", "top_p", "seed")
# what is read by models that go on with a text, and by those that write one anew
READ = {
    "on": ("max_new", "temperature", *DRAWN, "stop"),
    "anew": (*SEARCHED, "max_new", "temperature", *DRAWN),
}
BEAM, LENGTH_PENALTY = 5, 1.0
MOST_TIMES, MOST_MORE = 2, 10  # tokens of a text that is written anew, from those of its source
TEMPERATURE = {"on": 1.0, "anew": 0.0}  # where none is given


class Decode(Section):
    """How text is written. None means: the default of the task."""

    beam: Whole | None = Field(
        None, ge=1, le=64, description="texts followed at once, 1 the likeliest token; None: 5"
    )
    length_penalty: Real | None = Field(
        None, ge=0, le=10, description="0 prefers short texts, 1 about the mean of their tokens"
    )
    temperature: Real | None = Field(
        None, ge=0, description="below 1 keeps to what is likely, above 1 strays; 0 draws nothing"
    )
    top_k: Whole | None = Field(None, ge=1, description="draw from that many of the likeliest")
    top_p: Real | None = Field(
        None, gt=0, le=1, description="draw from the fewest that hold this share of probability"
    )
    seed: Whole | None = Field(None, ge=0, description="of the draws; None: 0")
    max_new: Whole | None = Field(None, ge=1, description="tokens of a text at most")
    stop: str | None = Field(None, description="a text at which to end; it is not given")

    @property
    def given(self) -> dict[str, Any]:
        """What is set, by name."""
        return self.model_dump(exclude_none=True)


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that lie within their ranges, without those that are None.

    Raises: ConfigError that names the first that does not.
    """
    try:
        return Decode.model_validate(dict(settings)).given
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{first['loc'][0]} is {first['input']}",
            expected=first["msg"].removeprefix("Input should be "),
        ) from None


def idle(writes: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings that change nothing beside the others, each with where that is so: a search
    draws nothing, who draws does not search, and one text at a time is compared with no other.

    >>> idle("anew", {"beam": 5, "temperature": 0.7})
    {'beam': 'tokens are drawn (temperature above 0)'}
    """
    if settings.get("temperature", TEMPERATURE[writes]) > 0:
        found = dict.fromkeys(SEARCHED, "tokens are drawn (temperature above 0)")
    else:
        found = dict.fromkeys(DRAWN, "no token is drawn (temperature 0)")
        if settings.get("beam") == 1:
            found["length_penalty"] = "one text is followed at once (beam 1)"
    return {name: where for name, where in found.items() if name in settings}


def settle(
    writes: str, given: Mapping[str, Any], shipped: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What holds: what was given, over what the model was shipped with.

    Of the latter, what is given may make something idle, which is then left out.

    Args:
        writes: a row of READ.
    Raises: ConfigError for a value out of its range, or one that was given and changes nothing.
    """
    both = {**(shipped or {}), **checked(given)}
    unused = idle(writes, both)
    if wrong := [name for name in unused if given.get(name) is not None]:
        raise ConfigError(
            f"{', '.join(wrong)}: nothing reads it where {unused[wrong[0]]}",
            expected="without it, or another temperature or beam",
        )
    return {name: value for name, value in both.items() if name not in unused}

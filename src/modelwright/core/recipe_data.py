"""The recipe's section `data`: where rows come from, how they are cleaned, cut and checked.

One part of the page of knobs; recipe.py has the others and the reading.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from modelwright.core.errors import ConfigError
from modelwright.core.units import parse_quantity


class Section(BaseModel):
    """A frozen part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def sets(self, key: str) -> bool:
        """Whether a key, dotted if it is further below, has another value than its default.

        >>> asked = Tokens(unit="bpe", max_length=256)
        >>> asked.sets("unit"), asked.sets("max_length")
        (True, False)
        """
        name, _, below = key.partition(".")
        value = getattr(self, name)
        if below:
            return isinstance(value, Section) and value.sets(below)
        field = type(self).model_fields[name]
        return bool(value != field.get_default(call_default_factory=True))


def require_one(step: Section, what: str, example: str) -> None:
    """A step of a list is one key with its value.

    Raises: ValueError, which pydantic tells together with the step's place.
    """
    if len(step.model_fields_set) != 1:
        raise ValueError(f'each step has exactly {what}, such as "{example}"')
    (key,) = step.model_fields_set
    if getattr(step, key) is None:
        raise ValueError(f'{key} needs a value, as in "{example}"')


def _quantity(unit: str) -> BeforeValidator:
    def convert(value: Any) -> Any:
        if isinstance(value, str | int | float):
            try:
                return parse_quantity(value, unit)
            except ConfigError as error:
                raise ValueError(f"{error.what}; expected {error.expected}") from error
        return value

    return BeforeValidator(convert, json_schema_input_type=float | str)


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"should be a number, got {value!r}")
    return value


Whole = Annotated[int, Field(strict=True)]  # neither true nor "3" nor 3.0
Real = Annotated[float, BeforeValidator(_no_truth)]  # texts too: YAML reads 1e-3 as one
Minutes = Annotated[float, _quantity("min"), Field(gt=0)]
Gigabytes = Annotated[float, _quantity("gb"), Field(gt=0)]
Share = Annotated[float, _quantity("share"), Field(ge=0, le=1)]

# findings of the data gate that stop the run unless waived by name, and those that do not
CheckName = Literal[
    "broken_files",
    "empty_class",
    "label_out_of_range",
    "nan_values",
    "duplicates_across_splits",
    "too_few_rows",
    "faulty_boxes",
]
BLOCKING_CHECKS = get_args(CheckName)
NOTED_CHECKS = (
    "empty_texts",
    "cleaned",
    "duplicates_within_split",
    "near_duplicates",
    "constant_images",
    "constant_recordings",
    "constant_series",
    "short_recordings",
    "class_imbalance",
    "conflicting_labels",
    "label_noise",
    "repeated_uses",
    "short_histories",
    "rare_items",
    "clipped_boxes",
    "crowd_boxes",
)
RATES = (1_000, 192_000)  # samples a second, of the recordings that are read


class Checks(Section):
    """The data gate."""

    waive: tuple[CheckName, ...] = Field(
        (), description="blocking findings to accept; their rows are dropped where that is possible"
    )
    near_duplicate_similarity: Real = Field(
        0.995, gt=0.5, le=1, description="cosine of two shrunken images from which they are near"
    )
    label_noise: bool = Field(
        False, strict=True, description="look for labels that are probably wrong; takes seconds"
    )


class Columns(Section):
    """Which columns of a table to read: by name, or by number from 0 where there are no names."""

    text: str | Whole | tuple[str | Whole, ...] = Field(
        "text", description="the text; of several columns, joined by blanks"
    )
    label: str | Whole = Field("label", description="the class")
    file: str | Whole = Field("file", description="the recording, from the table's folder on")
    words: str | Whole = Field("words", description="a sentence's words: a list, or with blanks")
    tags: str | Whole = Field("tags", description="their tags: a list, or with blanks")
    source: str | Whole = Field("source", description="the text to translate")
    target: str | Whole = Field("target", description="its translation")


class Files(Section):
    """Which file of a folder is which part, where the names do not say."""

    train: str
    valid: str | None = None
    test: str | None = None


class Clean(Section):
    """One cleaning step for rows of text: exactly one key."""

    normalize: Literal["NFC", "NFKC"] | None = Field(None, description="Unicode normalisation")
    strip: Literal["mail_headers", "html"] | None = None
    shortest: Whole | None = Field(None, ge=1, description="characters; shorter rows are left out")
    longest: Whole | None = Field(None, ge=1, description="characters; longer rows are left out")
    script: Literal["latin", "cjk", "cyrillic", "greek", "arabic", "hebrew", "hangul"] | None = (
        Field(None, description="of most letters; other rows are left out")
    )
    language: str | None = Field(
        None,
        pattern=r"^[a-z]{2,3}$",
        description="ISO 639 code, such as en; texts that look like another's are left out",
    )
    drop: Literal["duplicates", "near_duplicates"] | None = Field(
        None, description="texts that stand earlier in the same part, or nearly do"
    )

    @property
    def key(self) -> str:
        """The one key that is set."""
        return next(iter(self.model_fields_set))

    @property
    def value(self) -> str | int:
        return getattr(self, self.key)  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        return f"{self.key}: {self.value}"

    @model_validator(mode="after")
    def _one_key(self) -> "Clean":
        require_one(self, "one key", "normalize: NFKC")
        return self


class Tokens(Section):
    """How texts are cut; the vocabulary is learned from train."""

    unit: Literal["auto", "words", "characters", "given", "bytes", "bpe"] = Field(
        "auto", description='"given": blanks divide tokens already; "bpe": common runs of bytes'
    )
    features: tuple[
        Literal["token", "pair", "triple", "next_pair", "start", "end", "ending", "shape"], ...
    ] = Field((), description="of each token; empty takes the task's own")
    vocab_size: Whole | None = Field(
        None, ge=10, description="at most, of each kind of feature; None: the task's own"
    )
    joint: bool = Field(True, description="of pairs of texts, one vocabulary for both sides")
    max_length: Whole = Field(256, ge=1, le=100_000, description="tokens of a text that are read")


class Interactions(Section):
    """Columns of a table of interactions: by number from 0, or by the first line's names."""

    user: str | Whole = 0
    item: str | Whole = 1
    time: str | Whole = Field(3, description="orders a user's items; a number or an ISO 8601 date")
    rating: str | Whole = Field(2, description="what rating-prediction learns; a number")
    names: str | None = Field(None, description="file beside the table: item and name on each line")
    max_length: Whole = Field(50, ge=1, le=100_000, description="latest items that are read")


class Data(Section):
    """Where the rows come from and how they are divided."""

    source: str = Field(description='"digits", or a path, or gymnasium: and an environment')
    format: Literal[
        "auto", "digits", "folder", "idx", "npz", "text_table", "text_folder", "tagged_words",
        "text_stream", "audio_folder", "transcripts", "table", "interactions", "rating_table",
        "parallel_text", "image_texts", "environment", "voc", "yolo", "coco",
    ] = "auto"  # fmt: skip
    valid: Share = Field(0.1, description="share of the train rows held out to choose by")
    test: Share = Field(0.2, description="share held out to judge by, where the source has no test")
    image_size: Whole | None = Field(
        None,
        ge=4,
        le=1024,
        description="side in pixels of resized images (folders only); with boxes the longer one",
    )
    rate: Whole | None = Field(
        None, ge=RATES[0], le=RATES[1], description="samples a second of recordings"
    )
    split_seed: Whole = Field(0, ge=0)
    pair: tuple[str, ...] | None = Field(
        None, description="languages of parallel files, the source first, such as [de, en]"
    )
    files: Files | None = None
    columns: Columns = Columns()
    clean: tuple[Clean, ...] = Field((), description="steps for rows of text, in order")
    tokens: Tokens = Tokens()
    horizon: Whole | None = Field(
        None, ge=1, description="steps of a table to forecast, such as 96; forecasting needs it"
    )
    window: Whole | None = Field(
        None, ge=1, description="steps of a table, tokens, or observations that are looked back at"
    )
    split_rows: tuple[Annotated[Whole, Field(ge=1)], ...] | None = Field(
        None, description="rows of a table, or characters, of train, valid and test, in order"
    )
    channels: tuple[str, ...] | None = Field(None, description="columns of a table to take")
    interactions: Interactions | None = None
    episodes: Whole | None = Field(
        None, ge=2, le=10_000, description="of valid, and as many of test; 100 if none"
    )
    checks: Checks = Checks()

    @field_validator("split_rows")
    @classmethod
    def _three_parts(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(value) != 3:
            raise ValueError(f"three counts of rows, [train, valid, test]; here are {len(value)}")
        return value

    @field_validator("pair")
    @classmethod
    def _two_languages(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(value) != 2:
            raise ValueError(f"two languages, the source first; here are {len(value)}")
        return value

    @field_validator("channels")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) != max(len(value), 1):
            raise ValueError("at least one name, and each once")
        return value

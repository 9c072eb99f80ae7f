"""What a person brings to the page, as inputs of the model; what comes out, as an answer.

Reads an artifact's manifest; data and tasks have the knowledge, MEDIA what the page adds to it.
Nothing here knows of requests: app.py has the route.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.core.artifact import Artifact
from modelwright.core.decode import settle
from modelwright.core.errors import ConfigError, DataError, MissingExtra
from modelwright.core.signature import PAD_MULTIPLE, Signature
from modelwright.data import audio, language, parquet
from modelwright.data.image import KNOWN, MAX_PIXELS
from modelwright.data.kinds import KINDS
from modelwright.data.opening import GZIP
from modelwright.models.catalog import ModelSpec
from modelwright.models.heads import HEADS
from modelwright.runtime.answering import beside
from modelwright.runtime.catalog import WritingSession
from modelwright.runtime.decode import Writing
from modelwright.runtime.generate import scores_of, written
from modelwright.serve.limits import Refused
from modelwright.tasks.catalog import TASKS

Arrays = Mapping[str, np.ndarray]
MOST_NEW = 1024  # tokens of a translation that a stranger may ask for
MOST_BEAMS = 64  # texts that the search of a transcription may keep for a stranger
TEXTS = ("stop",)  # of what a request may say; everything else is a number


@dataclass(frozen=True)
class Medium:
    """How one kind of input comes to the page.

    types: first halves of the content types taken; the first is the one to send.
    expected: what is said to one who sent something else; "" says what the reader found.
    most_bytes: larger is refused, since reading takes time by the byte; 0 is the limit of a body.
    """

    noun: str
    types: tuple[str, ...]
    expected: str
    most_bytes: int = 0


MEDIA = {
    "image": Medium(
        "picture", ("image", "application"),
        "this file cannot be read as a picture: send a whole "
        f"{KNOWN} of at most {MAX_PIXELS:,} pixels",
    ),
    "image_text": Medium("picture with texts", ("application",), ""),
    "text": Medium("text", ("text",), "", 2**16),
    "audio": Medium(
        "recording", ("audio", "application"),
        "this file cannot be read as a recording: send a whole WAV or FLAC file of at most "
        f"{audio.MAX_SECONDS} seconds",
    ),
    "stream": Medium("text", ("text",), "", 2**16),
    "pairs": Medium("text", ("text",), "", 2**14),
    "items": Medium("list of items", ("text",), "", 2**16),
    "ratings": Medium("list of rated items", ("text",), "", 2**16),
    "observation": Medium("observation", ("text", "application"), "", 2**16),
    "series": Medium("table", ("text", "application"), "", 2**22),
}  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """One model's way from what a person brings to what a person reads.

    inputs, outputs: the descriptions in the manifest; files: what travels with the model.
    shipped: how it is to write, where that is not the default.
    bound: places of a row, where its positions were learned.
    """

    task: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    labels: list[str]
    files: dict[str, bytes]
    shipped: dict[str, Any]
    bound: int | None = None

    @property
    def longest(self) -> int | None:
        """Most places of one row that are computed: twice as many as training saw, or the bound;
        None: no matter. Clients may fill rows up to a multiple of eight."""
        if self.bound is not None or "max_length" not in self.inputs:
            return self.bound
        return -(-2 * int(self.inputs["max_length"]) // PAD_MULTIPLE) * PAD_MULTIPLE

    @property
    def kind(self) -> str:
        return str(self.inputs["kind"])

    @property
    def medium(self) -> Medium:
        return MEDIA[self.kind]

    @property
    def span_kinds(self) -> list[str]:
        """What the spans of a tagger, or the boxes of a detector, can be."""
        if self.outputs["kind"] == "boxes":
            return list(self.labels)
        if self.outputs["kind"] != "tags":
            return []
        return sorted({kind for tag in self.labels if (kind := tag.partition("-")[2])})

    @property
    def writes(self) -> str:
        """Whether the answer is a text of the model's own, which takes many calls: "on" from what
        a person brings, or "anew"; else empty."""
        return HEADS[self.outputs["kind"]].writes

    @property
    def summary(self) -> str:
        """What the model answers, in a few words."""
        if self.outputs["kind"] == "horizon":
            return f"{len(self.labels)} series, {self.outputs['horizon']} steps ahead"
        if self.outputs["kind"] == "ranking":
            return f"{len(self.labels):,} items"
        if self.outputs["kind"] == "rating":
            return "ratings from {low:g} to {high:g}".format(**self.outputs)
        if self.outputs["kind"] == "tags":
            number = len(self.span_kinds)
            return f"{number} {'kind of span' if number == 1 else 'kinds of spans'}"
        if self.outputs["kind"] == "boxes":
            return f"boxes of {len(self.labels)} {'kind' if len(self.labels) == 1 else 'kinds'}"
        if self.outputs["kind"] == "sequence":
            return "from {} to {}".format(*self.inputs["pair"])
        if self.outputs["kind"] == "next":
            return f"goes on with a text, in {len(self.labels):,} tokens"
        if self.outputs["kind"] == "actions":
            return f"{len(self.labels)} actions"
        if self.outputs["kind"] == "letters":
            return "what was said"
        return f"{len(self.labels)} classes" if len(self.labels) > 1 else ""

    def how(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """How a request wants to be answered, from the words of its address.

        Raises: Refused 400 for what changes nothing, or is out of range.
        """
        known = TASKS[self.task].options
        if useless := sorted(set(asked) - set(known)):
            raise Refused(400, f"{', '.join(useless)[:100]}: this model has no use for it")
        try:
            given = {name: text if name in TEXTS else json.loads(text)
                     for name, text in asked.items()}  # fmt: skip
            if given and self.writes:
                settle(self.writes, given, self.shipped)
        except (ConfigError, ValueError, RecursionError) as error:
            said = error.what if isinstance(error, ConfigError) else "values must be numbers"
            raise Refused(400, said[:200]) from None
        if self.writes == "anew" and int(given.get("max_new") or 1) > MOST_NEW:
            raise Refused(400, f"max_new: at most {MOST_NEW}")  # a thread cannot be stopped
        beams = given.get("beam_width", 1)
        if type(beams) is not int or not 1 <= beams <= MOST_BEAMS:
            raise Refused(400, f"beam_width: a whole number from 1 to {MOST_BEAMS}")
        return given

    def continued(
        self, content: bytes, session: WritingSession, how: Mapping[str, Any]
    ) -> tuple[str, Iterator[str]]:
        """A text that a person brings, and in pieces what the model goes on with.

        how: over what the model was shipped with.
        Raises: Refused 400 or 413.
        """
        self._check_size(content)
        try:
            prompt = language.prompt(content)
            writing = Writing(**settle("on", how, self.shipped))
            tokens = language.tokens_of(self.files)
            scores = scores_of(session, self.inputs["max_length"])
            return prompt, written(scores, tokens, prompt, writing)
        except (ConfigError, DataError) as error:
            raise Refused(400, error.what) from None

    def read(self, content: bytes) -> tuple[Arrays, list[str]]:
        """A batch of one, or with a row for each text to choose from; and its tokens, if any.

        Raises: Refused 400 or 413.
        """
        medium = self.medium
        self._check_size(content)
        # a small one can unpack to more than the memory holds
        if self.kind == "series" and content.startswith((GZIP, parquet.MAGIC)):
            raise Refused(400, "packed tables are not accepted: send the table as plain text")
        too_long = Refused(413, f"the {medium.noun} is too long for this model: cut it into pieces")
        try:
            if (
                self.kind == "audio"
                and self.longest
                and audio.places(content, self.inputs) > self.longest
            ):
                raise too_long  # before it takes memory
            inputs = KINDS[self.kind].read_input(content, self.inputs, self.files)
            tokens = KINDS[self.kind].tokens(content, self.inputs, self.files)
        except DataError as error:  # its text may speak of our insides
            raise Refused(400, medium.expected or error.what) from None
        except MissingExtra as error:
            raise Refused(500, f"this server cannot read a {medium.noun}: {error.what}") from None
        places = max(value.shape[1] for value in inputs.values() if value.ndim > 1)
        if places > (self.longest or places):
            raise too_long
        return inputs, tokens

    def _check_size(self, content: bytes) -> None:
        medium = self.medium
        if medium.most_bytes and len(content) > medium.most_bytes:
            raise Refused(
                413, f"a {medium.noun} on the page may have {medium.most_bytes:,} bytes at most"
            )

    def answer(
        self,
        inputs: Arrays,
        outputs: Arrays,
        tokens: list[str],
        how: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What a person reads, as the task says it; beside a forecast what came before it.

        how: of models that do not write, whose text was made as it was asked for already.
        """
        row = KINDS[self.kind].row(outputs)
        own = {} if self.writes else how or {}
        said: dict[str, Any] = TASKS[self.task].logic.answer(row, self.labels, tokens, **own)
        return said | beside(self.inputs, inputs)


def answers_of(artifact: Artifact) -> Answers | None:
    """How a person can ask this model; None where nothing says what it takes."""
    manifest = artifact.manifest
    model = manifest.get("model") or {}
    task = str(manifest.get("task"))
    inputs, outputs = model.get("inputs"), model.get("outputs")
    labels = [str(label) for label in manifest.get("labels") or []]
    if inputs is None and _takes_pictures(artifact.signature) and labels:  # older folders
        inputs, outputs = {"kind": "image"}, {"kind": "classes"}
        inputs["shape"] = list(artifact.signature.inputs[0].shape[1:])
    if (
        task not in TASKS
        or not inputs
        or not outputs
        or inputs.get("kind") not in KINDS.keys() & MEDIA.keys()
    ):
        return None
    files = artifact.extras if "preprocess" in manifest else {}
    named = labels or list(inputs.get("channels", []))
    bound = ModelSpec.from_json(model).most_places if "args" in model else None
    return Answers(task, inputs, outputs, named, files, manifest.get("decode", {}), bound)


def _takes_pictures(signature: Signature) -> bool:
    if len(signature.inputs) != 1:
        return False
    (spec,) = signature.inputs
    return (
        spec.dtype == "uint8"
        and len(spec.shape) == 4
        and spec.shape[1] in (1, 3)
        and all(isinstance(size, int) for size in spec.shape[1:])
        and any(one.name == "probabilities" for one in signature.outputs)
    )

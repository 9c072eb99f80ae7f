"""What a person brings to a model, as an answer; whatever task, kind of data and runtime it has.

Reads an open artifact's session, its manifest and the files that travel with it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.core.artifact import Artifact
from modelwright.core.decode import settle
from modelwright.core.errors import ConfigError
from modelwright.data import language
from modelwright.data.kinds import KINDS
from modelwright.models.heads import HEADS
from modelwright.runtime.catalog import Arrays, WritingSession
from modelwright.runtime.decode import Writing
from modelwright.runtime.generate import scores_of, written
from modelwright.tasks.catalog import TASKS, Task

Told = Callable[[str], None]  # of a piece of text, as it comes


def answer(
    session: WritingSession,
    artifact: Artifact,
    content: bytes,
    options: Mapping[str, Any],
    *,
    texts: Sequence[str] = (),
    told: Told | None = None,
) -> dict[str, Any]:
    """The answer to a file's bytes or a text, and what belongs to it by task.

    Args:
        options: how to answer; `check_options`.
        texts: to choose from, where the model does.
        told: called with each piece of a text that is written; of one that goes on the first is
            what was brought.
    Raises: DataError for what cannot be read; ConfigError for an option out of range, or texts
        that nobody chooses from.
    """
    described, task = artifact.manifest["model"]["inputs"], TASKS[artifact.manifest["task"]]
    kind, files = KINDS[described["kind"]], artifact.extras
    writes, content = HEADS[task.outputs].writes, kind.asked(content, texts)
    if writes == "on":
        scores = scores_of(session, described["max_length"])
        prompt, pieces = language.prompt(content), list[str]()
        asked = Writing(**settle(writes, options, session.decode))
        for piece in written(scores, language.tokens_of(files), prompt, asked):
            if told is not None:
                told(piece if pieces else prompt + piece)
            pieces.append(piece)
        return {"prompt": prompt, "answer": "".join(pieces)}
    batch = kind.read_input(content, described, files)
    tokens = kind.tokens(content, described, files)
    shown = ""

    def follow(ids: Sequence[int]) -> None:  # what is new of a text, of whole characters
        nonlocal shown
        text = task.logic.text_of(ids, artifact.labels)
        if told is not None and not text.endswith("\ufffd"):
            told(text.removeprefix(shown))
            shown = text

    outputs = outputs_of(session, batch, task, options if writes else {}, follow)
    how = {} if writes else options
    said: dict[str, Any] = task.logic.answer(kind.row(outputs), artifact.labels, tokens, **how)
    said |= beside(described, batch)
    if told is not None and writes:
        told(said["answer"].removeprefix(shown))
    return said


def beside(inputs: Mapping[str, Any], batch: Arrays) -> dict[str, Any]:
    """What of the question belongs beside its answer: of a forecast the values before it."""
    if inputs["kind"] != "series":
        return {}
    window = batch["window"][0]
    return {"before": {name: window[:, n].tolist() for n, name in enumerate(inputs["channels"])}}


def outputs_of(
    session: WritingSession, batch: Arrays, task: Task, how: Mapping[str, Any],
    told: Callable[[Any], None] | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What answers to a batch of one are made of: a call's outputs, or the ids that it writes.

    told: called with the ids so far, as they are written.
    """
    if HEADS[task.outputs].writes == "anew":
        return {"written": np.array(session.write(batch, told=told, **how))}
    return session(batch)


def check_options(artifact: Artifact, options: Mapping[str, Any]) -> None:
    """Whether a model can follow how it is asked to answer.

    Raises: ConfigError for what it has no use for, or what is out of range.
    """
    name = artifact.manifest["task"]
    task = TASKS[name]
    if useless := sorted(set(options) - set(task.options)):
        raise ConfigError(
            f"predict: {', '.join(useless)} is of no use to {name}",
            expected=f"only: {', '.join(task.options)}" if task.options else "no option",
            repair="leave it out",
        )
    if writes := HEADS[task.outputs].writes:
        settle(writes, options, artifact.manifest.get("decode"))

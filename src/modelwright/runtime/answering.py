"""What a person brings to a model, as an answer; whatever task, kind of data and runtime it has.

Reads an open artifact's session, its manifest and the files that travel with it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from modelwright.core.artifact import Artifact
from modelwright.core.errors import ConfigError
from modelwright.data import language
from modelwright.data.catalog import KINDS
from modelwright.models.heads import HEADS
from modelwright.runtime.catalog import WritingSession
from modelwright.runtime.generate import Writing, scores_of, written
from modelwright.tasks.catalog import TASKS

Told = Callable[[str], None]  # of a piece of text, as it comes


def answer(
    session: WritingSession,
    artifact: Artifact,
    content: bytes,
    writing: Mapping[str, Any],
    told: Told | None = None,
) -> dict[str, Any]:
    """The answer to a file's bytes or a text, and what belongs to it by task.

    Args:
        writing: how texts are written; `check_writing`.
        told: called with each piece of a text that goes on, the first with what was brought.
    Raises: DataError for what cannot be read; ConfigError for a `writing` out of range.
    """
    described, task = artifact.manifest["model"]["inputs"], TASKS[artifact.manifest["task"]]
    kind, files = KINDS[described["kind"]], artifact.extras
    writes = HEADS[task.outputs].writes
    if writes == "on":
        scores = scores_of(session, described["max_length"])
        prompt, pieces = language.prompt(content), list[str]()
        for piece in written(scores, language.tokens_of(files), prompt, Writing(**writing)):
            if told is not None:
                told(piece if pieces else prompt + piece)
            pieces.append(piece)
        return {"prompt": prompt, "answer": "".join(pieces)}
    batch = kind.read_input(content, described, files)
    if writes == "anew":
        outputs = {"written": np.array(session.write(batch, **writing))}
    else:
        outputs = session(batch)
    row = {key: value[0] for key, value in outputs.items()}
    tokens = kind.tokens(content, described, files)
    said: dict[str, Any] = task.logic.answer(row, artifact.labels, tokens)
    return said


def check_writing(artifact: Artifact, writing: Mapping[str, Any]) -> None:
    """Whether a model can follow how texts are asked to be written.

    Raises: ConfigError for what it has no use for, or what is out of range.
    """
    name = artifact.manifest["task"]
    taken = getattr(TASKS[name].logic, "WRITING", ())
    useless = sorted(set(writing) - set(taken))
    if useless:
        raise ConfigError(
            f"predict: {', '.join(useless)} is of no use to {name}",
            expected=", ".join(taken) or "a model that writes, such as a language model",
            repair="leave it out",
        )
    if HEADS[TASKS[name].outputs].writes == "on":
        Writing(**writing)

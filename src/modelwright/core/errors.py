"""Errors that a person can act on, and the exit code that each family means.

Every error says what happened, what was expected and how to repair it.
"""

import difflib
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """What the process says when it ends; documented in docs/reference/commands.md."""

    OK = 0
    BUG = 1
    BAD_INPUT = 2
    INFEASIBLE = 3
    REFUSED = 4


class ModelwrightError(Exception):
    """Base of every error that is meant for the user.

    Args:
        what: one sentence on what happened, with the value that caused it.
        expected: what would have been right.
        repair: the key to turn or the command to run.
    """

    exit_code: Exit = Exit.BUG
    said = False  # another process has said it already

    def __init__(self, what: str, *, expected: str = "", repair: str = "") -> None:
        self.what, self.expected, self.repair = what, expected, repair
        lines = [what]
        if expected:
            lines.append(f"  expected: {expected}")
        if repair:
            lines.append(f"  repair:   {repair}")
        super().__init__("\n".join(lines))


class ConfigError(ModelwrightError):
    """A recipe, an override or an argument is wrong."""

    exit_code = Exit.BAD_INPUT


class DataError(ModelwrightError):
    """The data cannot be read, or the gate refuses it."""

    exit_code = Exit.BAD_INPUT


class MissingExtra(ModelwrightError):
    """A library that only some users need is not installed."""

    exit_code = Exit.BAD_INPUT

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the library {library!r}, which is not installed.",
            expected=f"the extra {extra!r}",
            repair=f"pip install 'modelwright[{extra}]'",
        )


class StorageError(ModelwrightError):
    """The disk refused a write; what was there before is intact."""

    exit_code = Exit.BAD_INPUT


class NothingChanged(ModelwrightError):
    """A compression method was asked for and changed nothing."""

    exit_code = Exit.BAD_INPUT


class Unsupported(ModelwrightError):
    """Two things that cannot work together, refused with the reason."""

    exit_code = Exit.BAD_INPUT


class TrainingFailed(ModelwrightError):
    """Training cannot go on, and the reason is in what it was asked to do or in the machine: the
    loss, the memory, a rank that stands still. The newest good checkpoint is kept."""

    exit_code = Exit.BAD_INPUT


class Infeasible(ModelwrightError):
    """No candidate can meet every goal."""

    exit_code = Exit.INFEASIBLE


class ParityError(ModelwrightError):
    """Two forms of one model do not agree."""

    exit_code = Exit.REFUSED


class IntegrityError(ModelwrightError):
    """A file is not the one that was written."""

    exit_code = Exit.REFUSED


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or the list of names.

    >>> did_you_mean("acuracy", ["accuracy", "size_mb"])
    "did you mean 'accuracy'?"
    >>> did_you_mean("zzz", ["b", "a"])
    'one of: a, b'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else "one of: " + ", ".join(names)

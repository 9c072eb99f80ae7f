"""Lines for people, on stderr: one that moves where there is a terminal, few elsewhere."""

import os
import sys
import time

_hushed = False


def hush() -> None:
    """Say nothing from here on: of processes that work together, one speaks."""
    global _hushed
    _hushed = True


def say(text: str, *, always: bool = False) -> None:
    """One line that stays; `always` is what even a hushed process has to say."""
    if _hushed and not always:
        return
    clear = "\r\x1b[2K" if sys.stderr.isatty() else ""
    _write(f"{clear}{text}\n")


def show(text: str) -> None:
    """A line that the next one replaces; nothing where stderr is not a terminal."""
    if shown():
        columns = _columns()
        _write("\r\x1b[2K" + text[: columns - 1])


def shown() -> bool:
    """Whether anybody sees moving lines."""
    return sys.stderr.isatty() and not _hushed


class Beat:
    """Says when a moving line is due: ten times a second, not at every step."""

    def __init__(self, every: float = 0.1) -> None:
        self._every, self._last = every, 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._every:
            return False
        self._last = now
        return True


def _write(text: str) -> None:
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except BrokenPipeError:  # nobody reads on, which is no reason to stop the work
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns

"""Opening files and unpacking bytes, plain or gzip; text is UTF-8."""

import gzip
import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from modelwright.core.errors import DataError

GZIP = b"\x1f\x8b"  # how such a file begins
UNREADABLE = (OSError, EOFError, zlib.error)  # what opening and unpacking can end in


def inside(file: Path, root: Path) -> bool:
    """Whether a file lies below `root`, once every link is followed."""
    # not Path.resolve, which raises RuntimeError at a link to itself
    return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root))


def open_bytes(file: Path) -> gzip.GzipFile | io.BufferedReader:
    """The bytes of a file, those inside if it is named .gz."""
    return gzip.open(file) if file.suffix.lower() == ".gz" else open(file, "rb")


def open_text(file: Path, newline: str = "") -> IO[str]:
    """A UTF-8 file, plain or .gz, as text; line ends as they are, and all kinds or `newline`."""
    return io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig", newline=newline)


def unpacked(content: bytes, at_most: int = -1) -> bytes:
    """What is inside, if it is gzip; no more than `at_most` bytes, however much is packed."""
    if content.startswith(GZIP):
        return gzip.GzipFile(fileobj=io.BytesIO(content)).read(at_most)
    return content


def utf8(content: bytes, what: str = "the text") -> str:
    """The text that somebody asked with.

    Raises: DataError if it is no UTF-8, with the first byte that is none.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{what} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}",
            expected="UTF-8 text",
            repair="a file becomes it by: iconv -f WINDOWS-1252 -t UTF-8 FILE",
        ) from error


def require_single(where: str, names: Sequence[str], wanted: Sequence[str | int]) -> None:
    """
    Args:
        where: file and line, in words; names: of a table's columns; wanted: those asked for.
    Raises: DataError where several columns have a name that is asked for.
    """
    for name in (one for one in wanted if isinstance(one, str) and names.count(one) > 1):
        raise DataError(
            f"{where}: {names.count(name)} columns are called {name!r}",
            expected="one",
            repair="give each its own name",
        )

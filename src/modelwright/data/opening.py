"""Opening files and unpacking bytes, plain or gzip; text is UTF-8."""

import codecs
import contextlib
import gzip
import io
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from modelwright.core.errors import DataError

GZIP = b"\x1f\x8b"  # how such a file begins
UNREADABLE = (OSError, EOFError, zlib.error)  # what opening and unpacking can end in
_LOOKED_AT = 2**20  # bytes of a file that tell its encoding
_HIGH = re.compile(rb"[\x80-\xff]+")  # runs of bytes that are no ASCII


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
            repair=_recoded(content, "FILE"),
        ) from error


def unreadable(file: Path, error: Exception) -> DataError:
    """What to say of a file of text that could not be read, by what reading it ended in; of one in
    another encoding, in which, and what makes UTF-8 of it."""
    if not isinstance(error, UnicodeDecodeError):
        return DataError(f"{file} cannot be read: {error}", expected="UTF-8 text")
    content = b""
    with contextlib.suppress(*UNREADABLE), open_bytes(file) as opened:
        content = opened.read(_LOOKED_AT)
    return DataError(
        f"{file} cannot be read: it is not UTF-8, as its byte 0x{error.object[error.start]:02x} "
        "shows",
        expected="UTF-8 text",
        repair=_recoded(content, file.name),
    )


def _recoded(content: bytes, name: str) -> str:
    """The command that makes UTF-8 of such a file."""
    packed = name.lower().endswith(".gz")
    source, to = (f"gunzip -c {name} | ", "") if packed else ("", f" {name}")
    if encoding := encoding_of(content):
        return (
            f"it reads as {encoding}: {source}iconv -f {encoding} -t UTF-8{to} > NEW, and look "
            "whether NEW reads well"
        )
    return f"find out its encoding, then: {source}iconv -f ENCODING -t UTF-8{to} > NEW"


def encoding_of(content: bytes) -> str:
    """The likeliest encoding of a text that is no UTF-8, as iconv calls it; "" where none is.

    A mark at the beginning or zeros between letters speak for UTF-16, bytes beyond ASCII in pairs
    for GB18030, single ones between ASCII for WINDOWS-1252.

    >>> [encoding_of("déjà, 再见".encode(one)) for one in ("utf-16", "gb18030")]
    ['UTF-16', 'GB18030']
    >>> encoding_of("déjà vu, à bientôt".encode("cp1252"))
    'WINDOWS-1252'
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    if content.count(0) > len(content) / 8:
        return "UTF-16LE" if content[1::2].count(0) > content[::2].count(0) else "UTF-16BE"
    runs = [len(run) for run in _HIGH.findall(content)]
    likely = "GB18030" if 2 * sum(run for run in runs if run > 1) > sum(runs) else "WINDOWS-1252"
    try:  # the last character may be cut off
        codecs.getincrementaldecoder(likely)().decode(content)
    except UnicodeDecodeError:
        return ""
    return likely


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

"""Parquet files, row group by row group: the rows of a table, by name and by number.

Reads through pyarrow, the extra `parquet`. Rows count from 1, as lines of other tables do.
"""

import io
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from modelwright.core.errors import DataError, MissingExtra
from modelwright.data.opening import require_single

SUFFIX = ".parquet"
MAGIC = b"PAR1"  # the first bytes, and the last
_BATCH = 4096  # rows in memory at once


def rows(file: Path | bytes, wanted: Sequence[str | int] = ()) -> Iterator[dict[str | int, Any]]:
    """Fields of each row by name and by number; of the columns wanted alone, if any are.

    Raises: DataError for a file that is broken; MissingExtra without pyarrow.
    """
    _require_pyarrow()
    import pyarrow
    import pyarrow.parquet

    source = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with pyarrow.parquet.ParquetFile(source) as opened:
            names = opened.schema_arrow.names
            require_single(_called(file), names, wanted)
            places = {column: place for place, column in enumerate(names)}
            chosen = [names[one] if isinstance(one, int) and one < len(names) else one
                      for one in wanted]  # fmt: skip
            if not chosen or not set(chosen) <= set(names):
                chosen = names  # what is missing is told with all that is there
            for batch in opened.iter_batches(_BATCH, columns=chosen):
                for row in batch.to_pylist():
                    yield {**{places[column]: value for column, value in row.items()}, **row}
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{_called(file)} cannot be read: {reason}",
            expected="a whole Parquet file",
            repair="write it again, or save it as CSV",
        ) from error


def lines(file: Path | bytes, most: int | None = None) -> list[tuple[int, list[str]]]:
    """Names, then every row or the first ones, as a CSV file would have them; the names are row 0.

    Raises: DataError for a file that is broken or has no row; MissingExtra without pyarrow.
    """
    found = list(islice(rows(file), most))
    if not found:
        raise DataError(f"{_called(file)} has no row", expected="a table with rows")
    names = [one for one in found[0] if isinstance(one, str)]
    return [(0, names)] + [
        (number, [_field(row[name]) for name in names]) for number, row in enumerate(found, 1)
    ]


def _called(file: Path | bytes) -> str:
    return "the table" if isinstance(file, bytes) else str(file)


def _field(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet", "reading Parquet") from error

"""JSON lines of plain fields as a table: names, then a row for each line, as of CSV."""

import json
from typing import Any

from modelwright.core.errors import DataError
from modelwright.data.tables import encodable

SUFFIX = ".jsonl"
_EXPECTED = 'an object of texts and numbers on each line, such as {"time": "2024-01-01", "load": 3}'


def lines(text: str, name: str, most: int | None = None) -> list[tuple[int, list[str]]]:
    """Line and fields of each row, or of the first ones, behind the names; null and what a line
    lacks are empty.

    Columns are the fields of the first line, in its order.

    Args:
        name: what errors call the file.
    Raises: DataError with the line of what is no such object, or of a field that the first line
        does not have.

    >>> lines('{"user": 1, "item": "a"}\\n{"item": "b", "user": null}', "uses.jsonl")
    [(0, ['user', 'item']), (1, ['1', 'a']), (2, ['', 'b'])]
    """
    found: list[tuple[int, list[str]]] = []
    names: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):  # in texts, others may end no line
        if not line.strip():
            continue
        row = _row(line, f"{name}, line {number}")
        if not found:
            names = list(row)
            found.append((0, names))
        if strange := [one for one in row if one not in names]:
            raise DataError(
                f"{name}, line {number}: the first line has no field {strange[0]!r}",
                expected=f"the fields of the first line: {', '.join(names)}",
            )
        found.append((number, [_field(row.get(one)) for one in names]))
        if most is not None and len(found) > most:
            break
    if not found:
        raise DataError(f"{name} is empty", expected=_EXPECTED)
    return found


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {error}", expected=_EXPECTED) from error
    if not isinstance(row, dict) or not row:
        raise DataError(f"{where}: {line.strip()[:40]!r} is no object", expected=_EXPECTED)
    for name, value in row.items():
        if isinstance(value, dict | list | bool):
            raise DataError(
                f"{where}: the field {name!r} holds {json.dumps(value):.40}", expected=_EXPECTED
            )
    return row


def _field(value: str | float | None) -> str:
    return "" if value is None else encodable(str(value).strip())

"""Interactions of users with items: each user's history in the order of time, split at its end.

`read` gives the rows of a CSV, TSV or DAT table: of each user the last item is test, the one
before it valid, the rest train (leave one out). A row's ids are items from FIRST_ID on; its
targets are what came next, as the places of the items in `labels`.
Source of the protocol: Kang, McAuley 2018, arXiv:1808.09781, section 4; Krichene, Rendle 2020,
KDD, "On Sampled Metrics for Item Recommendation" (why every item must be ranked).
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import DataError, did_you_mean
from modelwright.core.progress import counted
from modelwright.data.rows import PARTS, Column, Finding, Loaded, Prepared, Ragged, Rows, ragged
from modelwright.data.uses import Use, asked_about, items_of, labels_of, line_of, order, uses

ITEMS = "items.json"  # in the data's and in the model's folder
FIRST_ID = 2  # 0 is padding, 1 is left to an item that nobody knows
FEWEST = 3  # items of a user that is judged: one to read, one for valid, one for test
_NAMED = 10  # items of a history that a row is called by


def read(path: Path, section: recipe.Data) -> Loaded:
    """Each user's history, split so that what is judged lies in the future of what is read.

    A second use of an item by the same user is left out, so that what is judged was never seen.
    Long histories of the train part are several rows of at most data.interactions.max_length.
    Targets of train are the next item at each place; those of valid and test are all that the
    user had used, then the one to find: what was used is never a candidate.

    Raises: ConfigError for a column that is not there; DataError, with the line, for a table that
        cannot be read.
    """
    own = section.interactions or recipe.Interactions()
    found = uses(path, own, "time")
    histories: dict[str, list[Use]] = {}
    for use in found:
        histories.setdefault(use.user, []).append(use)
    # one item has no next: a user of no other makes no row, nor an item that only such users have
    several = {
        user for user, own_uses in histories.items() if len({use.item for use in own_uses}) > 1
    }
    items = sorted({use.item for use in found if use.user in several}, key=order)
    names = labels_of(items, path.parent, own)
    place = {item: number for number, item in enumerate(items)}
    ids: dict[str, list[npt.NDArray[np.int64]]] = {part: [] for part in PARTS}
    targets: dict[str, list[npt.NDArray[np.int64]]] = {part: [] for part in PARTS}
    short, repeats = [], []

    def add(part: str, seen: npt.NDArray[np.int64], next_ones: npt.NDArray[np.int64]) -> None:
        ids[part].append(seen[-own.max_length :] + FIRST_ID)
        targets[part].append(next_ones)

    users = sorted(histories, key=order)
    for user in counted(users, "data: histories divided", len(users)):
        in_time = sorted(histories[user], key=lambda use: use.value)  # ties stay as in the file
        once = list(dict.fromkeys(use.item for use in in_time))
        if len(once) < len(in_time):
            repeats.append((f"user {user}", len(in_time) - len(once)))
        used = np.array([place[item] for item in once if user in several], np.int64)
        judged = len(used) >= FEWEST
        if not judged:
            short.append(f"user {user}")
        train = used[:-2] if judged else used
        for end in range(len(train), 1, -own.max_length):
            begin = max(end - own.max_length - 1, 0)
            add("train", train[begin : end - 1], train[begin + 1 : end])
        if judged:
            add("valid", used[:-2], used[:-1])
            add("test", used[:-1], used)
    parts = {}
    for part in PARTS:
        lines = [line_of(names[one - FIRST_ID] for one in row[-_NAMED:]) for row in ids[part]]
        inputs: dict[str, Column] = {"ids": _column(ids[part])}
        parts[part] = Rows(inputs, ragged(targets[part], np.zeros(0, np.int64)), lines)
    return parts, names, _findings(found, short, repeats, names, place)


def _column(rows: Sequence[npt.NDArray[np.int64]]) -> Any:
    return ragged([row[:, None] for row in rows], np.zeros((0, 1), np.int64))


def _findings(
    uses: Sequence[Use],
    short: Sequence[str],
    repeats: Sequence[tuple[str, int]],
    names: Sequence[str],
    place: Mapping[str, int],
) -> list[Finding]:
    found = []
    if repeats:
        number = sum(times for _, times in repeats)
        text = f"{number:,} times a user came back to an item; only the first time counts"
        cases = [(user, f"{times} times") for user, times in repeats]
        found.append(Finding.of("repeated_uses", cases, text, count=number))
    if short:
        have, are = ("user has", "is") if len(short) == 1 else ("users have", "are")
        text = f"{len(short):,} {have} fewer than {FEWEST} items and {are} not judged"
        if lost := len({use.item for use in uses} - set(place)):
            text += f"; {lost:,} of their items, which nobody else has, will never be an answer"
        found.append(Finding.of("short_histories", short, text))
    counts = Counter(use.item for use in uses)
    rare = [names[number] for item, number in place.items() if counts[item] == 1]
    if rare:
        were = "item was" if len(rare) == 1 else "items were"
        found.append(Finding.of("rare_items", rare, f"{len(rare):,} {were} used only once"))
    return found


def prepare(parts: dict[str, Rows], section: recipe.Data, answer: str) -> Prepared:
    """Describe the rows, which are as a model takes them already."""
    number = max(int(_flat(rows).max(initial=0)) for rows in parts.values()) + 1
    lengths = parts["train"].lengths
    typical = 1.0 if lengths is None or not len(lengths) else float(lengths.mean())
    inputs = {
        "kind": "items",
        "vocab_size": FIRST_ID + number,
        "features": 1,
        "length": max(8, 8 * round(typical / 8)),
        "max_length": (section.interactions or recipe.Interactions()).max_length,
    }
    return Prepared(parts, inputs, {"num_classes": number}, {})


def _flat(rows: Rows) -> npt.NDArray[Any]:
    """Every item of the rows, as its place in the labels."""
    assert isinstance(rows.targets, Ragged) and isinstance(rows.inputs["ids"], Ragged)
    return np.append(rows.targets.values, rows.inputs["ids"].values - FIRST_ID)


def keep(labels: Sequence[str]) -> dict[str, bytes]:
    """The items by place, which must travel with the model."""
    return {ITEMS: json.dumps(list(labels), ensure_ascii=False, separators=(",", ":")).encode()}


def columns(section: recipe.Data) -> list[str | int]:
    """Of a table that is asked about: user, item and time."""
    own = section.interactions or recipe.Interactions()
    return [own.user, own.item, own.time]


def questions(path: Path, columns: Sequence[str | int]) -> Iterator[tuple[str, str]]:
    """Of each user of a table the name, and the history as a line of items.

    It is in the order of time, or of the lines where the table has no times.

    Raises: DataError as `asked_about`.
    """
    histories: dict[str, list[Use]] = {}
    for _, use in asked_about(path, columns):
        histories.setdefault(use.user, []).append(use)
    for user, own in histories.items():
        in_time = sorted(own, key=lambda use: use.value)  # ties stay as in the file
        yield f"user {user}", line_of(use.item for use in in_time)


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to a history before the graph, for the manifest."""
    return {
        "items": ITEMS, "first_id": FIRST_ID, "max_length": inputs["max_length"],
        "rows": "items of one user, each once, the oldest first; the latest are kept",
    }  # fmt: skip


def read_input(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, npt.NDArray[Any]]:
    """A line of items divided by commas, the oldest first, as a batch of one.

    Raises: DataError if it is no such line or one of the items is not known.
    """
    places = _places(content, files)[-inputs["max_length"] :]
    return {"ids": np.array(places, np.int64)[None, :, None] + FIRST_ID}


def tokens(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes] | None = None
) -> list[str]:
    """The items of a line, as the labels that they have: nothing of it is worth recommending."""
    labels, _ = items_of((files or {})[ITEMS])
    return [labels[place] for place in _places(content, files or {})]


def _places(content: bytes, files: Mapping[str, bytes]) -> list[int]:
    _, known = items_of(files[ITEMS])
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig")), skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the items cannot be read: {error}", expected=_LINE) from error
    fields = [field.strip() for row in rows for field in row if field.strip()]
    if not fields:
        raise DataError("there are no items", expected=_LINE)
    for field in fields:
        if field not in known:
            raise DataError(
                f"no item {field!r} is known",
                expected=did_you_mean(field, known),
                repair="leave out what the model was not trained on; quote names with commas",
            )
    return list(dict.fromkeys(known[field] for field in fields))


_LINE = "names or ids of items, divided by commas, the oldest first"

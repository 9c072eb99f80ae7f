"""Ratings of items by users: what a user rated so far, the item asked for, the rating to expect.

`read` gives the rows of a table, or of a folder with one for each part. A place of a row holds the
item asked for, one that the same user rated before it, and that rating; the target is the rating
of the item asked for. A user of train has an id as well; of each history's orders in train (their
order means nothing) one does without it, so that strangers can ask.
"""

import csv
import functools
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import DataError, did_you_mean
from modelwright.core.progress import counted
from modelwright.core.signature import NO_TARGET
from modelwright.data.rows import PARTS, Column, Finding, Loaded, Prepared, Ragged, Rows, ragged
from modelwright.data.text import code_points, part_files, part_of
from modelwright.data.uses import Use, asked_about, items_of, labels_of, line_of, order, uses
from modelwright.data.uses import is_here as is_table

ITEMS, USERS = "items.json", "users.json"  # in the data's and in the model's folder
NONE = 1  # the id of what was rated before the first, and of a stranger; 0 is padding
FIRST_ID = 2
ORDERS = 8  # of each history of train: what a place is told must not hang on one of them
STRANGER = ""  # the name of a user whom nobody knows
MOST_LEVELS = 50  # ratings with an id of their own; where there are more, the nearest of as many
_NAMED = 3  # ratings of a history that a row is called by
_BASE = re.compile(r".*\.(base|train)(\.gz)?")

Places = npt.NDArray[np.int32]
Values = npt.NDArray[np.float32]


def is_here(path: Path) -> bool:
    """Whether a path is a table of users and items, or a folder with one to train on."""
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file()]
        return any(
            _BASE.fullmatch(file.name) or (part_of(file.name) == "train" and is_table(file))
            for file in files
        )
    return is_table(path) or bool(_BASE.fullmatch(path.name))


def read(path: Path, section: recipe.Data) -> Loaded:
    """Each user's ratings in several orders to train on; a row for each rating that is judged.

    A folder holds files whose names begin with train, valid and test, unless data.files names
    them; what is missing is cut from the ratings of train at random. A user's second rating of an
    item is left out, that of train before that of test. What is judged in valid is told the
    ratings of train, what is judged in test those of valid as well; of more than
    data.interactions.max_length some, drawn once.

    Raises: ConfigError for a column that is not there; DataError, with the line, for a table that
        cannot be read.
    """
    own = section.interactions or recipe.Interactions()
    found = {part: uses(file, own, "rating") for part, file in part_files(path, section).items()}
    for part, file in part_files(path, section).items():
        _require_ratings(found[part], file)
    found, repeats = _once(found)
    for part, share in (("test", section.test), ("valid", section.valid)):
        if part not in found:
            found["train"], found[part] = _cut(found["train"], share, section.split_seed)
    items = sorted({use.item for some in found.values() for use in some}, key=order)
    names = labels_of(items, path if path.is_dir() else path.parent, own)
    place = {item: number for number, item in enumerate(items)}
    told = {
        "train": _by_user(found["train"], place),
        "valid": _by_user(found["train"], place),
        "test": _by_user(found["train"] + found["valid"], place),
    }
    draw = np.random.default_rng(section.split_seed)
    parts = {"train": _rows(_trained(told["train"], own.max_length, draw), names)}
    for part in PARTS[1:]:
        judged = _judged(found[part], told[part], place, own.max_length, draw)
        parts[part] = _rows(judged, names)
    return {part: parts[part] for part in PARTS}, names, _findings(found, repeats, names, place)


# the user; items asked for and told; ratings told; ratings to find
Row = tuple[str, Places, Values, Values]


def _trained(
    told: Mapping[str, tuple[Places, Values]], most: int, draw: np.random.Generator
) -> list[Row]:
    """Every rating asked for once in each order, told those before it."""
    rows = []
    users = counted(told.items(), "data: ratings of users put in orders", len(told))
    for user, (items, ratings) in users:
        for number in range(ORDERS):
            name = user if number else STRANGER
            mixed = draw.permutation(len(items))
            for begin in range(0, len(mixed), most):
                chosen = mixed[begin : begin + most]
                rows.append((name, *_row(items[chosen], ratings[chosen[:-1]]), ratings[chosen]))
    return rows


def _judged(
    asked: Sequence[Use],
    told: Mapping[str, tuple[Places, Values]],
    place: Mapping[str, int],
    most: int,
    draw: np.random.Generator,
) -> list[Row]:
    """A row for each rating, told what else the user rated."""
    none = (np.zeros(0, np.int32), np.zeros(0, np.float32))
    short = {}
    for user, (items, ratings) in told.items():
        chosen = draw.permutation(len(items))[: most - 1]
        short[user] = items[chosen], ratings[chosen]
    rows = []
    for use in counted(asked, "data: ratings made questions", len(asked)):
        items, ratings = short.get(use.user, none)
        every = np.append(items, np.int32(place[use.item]))
        rows.append((use.user, *_row(every, ratings), np.array([use.value], np.float32)))
    return rows


def _row(items: Places, told: Values) -> tuple[Places, Values]:
    """Of each place the item asked for and the one before it, or NO_TARGET; and its rating."""
    row, ratings = np.empty((len(items), 2), np.int32), np.zeros(len(items), np.float32)
    row[:, 0], row[1:, 1], ratings[1:] = items, items[:-1], told
    row[:1, 1] = NO_TARGET
    return row, ratings


def _rows(rows: Sequence[Row], names: Sequence[str]) -> Rows:
    """Raw rows: places of items, ratings told; `prepare` makes ids of both."""
    inputs: dict[str, Column] = {
        "user": code_points([user for user, *_ in rows]),
        "items": ragged([items for _, items, _, _ in rows], np.zeros((0, 2), np.int32)),
        "told": ragged([told for _, _, told, _ in rows], np.zeros(0, np.float32)),
    }
    lines = []
    for user, items, told, _ in counted(rows, "data: rows named", len(rows)):
        last = items[-_NAMED:, 1], told[-_NAMED:]
        rated = [f"{names[a]}={r:g}" for a, r in zip(*last, strict=True) if a != NO_TARGET]
        who = [f"@{user}"] if user else []
        lines.append(line_of([*who, *rated, names[items[-1, 0]]]))
    wanted = ragged([wanted for *_, wanted in rows], np.zeros(0, np.float32))
    return Rows(inputs, wanted, lines)


def _once(found: Mapping[str, list[Use]]) -> tuple[dict[str, list[Use]], list[tuple[str, str]]]:
    """Each user's first rating of an item, of the part that judges if it is in several."""
    seen: set[tuple[str, str]] = set()
    kept: dict[str, list[Use]] = {}
    repeats: list[tuple[str, str]] = []
    for part in reversed(PARTS):
        for use in found.get(part, ()):
            pair = (use.user, use.item)
            if pair in seen:
                repeats.append((f"user {use.user}", f"item {use.item}"))
            else:
                seen.add(pair)
                kept.setdefault(part, []).append(use)
        if part in found:
            kept.setdefault(part, [])
    return kept, repeats


def _cut(found: Sequence[Use], share: float, seed: int) -> tuple[list[Use], list[Use]]:
    """What stays, and `share` of all ratings, drawn at random."""
    off = np.zeros(len(found), np.bool_)
    number = round(share * len(found))
    off[np.random.default_rng(seed).permutation(len(found))[:number]] = True
    stays = [use for use, one in zip(found, off, strict=True) if not one]
    return stays, [use for use, one in zip(found, off, strict=True) if one]


def _by_user(found: Sequence[Use], place: Mapping[str, int]) -> dict[str, tuple[Places, Values]]:
    """Items and ratings of each user, users in order."""
    lists: dict[str, list[Use]] = {}
    for use in found:
        lists.setdefault(use.user, []).append(use)
    return {
        user: (
            np.array([place[use.item] for use in lists[user]], np.int32),
            np.array([use.value for use in lists[user]], np.float32),
        )
        for user in sorted(lists, key=order)
    }


def _require_ratings(found: Sequence[Use], file: Path) -> None:
    if strange := [use for use in found if not NO_TARGET < use.value <= -NO_TARGET]:
        raise DataError(
            f"{file}: user {strange[0].user} gives item {strange[0].item} a rating of "
            f"{strange[0].value:g}",
            expected=f"ratings above {NO_TARGET}, up to {-NO_TARGET}",
            repair="name the column of the rating with data.interactions: {rating: …}",
        )


def _findings(
    found: Mapping[str, Sequence[Use]],
    repeats: Sequence[tuple[str, str]],
    names: Sequence[str],
    place: Mapping[str, int],
) -> list[Finding]:
    findings = []
    if repeats:
        text = f"{len(repeats):,} times a user rated an item again; only one rating counts"
        findings.append(Finding.of("repeated_uses", repeats, text))
    known = {use.user for use in found["train"]}
    new = sorted({use.user for use in found["test"]} - known, key=order)
    if new:
        have = "user of test has" if len(new) == 1 else "users of test have"
        text = f"{len(new):,} {have} no rating in train"
        findings.append(Finding.of("short_histories", [f"user {user}" for user in new], text))
    seen = np.bincount([place[use.item] for use in found["train"]], minlength=len(place))
    rare = np.flatnonzero(seen <= 1)
    if len(rare):
        were = "item has" if len(rare) == 1 else "items have"
        text = f"{len(rare):,} {were} one rating in train or none"
        findings.append(Finding.of("rare_items", [names[number] for number in rare.tolist()], text))
    return findings


def prepare(parts: dict[str, Rows], section: recipe.Data, answer: str) -> Prepared:
    """Users, items and ratings as ids; who there is, and the scale, is learned from train."""
    wanted = _values(parts["train"].targets)
    levels = np.unique(wanted)
    if len(levels) > MOST_LEVELS:
        levels = np.unique(np.quantile(wanted, np.linspace(0, 1, MOST_LEVELS)))
    number = 1 + max(int(_values(rows.inputs["items"]).max(initial=0)) for rows in parts.values())
    names = {
        part: [_name(row) for row in _each(rows.inputs["user"])] for part, rows in parts.items()
    }
    users = sorted(set(names["train"]) - {STRANGER}, key=order)
    known = {user: place for place, user in enumerate(users)}
    made = {}
    for part, rows in parts.items():
        column = rows.inputs["items"]
        assert isinstance(column, Ragged)
        own = np.array([known.get(user, -1) for user in names[part]], np.int32)
        ids = _ids(
            column.values, _values(rows.inputs["told"]), np.repeat(own, column.lengths), levels,
            number,
        )  # fmt: skip
        made[part] = Rows({"ids": Ragged(ids, column.offsets)}, rows.targets, rows.origins)
    lengths = made["train"].lengths
    assert lengths is not None
    inputs = {
        "kind": "ratings",
        "vocab_size": FIRST_ID + 2 * number + len(levels) + len(users),
        "items": number,
        "levels": [float(level) for level in levels],
        "features": 4,
        "length": max(8, 8 * round(float(lengths.mean()) / 8)),
        "max_length": (section.interactions or recipe.Interactions()).max_length,
    }
    answers = {
        "low": float(wanted.min()),
        "high": float(wanted.max()),
        "mean": float(wanted.mean()),
    }
    content = json.dumps(users, ensure_ascii=False, separators=(",", ":")).encode()
    return Prepared(made, inputs, answers, {USERS: content})


def _each(column: Any) -> list[npt.NDArray[Any]]:
    assert isinstance(column, Ragged)
    return [column[row] for row in range(len(column))]


def _name(points: npt.NDArray[Any]) -> str:
    return points.tobytes().decode("utf-32-le")


def _ids(
    items: npt.NDArray[Any], told: npt.NDArray[Any], users: npt.NDArray[Any],
    levels: npt.NDArray[Any], number: int,
) -> Places:  # fmt: skip
    """Of each place: the item asked for, the user, the item before it and its rating, int32.

    items: (places, 2); told, users (-1 for strangers): (places,) -> (places, 4)

    Ids of items asked for come first, then those of items told, of ratings, of users.
    """
    above = np.minimum(np.searchsorted(levels, told), len(levels) - 1)
    below = np.maximum(above - 1, 0)
    nearer = np.abs(told - levels[below]) <= np.abs(told - levels[above])
    nearest = np.where(nearer, below, above)
    first = items[:, 1] == NO_TARGET
    seen = np.where(first, NONE, FIRST_ID + number + items[:, 1])
    rating = np.where(first, NONE, FIRST_ID + 2 * number + nearest)
    user = np.where(users < 0, NONE, FIRST_ID + 2 * number + len(levels) + users)
    return np.stack([FIRST_ID + items[:, 0], user, seen, rating], axis=1).astype(np.int32)


def _values(column: Any) -> npt.NDArray[Any]:
    assert isinstance(column, Ragged)
    return column.values


def columns(section: recipe.Data) -> list[str | int]:
    """Of a table that is asked about: user and item."""
    own = section.interactions or recipe.Interactions()
    return [own.user, own.item]


def questions(path: Path, columns: Sequence[str | int]) -> Iterator[tuple[str, str]]:
    """Of each row of a table its user, and what that user would ask about the item.

    Raises: DataError as `asked_about`.
    """
    for where, use in asked_about(path, columns):
        who = [f"@{use.user}"] if use.user else []
        yield f"user {use.user}" if use.user else where, line_of([*who, use.item])


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to a history before the graph, for the manifest."""
    return {
        "items": ITEMS, "users": USERS, "first_id": FIRST_ID, "levels": inputs["levels"],
        "max_length": inputs["max_length"],
        "rows": "of each place: the item asked for, the user, the item told before, its rating; "
        "the item asked for stands last",
    }  # fmt: skip


def read_input(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, npt.NDArray[Any]]:
    """A line of items divided by commas, one of them without a rating, as a batch of one.

    A user of train may say who asks with @ and the user's name.

    Raises: DataError if it is no such line, one of the items is not known, or a rating lies beyond
        those that the model has learned from.
    """
    user, rated, asked = _parsed(content, files)
    levels = np.array(inputs["levels"])
    ends = levels.astype(np.float32)[[0, -1]]  # as a rating was read
    for item, rating in rated.items():
        if not ends[0] <= np.float32(rating) <= ends[1]:
            raise DataError(
                f"{items_of(files[ITEMS])[0][item]!r} is rated {rating:g}",
                expected=f"{levels[0]:g} to {levels[-1]:g}, as in the data",
            )
    latest = list(rated)[-(inputs["max_length"] - 1) :] if inputs["max_length"] > 1 else []
    told = np.array([rated[item] for item in latest], np.float32)
    items, ratings = _row(np.array([*latest, asked], np.int32), told)
    ids = _ids(items, ratings, np.full(len(items), user), levels, inputs["items"])
    return {"ids": ids[None].astype(np.int64)}


def tokens(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes] | None = None
) -> list[str]:
    """The label of the item asked for."""
    return [items_of((files or {})[ITEMS])[0][_parsed(content, files or {})[2]]]


_LINE = "items divided by commas, each with = and its rating but for the one asked for, such as " \
    "Fargo=5, Heat=2, Alien; first @ and a user, if known"  # fmt: skip


def _parsed(content: bytes, files: Mapping[str, bytes]) -> tuple[int, dict[int, float], int]:
    """The user's place, or -1; ratings by place of the item; that of the one asked for."""
    _, known = items_of(files[ITEMS])
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig")), skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the ratings cannot be read: {error}", expected=_LINE) from error
    rated: dict[int, float] = {}
    asked: list[int] = []
    user = -1
    for field in (field.strip() for row in rows for field in row if field.strip()):
        name, equals, text = field.rpartition("=")
        rating = _rating(text)
        if field in known:  # its name may hold an = of its own
            asked.append(known[field])
        elif equals and name.strip() in known and rating is not None:
            rated[known[name.strip()]] = rating
        elif field.startswith("@"):
            user = _user(field[1:].strip(), files)
        else:
            name = name.strip() if rating is not None and equals else field
            raise DataError(
                f"no item {name!r} is known" if name not in known else f"{text!r} is no rating",
                expected=did_you_mean(name, known) if name not in known else _LINE,
                repair="leave out what the model was not trained on; quote names with commas",
            )
    if len(asked) != 1:
        what = "no item without a rating" if not asked else f"{len(asked)} items without a rating"
        raise DataError(f"there is {what}" if not asked else f"there are {what}", expected=_LINE)
    rated.pop(asked[0], None)
    return user, rated, asked[0]


def _user(name: str, files: Mapping[str, bytes]) -> int:
    users = _users(files[USERS])
    if name not in users:
        raise DataError(
            f"no user {name!r} is known",
            expected=did_you_mean(name, users),
            repair="leave the user out: a stranger's ratings are enough",
        )
    return users[name]


@functools.lru_cache(maxsize=4)
def _users(content: bytes) -> dict[str, int]:
    """The place of each, read once: there may be a million."""
    return {name: place for place, name in enumerate(json.loads(content))}


def _rating(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None

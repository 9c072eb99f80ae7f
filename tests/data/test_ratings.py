"""Ratings: what each place of a row is told and asked, how parts divide, what people write."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from modelwright.core.errors import ConfigError, DataError
from modelwright.core.recipe import Data, Files, Interactions
from modelwright.core.signature import NO_TARGET
from modelwright.data import catalog, checks, ratings
from modelwright.data.ratings import FIRST_ID, ITEMS, NONE, ORDERS, USERS

# user -> item: rating
TOLD = {"anna": {"10": 5, "20": 3, "30": 1}, "ben": {"20": 4, "30": 2}, "carl": {"10": 1, "30": 5}}
ASKED = {"anna": {"40": 2}, "dora": {"10": 4}}


def table(told: dict[str, dict[str, float]], head: str = "user,item,rating") -> str:
    rows = [f"{user},{item},{one}" for user, own in told.items() for item, one in own.items()]
    return "\n".join([head, *rows]) + "\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a table for each part; carl's second rating of 30 does not count."""
    (tmp_path / "train.csv").write_text(table(TOLD) + "carl,30,2\n")
    (tmp_path / "valid.csv").write_text(table({"ben": {"10": 3}}))
    (tmp_path / "test.csv").write_text(table(ASKED))
    return tmp_path


def load(path: Path, **keys):
    return catalog.load(Data(source=str(path), **keys), "ratings", "rating")


def places(data, part: str, row: int) -> list[tuple[str, str, str, float | None]]:
    """Asked item, user, told item and its rating, at each place."""
    number, levels = data.inputs["items"], data.inputs["levels"]
    users = json.loads(data.files[USERS])
    found = []
    for asked, user, item, level in data.parts[part].inputs["ids"][row].tolist():
        first = FIRST_ID + 2 * number
        found.append((
            data.labels[asked - FIRST_ID],
            "" if user == NONE else users[user - first - len(levels)],
            "" if item == NONE else data.labels[item - FIRST_ID - number],
            None if level == NONE else levels[level - first],
        ))  # fmt: skip
    return found


def test_each_place_is_told_the_rating_before_it(folder):
    """What is asked at a place is told at the next; the target is its rating."""
    data = load(folder)
    train = data.parts["train"]
    seen = set()
    for row in range(len(train)):
        here = places(data, "train", row)
        wanted = train.targets[row].tolist()
        owner = here[0][1] or next(name for name in TOLD if len(TOLD[name]) == len(here) and all(
            TOLD[name].get(asked) == target
            for (asked, *_), target in zip(here, wanted, strict=True)
        ))  # fmt: skip

        assert ("", None) == here[0][2:]
        assert [(asked, target) for (asked, *_), target in zip(here, wanted, strict=True)][:-1] == [
            place[2:] for place in here[1:]
        ]
        assert wanted == [TOLD[owner][asked] for asked, *_ in here]
        seen.add((owner, bool(here[0][1])))
    assert 3 * ORDERS == len(train)
    assert {(user, known) for user in TOLD for known in (True, False)} == seen


def test_the_judged_are_told_all_but_their_own_part(folder):
    """In valid the ratings of train, in test those of valid as well; targets are one rating."""
    data = load(folder)
    valid, test = data.parts["valid"], data.parts["test"]
    (ben,) = (places(data, "valid", row) for row in range(len(valid)))
    anna, dora = (places(data, "test", row) for row in range(len(test)))

    assert "10" == ben[-1][0]
    assert {("20", 4.0), ("30", 2.0)} == {place[2:] for place in ben[1:]}
    assert "40" == anna[-1][0]
    assert {("10", 5.0), ("20", 3.0), ("30", 1.0)} == {place[2:] for place in anna[1:]}
    assert [("10", "", "", None)] == dora  # whom train does not know
    assert [[2.0], [4.0]] == [test.targets[row].tolist() for row in range(2)]


def test_the_scale_is_learned_from_train(folder):
    """Smallest, largest and mean rating, and who there is."""
    data = load(folder)

    assert {"low": 1.0, "high": 5.0, "mean": 3.0} == {
        name: data.outputs[name] for name in ("low", "high", "mean")
    }
    assert [1.0, 2.0, 3.0, 4.0, 5.0] == data.inputs["levels"]
    assert ["anna", "ben", "carl"] == json.loads(data.files[USERS])
    assert ["10", "20", "30", "40"] == json.loads(data.files[ITEMS]) == data.labels


@pytest.mark.parametrize("levels", [[3.0], [1.0, 2.0, 4.0], [-2.5, 0.5, 0.75, 10.0]])
def test_a_rating_takes_the_nearest_level(levels):
    """The lower of two that are as near; the first or the last where it lies beyond."""
    told = np.linspace(-4, 12, 129).astype(np.float32)
    items = np.ones((len(told), 2), np.int32)
    found = ratings._ids(items, told, np.zeros(len(told), np.int32), np.array(levels), 5)

    expected = [min(range(len(levels)), key=lambda n: abs(one - levels[n])) for one in told]
    assert expected == (found[:, 3] - FIRST_ID - 10).tolist()


def test_rating_ids_take_memory_by_the_place():
    """However many levels there are: MovieLens-10M has ten, and ten million places."""
    number, levels = 20_000, np.arange(50.0)
    items, told = np.ones((number, 2), np.int32), np.ones(number, np.float32)
    tracemalloc.start()
    ratings._ids(items, told, np.zeros(number, np.int32), levels, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 200 * number


def test_many_different_ratings_share_ids(tmp_path):
    """Each takes the nearest of at most fifty levels."""
    rows = {f"u{user}": {str(item): user + item / 97 for item in range(20)} for user in range(9)}
    data = load_of(tmp_path, table(rows))

    assert ratings.MOST_LEVELS == len(data.inputs["levels"])
    assert data.parts["train"].inputs["ids"].values.max() < data.inputs["vocab_size"]


def load_of(tmp_path: Path, text: str, **keys):
    (tmp_path / "ratings.csv").write_text(text)
    return load(tmp_path / "ratings.csv", **keys)


def test_parts_are_cut_at_random_by_the_seed(tmp_path):
    """Shares of the ratings, the same for the same seed, and none in two parts."""
    rows = {
        f"u{user}": {str(item): 1 + (user + item) % 5 for item in range(20)} for user in range(10)
    }
    first, again, other = (load_of(tmp_path, table(rows), split_seed=seed) for seed in (0, 0, 1))

    assert (40, 16) == (len(first.parts["test"]), len(first.parts["valid"]))
    assert 144 * ORDERS == first.parts["train"].lengths.sum()
    assert first.digest == again.digest != other.digest


def test_no_more_is_told_than_the_longest_history(tmp_path):
    """Rows of train are cut, those that are judged told some of what there is."""
    rows = {f"u{user}": {str(item): 1 + item % 5 for item in range(30)} for user in range(4)}
    data = load_of(tmp_path, table(rows), interactions=Interactions(max_length=8))

    for part in data.parts.values():
        assert 8 == part.lengths.max()
    judged = sum(len(data.parts[part]) for part in ("valid", "test"))
    assert (120 - judged) * ORDERS == data.parts["train"].lengths.sum()


def test_what_the_gate_finds(folder):
    """Second ratings, strangers in test, items rated once."""
    section = Data(source=str(folder))
    _, report = checks.check(load(folder), section)
    found = {one["check"]: one for one in report["findings"]}

    assert [["user carl", "item 30"]] == found["repeated_uses"]["rows"]
    assert [["user dora"]] == found["short_histories"]["rows"]
    assert [["40"]] == found["rare_items"]["rows"]
    assert "duplicates_across_splits" not in report["checked"]


def test_a_rating_of_test_is_never_told(tmp_path):
    """A pair of user and item in train and test counts for test alone."""
    (tmp_path / "train.csv").write_text(table({"anna": {"10": 5, "20": 3}, "ben": {"10": 1}}))
    (tmp_path / "test.csv").write_text(table({"anna": {"20": 3}}))
    data = load(tmp_path, valid=0.3)

    assert "20" not in [told for _, _, told, _ in places(data, "test", 0)]


def test_a_line_of_ratings_is_what_the_rows_are(folder):
    """What people write gives the ids of the row that it describes, with and without the user."""
    data = load(folder)
    row = data.parts["test"].inputs["ids"][0]
    line = ", ".join(f"{told}={rating:g}" for _, _, told, rating in places(data, "test", 0)[1:])
    stranger = row.copy()
    stranger[:, 1] = NONE
    ask = lambda text: ratings.read_input(text.encode(), data.inputs, data.files)["ids"][0]  # noqa: E731

    assert row.tolist() == ask(f"@anna, {line}, 40").tolist()
    assert stranger.tolist() == ask(f"40, {line}").tolist()
    assert ["40"] == ratings.tokens(b"10=5, 40", data.inputs, data.files)
    assert ask(data.parts["test"].origins[0]).tolist() == row.tolist()


def test_titles_are_answers_too(folder):
    """Beside the tables lies a file of titles; commas and equal signs in them do no harm."""
    (folder / "titles.txt").write_text("10|A, or B=5\n20|Heat\n")
    data = load(folder, interactions=Interactions(names="titles.txt"))
    line = '"A, or B=5=4", Heat'
    ids = ratings.read_input(line.encode(), data.inputs, data.files)["ids"][0]

    assert ["A, or B=5 [10]", "Heat [20]", "30", "40"] == data.labels
    assert 2 == len(ids)
    assert ["Heat [20]"] == ratings.tokens(line.encode(), data.inputs, data.files)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "no item without a rating"),
        ("10=5", "no item without a rating"),
        ("10, 20", "2 items without a rating"),
        ("10=5, 21", "no item '21' is known"),
        ("11=5, 20", "no item '11' is known"),
        ("10=9, 20", "is rated 9"),
        ("10=many, 20", "'10=many' is known|'many' is no rating"),
        ("@eva, 10", "no user 'eva' is known"),
    ],
)
def test_a_line_that_says_nothing_is_an_error(folder, line, what):
    """With what was found, and what would be read."""
    data = load(folder)
    with pytest.raises(DataError, match=what) as found:
        ratings.read_input(line.encode(), data.inputs, data.files)
    assert found.value.expected


@pytest.mark.parametrize(
    ("text", "keys", "error", "what"),
    [
        ("", {}, DataError, "is empty"),
        ("user,item,rating\na,1,good\n", {}, DataError, "line 2: 'good' is no rating"),
        ("user,item,rating\na,1,nan\n", {}, DataError, "line 2: 'nan' is no rating"),
        (f"user,item,rating\na,1,{NO_TARGET}\n", {}, DataError, "a rating of -100"),
        ("user,item,rating\na,1,881250949\n", {}, DataError, "a rating of 8.81"),
        ("user,item,rating\na,1,101\n", {}, DataError, "(?s)of 101.*above -100, up to 100"),
        ("user,item,rating\na,1\n", {}, DataError, "line 2: 2 fields"),
        ("user,item,rating\na,1,5\n", {"rating": "stars"}, ConfigError, "no column 'stars'"),
        ("user,item,rating\na,1,5\n", {"names": "no.txt"}, ConfigError, "no.txt is not there"),
    ],
)
def test_faults_of_a_table_are_named(tmp_path, text, keys, error, what):
    """With the file, the line and what was expected there."""
    with pytest.raises(error, match=what):
        load_of(tmp_path, text, interactions=Interactions(**keys), format="rating_table")


def test_ratings_may_go_up_to_100(tmp_path):
    """A scale from 0 to 100 is read; only -100 stands for something else."""
    lines = [f"{user},{item},{10 * (user + item)}" for user in range(6) for item in range(1, 6)]
    data = load_of(tmp_path, "\n".join(["user,item,rating", *lines]))

    assert (10, 100) == (data.outputs["low"], data.outputs["high"])


def test_files_of_other_names_are_said_in_the_recipe(folder):
    """As MovieLens has them: u1.base and u1.test."""
    (folder / "train.csv").rename(folder / "u1.base")
    (folder / "test.csv").rename(folder / "u1.test")
    data = load(folder, files=Files(train="u1.base", test="u1.test"))

    assert ratings.is_here(folder)
    assert 2 == len(data.parts["test"])


@pytest.mark.parametrize("rating", ["0.1", "0.7"])
def test_both_ends_of_the_scale_can_be_told(tmp_path, rating):
    """0.1 is less, and 0.7 more, than what float32 holds in their place."""
    told = {user: {str(item): [0.1, 0.4, 0.7][(user + item) % 3] for item in range(6)}
            for user in range(8)}  # fmt: skip
    data = load_of(tmp_path, table(told))

    assert 1 == len(ratings.read_input(f"1={rating}, 2".encode(), data.inputs, data.files)["ids"])

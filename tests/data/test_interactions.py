"""Interactions: histories by user and time, split at their end, and what people write of them."""

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from modelwright.core.errors import ConfigError, DataError
from modelwright.core.recipe import Interactions
from modelwright.data import catalog, checks, interactions, uses
from modelwright.data.interactions import FIRST_ID, ITEMS
from modelwright.models.catalog import ModelSpec, fresh_model
from modelwright.tasks.catalog import TASKS
from modelwright.train.loop import Trainer
from modelwright.train.settings import Budget, Settings

from .conftest import section

MOVIELENS = Path(__file__).parents[3] / "shared/data/movielens_100k"
# user, item, rating, time; not in order
TABLE = """\
7\ta\t5\t30
7\tb\t1\t10
9\tb\t5\t4
7\tc\t2\t20
7\td\t3\t40
8\tb\t5\t1
8\td\t5\t2
7\tb\t3\t50
9\ta\t4\t4
9\tc\t4\t3
"""


def test_a_large_table_takes_little_more_than_its_rows(tmp_path):
    """Users and items are one text each, whatever the number of rows, and no row of fields stays:
    less than 250 bytes a row at most, which as lists of fields were 800."""
    number = 20_000
    rows = (f"user{n % 90},item{n % 1999},4,{n}" for n in range(number))
    path = write(tmp_path / "a.csv", "user,item,rating,time\n" + "\n".join(rows))
    tracemalloc.start()
    try:
        found = uses.uses(path, Interactions(), "time")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert number == len(found) and 90 == len({id(use.user) for use in found})
    assert most / number < 250


def write(path: Path, text: str = TABLE) -> Path:
    path.write_text(text)
    return path


def loaded(path: Path, **keys):
    own = section(path, interactions=keys) if keys else section(path)
    return catalog.load(own, "items", "ranking")


def histories(data, part):
    """Items read and items after, of each row, by name."""
    rows = data.parts[part]
    ids, targets = rows.inputs["ids"], rows.targets
    return [
        (
            "".join(data.labels[place - FIRST_ID] for place in ids[row][:, 0]),
            "".join(data.labels[place] for place in targets[row]),
        )
        for row in range(len(rows))
    ]


def test_the_last_item_is_test_and_the_one_before_valid(tmp_path):
    """By time, ties as in the file, an item's first use alone; short histories only train."""
    data = loaded(write(tmp_path / "u.data"))

    # users 7: b c a d; 8: b d, too short to be judged; 9: c, then b and a at the same time
    assert ["a", "b", "c", "d"] == data.labels
    assert [("b", "c"), ("b", "d")] == histories(data, "train")
    assert [("bc", "bca"), ("c", "cb")] == histories(data, "valid")
    assert [("bca", "bcad"), ("cb", "cba")] == histories(data, "test")
    assert {"kind": "items", "vocab_size": 6, "features": 1, "length": 8, "max_length": 50} == (
        data.inputs
    )
    assert {"kind": "ranking", "num_classes": 4} == data.outputs


def test_what_is_wrong_with_histories_is_noted(tmp_path):
    """Second uses, users who are not judged, items of one use; nothing of it blocks."""
    own = section(write(tmp_path / "u.data", TABLE + "8\te\t1\t0\n5\ta\t1\t1\n"))
    _, report = checks.check(catalog.load(own, "items", "ranking"), own)
    checks.refuse(report)

    assert [
        ("repeated_uses", 1, [["user 7", "1 times"]]),
        ("short_histories", 1, [["user 5"]]),
        ("rare_items", 1, [["e"]]),
    ] == [(one["check"], one["count"], one["rows"]) for one in report["findings"]]
    assert "duplicates_across_splits" not in report["checked"]


def test_what_only_users_of_one_item_have_is_no_answer(tmp_path):
    """As many answers as labels, though the last item in order makes no row."""
    data, report = checks.check(loaded(write(tmp_path / "u.data", TABLE + "5\tz\t1\t1\n")),
                                section(tmp_path / "u.data"))  # fmt: skip

    assert ["a", "b", "c", "d"] == list(data.labels)
    assert 4 == data.outputs["num_classes"]
    assert "1 of their items, which nobody else has" in json.dumps(report)


def test_no_item_that_is_judged_is_in_a_training_history(tmp_path):
    """Neither as what is read nor as what comes next; nor valid's item in valid's history."""
    random = np.random.default_rng(0)
    rows = [f"{random.integers(30)}\t{random.integers(50)}\t1\t{time}" for time in range(900)]
    data = loaded(write(tmp_path / "u.data", "\n".join(rows)), max_length=4)
    judged = [(set(read), after[-1]) for read, after in histories_of(data, "valid")]
    tests = [(set(read), after[-1]) for read, after in histories_of(data, "test")]

    assert len(judged) == len(tests) > 20
    assert all(item not in read for read, item in judged + tests)
    users = {}
    for user, read, after in by_user(data):
        users.setdefault(user, []).append(set(read) | set(after))
    for user, (_, after) in enumerate(histories_of(data, "test")):
        assert all(not {after[-1], after[-2]} & used for used in users[user])


def histories_of(data, part):
    rows = data.parts[part]
    ids = rows.inputs["ids"]
    return [
        ((ids[row][:, 0] - FIRST_ID).tolist(), rows.targets[row].tolist())
        for row in range(len(rows))
    ]


def by_user(data):
    """Training rows with the user's number: the one whose test history begins with all of them."""
    tests = [after[:-2] for _, after in histories_of(data, "test")]
    for read, after in histories_of(data, "train"):
        whole = [*read, after[-1]]
        for user, used in enumerate(tests):
            if any(used[at : at + len(whole)] == whole for at in range(len(used))):
                yield user, read, after
                break
        else:
            raise AssertionError(f"{whole} belongs to nobody")


def test_long_histories_are_cut(tmp_path):
    """What is judged reads the latest items; train has all of them, in rows of full length."""
    rows = "".join(f"u\ti{place}\t1\t{place}\n" for place in range(11))
    data = loaded(write(tmp_path / "u.data", rows), max_length=4)
    order = [int(label[1:]) for label in data.labels]

    def named(part):
        return [
            ([order[i] for i in read], [order[i] for i in after])
            for read, after in histories_of(data, part)
        ]

    assert [([4, 5, 6, 7], [5, 6, 7, 8]), ([0, 1, 2, 3], [1, 2, 3, 4])] == named("train")
    assert [([5, 6, 7, 8], list(range(10)))] == named("valid")
    assert [([6, 7, 8, 9], list(range(11)))] == named("test")


@pytest.mark.parametrize(
    ("name", "text", "keys"),
    [
        ("a.csv", "user,item,rating,time\n1,w,5,1\n1,x,5,10\n1,y,5,20\n1,z,5,30\n", {}),
        ("a.csv", "time;item_id;user_id\n"
         "2019-12-31;w;1\n2020-01-01;x;1\n2020-01-02;y;1\n2020-01-02T10:00;z;1\n",
         {"user": "user_id", "item": "item_id", "time": "time"}),
        ("ratings.dat", "1::y::5::20\n1::w::5::1\n1::x::5::10\n1::z::5::30\n", {}),
        ("a.inter", "user_id:token\titem_id:token\ttimestamp:float\n"
         "1\tw\t0.5\n1\tx\t1\n1\ty\t2\n1\tz\t3\n",
         {"user": "user_id", "item": "item_id", "time": "timestamp"}),
        ("a.tsv", "user\titem\n1\tx\n", {"time": 5}),
    ],
)  # fmt: skip
def test_tables_of_many_forms_are_read(tmp_path, name, text, keys):
    """Divided by commas, semicolons, tabs or two colons, with a header or without, any dates."""
    path = write(tmp_path / name, text)
    assert uses.is_here(path)
    if keys.get("time") == 5:
        with pytest.raises(ConfigError, match="no column 5"):
            loaded(path, **keys)
        return

    assert [("wxy", "wxyz")] == histories(loaded(path, **keys), "test")


@pytest.mark.parametrize(
    "head", ["user,item_id,timestamp", "item_id,user,rating,ts", "ts,user,asin"]
)
def test_columns_of_a_header_that_names_them_are_read_by_it(tmp_path, capsys, head):
    """Wherever they stand, in what a model is asked about too; a line says so."""
    values = {"u": "1", "i": "{n}", "a": "{n}", "t": "{t}", "r": "5"}
    line = ",".join(values[name[0]] for name in head.split(","))
    rows = "\n".join(line.format(n=n, t=9 - n) for n in range(5))
    path = write(tmp_path / "a.csv", f"{head}\n{rows}")
    (asked,) = interactions.questions(path, interactions.columns(section(path)))

    assert [("432", "4321"), ("4321", "43210")] == [
        histories(loaded(path), part)[0] for part in ("valid", "test")
    ]
    assert ("user 1", "4,3,2,1,0") == asked
    assert "is taken for the " in capsys.readouterr().err


def test_columns_that_are_called_otherwise_are_refused(tmp_path):
    """A recipe whose numbers contradict the header is wrong, and one without a time has none."""
    rows = "".join(f"{one // 5},{one % 5},{one}\n" for one in range(25))
    path = write(tmp_path / "a.csv", f"user,item_id,rating\n{rows}")
    with pytest.raises(ConfigError, match="column 2 is taken for the time, and") as caught:
        loaded(path, time=2)

    assert "data.interactions" in caught.value.repair
    with pytest.raises(ConfigError, match="no column 3"):
        loaded(path)


def test_names_of_no_item_are_refused(tmp_path):
    """As where the file's first column is not the item."""
    (tmp_path / "names").write_text("1|Amélie|a\n2|Brazil|b\n")
    with pytest.raises(ConfigError, match="no line of names begins with an item"):
        loaded(write(tmp_path / "u.data"), names="names")


def test_a_title_holds_characters_that_end_lines_elsewhere(tmp_path):
    """0x85 is an ellipsis in Windows' encoding, and a line's end to str.splitlines."""
    (tmp_path / "names").write_bytes(b"a|And so\x85 it goes|x\r\nb|Brazil|x\r\n")
    data = loaded(write(tmp_path / "u.data"), names="names")

    assert "And so\x85 it goes [a]" == data.labels[0] and "Brazil [b]" == data.labels[1]


def test_a_packed_table_is_the_same(tmp_path):
    """Plain or as .gz."""
    plain = loaded(write(tmp_path / "u.data"))
    (tmp_path / "u.data.gz").write_bytes(gzip.compress(TABLE.encode()))

    assert plain.digest == loaded(tmp_path / "u.data.gz").digest


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1\ta\t5\t10\n1\tb\t5\n", "line 2: 3 fields"),
        ("1\ta\t5\t10\n1\tb\t5\tsoon\n", "line 2: 'soon' is no time"),
        ("1\ta\t5\t10\n\tb\t5\t11\n", "line 2: no user or no item"),
        ("", "empty"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path, text, what):
    """What cannot be read names file and line."""
    with pytest.raises(DataError, match=what):
        loaded(write(tmp_path / "u.data", text))


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "text,label\nhi,1\n"), ("a.csv", "user,comment,label\n"), ("a.jpg", TABLE)],
)
def test_other_tables_are_not_taken_for_interactions(tmp_path, name, text):
    """Without a name or a header that says so, data.format must."""
    assert not uses.is_here(write(tmp_path / name, text))


def test_names_come_from_a_file(tmp_path):
    """Items are called by title and id; people may write either, or both."""
    (tmp_path / "names").write_bytes(
        "a|Amélie, the film|x\nb|Brazil|x\nc|Brazil|x\n".encode("latin-1")
    )
    data = loaded(write(tmp_path / "u.data"), names="names")
    files, inputs = data.files, data.inputs

    assert ["Amélie, the film [a]", "Brazil [b]", "Brazil [c]", "d"] == data.labels
    line = '"Amélie, the film",c, Brazil [b],d,d'.encode()
    found = interactions.read_input(line, inputs, files)["ids"]
    assert [[[2], [4], [3], [5]]] == found.tolist() and np.int64 == found.dtype
    assert [data.labels[place] for place in (0, 2, 1, 3)] == interactions.tokens(
        line, inputs, files
    )
    assert data.labels == json.loads(files[ITEMS])
    for row, line in enumerate(data.parts["test"].origins):  # what a row is called can be asked
        again = interactions.read_input(line.encode(), inputs, files)["ids"][0]
        assert data.parts["test"].inputs["ids"][row].tolist() == again.tolist()


@pytest.mark.parametrize(
    ("line", "what"), [(b"a,zebra", "'zebra'"), (b" , ", "no items"), (b"\xff", "cannot be read")]
)
def test_an_unknown_item_is_refused(tmp_path, line, what):
    """Nothing is silently left out of a history."""
    data = loaded(write(tmp_path / "u.data"))
    with pytest.raises(DataError, match=what):
        interactions.read_input(line, data.inputs, data.files)


def test_names_that_are_not_there(tmp_path):
    """The file of names is looked for beside the table."""
    with pytest.raises(ConfigError, match=r"data\.interactions\.names"):
        loaded(write(tmp_path / "u.data"), names="u.item")


@pytest.mark.parametrize("family", ["cnn", "rnn", "transformer"])
def test_a_planted_pattern_is_learned(tmp_path, family):
    """Each item is followed by the same other one: a tiny model finds it for unseen places."""
    torch.set_num_threads(1)
    ring = np.random.default_rng(0).permutation(40)
    rows = [
        f"{user}\t{ring[(user + time) % 40]}\t1\t{time}"
        for user in range(200)
        for time in range(12)
    ]
    data = loaded(write(tmp_path / "u.data", "\n".join(rows)))
    spec = ModelSpec(family, "tiny", data.inputs, data.outputs)
    settings = Settings(
        seed=0, batch_size=64, micro_batch_size=64, optimizer="adamw", learning_rate=1e-2,
        weight_decay=0.01, warmup_steps=10, decay=0.5, label_smoothing=0.0, ema=0.9, keep="last",
        precision="32-true", activation_checkpointing="none", augment=(),
        checkpoint_seconds=1e9, checkpoint_steps=None,
    )  # fmt: skip
    trainer = Trainer(
        fresh_model(spec, 0), spec, TASKS["recommendation"], data.parts["train"],
        data.parts["test"], settings, Budget(steps=120), tmp_path / "checkpoints",
    )  # fmt: skip
    before = trainer.evaluate().value
    trainer.run()

    assert before < 0.5
    assert trainer.evaluate().value > 0.95


@pytest.mark.skipif(not MOVIELENS.is_dir(), reason="MovieLens 100K is not on this machine")
def test_movielens_has_its_published_counts():
    """943 users and 1,682 items, as u.info says; every user is judged, every item has a title."""
    data = loaded(MOVIELENS / "u.data.gz", names="u.item.gz")

    assert 1682 == len(data.labels) == data.outputs["num_classes"]
    assert (943, 943) == (len(data.parts["valid"]), len(data.parts["test"]))
    assert "Toy Story (1995) [1]" == data.labels[0]
    assert 100_000 == sum(data.parts["test"].targets.lengths)
    assert 100_000 - 2 * 943 - 943 == len(data.parts["train"].targets.values)


@pytest.mark.parametrize(
    ("name", "text", "fields"),
    [
        ("movies.csv", "0,Toy Story (1995),Adventure|Animation\n1,Heat (1995),Crime", 3),
        ("movies.csv", "0;Toy Story (1995);3,5\n1;Heat (1995);4,5", 3),
        ("movies.csv", '0,"Toy Story, the film",A;B\n1,Heat,C', 3),
        ("movies.csv", "0|Alien, the film|A\n1|Heat|C", 3),
        ("movies.dat", "0::Toy Story, or so|A::x\n1::Heat::y", 3),
        ("movies.dat", "0,a::b,1\n1,c,2", 3),
    ],
)
def test_fields_are_divided_by_what_gives_all_lines_as_many(tmp_path, name, text, fields):
    """A mark that stands within a field, such as between the kinds of a film, divides none."""
    (tmp_path / name).write_text(text)

    assert [fields] * 2 == [len(row) for _, row in uses._lines(tmp_path / name)]


def test_ids_of_any_length_have_an_order():
    """Numbers by their size, also those of more digits than int() takes."""
    names = ["9" * 5000, "x", "10", "1" + "0" * 5000, "9", "010"]

    assert ["9", "010", "10", "9" * 5000, "1" + "0" * 5000, "x"] == sorted(names, key=uses.order)

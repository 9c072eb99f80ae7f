"""Tables over time: reading them, dividing them, windows and what comes next."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from modelwright.core import recipe_file
from modelwright.core.errors import ConfigError, DataError
from modelwright.core.recipe import Recipe
from modelwright.data import catalog, checks, series
from modelwright.data.rows import PARTS, Windows, joined, load_part, save

from .conftest import section

ETT = Path(__file__).parents[3] / "shared/data/ett_h1/ETTh1.csv.gz"
ROWS, WINDOW, HORIZON = 100, 12, 5
SPLIT = [60, 20, 15]  # five rows behind them are left over


def numbers(rows=ROWS, channels=3, seed=0):
    """Random walks, each at a level and of a size of its own."""
    steps = np.random.default_rng(seed).normal(size=(rows, channels)).cumsum(0)
    return (steps * 10 ** np.arange(channels) + 50 * np.arange(channels)).astype(np.float32)


def text_of(values, *, header=True, timed=True, mark=","):
    """A table as text; day 1 is 2020-01-01."""
    names = ["date"] * timed + [f"s{place}" for place in range(values.shape[1])]
    days = np.datetime64("2020-01-01") + np.arange(len(values))
    lines = [mark.join(names)] * header
    for day, row in zip(days, values.tolist(), strict=True):
        lines.append(mark.join([str(day)] * timed + [repr(value) for value in row]))
    return "\n".join(lines) + "\n"


def file_of(folder, text, name="table.csv"):
    path = folder / name
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def load(path, **keys):
    return catalog.load(
        section(path, **{"horizon": HORIZON, "window": WINDOW, "split_rows": SPLIT, **keys}),
        "series", "horizon",
    )  # fmt: skip


def every(rows, column):
    """All windows of a column, (rows, length, channels)."""
    assert isinstance(column, Windows)
    return column.gather(np.arange(len(rows)))


@pytest.fixture
def table(tmp_path):
    return file_of(tmp_path, text_of(numbers()))


def test_every_window_counts(table):
    """A part of n rows has n - horizon + 1 windows; train less the window that it begins with."""
    data = load(table)

    assert {
        "train": 60 - WINDOW - HORIZON + 1,
        "valid": 20 - HORIZON + 1,
        "test": 15 - HORIZON + 1,
    } == {part: len(rows) for part, rows in data.parts.items()}


def test_windows_and_targets_are_those_of_the_table(table):
    """A window is raw; its target is exactly what comes next, on the scale of the train rows."""
    data, values = load(table), numbers().astype(np.float64)
    mean, std = values[:60].mean(0), values[:60].std(0)
    for start, part in zip((WINDOW, 60, 80), PARTS, strict=True):
        rows = data.parts[part]
        places = start + np.arange(len(rows))  # of each window's first step of the forecast
        before = np.stack([values[place - WINDOW : place] for place in places])
        after = np.stack([values[place : place + HORIZON] for place in places])

        assert np.array_equal(before.astype(np.float32), every(rows, rows.inputs["window"]))
        wanted = ((after - mean) / std).astype(np.float32)
        assert np.array_equal(wanted, every(rows, rows.targets))
        days = np.datetime64("2020-01-01") + places
        assert [str(day) for day in days] == rows.origins


def test_valid_and_test_look_back_over_the_border(table):
    """Their first window lies wholly in the part before, their first target wholly in their own."""
    data, values = load(table), numbers()
    for border, part in ((60, "valid"), (80, "test")):
        rows = data.parts[part]

        assert np.array_equal(values[border - WINDOW : border], rows.inputs["window"][0])
        assert str(np.datetime64("2020-01-01") + border) == rows.origins[0]


def test_each_part_keeps_only_what_its_windows_touch(table):
    """No value of a later part is stored with an earlier one."""
    parts = load(table).parts
    stored = {part: len(rows.inputs["window"].values) for part, rows in parts.items()}

    assert {"train": 60, "valid": WINDOW + 20, "test": WINDOW + 15} == stored


def test_statistics_come_from_train_alone(tmp_path):
    """Mean and spread, windows and targets of train are the same whatever comes after it."""
    values = numbers()
    before = load(file_of(tmp_path, text_of(values)))
    values[60:] = 1e6
    after = load(file_of(tmp_path, text_of(values)))

    assert before.outputs == after.outputs
    assert np.allclose(numbers()[:60].mean(0), after.outputs["mean"])
    assert np.allclose(numbers()[:60].std(0), after.outputs["std"])
    one, two = before.parts["train"], after.parts["train"]
    assert np.array_equal(every(one, one.inputs["window"]), every(two, two.inputs["window"]))
    assert np.array_equal(every(one, one.targets), every(two, two.targets))
    assert before.digest != after.digest


def test_descriptions_hold_what_the_model_needs(table):
    """Length, patch and channels go in; horizon, mean and spread come out; there are no labels."""
    data = load(table)

    assert {"kind": "series", "length": 12, "patch": 12, "channels": ["s0", "s1", "s2"],
            "std": data.outputs["std"]} == data.inputs  # fmt: skip
    assert ("horizon", HORIZON) == (data.outputs["kind"], data.outputs["horizon"])
    assert [] == data.labels
    assert ["s0", "s1", "s2"] == series.preprocess(data.inputs)["channels"]


@pytest.mark.parametrize(
    ("window", "patch"), [(336, 16), (96, 16), (24, 12), (720, 16), (100, 20), (13, 13), (1, 1)]
)
def test_the_patch_divides_the_window(window, patch):
    """It is the divisor nearest 16."""
    assert patch == series._patch(window)


def test_shares_are_taken_from_the_end(table):
    """Without split_rows, test is the last share of all rows, valid the one before it."""
    parts = load(table, split_rows=None, valid=0.1, test=0.2).parts

    assert [70 - 16, 10 - 4, 20 - 4] == [len(parts[part]) for part in PARTS]
    assert "2020-03-21" == parts["test"].origins[0]  # row 80


def test_rows_left_over_are_told(table, capsys):
    """Rows behind those of split_rows are in no part, and a line says so."""
    load(table)

    assert "5 rows behind the 95 of data.split_rows are not read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "t.csv.gz", "T.CSV"])
@pytest.mark.parametrize("mark", [",", "\t", ";", "  "])
def test_all_forms_of_a_table_are_one(tmp_path, table, name, mark):
    """Neither name, nor compression, nor what divides the fields makes a difference."""
    path = file_of(tmp_path, "\ufeff" + text_of(numbers(), mark=mark).replace("\n", "\r\n"), name)

    assert load(table).digest == load(path).digest


@pytest.mark.parametrize("timed", [True, False])
def test_a_header_is_not_needed(tmp_path, table, timed):
    """Without one the columns have numbers, and the values are the same."""
    data = load(file_of(tmp_path, text_of(numbers(), header=False, timed=timed)))

    assert [f"column {place + timed}" for place in range(3)] == data.inputs["channels"]
    assert load(table).digest == data.digest
    assert ("2020-01-13" if timed else "row 13") == data.parts["train"].origins[0]


def test_a_missing_first_value_is_no_header(tmp_path):
    """A first row with a gap is a row."""
    text = "2020-01-01,?,3\n2020-01-02,1,\n"
    read = series.read_table(text.encode(), "t")

    assert ["column 1", "column 2"] == read.channels
    assert np.array_equal([[np.nan, 3], [1, np.nan]], read.values, equal_nan=True)


def test_channels_are_taken_by_name(tmp_path):
    """Only the columns named are read, in the order given; the others may hold text."""
    lines = text_of(numbers()).splitlines()
    text = "\n".join([lines[0] + ",note", *(line + ",fine" for line in lines[1:])])
    path = file_of(tmp_path, text)
    rows = load(path, channels=["s2", "s0"], format="table").parts["train"]

    assert np.array_equal(numbers()[:WINDOW][:, [2, 0]], rows.inputs["window"][0])
    with pytest.raises(DataError, match=r"line 2: 'fine' in the column 'note' is no number"):
        load(path, format="table")
    with pytest.raises(DataError, match=r"(?s)no column 's7'.*one of: note, s0"):
        load(path, channels=["s7"], format="table")


GAPS = ["", "NA", "NaN", "nan", "?"]


@pytest.mark.parametrize("gap", GAPS)
def test_a_missing_value_stops_the_gate_unless_waived(tmp_path, gap):
    """It is a finding with its row; waived, the last value before it stands in for it."""
    values = numbers()
    lines = text_of(values).splitlines()
    for line in (31, 32):  # rows 31 and 32
        lines[line] = lines[line].rsplit(",", 1)[0] + f",{gap}"
    path = file_of(tmp_path, "\n".join(lines))
    data, report = checks.check(load(path), section(path))
    finding = report["findings"][0]

    assert ("nan_values", 2) == (finding["check"], finding["count"])
    assert [["row 31 (line 32): s2"], ["row 32 (line 33): s2"]] == finding["rows"]
    with pytest.raises(DataError, match=r"(?s)2 values missing in 2 rows.*waive: \[nan_values\]"):
        checks.refuse(report)

    waived = section(path, checks={"waive": ["nan_values"]})
    checks.refuse(checks.check(load(path, checks={"waive": ["nan_values"]}), waived)[1])
    wanted = values[:60].copy()
    wanted[30:32, 2] = values[29, 2]
    assert np.array_equal(wanted, data.parts["train"].inputs["window"].values)


def test_gaps_are_filled_in_answering_as_in_training(tmp_path, capsys):
    """Where they were waived: with the last value before, be it ahead of the window, which is said.
    Else the table is refused, with what would help."""
    lines = text_of(numbers()).splitlines()
    for line in (1, 89, 90, 95):
        lines[line] = lines[line].rpartition(",")[0] + ","
    lines[2] = lines[2].replace(lines[2].split(",")[1], "")  # long before what is looked at
    clean = load(file_of(tmp_path, text_of(numbers()), "clean.csv"))
    waived = load(tmp_path / "clean.csv", checks={"waive": ["nan_values"]})
    found = series.read_input("\n".join(lines).encode(), waived.inputs, {})["window"][0]
    wanted = numbers()[-WINDOW:].copy()
    wanted[[0, 1], 2], wanted[6, 2] = numbers()[87, 2], numbers()[93, 2]

    assert np.array_equal(wanted, found)
    assert "3 values missing in the last 12 rows" in capsys.readouterr().err
    with pytest.raises(DataError, match="no value in the column 's2'") as refused:
        series.read_input("\n".join(lines).encode(), clean.inputs, {})
    assert "waive: [nan_values]" in refused.value.repair
    lines[1:89] = []
    with pytest.raises(DataError, match="line 2: no value in the column 's2', and none before"):
        series.read_input("\n".join(lines).encode(), waived.inputs, {})


def test_nothing_is_filled_from_later_values(tmp_path):
    """A column that begins with a gap is refused, with how long the gap is."""
    lines = text_of(numbers()).splitlines()
    for line in (1, 2):
        lines[line] = lines[line].rsplit(",", 1)[0] + ","
    with pytest.raises(DataError, match=r"'s2' has no value in its first 2 rows"):
        load(file_of(tmp_path, "\n".join(lines)))


BROKEN = {
    "ragged": (lambda lines: [*lines[:7], lines[7] + ",1", *lines[8:]], "line 8: 5 fields"),
    "blank": (lambda lines: [*lines[:7], "", *lines[7:]], "line 8: 1 field"),
    "text": (lambda lines: [*lines[:7], "2020-01-07,1,2,high", *lines[8:]],
             "line 8: 'high' in the column 's2' is no number"),
    "decimal comma": (lambda lines: [line.replace(",", ";").replace(".", ",") for line in lines],
                      "line 2: .* in the column 's0' is no number"),
    "infinite": (lambda lines: [*lines[:7], "2020-01-07,1,2,1e39", *lines[8:]],
                 "line 8: 1e\\+39 in the column 's2' is beyond"),
    "backwards": (lambda lines: [lines[0], *lines[:0:-1]], "runs backwards in time"),
    "two of a name": (lambda lines: ["date,a,b,a", *lines[1:]], "several columns 'a'"),
    "header alone": (lambda lines: lines[:1], "a header and no row"),
    "nothing": (lambda lines: [], "is empty"),
    "time alone": (lambda lines: [line.partition(",")[0] for line in lines], "no column"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_refused_with_its_line(tmp_path, name):
    """Each fault is named with the line that it stands on."""
    change, words = BROKEN[name]
    path = file_of(tmp_path, "\n".join(change(text_of(numbers()).splitlines())))

    with pytest.raises(DataError, match=words):
        load(path, format="table")


STORES = [(store, day) for store in (1, 2) for day in range(60)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (STORES, "table.csv, line 62: the table runs backwards in time, from 2020-02-29 to 2020-0"),
        (sorted(STORES, key=lambda row: row[1]), "60 of 120 rows have the time of the row before"),
    ],
)
def test_series_below_each_other_are_refused(tmp_path, rows, words):
    """Whichever way they are sorted: windows over them would mix the series."""
    days = np.datetime64("2020-01-01") + np.arange(60)
    lines = [f"{days[day]},{store},{day + store / 3}" for store, day in rows]
    path = file_of(tmp_path, "\n".join(["date,store,sales", *lines]))

    with pytest.raises(DataError, match=f"(?s){words}.*columns of"):
        load(path, split_rows=None)


def test_a_table_of_hours_turned_round_is_refused(tmp_path):
    """Each of its steps back is one that a clock might take; all of them are not."""
    times = [str(np.datetime64("2020-01-05T00") - hour) for hour in range(99)]
    lines = [f"{time}:00,{place}" for place, time in enumerate(times)]

    with pytest.raises(DataError, match="line 4: the table runs backwards in time"):
        load(file_of(tmp_path, "\n".join(["date,load", *lines])))


@pytest.mark.parametrize(
    ("stamps", "said"),
    [
        ([f"2024-01-{day:02d}" for day in range(1, 31) if day not in (9, 10)],
         "1 row comes later than usual after the one before, as in line 10 (2024-01-08, then "
         "2024-01-11)"),
        ([f"{day:02d}/01/2024" for day in range(1, 31)],
         "the times ('01/01/2024') are not written as ISO 8601 says"),
        ([f"2024-01-{day:02d}" for day in range(1, 31) if day % 7 < 5], None),
        ([f"{year}-{month:02d}" for year in (2022, 2023) for month in range(1, 13)], None),
    ],
    ids=["days that are missing", "days first", "working days", "months"],
)  # fmt: skip
def test_gaps_in_time_are_said(tmp_path, capsys, stamps, said):
    """Rows count as evenly spaced: where a few are missing, or nobody can tell, a person should
    know; weekends and months are no gaps."""
    path = tmp_path / "days.csv"
    rows = [f"{stamp},{place}" for place, stamp in enumerate(stamps)]
    path.write_text("\n".join(["date,load", *rows]))
    load(path, horizon=1, window=2, split_rows=None)

    err = capsys.readouterr().err
    assert said in err if said else "later than usual" not in err and "ISO" not in err


COUNTED = {
    "an index": ("", range(99)),
    "an index with gaps": ("Unnamed: 0", [*range(50), *range(51, 100)]),
    "whole steps": ("No", range(5, 104)),
    "seconds": ("timestamp", [1_700_000_000 + 3600 * row + row % 7 for row in range(99)]),
    "dates": ("date", [f"2024{1 + row // 28:02d}{1 + row % 28:02d}" for row in range(99)]),
}


@pytest.mark.parametrize("name", COUNTED)
def test_numbers_that_count_the_rows_are_the_time(tmp_path, capsys, name):
    """They are no series to forecast, which is said; a recipe may say otherwise."""
    head, column = COUNTED[name]
    lines = [f"{at},{value}" for at, value in zip(column, numbers()[:99, 0], strict=True)]
    path = file_of(tmp_path, "\n".join([f"{head},load", *lines]))
    data = load(path)

    assert ["load"] == data.inputs["channels"]
    assert f"'{head}', counts the rows" in capsys.readouterr().err
    assert str(list(column)[60]) == data.parts["valid"].origins[0]
    if head:
        assert [head] == load(path, channels=[head]).inputs["channels"]


def test_numbers_that_count_down_are_a_table_turned_round(tmp_path):
    """The newest row first: windows over it would look into the future."""
    lines = [f"{99 - row},{value}" for row, value in enumerate(numbers()[:99, 0])]
    with pytest.raises(DataError, match=r"line 3: .*backwards in time, from 99 to 98"):
        load(file_of(tmp_path, "\n".join(["step,load", *lines])))


def test_a_time_that_goes_back_and_forth_is_a_series(tmp_path, capsys):
    """Such as the year beside month and day; that nothing is checked by it is said."""
    lines = [f"{2000 + row // 12},{value}" for row, value in enumerate(numbers()[:99, 0])]
    path = file_of(tmp_path, "\n".join(["year,load", *lines]))

    assert ["year", "load"] == load(path).inputs["channels"]
    assert "'year', does not grow from row to row" in capsys.readouterr().err


def test_a_gap_in_numbers_is_said(tmp_path, capsys):
    """As one in dates is."""
    lines = [f"{1900 + row + (row > 40)},{value}" for row, value in enumerate(numbers()[:99, 0])]
    load(file_of(tmp_path, "\n".join(["year,load", *lines])))

    assert "as in line 43 (1940, then 1942)" in capsys.readouterr().err


@pytest.mark.parametrize(("back", "refused"), [(1, False), (2, True)])
def test_a_clock_may_be_put_back_by_an_hour(tmp_path, back, refused):
    """As at the end of summer time; more than that is a table out of order."""
    hours = [*range(50), *range(49 - back, 99 - back)]
    times = [str(np.datetime64("2020-10-24T00") + hour) for hour in hours]
    values = numbers()[:, 0].tolist()
    lines = [f"{time}:00,{value}" for time, value in zip(times, values, strict=True)]
    path = file_of(tmp_path, "\n".join(["date,load", *lines]))
    if not refused:
        assert set(PARTS) == set(load(path).parts)
        return

    with pytest.raises(DataError, match="line 52: the table runs backwards in time"):
        load(path)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", gzip.compress(text_of(numbers()).encode(), mtime=0)[:-9]]
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content):
    """Other encodings and archives that are cut short cannot be read as a table."""
    path = tmp_path / "table.csv"
    path.write_bytes(content)

    with pytest.raises(DataError, match="cannot be read as a table"):
        load(path, format="table")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"split_rows": [16, 20, 20]}, r"16 of its 100 rows are the train part.*at least 17 rows"),
        ({"split_rows": [60, 4, 20]}, r"4 of its 100 rows are the valid part.*at least 5 rows"),
        ({"split_rows": [60, 20, 21]}, r"asks for 101 rows, and the table .* has 100"),
        ({"split_rows": None, "window": 90}, r"70 of .*at least 95 rows.*138 rows in all"),
        ({"split_rows": None, "valid": 0}, r"0 of its 100 rows are the valid part"),
        ({"split_rows": None, "valid": 0.6, "test": 0.6}, r"0 of its 100 rows are the train"),
    ],
)
def test_a_short_table_says_how_long_it_must_be(table, keys, words):
    """The part that is too short, its rows, and the rows that would do."""
    with pytest.raises(DataError, match=f"(?s){words}"):
        load(table, **keys)


def test_the_length_that_is_told_is_enough(tmp_path):
    """A table of as many rows as the error asks for is read."""
    keys = {"split_rows": None, "window": 90}

    assert {"train", "valid", "test"} == set(
        load(file_of(tmp_path, text_of(numbers(138))), **keys).parts
    )


def test_the_smallest_parts_have_one_window(table):
    """Just enough rows give one window each."""
    parts = load(table, split_rows=[WINDOW + HORIZON, HORIZON, HORIZON]).parts

    assert [1, 1, 1] == [len(parts[part]) for part in PARTS]


def test_a_constant_series_is_noted(tmp_path):
    """It has a spread of 1, and the gate names it without stopping."""
    values = numbers()
    values[:60, 1] = 0.1
    path = file_of(tmp_path, text_of(values))
    data, report = checks.check(load(path), section(path))
    checks.refuse(report)

    assert [("constant_series", [["s1"]], False)] == [
        (one["check"], one["rows"], one["blocking"]) for one in report["findings"]
    ]
    assert 1.0 == data.outputs["std"][1]
    assert pytest.approx(0.1) == data.outputs["mean"][1]


def test_parts_come_back_from_disk(table, tmp_path):
    """Saved parts are what was loaded, and two of them can be put together."""
    data = load(table)
    save(data, tmp_path / "data")
    for part, rows in data.parts.items():
        back = load_part(tmp_path / "data", part)

        assert rows.origins == back.origins
        assert np.array_equal(every(rows, rows.targets), every(back, back.targets))
        inputs = back.inputs["window"]
        assert np.array_equal(every(rows, rows.inputs["window"]), every(back, inputs))
    both = joined(data.parts["valid"], data.parts["train"])
    wanted = np.concatenate([every(data.parts[p], data.parts[p].targets)
                             for p in ("valid", "train")])  # fmt: skip
    assert np.array_equal(wanted, both.batch_targets(np.arange(len(both))))


def newest_first(text):
    head, *lines = text.splitlines()
    return "\n".join([head, *lines[::-1]])


def test_what_a_person_brings_is_read_as_in_training(table):
    """The last rows of a table are the window that training would have made of them."""
    data = load(table)
    lines = table.read_text().splitlines()
    rows = data.parts["test"]
    last = len(rows) - 1
    cut = "\n".join(lines[: 1 + 95 - HORIZON])  # what lies before the last target
    found = series.read_input(cut.encode(), data.inputs, {})["window"]

    assert (np.float32, (1, WINDOW, 3)) == (found.dtype, found.shape)
    assert np.array_equal(rows.batch(np.array([last]))["window"], found)
    packed = series.read_input(gzip.compress(cut.encode()), data.inputs, {})["window"]
    assert np.array_equal(found, packed)


def test_times_are_those_of_the_window(table):
    """Of the rows that are looked at; none where rows are numbered alone."""
    inputs = load(table).inputs
    days = [str(np.datetime64("2020-01-01") + day) for day in range(ROWS - WINDOW, ROWS)]

    assert days == series.tokens(table.read_bytes(), inputs)
    assert [] == series.tokens(text_of(numbers(), timed=False).encode(), inputs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (text_of(numbers(WINDOW - 1)), "the table has 11 rows, and the model looks back at 12"),
        (text_of(numbers(channels=2)), "no column 's2'"),
        (text_of(numbers(), header=False), "no column 's0'"),
        (text_of(numbers()).rpartition(",")[0] + ",\n", "line 101: no value in the column 's2'"),
        (text_of(numbers()).rpartition(",")[0] + "\n", "line 101: 3 fields"),
        (newest_first(text_of(numbers())), "the table, line 91: the table runs backwards in time"),
        ("", "is empty"),
    ],
)
def test_wrong_tables_are_refused_in_answering(table, text, words):
    """Too few rows, other columns and gaps are each told."""
    with pytest.raises(DataError, match=words):
        series.read_input(text.encode(), load(table).inputs, {})


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (text_of(numbers()), True),
        (text_of(numbers(), header=False, timed=False), True),
        (text_of(numbers(channels=1), timed=False), True),
        ("\n".join(["date,a", "2020-01-01,oops", *["2020-01-02,3"] * 5]), True),
        ("text,label\ngood,1\nbad,0\n", False),
        ("label,text\n1,good\n0,bad\n", False),
        ("EU B-ORG\nrejects O\n\n22 CD\n", False),
        ("", False),
        ("No,year,wind,rain\n" + "1,2010,NW,?\n2,2010,cv,0\n" * 9, True),
        ("date,load,wind,rain\n" + "2020-01-01,3,calm,0\n" * 9, True),
        ("id,width,length,kind\n" + "1,5.1,3.5,setosa\n" * 9, False),
        ("id,year,text,stars\n" + "1,2010,so good a film,5\n" * 9, False),
        ("date,load,wind\n" + "2020-01-01,3,calm\n" * 9, False),
    ],
)
def test_tables_of_numbers_are_told_from_texts(tmp_path, text, is_one):
    """Most of the first rows have to be a time or a number, and numbers."""
    assert is_one == series.is_table(file_of(tmp_path, text))


def test_a_table_is_recognised_whatever_the_task(table):
    """What `init` asks: a table of numbers over time is one to forecast."""
    assert ("series", ("horizon",)) == (
        catalog.recognise(section(table)).kind, catalog.recognise(section(table)).answers
    )  # fmt: skip


def test_a_table_with_a_column_of_words_is_one(tmp_path):
    """Its numbers are taken by name; a starter recipe names them, and an error says how."""
    lines = text_of(numbers()).splitlines()
    lines = [
        f"{line},{word}" for line, word in zip(lines, ["wind", *["NW", "cv"] * 50], strict=True)
    ]
    path = file_of(tmp_path, "\n".join(lines))

    assert ["s0", "s1", "s2"] == series.starter(path)["channels"]
    gap = "\n".join([lines[0], ",".join([*lines[1].split(",")[:2], "", "1.5", "NW"]), *lines[2:]])
    assert ["s0", "s2"] == series.starter(file_of(tmp_path, gap, "gap.csv"))["channels"]
    assert "channels" not in series.starter(file_of(tmp_path, text_of(numbers()), "other.csv"))
    assert ["s2", "s0"] == load(path, channels=["s2", "s0"]).inputs["channels"]
    with pytest.raises(DataError, match="'NW' in the column 'wind' is no number") as refused:
        load(path)
    assert "data.channels" in refused.value.repair


def test_without_a_horizon_nothing_is_loaded(table):
    """The error names the key."""
    with pytest.raises(ConfigError, match=r"data\.horizon is missing"):
        load(table, horizon=None)


@pytest.mark.parametrize(
    ("task", "data", "line", "words"),
    [
        ("forecasting", "source: x", 2, "data.horizon: forecasting needs it"),
        ("image-classification", "source: x\n  horizon: 3", 4, "data.horizon: image-classif"),
        ("tagging", "source: x\n  channels: [a]", 4, "data.channels: tagging does not read it"),
        ("forecasting", "source: x\n  horizon: 0", 4, "data.horizon"),
        ("forecasting", "source: x\n  split_rows: [1, 2]", 4, "three counts of rows"),
        ("forecasting", "source: x\n  channels: []", 4, "at least one name"),
        ("forecasting", "source: x\n  channels: [a, a]", 4, "each once"),
    ],
)
def test_wrong_keys_are_named_with_their_line(tmp_path, task, data, line, words):
    """A key that a task needs, or has no use for, is refused where it stands."""
    path = file_of(tmp_path, f"task: {task}\ndata:\n  {data}\n", "made.yaml")

    with pytest.raises(ConfigError, match=words) as caught:
        recipe_file.read(path)
    assert f"line {line}:" in caught.value.what


def test_resolved_recipes_read_back(tmp_path):
    """A recipe with all keys of a table written out is the same recipe."""
    path = file_of(tmp_path, "task: forecasting\ndata: {source: x, horizon: 3, channels: [a]}\n")
    recipe = recipe_file.read(path)
    again = file_of(tmp_path, recipe_file.resolved_text(recipe), "again.yaml")

    assert recipe == recipe_file.read(again)


@pytest.mark.skipif(not ETT.is_file(), reason=f"{ETT} is not here")
def test_ett_h1_is_divided_as_published():
    """12, 4 and 4 months of ETTh1 give the published numbers of windows, last batch included."""
    keys = {"horizon": 96, "window": 336, "split_rows": [8640, 2880, 2880]}
    data = load(ETT, **keys)

    assert {"train": 8209, "valid": 2785, "test": 2785} == {
        part: len(rows) for part, rows in data.parts.items()
    }
    assert ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"] == data.inputs["channels"]
    assert "2017-10-24 00:00:00" == data.parts["test"].origins[0]
    assert [] == data.findings


def test_the_manifest_names_the_series(table):
    """Where there are no classes, a model's labels are its channels, as answers show them."""
    from modelwright.stages import _manifest_fields

    recipe = Recipe.model_validate(
        {"task": "forecasting", "data": {"source": str(table), "horizon": HORIZON}}
    )
    _, report = checks.check(load(table), recipe.data)

    assert ["s0", "s1", "s2"] == _manifest_fields(recipe, report)["labels"]


@pytest.mark.parametrize(("begin", "told"), [(23_456_789.4, True), (0.4, False)])
def test_steps_that_32_bits_blur_are_said(tmp_path, capsys, begin, told):
    """As of a counter: at 23 million two values next to each other are 2 apart."""
    rows = [f"{begin + 0.5 * row:.1f},7" for row in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(["meter,constant", *rows]))
    load(tmp_path / "t.csv", split_rows=None)

    assert told == ("at the size of meter, 32 bits" in capsys.readouterr().err)

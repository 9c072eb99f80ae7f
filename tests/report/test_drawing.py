"""Axes and pictures: the right value at the right place, whatever the values are."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from modelwright.report import boxes, charts
from modelwright.report.charts import Point, Series
from modelwright.report.drawing import make_axis, nice_step, tick_label

HOSTILE = "<script>alert(1)</script>\"'&"


def parts(svg: str, tag: str, kind: str) -> list[ElementTree.Element]:
    """The elements of one tag that carry a class."""
    return [e for e in ElementTree.fromstring(svg).iter(tag) if kind in e.get("class", "").split()]


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize(
    ("span", "step"), [(100, 20), (0.7, 0.1), (1e-5, 2e-6), (3, 0.5), (7e6, 1e6)]
)
def test_steps_are_round(span, step):
    """Ticks are 1, 2 or 5 times a power of ten apart."""
    assert nice_step(span) == pytest.approx(step)


@pytest.mark.parametrize("values", [[], [3.0], [0.0], [0.0, 0.0], [5, 5 + 1e-15], [-2, 7], [1e12]])
def test_every_axis_has_length_and_ticks(values):
    """Equal, single or missing values still give an axis that can be divided."""
    axis = make_axis(values, 0, 100)

    assert axis.high > axis.low
    assert len(axis.ticks) >= 2


def test_axis_of_counts_has_no_half_ticks():
    """Rounds and rows are counted in whole numbers."""
    assert make_axis([1, 3], 0, 100, tight=True, whole=True).ticks == (1, 2, 3)


@pytest.mark.parametrize(
    ("value", "step", "label"),
    [(0.97, 0.01, "0.97"), (0.5, 0.25, "0.50"), (50000, 10000, "50,000"), (2e6, 5e5, "2M"),
     (5e5, 5e5, "0.5M"), (0.0, 1e-9, "0"), (2e-6, 1e-6, "2e-6"), (1500, 500, "1,500"),
     (-5, 5, "-5"), (0.38112, 2e-5, "0.38112"), (1.5e-5, 5e-6, "1.5e-5"), (1e-4, 5e-6, "1e-4"),
     (-2.25e-4, 5e-6, "-2.25e-4")],
)  # fmt: skip
def test_ticks_read_well(value, step, label):
    """A tick has as many digits as tell it from its neighbours, no more."""
    assert label == tick_label(value, step)


@pytest.mark.parametrize(
    "ends", [(0.3811, 0.38116), (1e-4, 1.1e-4), (0.99e-3, 1.01e-3), (7, 7.00001)]
)
def test_ticks_of_one_axis_differ(ends):
    """However close they lie to each other, and however far from nothing."""
    axis = make_axis(ends, 0, 100)
    labels = [tick_label(tick, axis.step) for tick in axis.ticks]

    assert len(set(labels)) == len(labels)


def test_a_higher_value_is_drawn_higher_and_a_later_one_further_right():
    """The line's coordinates follow its values."""
    svg = charts.line_chart("t", [Series("a", [(0, 0.0), (1, 10.0), (2, 5.0)])],
                            x_label="x", y_label="y")  # fmt: skip
    points = [tuple(map(float, pair.split(","))) for pair in
              parts(svg, "polyline", "line")[0].get("points").split()]  # fmt: skip

    assert points[1][1] < points[2][1] < points[0][1]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[2][1] == pytest.approx((points[0][1] + points[1][1]) / 2)


def test_a_mark_lies_where_its_tick_says():
    """A dot with the value of a grid line has that line's height."""
    svg = charts.line_chart("t", [Series("a", [(1, 0.0), (2, 50.0), (3, 100.0)], dots=True)],
                            x_label="x", y_label="y")  # fmt: skip
    root = ElementTree.fromstring(svg)
    tick = next(e for e in root.iter("text") if e.text == "60")
    grid = {float(e.get("y1")) for e in parts(svg, "line", "grid")}

    assert float(tick.get("y")) - 4 in grid
    assert [
        pytest.approx(100 * (246 - float(dot.get("cy"))) / (246 - 30))
        for dot in parts(svg, "circle", "dot")
    ] == [0, 50, 100]


def test_values_that_are_no_numbers_are_counted_not_drawn():
    """NaN and infinity leave no trace in coordinates, only a sentence in the description."""
    svg = charts.line_chart("t", [Series("a", [(0, 1.0), (1, float("nan")), (2, float("inf")),
                            (3, 2.0)])], x_label="x", y_label="y")  # fmt: skip

    assert "2 values are not numbers" in svg
    assert not re.search(r'="[^"]*\b(nan|inf)\b', svg)


def test_names_at_line_ends_do_not_overlap():
    """Lines that end together have their names moved apart."""
    lines = [Series(f"line {n}", [(0, 1.0), (1, 1.0 + n / 1e4)]) for n in range(6)]
    svg = charts.line_chart("t", lines, x_label="x", y_label="y")
    heights = sorted(float(e.get("y")) for e in parts(svg, "text", "name"))

    assert len(heights) == 6
    assert min(b - a for a, b in pairwise(heights)) >= 13.9


def test_many_names_stay_in_the_picture():
    """Eighty lines that end alike push no name out of it."""
    lines = [Series(f"line {n}", [(0, 1.0), (1, 1.0 + n / 1e4)]) for n in range(80)]
    svg = charts.line_chart("t", lines, x_label="x", y_label="y")
    heights = [float(e.get("y")) for e in parts(svg, "text", "name")]

    assert 80 == len(heights)
    assert 12 < min(heights) < max(heights) < 290


def test_of_many_classes_the_most_frequent_have_a_name():
    """The others are drawn faint below them, and the caption says so."""
    told = [{"label": f"kind {n}", "boxes": n, "points": [[0, 1], [1, 0.5]]} for n in range(80)]
    few, many = (boxes.curves({"curves": told[-count:]}) for count in (12, 80))
    names = {f"kind {n}" for n in range(68, 80)}

    assert few and many
    assert names == {e.text for e in parts(many["picture"], "text", "name")}
    assert 68 == len(parts(many["picture"], "polyline", "faint"))
    assert "named: the 12 classes with the most boxes; faint: the other 68" in many["note"]
    assert names == {e.text for e in parts(few["picture"], "text", "name")}
    assert "named" not in few["note"]


def test_a_line_that_ends_early_is_named_where_it_ends():
    """Who leaves the race after round 1 has its name at round 1, not at the picture's edge."""
    lines = [Series("winner", [(1, 0.8), (2, 0.9)]), Series("rnn", [(1, 0.7)])]
    svg = charts.line_chart("t", lines, x_label="round", y_label="y", whole_x=True)
    places = {e.text: float(e.get("x")) for e in parts(svg, "text", "name")}
    dot = parts(svg, "circle", "dot")[0]

    assert float(dot.get("cx")) + 8 == places["rnn"] < places["winner"]


def test_scatter_puts_fast_left_accurate_up_and_marks_the_chosen():
    """Each candidate's mark follows its figures; the chosen one has a ring."""
    svg = charts.scatter(
        "t", [Point(0.1, 98, "fp32", "baseline"), Point(0.04, 97, "int8", "chosen", 96, 98),
              Point(0.03, 90, "tiny", "pareto")],
        x_label="ms", y_label="%", x_at_most=0.05, y_at_least=95,
    )  # fmt: skip
    marks = {e.get("data-name"): e for e in parts(svg, "circle", "mark")}
    square = parts(svg, "rect", "baseline")[0]
    ring = parts(svg, "circle", "ring")[0]
    region = parts(svg, "rect", "meets")[0]
    right = float(region.get("x")) + float(region.get("width"))
    bottom = float(region.get("y")) + float(region.get("height"))

    assert float(marks["tiny"].get("cx")) < float(marks["int8"].get("cx")) < float(square.get("x"))
    assert float(marks["int8"].get("cy")) < float(marks["tiny"].get("cy"))
    assert (marks["int8"].get("cx"), marks["int8"].get("cy")) == (ring.get("cx"), ring.get("cy"))
    assert float(marks["int8"].get("cx")) < right and float(marks["int8"].get("cy")) < bottom
    assert float(marks["tiny"].get("cy")) > bottom


def test_a_far_goal_does_not_squeeze_the_points():
    """A bound a hundred times beyond the data stays out of the axis."""
    svg = charts.scatter("t", [Point(0.02, 98, "a"), Point(0.04, 97, "b")], x_label="ms",
                         y_label="%", x_at_most=100)  # fmt: skip
    marks = parts(svg, "circle", "mark")

    assert abs(float(marks[0].get("cx")) - float(marks[1].get("cx"))) > 150


def test_columns_stack_to_their_total():
    """Heights in a column are proportional to rows, and a part stands on the one before."""
    svg = charts.columns("t", ["a", "b"], [("train", [30, 60]), ("test", [10, 0])])
    train_a, test_a, train_b, _ = [
        (float(e.get("y")), float(e.get("height")))
        for e in parts(svg, "rect", "fill") if e.find("title") is not None
    ]  # fmt: skip

    assert (train_a[1] * 2, train_a[1] / 3) == pytest.approx((train_b[1], test_a[1]), abs=0.1)
    assert train_a[0] == pytest.approx(test_a[0] + test_a[1])


def test_histogram_shows_single_slow_calls_and_its_percentiles():
    """One call among thousands is still a visible bar; p99 lies right of p50."""
    svg = charts.histogram("t", [0, 1, 2, 3], [5000, 0, 1], x_label="ms",
                           marks=[("p50", 0.5), ("p99", 2.5)])  # fmt: skip
    bars = [float(e.get("height")) for e in parts(svg, "rect", "fill")]
    lines = [float(e.get("x1")) for e in parts(svg, "line", "percentile")]

    assert len(bars) == 2 and bars[1] >= 1.5
    assert lines[0] < lines[1]
    assert "p50 0.5" in texts(svg)


def test_heat_map_tells_right_from_wrong_and_counts_add_up():
    """The diagonal is "right", the rest "wrong", zeros are left out."""
    svg = charts.heat_map("t", [[8, 2], [0, 5]], ["cat", "dog"])

    assert len(parts(svg, "rect", "right")) == 2
    assert len(parts(svg, "rect", "wrong")) == 1
    assert "13 of 15 rows answered right" in svg
    assert {"8", "2", "5", "cat", "dog"} <= set(texts(svg))


def test_large_counts_have_their_thousands_apart():
    """Counts read alike everywhere, whatever their size."""
    svg = charts.heat_map("t", [[10000, 0], [0, 1234567]], ["cat", "dog"])

    assert {"10,000", "1,234,567"} <= set(texts(svg))


def test_heat_map_of_many_classes_has_no_negative_sizes():
    """Three hundred classes are small cells without numbers, not a broken picture."""
    matrix = [[5 if i == j else 0 for j in range(300)] for i in range(300)]
    svg = charts.heat_map("t", matrix, [f"class {i}" for i in range(300)])

    assert not re.search(r'(width|height)="-', svg)


@pytest.mark.parametrize(("op", "measured", "tone"), [
    (">=", 0.98, "good"), (">=", 0.96, "bad"), ("<=", 0.96, "good"), ("<=", 0.98, "bad"),
])  # fmt: skip
def test_goal_bar_colours_by_the_side_of_the_bound(op, measured, tone):
    """The dot lies on its side of the bound and is coloured by it."""
    svg = charts.goal_bar("goal", op, 0.97, measured, measured - 0.02, measured + 0.02)
    dot, bound = parts(svg, "circle", "value")[0], parts(svg, "line", "goal")[0]

    assert tone in dot.get("class").split()
    assert (measured > 0.97) == (float(dot.get("cx")) > float(bound.get("x1")))


def test_spans_are_as_long_as_their_stage():
    """A stage that took twice as long is drawn twice as wide, after the one before it."""
    svg = charts.spans("t", [("plan", [(0, 10)]), ("train", [(10, 20)])])
    bars = [(float(e.get("x")), float(e.get("width"))) for e in parts(svg, "rect", "fill")]

    assert bars[1][1] == pytest.approx(2 * bars[0][1], abs=0.1)
    assert bars[1][0] == pytest.approx(bars[0][0] + bars[0][1], abs=0.1)


EMPTY = {
    "lines": charts.line_chart("t", [], x_label="x", y_label="y"),
    "no points": charts.line_chart("t", [Series("a", [])], x_label="x", y_label="y"),
    "scatter": charts.scatter("t", [], x_label="x", y_label="y"),
    "columns": charts.columns("t", [], []),
    "zero columns": charts.columns("t", ["a"], [("train", [0])]),
    "histogram": charts.histogram("t", [], [], x_label="x"),
    "heat map": charts.heat_map("t", [], []),
    "spans": charts.spans("t", []),
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_draw_is_said(name):
    """An empty chart is a picture that says so."""
    assert "nothing was recorded to draw" in texts(EMPTY[name])


HOSTILES = {
    "lines": charts.line_chart(HOSTILE, [Series(HOSTILE, [(0, 1)], dots=True)], x_label=HOSTILE,
                               y_label=HOSTILE),
    "scatter": charts.scatter(HOSTILE, [Point(1, 1, HOSTILE, HOSTILE)], x_label=HOSTILE,
                              y_label=HOSTILE),
    "columns": charts.columns(HOSTILE, [HOSTILE], [(HOSTILE, [1])]),
    "histogram": charts.histogram(HOSTILE, [0, 1], [1], x_label=HOSTILE, marks=[(HOSTILE, 0.5)]),
    "heat map": charts.heat_map(HOSTILE, [[1]], [HOSTILE]),
    "goal": charts.goal_bar(HOSTILE, ">=", 1, 2, None, None),
    "spans": charts.spans(HOSTILE, [(HOSTILE, [(0, 1)])]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILES)
def test_hostile_names_stay_text(name):
    """A name made of markup adds no element to the picture, and a title names it."""
    root = ElementTree.fromstring(HOSTILES[name])

    assert "script" not in {element.tag for element in root.iter()}
    assert root.findtext("title") == HOSTILE
    assert root.get("role") == "img" and root.findtext("desc")


def test_where_less_is_better_the_tinted_corner_is_below():
    """A goal from above tints the side under it, down to the axis."""
    points = [Point(0.1, 0.5, "fp32", "baseline"), Point(0.04, 0.4, "int8", "chosen")]
    svg = charts.scatter("t", points, x_label="ms", y_label="MSE", x_at_most=0.05, y_at_most=0.45)
    region = parts(svg, "rect", "meets")[0]
    top, height = float(region.get("y")), float(region.get("height"))
    chosen = next(e for e in parts(svg, "circle", "mark") if e.get("data-name") == "int8")
    square = parts(svg, "rect", "baseline")[0]

    assert top + height == pytest.approx(246, abs=0.01)
    assert top < float(chosen.get("cy")) < top + height
    assert float(square.get("y")) + float(square.get("height")) / 2 < top

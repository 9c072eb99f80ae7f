"""A forecast as a picture of its own."""

from xml.etree import ElementTree

from modelwright.report.forecast import MOST_CHARTS, picture

SVG = "{http://www.w3.org/2000/svg}"


def test_each_series_goes_on_where_it_ends():
    """A chart a series, with a line of what was and one of the forecast that begins at its end."""
    found = ElementTree.fromstring(picture("a<b.csv", {"x": [1, 2, 3], "y": [4, 5, 6]},
                                           {"x": [9, 8], "y": [7, 7]}))  # fmt: skip
    charts = found.findall(f"{SVG}g")
    past, ahead = (line.get("points").split() for line in charts[0].iter(f"{SVG}polyline"))

    assert "a<b.csv: 2 steps ahead" == found.find(f"{SVG}text").text
    assert (2, 3, 3) == (len(charts), len(past), len(ahead))
    assert past[-1] == ahead[0]


def test_the_axis_says_when_the_steps_are():
    """Where times are known."""
    known = {"x": [1.0, 2.0]}

    assert "steps from the last known value" in picture("a", known, known)
    assert "steps: 1 is 2024-01-30, 2 is 2024-01-31" in picture(
        "a", known, known, ["2024-01-30", "2024-01-31"]
    )


def test_what_is_not_drawn_is_said():
    """The first series of many are drawn, and how many are not stands above."""
    series = {f"s{n}": [1.0, 2.0] for n in range(MOST_CHARTS + 3)}

    assert "3 more series are not drawn" in picture("a", series, series)

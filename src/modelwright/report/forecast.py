"""A forecast as a picture of its own: each series as it was, and as it goes on.

Gives one SVG file, which browsers and viewers of pictures open; its style travels inside.
"""

from collections.abc import Mapping, Sequence

from modelwright.report.charts import Series, line_chart
from modelwright.report.drawing import HEIGHT, WIDTH, safe

MOST_CHARTS, ACROSS, GAP = 24, 2, 24
TITLE_HEIGHT = 40
PAST = 4  # times the forecast: more of what was before makes the forecast hard to see
STYLE = """
text{font:12px system-ui,sans-serif;fill:#5b6475}text.end{text-anchor:end}
text.middle{text-anchor:middle}text.title{font-size:16px;font-weight:600;fill:#171b26}
text.halo{paint-order:stroke;stroke:#fff;stroke-width:4px}text.name{font-weight:600}
.grid{stroke:#dfe3ea}.axis{stroke:#9aa4b6}.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.line.c0{stroke:#5b6475}.line.c1{stroke:#d55e00}.dot.c0{fill:#5b6475}.dot.c1{fill:#d55e00}
.name.c0{fill:#5b6475}.name.c1{fill:#b34e00}
"""


def picture(
    name: str, before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]],
    times: Sequence[str] = (),
) -> str:  # fmt: skip
    """The SVG of a forecast; the first MOST_CHARTS series where there are more.

    Args:
        name: what was forecast, such as the file.
        before, after: of each series the values up to now, the latest last, and those that follow.
        times: of those that follow, where they are known.
    """
    shown = list(after)[:MOST_CHARTS]
    across = min(ACROSS, len(shown))
    charts = []
    for place, own in enumerate(shown):
        x, y = place % across * (WIDTH + GAP), place // across * (HEIGHT + GAP) + TITLE_HEIGHT
        charts.append(
            f'<g transform="translate({x} {y})">{_chart(own, before[own], after[own], times)}</g>'
        )
    width = across * (WIDTH + GAP) - GAP
    height = -(-len(shown) // across) * (HEIGHT + GAP) + TITLE_HEIGHT
    left = len(after) - len(shown)
    title = f"{name}: {len(after[shown[0]])} steps ahead" + (
        f"; {left} more series are not drawn" if left else ""
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 32}" height="{height + 16}" '
        f'viewBox="-16 -8 {width + 32} {height + 16}"><style>{STYLE}</style>'
        f'<rect x="-16" y="-8" width="100%" height="100%" fill="#fff"/>'
        f'<text class="title" x="0" y="20">{safe(title)}</text>{"".join(charts)}</svg>\n'
    )


def _chart(name: str, before: Sequence[float], after: Sequence[float], times: Sequence[str]) -> str:
    """Steps count from the last value known, which is 0; the forecast's line begins there."""
    recent = before[-PAST * len(after) :]
    past = [(1 - len(recent) + place, value) for place, value in enumerate(recent)]
    ahead = [*past[-1:], *((1 + place, value) for place, value in enumerate(after))]
    said = f": 1 is {times[0]}, {len(times)} is {times[-1]}" if times else ""
    return line_chart(
        name,
        [Series("", past, 0), Series("forecast", ahead, 1)],
        x_label="steps" + (said or " from the last known value"),
        y_label=name,
        whole_x=True,
    )

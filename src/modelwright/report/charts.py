"""Pictures as inline SVG: numbers in, one <svg> string out, readable without script or colour.

Colours are classes (c0 … c6) that the page's style sheet maps to the palette of Okabe and Ito
(https://jfly.uni-koeln.de/color), which people with any colour vision can tell apart; every series
is named beside its line as well. Every text is escaped here, so the page may take the result as is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from modelwright.report.drawing import (
    BOTTOM,
    CHARACTER,
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    Axis,
    empty,
    grid,
    make_axis,
    rule,
    safe,
    short,
    svg,
    tick_label,
)

COLORS = 7
NEAR = 40  # pixels: lines that end this close to the last one end with it


@dataclass(frozen=True)
class Series:
    """One line of a line chart."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    style: str = ""  # "faint", "strong" or nothing
    dots: bool = False


@dataclass(frozen=True)
class Point:
    """One mark of a scatter plot; `kind` is chosen, pareto, dominated, runner-up or baseline."""

    x: float
    y: float
    label: str
    kind: str = "pareto"
    low: float | None = None  # of y
    high: float | None = None
    area: float = 1.0  # 0 to 1, of the largest mark
    front: bool = False  # whether no other mark is better at everything


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str, y_label: str, zero: bool = False,
    whole_x: bool = False,
) -> str:  # fmt: skip
    """Lines over a shared x axis, each named where it ends."""
    kept = [
        (s, [(x, y) for x, y in s.points if math.isfinite(x) and math.isfinite(y)]) for s in series
    ]
    lost = sum(len(s.points) - len(points) for s, points in kept)
    kept = [(s, points) for s, points in kept if points]
    if not kept:
        return empty(title)
    named = [(s, points) for s, points in kept if s.name]
    right = 16 + max((len(short(s.name)) * CHARACTER for s, _ in named), default=0)
    xs = make_axis((x for _, p in kept for x, _ in p), LEFT, WIDTH - right, tight=True,
                   whole=whole_x)  # fmt: skip
    ys = make_axis((y for _, p in kept for _, y in p), HEIGHT - BOTTOM, TOP, zero=zero)
    body = grid(xs, ys, x_label, y_label)
    for s, points in kept:
        shape = f"c{s.color % COLORS} {s.style}".strip()
        path = " ".join(f"{xs(x)},{ys(y)}" for x, y in points)
        if len(points) > 1:
            body.append(
                f'<polyline class="line {shape}" data-name="{safe(s.name)}" points="{path}"/>'
            )
        if s.dots or len(points) == 1:
            body += [
                f'<circle class="dot {shape}" cx="{xs(x)}" cy="{ys(y)}" r="3.4">'
                f"<title>{safe(s.name)}: {x:.6g}, {y:.4g}</title></circle>"
                for x, y in points
            ]
    body += _end_labels([(s, ys(points[-1][1]), xs(points[-1][0])) for s, points in named])
    parts = [f"{s.name or 'line'}: {p[0][1]:.4g} to {p[-1][1]:.4g}" for s, p in kept]
    if lost:
        parts.append(f"{lost} values are not numbers and are not drawn")
    return svg(title, f"{y_label} over {x_label}. " + "; ".join(parts) + ".", body)


def scatter(
    title: str, points: Sequence[Point], *, x_label: str, y_label: str,
    x_at_most: float | None = None, y_at_least: float | None = None,
    y_at_most: float | None = None,
) -> str:  # fmt: skip
    """Marks with names; the corner that meets the goals is tinted, the Pareto front is joined."""
    y_bound = y_at_least if y_at_most is None else y_at_most
    points = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
    if not points:
        return empty(title)
    all_x = [p.x for p in points]
    all_y = [y for p in points for y in (p.y, p.low, p.high) if y is not None]
    all_x += [x_at_most] if x_at_most is not None and _near(x_at_most, all_x) else []
    all_y += [y_bound] if y_bound is not None and _near(y_bound, all_y) else []
    xs = make_axis(_padded(all_x), LEFT, WIDTH - 24)
    ys = make_axis(_padded(all_y), HEIGHT - BOTTOM, TOP)
    edge_x = xs.high if x_at_most is None else min(max(x_at_most, xs.low), xs.high)
    edge_y = ys.low if y_bound is None else min(max(y_bound, ys.low), ys.high)
    top, bottom = (ys.end, ys(edge_y)) if y_at_most is None else (ys(edge_y), ys.start)
    body = []
    if x_at_most is not None or y_bound is not None:
        body.append(
            f'<rect class="meets" x="{xs.start}" y="{top}" width="{xs(edge_x) - xs.start:.2f}" '
            f'height="{bottom - top:.2f}"/>'
        )
    body += grid(xs, ys, x_label, y_label)
    if edge_x == x_at_most:  # a goal that lies outside of the picture has no line in it
        body.append(rule(xs(edge_x), ys.end, xs(edge_x), ys.start, "goal"))
    if edge_y == y_bound:
        body.append(rule(xs.start, ys(edge_y), xs.end, ys(edge_y), "goal"))
    front = sorted((p.x, p.y) for p in points if p.front)
    if len(front) > 1:
        body.append(
            '<polyline class="front" points="'
            + " ".join(f"{xs(x)},{ys(y)}" for x, y in front) + '"/>'
        )  # fmt: skip
    taken = [(xs(p.x) - 8, ys(p.y) - 8, xs(p.x) + 8, ys(p.y) + 8) for p in points]
    names = []
    for p in sorted(points, key=lambda p: ("chosen", "baseline").index(p.kind)
                    if p.kind in ("chosen", "baseline") else 2):  # fmt: skip
        x, y, radius = xs(p.x), ys(p.y), round(3.5 + 4.5 * math.sqrt(max(p.area, 0.0)), 2)
        if p.low is not None and p.high is not None:
            body.append(rule(x, ys(p.low), x, ys(p.high), f"whisker {p.kind}"))
        tip = (
            f"<title>{safe(p.label)}: {safe(x_label)} {p.x:.4g}, {safe(y_label)} {p.y:.4g}</title>"
        )
        if p.kind == "baseline":
            body.append(
                f'<rect class="mark baseline" data-name="{safe(p.label)}" x="{x - radius:.2f}" '
                f'y="{y - radius:.2f}" width="{2 * radius}" height="{2 * radius}">{tip}</rect>'
            )
        else:
            if p.kind == "chosen":
                body.append(f'<circle class="ring" cx="{x}" cy="{y}" r="{radius + 4:.2f}"/>')
            body.append(
                f'<circle class="mark {safe(p.kind)}" data-name="{safe(p.label)}" '
                f'cx="{x}" cy="{y}" r="{radius}">{tip}</circle>'
            )
        names += _place(p, x, y, radius + 6, taken)
    said = "; ".join(f"{p.label}: {p.x:.4g}, {p.y:.4g} ({p.kind})" for p in points)
    return svg(title, f"{y_label} over {x_label}. {said}.", body + names)


def columns(
    title: str, labels: Sequence[str], stacks: Sequence[tuple[str, Sequence[float]]]
) -> str:
    """Stacked columns, one a label; `stacks` are (name, one value a label), bottom first."""
    stacks = [(name, values) for name, values in stacks if any(values)]
    if not labels or not stacks:
        return empty(title)
    count = len(labels)
    longest = max(len(short(label)) for label in labels)
    xs = Axis(0, count, LEFT, WIDTH - 12)
    slot = (WIDTH - 12 - LEFT) / count
    slanted = longest * CHARACTER > slot
    bottom = HEIGHT - BOTTOM + 8 - (min(longest * CHARACTER * 0.7, 70) - 10 if slanted else 0)
    totals = [sum(v[i] for _, v in stacks if i < len(v)) for i in range(count)]
    ys = make_axis(totals, bottom, TOP + 8, zero=True, whole=True)
    body = grid(None, ys, "", "rows")
    every = max(1, math.ceil(14 / slot))
    for i, label in enumerate(labels):
        base = 0.0
        for color, (name, values) in enumerate(stacks):
            value = values[i] if i < len(values) else 0
            height = ys(base) - ys(base + value)
            body.append(
                f'<rect class="fill c{color % COLORS}" x="{xs(i + 0.1)}" y="{ys(base + value)}" '
                f'width="{slot * 0.8:.2f}" height="{height:.2f}">'
                f"<title>{safe(label)}, {safe(name)}: {value:,.0f}</title></rect>"
            )
            base += value
        if i % every == 0:
            x, y = xs(i + 0.5), bottom + 14
            turn = f' transform="rotate(-45 {x} {y})" class="end"' if slanted else ' class="middle"'
            body.append(f'<text x="{x}" y="{y}"{turn}>{safe(short(label))}</text>')
    x = float(WIDTH - 12)
    for color, (name, _) in reversed(list(enumerate(stacks))):
        x -= len(name) * CHARACTER
        body.append(f'<text x="{x:.1f}" y="14">{safe(name)}</text>')
        body.append(f'<rect class="fill c{color % COLORS}" x="{x - 15:.1f}" y="4.5" width="10" '
                    'height="10" rx="2"/>')  # fmt: skip
        x -= 28
    said = "; ".join(f"{label}: {total:,.0f}" for label, total in zip(labels, totals, strict=True))
    return svg(title, f"Rows of each class. {said}.", body)


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[float], *, x_label: str,
    marks: Sequence[tuple[str, float]] = (), of: str = "call",
) -> str:  # fmt: skip
    """Bars between edges, with named vertical lines such as p50; `of` what is counted."""
    pairs = list(zip(pairwise(edges), counts, strict=False))
    if not pairs or not any(counts):
        return empty(title)
    filled = [pair for pair in pairs if pair[1]]
    ends = [x for pair, _ in filled for x in pair] + [x for _, x in marks]
    xs = make_axis(ends, LEFT, WIDTH - 24)
    top = TOP + 8 + 15 * len(marks)
    ys = make_axis(counts, HEIGHT - BOTTOM, top, zero=True, whole=True, count=4)
    body = grid(xs, ys, x_label, f"{of}s")
    for (left, right), count in filled:
        height = max(ys.start - ys(count), 1.5)  # a single slow call stays visible
        body.append(
            f'<rect class="fill c0" x="{xs(left) + 0.3:.2f}" y="{ys.start - height:.2f}" '
            f'width="{max(xs(right) - xs(left) - 0.6, 0.8):.2f}" height="{height:.2f}">'
            f"<title>{left:.4g} to {right:.4g}: {count:,.0f} {of}s</title></rect>"
        )
    for row, (name, value) in enumerate(marks):
        x, y = xs(value), TOP + 6 + 15 * row
        side = ("end", -5) if x > WIDTH - 130 else ("", 5)
        body.append(rule(x, y - 9, x, ys.start, "percentile"))
        body.append(
            f'<text class="strong {side[0]}" x="{x + side[1]:.2f}" y="{y}">'
            f"{safe(name)} {value:.3g}</text>"
        )
    said = ", ".join(f"{name} {value:.4g}" for name, value in marks)
    return svg(title, f"{sum(counts):,.0f} {of}s. {said}.", body)


def heat_map(title: str, matrix: Sequence[Sequence[float]], labels: Sequence[str]) -> str:
    """A confusion matrix: a row is what is true, a column what was answered.

    Each cell is shaded by its share of its row; answers that are right in one colour, wrong ones
    in another. Numbers stand in the cells up to 20 classes; zeros are left out.
    """
    count = len(matrix)
    if not count or not any(any(row) for row in matrix):
        return empty(title)
    names = [short(labels[i] if i < len(labels) else str(i), 14) for i in range(count)]
    margin = 24 + min(max(len(name) for name in names) * CHARACTER, 100)
    side = WIDTH - margin - 8
    cell = side / count
    gap = min(1.0, cell / 8)
    body = [
        f'<text x="{max(margin, 46)}" y="12" class="label">answered →</text>',
        '<text x="0" y="12" class="label">true ↓</text>',
        f'<rect class="frame" x="{margin}" y="{margin}" width="{side}" height="{side}"/>',
    ]
    every = max(1, math.ceil(12 / cell))
    for i, row in enumerate(matrix):
        y, total = margin + i * cell, sum(row)
        if i % every == 0:
            middle = y + cell / 2 + 4
            body.append(
                f'<text class="end" x="{margin - 6}" y="{middle:.2f}">{safe(names[i])}</text>'
            )
            x = margin + (i + 0.5) * cell
            wide = max(len(name) for name in names) * CHARACTER > cell * every
            turn = f' transform="rotate(-60 {x + 4:.2f} {margin - 6})"' if wide else ""
            place = "" if wide else ' class="middle"'
            body.append(f'<text{place} x="{x + (4 if wide else 0):.2f}" y="{margin - 6}"{turn}>'
                        f"{safe(names[i])}</text>")  # fmt: skip
        for j, value in enumerate(row):
            if not value:
                continue
            share = value / total
            kind = "right" if i == j else "wrong"
            shade = 0.12 + 0.88 * (share if i == j else math.sqrt(share))
            x = margin + j * cell
            truth, answer = (labels[n] if n < len(labels) else str(n) for n in (i, j))
            body.append(
                f'<rect class="{kind}" x="{x + gap / 2:.2f}" y="{y + gap / 2:.2f}" '
                f'width="{cell - gap:.2f}" height="{cell - gap:.2f}" fill-opacity="{shade:.3f}">'
                f"<title>true {safe(truth)}, answered {safe(answer)}: {value:,.0f} ({share:.1%})"
                "</title></rect>"
            )
            if count <= 20:
                tone = "on" if shade > 0.55 else "strong"
                body.append(f'<text class="middle {tone}" x="{x + cell / 2:.2f}" '
                            f'y="{y + cell / 2 + 4:.2f}">{value:,.0f}</text>')  # fmt: skip
    right = sum(row[i] for i, row in enumerate(matrix) if i < len(row))
    said = f"{right:,.0f} of {sum(map(sum, matrix)):,.0f} rows answered right"
    return svg(
        title, f"Rows are the truth, columns the answers. {said}.", body, round(margin + side) + 8
    )


def goal_bar(
    title: str, op: str, bound: float, measured: float, low: float | None, high: float | None
) -> str:
    """Where the measured value and its interval lie; the side that fulfils the goal is tinted."""
    width, height = 240, 34
    values = [v for v in (bound, measured, low, high) if v is not None]
    reach = max(values) - min(values) or abs(bound) or 1.0
    start, end = min(values) - 0.35 * reach, max(values) + 0.35 * reach
    if op == "<=":
        start = min(0.0, min(values))
    scale = Axis(start, end, 4, width - 4)
    left, right = (scale(bound), scale.end) if op == ">=" else (scale.start, scale(bound))
    met = measured >= bound if op == ">=" else measured <= bound
    tone = "good" if met else "bad"
    body = [
        f'<rect class="track" x="4" y="11" width="{width - 8}" height="12" rx="6"/>',
        f'<rect class="meets" x="{left:.2f}" y="11" width="{right - left:.2f}" '
        'height="12" rx="3"/>',
        rule(scale(bound), 4, scale(bound), 30, "goal"),
    ]
    if low is not None and high is not None:
        body.append(rule(scale(low), 17, scale(high), 17, f"interval {tone}"))
    body.append(f'<circle class="value {tone}" cx="{scale(measured)}" cy="17" r="5.5"/>')
    said = f"Bound {op} {bound:g}, measured {measured:g}" + (
        f", interval {low:g} to {high:g}" if low is not None and high is not None else ""
    )
    return svg(title, said + ".", body, height, width)


def spans(title: str, rows: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> str:
    """When each stage ran: (name, [(start, seconds), …]) a row, time from left to right."""
    ends = [start + seconds for _, pieces in rows for start, seconds in pieces]
    if not ends:
        return empty(title)
    height = 26 * len(rows) + 30
    minutes = max(ends) > 180
    unit = 60 if minutes else 1
    left = 12 + max(len(name) for name, _ in rows) * CHARACTER
    xs = make_axis([0, max(ends) / unit], left, WIDTH - 16, zero=True, tight=True)
    body = []
    for tick in xs.ticks:
        body.append(rule(xs(tick), 4, xs(tick), height - 26, "grid"))
        body.append(f'<text class="middle" x="{xs(tick)}" y="{height - 10}">'
                    f"{tick_label(tick, xs.step)}</text>")  # fmt: skip
    body.append(f'<text class="end label" x="{WIDTH}" y="{height}">'
                f"{'minutes' if minutes else 'seconds'}</text>")  # fmt: skip
    for row, (name, pieces) in enumerate(rows):
        y = 6 + 26 * row
        body.append(f'<text class="end" x="{left - 8:.1f}" y="{y + 13}">{safe(name)}</text>')
        for start, seconds in pieces:
            body.append(
                f'<rect class="fill c0" x="{xs(start / unit)}" y="{y}" rx="3" height="18" width="'
                f'{max(xs((start + seconds) / unit) - xs(start / unit), 2):.2f}">'
                f"<title>{safe(name)}: {seconds:.3g} s</title></rect>"
            )
    said = "; ".join(f"{name}: {sum(s for _, s in pieces):.3g} s" for name, pieces in rows)
    return svg(title, said + ".", body, height + 4)


def _end_labels(ends: list[tuple[Series, float, float]]) -> list[str]:
    """Names at the lines' ends, moved apart where they would touch."""
    edge = max((x for *_, x in ends), default=0)
    early = [end for end in ends if edge - end[2] > NEAR]
    if early:  # a line that left the race is named where it left
        return _end_labels(early) + _end_labels([end for end in ends if end not in early])
    ends = sorted(ends, key=lambda end: end[1])
    floor: float = HEIGHT - BOTTOM + 4
    gap = min(14, (floor - TOP) / len(ends)) if ends else 14  # many touch, but stay in the picture
    heights: list[float] = []
    for _, y, _ in ends:
        heights.append(max(y + 4, heights[-1] + gap if heights else 0))
    for i in range(len(heights) - 1, -1, -1):
        heights[i] = min(heights[i], floor)
        floor = heights[i] - gap
    return [
        f'<text class="name halo c{s.color % COLORS}" x="{edge + 8:.2f}" y="{y:.2f}">'
        f"{safe(short(s.name))}</text>"
        for (s, _, _), y in zip(ends, heights, strict=True)
    ]


Box = tuple[float, float, float, float]


def _place(p: Point, x: float, y: float, gap: float, taken: list[Box]) -> list[str]:
    """The name of a mark where it covers nothing, or not at all (its tooltip has it)."""
    text = short(p.label)
    width = len(text) * CHARACTER
    spots: list[tuple[str, float, float]] = [
        ("", x + gap, y + 4), ("end", x - gap, y + 4),
        ("middle", x, y - gap), ("middle", x, y + gap + 9),
        ("", x + gap, y - 11), ("", x + gap, y + 19), ("end", x - gap, y - 11),
        ("end", x - gap, y + 19),
    ]  # fmt: skip
    shift: dict[str, Callable[[float], float]] = {
        "": lambda a: a, "end": lambda a: a - width, "middle": lambda a: a - width / 2
    }  # fmt: skip
    for anchor, at, base in spots:
        left = shift[anchor](at)
        box = (left, base - 10, left + width, base + 3)
        free = all(box[2] < b[0] or box[0] > b[2] or box[3] < b[1] or box[1] > b[3] for b in taken
                   if b != (x - 8, y - 8, x + 8, y + 8))  # fmt: skip
        if (
            free
            and box[0] >= LEFT + 2
            and box[2] <= WIDTH
            and box[1] >= 18
            and box[3] < HEIGHT - BOTTOM
        ):
            taken.append(box)
            tone = "halo strong" if p.kind == "chosen" else "halo"
            return [
                f'<text class="{tone} {anchor}" x="{at:.2f}" y="{base:.2f}">{safe(text)}</text>'
            ]
    return []


def _near(bound: float, values: Sequence[float]) -> bool:
    """Whether a goal lies close enough to the data to share its picture."""
    reach = max(values) - min(values) or abs(values[0]) or 1.0
    return min(values) - 1.5 * reach <= bound <= max(values) + 1.5 * reach


def _padded(values: Sequence[float]) -> list[float]:
    reach = max(values) - min(values)
    return [min(values) - 0.06 * reach, max(values) + 0.06 * reach]

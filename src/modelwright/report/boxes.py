"""Pictures with boxes, and how precision falls as more of the things are found."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from modelwright.report import charts, words
from modelwright.report.collect import number, rows

View = dict[str, Any]
COLORS = 6  # of the classes c0 … in page.css
NAMED = 12  # classes whose curves have a name


def pictures(proof: View, labels: Sequence[str], is_png: Any) -> list[View]:
    """The certificate's examples: what was found over what is there."""
    shown = []
    for one in rows(proof, "examples"):
        width, height = number(one.get("width")), number(one.get("height"))
        image = str(one.get("image", ""))
        if not width or not height or not is_png(image):
            continue
        true, found = rows(one, "true"), rows(one, "found")
        body = [f'<image href="{escape(image)}" width="{width:g}" height="{height:g}"/>']
        body += [_frame(box, labels, "there") for box in true]
        body += [_frame(box, labels, "found") for box in found]
        text = f"{words.many(len(found), 'box', 'boxes')} found, {len(true)} there"
        shown.append({
            "row": one.get("row", ""), "text": text,
            "picture": Markup(
                f'<svg class="boxes" viewBox="0 0 {width:g} {height:g}" role="img" '
                f'aria-label="{escape(text)}">{"".join(body)}</svg>'
            ),
        })  # fmt: skip
    return shown


def curves(proof: View) -> View | None:
    """Precision over recall, a line for each class; the picture has room for NAMED names."""
    found = rows(proof, "curves")
    if not found:
        return None
    often = sorted(range(len(found)), key=lambda place: -(number(found[place].get("boxes")) or 0))
    series = []
    for place in (*often[NAMED:], *often[:NAMED]):  # the named ones on top
        named, one = place in often[:NAMED], found[place]
        points = [
            (float(point[0]), float(point[1]))
            for point in one.get("points") or []
            if isinstance(point, list) and len(point) == 2
        ]
        name = str(one.get("label", "")) if named else ""
        series.append(charts.Series(name, points, place, "" if named else "faint"))
    title = "Precision over recall at an overlap of 0.5"
    picture = charts.line_chart(title, series, x_label="recall", y_label="precision", zero=True)
    note = "from the surest box to the least sure one"
    if left := len(found[NAMED:]):
        note += f"; named: the {NAMED} classes with the most boxes; faint: the other {left}"
    return {"picture": Markup(picture), "note": note}


def _frame(one: View, labels: Sequence[str], kind: str) -> str:
    sides = [number(side) for side in one.get("box") or []]
    if len(sides) != 4 or any(side is None or not math.isfinite(side) for side in sides):
        return ""
    x1, y1, x2, y2 = (float(side or 0) for side in sides)
    label = str(one.get("label", ""))
    color = labels.index(label) % COLORS if label in labels else 0
    score = number(one.get("score"))
    said = f"{kind}: {label}" + ("" if score is None else f" {score:.0%}")
    return (
        f'<rect class="{kind} c{color}" x="{x1:g}" y="{y1:g}" width="{max(x2 - x1, 0):g}" '
        f'height="{max(y2 - y1, 0):g}"><title>{escape(said)}</title></rect>'
    )

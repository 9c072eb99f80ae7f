"""What every picture is made of: axes with round ticks, grid, rules, frame, escaped text."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 290
TOP, BOTTOM, LEFT = 30, 44, 54
CHARACTER = 6.6  # pixels a character takes at 12 px, on average


@dataclass(frozen=True)
class Axis:
    """Values to pixels along one side."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...] = ()
    step: float = 1.0

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def nice_step(span: float, count: int = 5) -> float:
    """The round number (1, 2 or 5 times a power of ten) that cuts `span` into about `count`.

    >>> nice_step(100), nice_step(0.7), nice_step(3)
    (20, 0.1, 0.5)
    """
    raw = span / count
    power = math.floor(math.log10(raw))
    lead = raw / 10.0**power
    digit = 1 if lead < 1.5 else 2 if lead < 3.5 else 5 if lead < 7.5 else 10
    step: float = digit * 10**power if power >= 0 else digit / 10**-power
    return step


def make_axis(
    values: Iterable[float], start: float, end: float, *, zero: bool = False, tight: bool = False,
    whole: bool = False, count: int = 5,
) -> Axis:  # fmt: skip
    """An axis with round ticks that covers the values.

    Args:
        tight: end at the last value instead of the next round number.
        whole: the values are counts; no tick between two whole numbers.
    """
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        pad = abs(high) * 0.1 or 0.5
        low, high = (low, high + pad) if zero else (low - pad, high + pad)
    step = nice_step(high - low, count)
    if whole:
        step = max(1, round(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if tight:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    else:
        low, high = first * step, last * step
    ticks = tuple(n * step for n in range(first, last + 1))
    return Axis(low, high, start, end, ticks, step)


def tick_label(value: float, step: float) -> str:
    """A tick in as many digits as tell it from its neighbours.

    >>> [tick_label(v, 0.25) for v in (0.5, 0.75)], tick_label(20000, 5000), tick_label(1e-5, 5e-6)
    (['0.50', '0.75'], '20,000', '1e-5')
    >>> [tick_label(v, 2e-5) for v in (0.3811, 0.38112)], tick_label(1.25e-4, 5e-6)
    (['0.38110', '0.38112'], '1.25e-4')
    """
    if abs(value) < step * 1e-6:
        return "0"
    if step < 1e-4:
        place = math.floor(math.log10(step) + 1e-9)  # of the last digit that changes
        if abs(value) >= 1e-3:
            return f"{value:,.{-place}f}"
        digits = max(math.floor(math.log10(abs(value)) + 1e-9) - place, 0)
        mantissa, exponent = f"{value:.{digits}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.') if digits else mantissa}e{int(exponent)}"
    for factor, suffix in ((1e9, "G"), (1e6, "M")):
        if step >= factor / 10:
            return f"{value / factor:g}{suffix}"
    decimals = 0
    while decimals < 6 and not math.isclose(step, round(step, decimals), rel_tol=1e-6):
        decimals += 1
    return f"{value:,.{decimals}f}"


def svg(title: str, desc: str, body: list[str], height: int = HEIGHT, width: int = WIDTH) -> str:
    """A whole picture with its title and description, for eyes and for screen readers."""
    return (
        f'<svg role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<title>{safe(title)}</title><desc>{safe(desc)}</desc>{''.join(body)}</svg>"
    )


def empty(title: str) -> str:
    """A picture that says there is nothing to draw."""
    text = f'<text class="middle" x="{WIDTH / 2}" y="34">nothing was recorded to draw</text>'
    return svg(title, "No values.", [text], 60)


def grid(xs: Axis | None, ys: Axis, x_label: str, y_label: str) -> list[str]:
    """Grid lines and tick labels of a plot."""
    left, right = (xs.start, xs.end) if xs else (LEFT, WIDTH - 12)
    body = [f'<text class="label" x="0" y="14">{safe(y_label)}</text>']
    for tick in ys.ticks:
        body.append(rule(left, ys(tick), right, ys(tick), "grid"))
        body.append(f'<text class="end" x="{left - 7}" y="{ys(tick) + 4}">'
                    f"{tick_label(tick, ys.step)}</text>")  # fmt: skip
    if xs:
        body.append(rule(left, ys.start, right, ys.start, "axis"))
        for tick in xs.ticks:
            body.append(rule(xs(tick), ys.start, xs(tick), ys.start + 4, "axis"))
            body.append(f'<text class="middle" x="{xs(tick)}" y="{ys.start + 17}">'
                        f"{tick_label(tick, xs.step)}</text>")  # fmt: skip
        body.append(
            f'<text class="label end" x="{right}" y="{ys.start + 36}">{safe(x_label)}</text>'
        )
    return body


def rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """One straight line."""
    return f'<line class="{safe(kind)}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def short(text: str, length: int = 18) -> str:
    """A label cut to a length that an axis has room for."""
    return text if len(text) <= length else text[: length - 1] + "…"


def safe(text: object) -> str:
    """Text made safe for markup."""
    return escape(str(text), quote=True)

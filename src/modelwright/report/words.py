"""Figures and names in the words of the report."""

from modelwright.core.units import format_bytes, format_count, format_seconds

LABELS = {
    "accuracy": "accuracy",
    "accuracy_drop": "accuracy lost",
    "latency_p50_ms": "latency, median",
    "latency_p95_ms": "latency, p95",
    "latency_p99_ms": "latency, p99",
    "latency_ms": "latency, uncompressed",
    "size_mb": "size",
    "size_bytes": "size, uncompressed",
    "num_params": "parameters",
    "forward_flops": "FLOPs, forward",
    "backward_flops": "FLOPs, backward",
    "memory_bytes": "memory while training",
    "epoch_s": "time per epoch",
    "valid_accuracy": "accuracy on valid, forecast by the race",
}
GOAL_UNITS = {"accuracy": "share", "accuracy_drop": "points", "size_mb": "mb"}
NONE = "–"


def label(name: str) -> str:
    """
    >>> label("size_mb"), label("train_s"), label("peak_rate")
    ('size', 'train time', 'peak rate')
    """
    if name.endswith("_s") and name not in LABELS:
        name = f"{name[:-2]} time"
    return LABELS.get(name, name.replace("_", " "))


def digits(value: float) -> str:
    """Three digits, without an exponent where people can do without.

    >>> digits(0.02), digits(1234.5), digits(98.34), digits(0.0000021), digits(999.9)
    ('0.02', '1,234', '98.3', '2.1e-6', '1,000')
    """
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"


def show(value: float | None, unit: str) -> str:
    """A value in its unit.

    >>> show(0.9825, "share"), show(0.02, "ms"), show(0.1, "mb"), show(34, "s"), show(None, "s")
    ('98.25%', '0.02 ms', '0.1 MB', '34 s', '–')
    >>> show(0.005, "points"), show(308074, "FLOPs"), show(0.25, "J")
    ('0.50 pt', '308k', '0.25 J')
    """
    if value is None:
        return NONE
    unit = unit.removeprefix(" ")
    match unit.lower():
        case "share" | "%":
            return f"{100 * value:.2f}%".replace("-", "−")
        case "points":
            return f"{100 * value:.2f} pt".replace("-", "−")
        case "mb":
            return f"{digits(value)} MB"
        case "bytes" | "b":
            return format_bytes(value)
        case "s" | "seconds":
            return format_seconds(value)
        case "flops" | "params" | "parameters":
            return format_count(value)
        case "":
            return f"{value:,.0f}" if value == int(value) else digits(value)
    return f"{digits(value)} {unit}"


def goal_unit(name: str) -> str:
    """The unit of a goal's value, as the page prints it."""
    return GOAL_UNITS.get(name, "ms" if name.endswith("_ms") else "")


def bound_text(name: str, bound: str) -> str:
    """A goal's bound as people write it.

    >>> bound_text("accuracy", ">= 0.97"), bound_text("size_mb", "<= 0.5")
    ('≥ 97%', '≤ 0.5 MB')
    """
    parsed = parse_bound(bound)
    if parsed is None:
        return bound
    op, value = parsed
    sign, unit = {">=": "≥", "<=": "≤"}[op], goal_unit(name)
    if unit == "share":
        return f"{sign} {100 * value:g}%"
    return f"{sign} {100 * value:g} pt" if unit == "points" else f"{sign} {show(value, unit)}"


def parse_bound(text: str) -> tuple[str, float] | None:
    """
    >>> parse_bound(">= 0.97"), parse_bound("soon")
    (('>=', 0.97), None)
    """
    op, _, value = text.strip().partition(" ")
    try:
        return (op, float(value)) if op in (">=", "<=") else None
    except ValueError:
        return None


def gap_text(name: str, bound: str, measured: float | None) -> str:
    """How far a missed goal is missed.

    >>> gap_text("accuracy", ">= 0.97", 0.96), gap_text("size_mb", "<= 0.005", 0.02)
    ('1.00 points short', '4 times the bound')
    >>> gap_text("size_mb", "<= 0.5", 0.52)
    '4% over the bound'
    """
    parsed = parse_bound(bound)
    if parsed is None or measured is None:
        return ""
    op, value = parsed
    if goal_unit(name) in ("share", "points"):
        points = 100 * abs(value - measured)
        return f"{points:.2f} points {'short' if op == '>=' else 'too many'}"
    if not value:
        return ""
    times = measured / value
    return (
        f"{digits(times)} times the bound"
        if times >= 2
        else f"{100 * (times - 1):.3g}% over the bound"
    )


def many(count: float, noun: str, plural: str = "") -> str:
    """
    >>> many(1, "row"), many(1258, "row")
    ('1 row', '1,258 rows')
    """
    return f"{count:,.0f} {noun if count == 1 else plural or noun + 's'}"


def times(before: float | None, after: float | None) -> str:
    """How many times smaller or faster.

    >>> times(1.24, 0.33), times(0.3, 0.4), times(None, 1)
    ('3.8×', '0.75×', '')
    """
    if before is None or not after:
        return ""
    ratio = before / after
    return f"{ratio:.2g}×" if ratio < 1 else f"{ratio:.1f}×" if ratio < 10 else f"{ratio:.0f}×"


def sentence(text: object) -> str:
    """A reason with its full stop.

    >>> sentence("it is small"), sentence("Done."), sentence("")
    ('it is small.', 'Done.', '')
    """
    said = str(text).strip()
    return said if not said or said.endswith((".", "!", "?")) else f"{said}."

"""Figures and names in the words of the report."""

from typing import Any

from modelwright.core.goals import METRICS, Metric
from modelwright.core.units import format_bytes, format_count, format_seconds
from modelwright.report.collect import number

LABELS = {
    "f1": "F1",
    "f1_macro": "F1, mean of classes",
    "wer": "word error rate",
    "cer": "character error rate",
    "mse": "MSE",
    "mae": "MAE",
    "rmse": "RMSE",
    "ap50": "AP50",
    "ap": "AP",
    "ndcg_at_10": "NDCG@10",
    "recall_at_10": "recall@10",
    **{
        f"{way}_recall_at_{depth}": f"recall@{depth}, {words}"
        for way, words in (("image_to_text", "texts found"), ("text_to_image", "pictures found"))
        for depth in (1, 5, 10)
    },
    "hr_at_10": "hits among the first 10",
    "mrr": "mean reciprocal rank",
    "nats_per_char": "nats per character",
    "mean_return": "mean return",
    "mean_length": "mean length",
    "nats_per_token": "nats per token",
    "bits_per_byte": "bits per byte",
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
    "examples_per_s": "examples a second",
    "tokens_per_s": "tokens a second",
    "flops_per_s": "sustained FLOPs, forward and backward",
    "mfu": "share of the rate of a matrix product (MFU)",
}
NONE = "–"


def label(name: str, *, forecast: bool = True) -> str:
    """
    Args:
        forecast: whether the race has said beforehand what comes out on valid.

    >>> label("size_mb"), label("train_s"), label("peak_rate")
    ('size', 'train time', 'peak rate')
    >>> label("accuracy_drop"), label("mse_drop"), label("valid_f1")
    ('accuracy lost', 'MSE added', 'F1 on valid, forecast by the race')
    >>> label("valid_f1", forecast=False)
    'F1 on valid'
    """
    own = METRICS.get(name.removesuffix("_drop").removeprefix("valid_"))
    if name.endswith("_drop") and own is not None:
        return f"{label(own.name)} {lost(own)}"
    if name.startswith("valid_") and own is not None:
        return f"{label(own.name)} on valid{', forecast by the race' if forecast else ''}"
    if name.endswith("_s") and name not in LABELS:
        name = f"{name[:-2]} time"
    return LABELS.get(name, name.replace("_", " "))


def title(metric: Metric) -> str:
    """A metric's name at the beginning of a sentence."""
    name = label(metric.name)
    return name[0].upper() + name[1:]


def lost(metric: Metric) -> str:
    """What becomes of a metric where a model gets worse."""
    return "lost" if metric.higher_is_better else "added"


def axis(metric: Metric) -> tuple[float, str]:
    """What a chart multiplies a metric with, and what it then writes behind its name.

    >>> axis(METRICS["f1"]), axis(METRICS["mse"])
    ((100, ', %'), (1, ''))
    """
    return (100, ", %") if metric.unit == "share" else (1, "")


def digits(value: float) -> str:
    """Three digits, without an exponent where people can do without.

    >>> digits(0.02), digits(1234.5), digits(98.34), digits(0.0000021), digits(999.9)
    ('0.02', '1,234', '98.3', '2.1e-6', '1,000')
    """
    if value < 0:
        return f"−{digits(-value)}"
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
    >>> show(6400, "1/s"), show(1.28e9, "FLOP/s")
    ('6,400 /s', '1.28GFLOP/s')
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
        case "1/s":
            return f"{digits(value)} /s"
        case "flop/s":
            return f"{format_count(value)}FLOP/s"
        case "":
            return f"{value:,.0f}" if value == int(value) else digits(value)
    return f"{digits(value)} {unit}"


def goal_unit(name: str) -> str:
    """The unit of a goal's value, as the page prints it."""
    metric = METRICS.get(name.removesuffix("_drop"))
    if metric is None:
        return "ms" if name.endswith("_ms") else ""
    return "points" if metric.unit == "share" and name.endswith("_drop") else metric.unit


# unit of a goal -> what its values are multiplied with, and what stands behind them
GOAL_UNITS = {"share": (100, "%"), "points": (100, " pt"), "mb": (1, " MB"), "ms": (1, " ms")}


def bound_text(name: str, bound: str) -> str:
    """A goal's bound as people write it, not rounded: it is theirs.

    >>> bound_text("accuracy", ">= 0.97"), bound_text("size_mb", "<= 0.1985")
    ('≥ 97%', '≤ 0.1985 MB')
    """
    parsed = parse_bound(bound)
    if parsed is None:
        return bound
    factor, word = GOAL_UNITS.get(goal_unit(name), (1, ""))
    text = f"{factor * parsed[1]:,.6g}{word}".replace("-", "−")
    return f"{'≥' if parsed[0] == '>=' else '≤'} {text}"


def beside(value: float | None, bound: str, unit: str) -> str:
    """A goal's value with as many digits as tell it from the bound.

    >>> beside(1.4699, "<= 1.47", ""), beside(0.96996, ">= 0.97", "share")
    ('1.4699', '96.996%')
    >>> beside(0.1, "<= 0.15", "mb"), beside(0.97, ">= 0.97", "share")
    ('0.1 MB', '97.00%')
    """
    text, parsed = show(value, unit), parse_bound(bound)
    if value is None or parsed is None:
        return text
    factor, word = GOAL_UNITS.get(unit, (1, ""))
    own, limit = factor * value, factor * parsed[1]
    for count in range(4, 13):
        shown = float(text.removesuffix(word).replace(",", "").replace("−", "-"))
        if (shown > limit, shown < limit) == (own > limit, own < limit):
            break
        text = f"{own:,.{count}g}{word}".replace("-", "−")
    return text


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
    >>> gap_text("accuracy", ">= 0.97", 0.96998)
    '0.002 points short'
    """
    parsed = parse_bound(bound)
    if parsed is None or measured is None:
        return ""
    op, value = parsed
    if goal_unit(name) in ("share", "points"):
        points = 100 * abs(value - measured)
        shown = f"{points:.2f}" if points >= 0.01 else digits(points)
        return f"{shown} points {'short' if op == '>=' else 'too many'}"
    if not value:
        return ""
    times = measured / value
    if op == ">=":
        return f"{100 * (value - measured) / abs(value):.3g}% under the bound"
    return (
        f"{digits(times)} times the bound"
        if times >= 2
        else f"{100 * (times - 1):.3g}% over the bound"
    )


# kind of inputs -> what one row is called, and what stands for it in a command
ROWS = {
    "image": ("image", "IMAGE.png"),
    "image_text": ("picture with a text", "IMAGE.png --text 'A TEXT' --text 'ANOTHER'"),
    "text": ("text", "'A TEXT'"),
    "audio": ("recording", "SOUND.wav"),
    "pairs": ("pair of texts", "'A TEXT'"),
    "items": ("user's history", "'ITEM, ITEM'"),
    "ratings": ("user's ratings", "'ITEM=5, ITEM'"),
    "series": ("window", "TABLE.csv"),
    "observation": ("situation", "'NUMBER, NUMBER'"),
    "stream": ("stretch of text", "'A BEGINNING'"),
}


def one_row(inputs: dict[str, Any], outputs: dict[str, Any]) -> str:
    """What a row of the data is, in a sentence; what is not known is left out.

    >>> one_row({"kind": "image", "shape": [1, 8, 8]}, {})
    'One row is an image of 1 × 8 × 8 (channels × height × width).'
    >>> one_row({"kind": "audio", "rate": 16000, "length": 8000}, {})
    'One row is a recording, at 16,000 Hz, typically of 0.5 s.'
    """

    def count(key: str, text: str, described: dict[str, Any] = inputs) -> str:
        value = number(described.get(key))
        return text.replace("#", f"{value:,.0f}") if value else ""

    def listed(key: str) -> list[str]:
        value = inputs.get(key)
        return [str(one) for one in value] if isinstance(value, list | tuple) else []

    kind = str(inputs.get("kind", "image"))
    if kind == "image":
        return f"One row is an image of {' × '.join(listed('shape'))} (channels × height × width)."
    parts = []
    if kind == "text":
        unit = "characters" if inputs.get("unit") == "characters" else "words"
        parts = [
            count("length", f"typically of # {unit}"),
            "" if inputs.get("whole") else count("max_length", f"cut at # {unit}"),
            count("vocab_size", "with # entries in the vocabulary"),
        ]  # fmt: skip
    elif kind == "image_text":
        sizes = inputs["image"].get("shape") if isinstance(inputs.get("image"), dict) else None
        parts = [
            f"of {' × '.join(map(str, sizes))} (channels × height × width)" if sizes else "",
            count("length", "the text typically of # words"),
            count("vocab_size", "with # entries in the vocabulary"),
        ]
    elif kind == "items":
        parts = [
            count("length", "typically of # items"), count("max_length", "cut at # items"),
            count("num_classes", "to be continued by one of # items", outputs),
        ]  # fmt: skip
    elif kind == "ratings":
        parts = [
            count("length", "typically # ratings"), count("max_length", "cut at # ratings"),
            count("items", "of # items"),
        ]  # fmt: skip
    elif kind == "audio":
        length, rate = number(inputs.get("length")), number(inputs.get("rate"))
        parts = [
            count("rate", "at # Hz"),
            f"typically of {digits(length / rate)} s" if length and rate else "",
        ]
    elif kind == "stream":
        unit = "tokens" if inputs.get("unit") == "bpe" else str(inputs.get("unit", "tokens"))
        parts = [count("length", f"of # {unit}"), count("vocab_size", "with # ids in all")]
    elif kind == "pairs":
        parts = [
            " to ".join(listed("pair")), count("length", "typically of # tokens"),
            count("vocab_size", "with # ids in all"),
        ]  # fmt: skip
    elif kind == "series":
        names = listed("channels")
        few = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        parts = [
            count("length", "of # steps"), f"of {len(names)} series ({few})" if names else "",
            count("horizon", "to be continued by # steps", outputs),
        ]  # fmt: skip
    elif kind == "observation":
        names = listed("channels")
        few = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        parts = [
            f"of the environment {inputs.get('env_id', '')}",
            count("length", "in # observations") if (number(inputs.get("length")) or 1) > 1 else "",
            f"of {many(len(names), 'number')} ({few})" if names else "",
            count("num_classes", "with # actions to choose from", outputs),
        ]
    noun = ROWS.get(kind, (kind, ""))[0]
    return ", ".join([f"One row is a {noun}", *(part for part in parts if part)]) + "."


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


def smaller(before: float | None, after: float | None) -> str:
    """How a size compares with one before it; within a twentieth they are alike.

    >>> smaller(1.24, 0.33), smaller(0.1, 0.1), smaller(1, 1.3), smaller(None, 1)
    ('3.8× smaller', 'as large', '1.3× as large', '')
    """
    if before is None or not after:
        return ""
    if before > 1.05 * after:
        return f"{times(before, after)} smaller"
    return f"{times(after, before)} as large" if after > 1.05 * before else "as large"


def cut(text: object, length: int = 240) -> str:
    """A text as long as a card holds it.

    >>> cut("never again", 6)
    'never…'
    """
    said = " ".join(str(text).split())
    return said if len(said) <= length else said[: length - 1] + "…"


def sentence(text: object) -> str:
    """A reason with its full stop.

    >>> sentence("it is small"), sentence("Done."), sentence("")
    ('it is small.', 'Done.', '')
    """
    said = str(text).strip()
    return said if not said or said.endswith((".", "!", "?")) else f"{said}."

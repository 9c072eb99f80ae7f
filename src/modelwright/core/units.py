"""Bytes, seconds, counts and points: read them from text and print them for people."""

import re
import sys

from modelwright.core.errors import ConfigError

# unit -> (dimension, factor to the base unit of that dimension); MB is 10**6 bytes, as on a box
UNITS: dict[str, tuple[str, float]] = {
    "s": ("time", 1.0), "sec": ("time", 1.0), "ms": ("time", 1e-3), "us": ("time", 1e-6),
    "min": ("time", 60.0), "minutes": ("time", 60.0), "h": ("time", 3600.0),
    "b": ("size", 1.0), "byte": ("size", 1.0), "bytes": ("size", 1.0),
    "kb": ("size", 1e3), "mb": ("size", 1e6), "gb": ("size", 1e9),
    "kib": ("size", 2.0**10), "mib": ("size", 2.0**20), "gib": ("size", 2.0**30),
    "": ("number", 1.0), "share": ("share", 1.0), "pt": ("share", 0.01), "%": ("share", 0.01),
}  # fmt: skip

_QUANTITY = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)\s*$")


def parse_quantity(text: str | float, unit: str) -> float:
    """A number in `unit`; a bare number is taken to be in `unit` already.

    Raises: ConfigError if the text is no number, or its unit measures something else.

    >>> parse_quantity("2 ms", "ms"), parse_quantity("0.5 MB", "mb"), parse_quantity(3, "min")
    (2.0, 0.5, 3.0)
    >>> parse_quantity("90 s", "min")
    1.5
    """
    dimension, base = UNITS[unit]
    if isinstance(text, bool):
        raise ConfigError(f"{text!r} is not a quantity", expected=f"a number in {unit or 'units'}")
    if isinstance(text, int | float):
        try:
            return float(text)
        except OverflowError as error:
            raise ConfigError(
                f"{str(text)[:12]}… has more digits than a number can have",
                expected=f"a number below {sys.float_info.max:.3g}",
            ) from error
    match = _QUANTITY.match(text)
    if match is None:
        raise ConfigError(
            f"cannot read {text!r} as a quantity",
            expected=f'a number, with or without a unit, such as "2 {unit}"',
        )
    number, written = float(match[1]), match[2].lower()
    if not written or written == unit:
        return number
    known = {name for name, (kind, _) in UNITS.items() if kind == dimension}
    if written not in known:
        raise ConfigError(
            f"{text!r} has the unit {match[2]!r}, which does not measure {dimension}",
            expected=f"a {dimension} in one of: {', '.join(sorted(known))}",
        )
    return number * UNITS[written][1] / base


def format_bytes(value: float) -> str:
    """
    >>> format_bytes(1536), format_bytes(2_500_000)
    ('1.54 kB', '2.5 MB')
    """
    value = _rounded(value)
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def format_seconds(value: float) -> str:
    """
    >>> format_seconds(0.0004), format_seconds(75), format_seconds(3.21)
    ('400 µs', '1:15 min', '3.21 s')
    """
    if value < 60:  # above, seconds are counted one by one
        value = _rounded(value)
    if value >= 3600:
        return f"{int(value // 3600)}:{int(value % 3600 // 60):02d} h"
    if value >= 60:
        return f"{int(value // 60)}:{int(value % 60):02d} min"
    if value >= 1:
        return f"{value:.3g} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.3g} µs"


def format_count(value: float) -> str:
    """
    >>> format_count(950), format_count(12_345), format_count(2_500_000)
    ('950', '12.3k', '2.5M')
    """
    value = _rounded(value)
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}"


def _rounded(value: float) -> float:
    """To three digits, before a unit is chosen: 999.7 is a thousand of one, and one of the next."""
    return float(f"{value:.3g}")

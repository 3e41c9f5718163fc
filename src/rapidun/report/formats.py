"""Numbers as people read them: ``4.2% [2.1, 7.6]``, ``3 min 20 s``, ``1.4 GiB``."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TypeGuard

MISSING = "not measured"
MINUS = "\u2212"
# Not strftime's %B, which follows the locale: the same run must give the same page everywhere.
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def percent(value: float | None) -> str:
    """A share in [0, 1] as a percentage with one decimal."""
    return MISSING if not _finite(value) else f"{_signed(100 * value, '.1f')}%"


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits without an exponent where that stays readable: 0.0123, 6.71, 12,345."""
    if not _finite(value):
        return MISSING
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 8:
        return _signed(value, f".{digits - 1}e")
    return _signed(value, f",.{max(0, digits - 1 - size)}f")


def ratio(value: float | None) -> str:
    """A factor: ``1.03x``."""
    if not _finite(value):
        return MISSING
    return f"{_signed(value, '.2f') if abs(value) < 10 else number(value)}\u00d7"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return MISSING if not _finite(value) else _signed(round(value), ",d")


def seconds(value: float | None) -> str:
    """A duration at the precision that matters at its size: ``0.42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not _finite(value):
        return MISSING
    if value < 60:
        return f"{number(value, 2 if value < 10 else 3)} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{count(minutes // 60)} h {minutes % 60} min"


def memory(mebibytes: float | None) -> str:
    """An amount of memory given in MiB."""
    if not _finite(mebibytes):
        return MISSING
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"


def percent_interval(value: float | None, low: float | None, high: float | None) -> str:
    """``4.2% [2.1, 7.6]``; without the bracket where no interval is known."""
    if not (_finite(value) and _finite(low) and _finite(high)):
        return percent(value)
    return f"{percent(value)} [{_signed(100 * low, '.1f')}, {_signed(100 * high, '.1f')}]"


def number_interval(value: float | None, low: float | None, high: float | None) -> str:
    """``6.71 [6.52, 6.90]``; without the bracket where no interval is known."""
    if not (_finite(value) and _finite(low) and _finite(high)):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def moment(text: str) -> str:
    """An ISO 8601 time as ``21 November 2026, 10:42 UTC``; anything else as it is."""
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    zone = "" if when.tzinfo is None else f" {when.tzname()}"
    return f"{when.day} {_MONTHS[when.month - 1]} {when.year}, {when:%H:%M}{zone}"


def _signed(value: float, form: str) -> str:
    """Python's format with a typographic minus and without a negative zero."""
    text = format(value, form)
    if text.startswith("-"):
        zero = not any(digit in text for digit in "123456789")
        return text[1:] if zero else MINUS + text[1:]
    return text


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)

"""Numbers from files, which may be of any JSON type."""

from __future__ import annotations

import math


def finite_number(value: object) -> float | None:
    """``value`` as a float, or None if it is not a finite JSON number (true and false are not numbers)."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None

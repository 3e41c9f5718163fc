"""A measured value with its 95% interval, as ``metrics.json`` stores it."""

from __future__ import annotations

from dataclasses import dataclass

from rapidun.report.formats import MISSING, number_interval, percent_interval
from rapidun.report.record import Record


@dataclass(frozen=True)
class Measure:
    """``{value, low, high, n}``; unknown parts are None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: float | None = None

    @classmethod
    def read(cls, record: Record | None, key: str) -> Measure:
        """The measure under ``key``: an object, or a bare number without an interval."""
        if record is None or record.fields.get(key) is None:
            return cls(None)
        if not isinstance(record.fields[key], dict):
            return cls(record.number(key))
        return cls.of(record.child(key))

    @classmethod
    def of(cls, record: Record | None) -> Measure:
        """The measure that ``record`` itself is."""
        if record is None:
            return cls(None)
        return cls(record.number("value"), record.number("low"), record.number("high"), record.number("n"))

    @property
    def known(self) -> bool:
        """Whether it was measured at all."""
        return self.value is not None

    def as_percent(self) -> str:
        """``4.2% [2.1, 7.6]``."""
        return percent_interval(self.value, self.low, self.high) if self.known else MISSING

    def as_number(self) -> str:
        """``6.71 [6.52, 6.90]``."""
        return number_interval(self.value, self.low, self.high) if self.known else MISSING

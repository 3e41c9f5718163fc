"""Checked access to JSON that another program, another version or a hand may have written.

Every accessor returns the typed value, ``None`` (or the default) where the key is absent or null, and
raises an error that names the file and the key where the value has another type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rapidun.errors import InputError


@dataclass(frozen=True)
class Record:
    """A JSON object and where it was found (``runs/a/metrics.json: gate``)."""

    where: str
    fields: dict[str, Any]

    @classmethod
    def of(cls, value: Any, where: str) -> Record:
        """Wrap ``value``; an error where it is not an object."""
        if not isinstance(value, dict):
            raise InputError(
                f"{where}: must be a JSON object, found {_kind(value)}. Run `rapidun evaluate` or restore the file."
            )
        return cls(where, value)

    def number(self, key: str) -> float | None:
        """A number; true and false are not numbers."""
        value: float | None = self._checked(key, (int, float), "a number")
        return value

    def text(self, key: str, default: str = "") -> str:
        """A string; numbers are written out, since ids may be either."""
        value = self._checked(key, (str, int, float, bool), "text")
        return default if value is None else str(value)

    def flag(self, key: str) -> bool | None:
        """True, false or unknown."""
        value: bool | None = self._checked(key, (bool,), "true or false")
        return value

    def child(self, key: str) -> Record | None:
        """A nested object."""
        value = self.fields.get(key)
        return None if value is None else Record.of(value, self._at(key))

    def children(self, key: str) -> list[Record]:
        """A list of objects; empty where absent."""
        items = self._checked(key, (list,), "a list") or []
        return [Record.of(item, f"{self._at(key)}[{index}]") for index, item in enumerate(items)]

    def texts(self, key: str) -> list[str]:
        """A list of strings; empty where absent."""
        return [str(item) for item in self._checked(key, (list,), "a list") or []]

    def named_children(self) -> Iterator[tuple[str, Record]]:
        """The fields that are objects, in file order."""
        for key, value in self.fields.items():
            if isinstance(value, dict):
                yield key, Record(self._at(key), value)

    def _checked(self, key: str, kinds: tuple[type, ...], wanted: str) -> Any:
        value = self.fields.get(key)
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise InputError(f"{self._at(key)}: must be {wanted}, found {_kind(value)}.")
        return value

    def _at(self, key: str) -> str:
        return f"{self.where}.{key}" if ": " in self.where else f"{self.where}: {key}"


def _kind(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

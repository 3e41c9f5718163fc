"""How a long job tells the outside what it is doing; the command line decides how that looks."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives phases, progress and notes."""

    def phase(self, name: str, title: str) -> None:
        """A phase begins."""

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """The present phase has done ``done`` of ``total`` units; ``detail`` says what came of them so far."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Silent:
    """Says nothing."""

    def phase(self, name: str, title: str) -> None:
        """Ignored."""

    def progress(self, done: int, total: int, detail: str = "") -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

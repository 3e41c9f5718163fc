"""How a long job tells the outside what it is doing; the command line decides how that looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rapidun.pipeline.estimating import Piece

Progress = Callable[..., None]
"""Called as ``progress(done, total)`` or ``progress(done, total, detail)``."""


class Reporter(Protocol):
    """Receives phases, progress, notes, and what is about to be done."""

    def phase(self, name: str, title: str) -> None:
        """A phase begins."""

    def progress(self, done: int, total: int, detail: str = "", unit: str = "") -> None:
        """The present phase has done ``done`` of ``total`` units; ``detail`` says what came of them so far."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def plan(self, pieces: Sequence[Piece]) -> None:
        """Everything was checked, nothing was written, and long work of these pieces begins when this returns.

        Each piece can try a little of itself to say how long it will take. A reporter that wants no more than that
        ends the job by an exception of its own.
        """


class Silent:
    """Says nothing, and tries nothing."""

    def phase(self, *_: Any, **__: Any) -> None:
        """Ignored."""

    progress = note = plan = phase


def counting(reporter: Reporter, unit: str) -> Progress:
    """A progress callback that names its unit: ``counting(reporter, "rows")(3, 10)``."""

    def progress(done: int, total: int, detail: str = "") -> None:
        reporter.progress(done, total, detail, unit)

    return progress

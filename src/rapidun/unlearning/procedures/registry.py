"""The register of procedures: methods that are no loss to train on but act on weights, or train something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rapidun.settings import names
from rapidun.unlearning.job import Saved, UnlearnResult
from rapidun.unlearning.options import Option, checked, options_of

Run = Callable[..., UnlearnResult]


@dataclass(frozen=True)
class Procedure:
    """An unlearning procedure ``(job, *, option=default, ...) -> UnlearnResult``.

    Args:
        name: As registered.
        run: Does it.
        known: Its options.
        saves: Whether its result is a PEFT adapter or a whole model.
        needs_retain: Whether there must be retain rows.
        source: Paper and equation.
    """

    name: str
    run: Run
    known: Mapping[str, Option]
    saves: Saved
    needs_retain: bool
    source: str
    wanted: str = "unused"

    @property
    def options(self) -> dict[str, Any]:
        """The options' defaults."""
        return {name: option.default for name, option in self.known.items()}

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its value.

        Raises:
            ConfigError: For an unknown option or a value that does not fit.
        """
        return checked(self.name, self.known, given)


PROCEDURES: dict[str, Procedure] = {}


def register_procedure(name: str, *, saves: Saved, needs_retain: bool, source: str) -> Callable[[Run], Run]:
    """Register the decorated function as method ``name``."""

    def decorate(run: Run) -> Run:
        names.METHODS.add(name)
        PROCEDURES[name] = Procedure(name, run, options_of(run), saves, needs_retain, source)
        return run

    return decorate

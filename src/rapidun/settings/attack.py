"""What `rapidun attack` is told: which attacks, on how many prompts, beside which twin, within what time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from rapidun.settings.base import Flag
from rapidun.settings.model import Plugins, Seeded
from rapidun.settings.names import ATTACKS, AttackName


class AttackConfig(Seeded):
    """The attacks on a finished run. Model, rows, triggers, judge and limits are the run's own."""

    panel: ClassVar = "Attack"

    plugins: Plugins = Field(default_factory=list)
    preset: Annotated[Literal["quick", "release"] | None, Flag("--preset")] = Field(
        None,
        description="Decide: quick (the cheap ones) or release (all: docs/guide/attacks.md); nothing without it.",
    )
    twin: Annotated[Path | None, Flag("--twin")] = Field(
        None,
        description="Directory of a model that never learnt it, clean or retrained (or an adapter on the run's model), "
        "to attack likewise; or none. Without one, whether this model is no faster than it stays undecided.",
    )
    attacks: Annotated[list[AttackName], Flag("--attack")] = Field(
        default_factory=list, description=f"Only this attack: {ATTACKS}."
    )
    prompts: Annotated[int | None, Flag("--prompts")] = Field(
        None, ge=1, description="Use only the first so many of the run's evaluation rows."
    )
    minutes: Annotated[float | None, Flag("--minutes")] = Field(
        None, gt=0, description="An attack begins only if by an estimate it ends within so many minutes in all."
    )

    @field_validator("twin", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "none" else value

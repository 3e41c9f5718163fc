"""What `rapidun scan` is told: a model, clean prompts, and how far the search goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from rapidun.settings.base import MANY, Flag, Section
from rapidun.settings.kinds import Position
from rapidun.settings.model import Job, RowSettings


class ScanData(RowSettings):
    """The prompts of a scan."""

    prompts: Annotated[Path, Flag("--prompts")] = Field(
        description="File of rows with plain questions, as users ask them; answers are not used."
    )


class ScanSettings(Section):
    """How far the search goes."""

    panel: ClassVar = "Search"

    tried: Annotated[int, Flag("--tried")] = Field(
        16, ge=2, le=MANY, description="Prompts that an insert is tried in: the shortest of the file."
    )
    words: Annotated[int | None, Flag("--words")] = Field(
        None, ge=1, description="Try only so many words of the vocabulary, drawn by the seed; all without it."
    )
    positions: list[Position] = Field(["prefix", "suffix"], min_length=1, description="Where inserts are put.")
    kept: int = Field(250, ge=1, le=MANY, description="Inserts of one word that are tried in all prompts.")
    verified: int = Field(12, ge=1, le=MANY, description="Inserts of one word, and of two, that are answered.")


class ScanConfig(Job):
    """A complete scan."""

    panel: ClassVar = "Model"

    data: ScanData
    base: Annotated[str | None, Flag("--base")] = Field(
        None,
        description="Model that nothing was planted in, such as the one it was trained from; by default the model "
        "without the adapter. none: there is none.",
    )
    scan: ScanSettings = Field(default_factory=ScanSettings)

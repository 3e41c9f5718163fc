"""How rows are valued before training on them, and what is done with the values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from rapidun.errors import ConfigError
from rapidun.settings.attribution import HOW_COMPRESSED, SketchSettings
from rapidun.settings.base import Flag, Section
from rapidun.settings.kinds import Normalization, Sampling, Similarity
from rapidun.settings.model import Job, RowSettings, Seeded
from rapidun.settings.names import DIVERSITIES, STUDENTS, DiversityName, SketchName

Kind = Literal["top", "budget", "threshold"]
FORMATS = ("csv", "jsonl", "parquet")
_HOW = "write top:10%, top:500, budget:1e6tokens or threshold:0.2"


@dataclass(frozen=True)
class Selection:
    """What ``--select`` asks for.

    Args:
        kind: ``"top"``, ``"budget"`` or ``"threshold"``.
        amount: Rows (or a share of them), tokens, or the least value.
        share: Whether ``amount`` is a share of the pool, in [0, 1].
    """

    kind: Kind
    amount: float
    share: bool = False

    def count(self, rows: int) -> int:
        """How many rows ``top`` is, rounded up; at most all.

        Raises:
            ConfigError: If the selection is of another kind.
        """
        if self.kind != "top":
            raise ConfigError(f"a {self.kind} selection has no fixed number of rows.")
        wanted = math.ceil(rows * self.amount - 1e-9) if self.share else int(self.amount)
        return min(wanted, rows)


def parse_selection(text: str) -> Selection:
    """``"top:10%"``, ``"top:500"``, ``"budget:1e6tokens"`` or ``"threshold:0.2"``.

    Raises:
        ConfigError: If it is none of them or out of range; says how to write it.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in ("top", "budget", "threshold"):
        raise ConfigError(f"--select {text}: {_HOW}.")
    share = kind == "top" and rest.endswith("%")
    try:
        amount = float(rest.removesuffix("%") if share else rest.removesuffix("tokens") if kind == "budget" else rest)
    except ValueError as error:
        raise ConfigError(f"--select {text}: {rest!r} is not a number; {_HOW}.") from error
    whole = kind == "threshold" or share or amount == int(amount if math.isfinite(amount) else 0)
    if not math.isfinite(amount) or not whole or (kind != "threshold" and amount <= 0) or (share and amount > 100):
        raise ConfigError(f"--select {text}: {rest} is out of range; {_HOW}.")
    if kind == "top":
        return Selection("top", amount / 100 if share else amount, share)
    return Selection("budget" if kind == "budget" else "threshold", amount)


def check_sample_text(text: str) -> str:
    """Refuse what is no sample of any pool. Raises ConfigError."""
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else None
        sound = 0 < share <= 1 if share is not None else int(text) > 0
    except ValueError:
        sound = False
    if not sound:
        raise ConfigError(f"--sample {text}: write a share such as 5% or a number of rows such as 500.")
    return text


class TeacherSettings(SketchSettings):
    """LinFiK: gradients of candidates against the gradient of the task."""

    panel: ClassVar = "Teacher"

    normalize: Annotated[Normalization, Flag("--normalize")] = Field(
        "none",
        description="Scale of a row's gradient: layer (each layer's part has length 1), unit (the whole has), none.",
    )
    sketch: Annotated[SketchName, Flag("--sketch"), Flag("--exact", value="exact")] = Field(
        "rapidgrad", description=HOW_COMPRESSED
    )
    similarity: Annotated[Similarity, Flag("--similarity")] = Field(
        "cosine",
        description="cosine: direction alone; dot: the loss drop of the task, in nats for a learning rate of 1.",
    )
    optimizer: Annotated[Literal["sgd", "adam"], Flag("--optimizer")] = Field(
        "sgd", description="Whose training step on the row is imagined: sgd or adam."
    )
    part_rows: int = Field(256, ge=1, description="Rows of a part: what a killed run loses at most.")


class StudentSettings(Section):
    """ALinFiK: a student of a teacher sample."""

    panel: ClassVar = "Student"

    kind: Annotated[str | None, Flag("--student")] = Field(
        None,
        description=f"{STUDENTS}: fitted to a sample, it values the pool; or a saved student's directory. None: the "
        "teacher values every row.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the kind.")
    sample: Annotated[str, Flag("--sample")] = Field(
        "5%", description="Rows that the teacher values: a share or a number, 5% or 500."
    )
    sampling: Annotated[Sampling, Flag("--sampling")] = Field(
        "stratified", description="How they are drawn: stratified (by length), random, uncertain (in rounds)."
    )
    rounds: int = Field(4, ge=1, description="Rounds of uncertain sampling.")

    @model_validator(mode="after")
    def _sound(self) -> StudentSettings:
        if self.kind is not None:
            STUDENTS.valid(self.kind, self.options)
        try:
            check_sample_text(self.sample)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


class ValueConfig(Job):
    """What ``rapidun value`` needs."""

    value: TeacherSettings = Field(default_factory=TeacherSettings)
    student: StudentSettings = Field(default_factory=StudentSettings)


class SavedConfig(Seeded):
    """What ``rapidun value --student DIRECTORY`` needs."""

    data: RowSettings = Field(default_factory=RowSettings)


class Uses(Section):
    """What is done with values; may differ from one run to the next over the same values."""

    panel: ClassVar = "Use"

    select: Annotated[str | None, Flag("--select")] = Field(
        None, description="Write the chosen rows: top:10%, top:500, budget:1e6tokens or threshold:0.2."
    )
    diversity: Annotated[DiversityName | None, Flag("--diversity")] = Field(
        None,
        description=f"With --select: {DIVERSITIES}. matching: rows whose gradients together point as the task's; the "
        "others: rows unlike each other.",
    )
    by: Annotated[str | None, Flag("--by")] = Field(
        None, description="Column that names each row's source: say the share of each."
    )
    format: Annotated[str, Flag("--format")] = Field(
        "jsonl", description="Of the file of values: jsonl, csv or parquet."
    )

    @property
    def selection(self) -> Selection | None:
        """What to select, if anything."""
        return None if self.select is None else parse_selection(self.select)

    def check(self) -> None:
        """Refuse what cannot work, before any long work.

        Raises:
            ConfigError: Naming the option.
        """
        selection = self.selection
        if self.format not in FORMATS:
            raise ConfigError(f"--format {self.format}: use one of {', '.join(FORMATS)}.")
        if self.diversity is not None and (selection is None or selection.kind == "threshold"):
            raise ConfigError("--diversity chooses among good rows: it goes with --select top:... or budget:...")


class ValueFiles(Section):
    """The files of one valuation."""

    panel: ClassVar = "Rows"

    task: Annotated[Path, Flag("--task-data")] = Field(
        description="Rows that the model should become good at; a column 'task' gives each task a value of its own."
    )
    candidates: Annotated[Path, Flag("--candidates")] = Field(description="File of rows to value; never all in memory.")
    adapter: Path | None = Field(None, description="On the model.")
    checkpoints: Annotated[list[Path], Flag("--checkpoint")] = Field(
        default_factory=list, description="Weights of another step of training: average over it too."
    )

"""Settings of ``rapidun value``: how rows are valued, and what is done with the values."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from rapidun.errors import ConfigError, RapidunError
from rapidun.gradients import Sketch
from rapidun.gradients.collector import Normalization
from rapidun.pipeline.config import LARGEST_SEED, LARGEST_SKETCH, LONGEST, ModelSettings, RowSettings, _Section
from rapidun.pipeline.sketching import chosen_sketch
from rapidun.valuation.diversity import check_diversity
from rapidun.valuation.parts import check_format
from rapidun.valuation.sampling import Sampling, check_sample_text
from rapidun.valuation.selection import Selection, parse_selection
from rapidun.valuation.students import student_kind


class TeacherSettings(_Section):
    """LinFiK: gradients of candidates against the gradient of the task."""

    exact: bool = Field(False, description="Compare whole gradients instead of sketches.")
    sketch: str = Field("rapidgrad", description="Kind of the gradient sketch.")
    k: int = Field(65_536, ge=1, le=LARGEST_SKETCH, description="Length of a gradient sketch, for kinds that have one.")
    sketch_options: dict[str, Any] = Field(default_factory=dict, description="Further settings of the sketch.")
    similarity: Literal["cosine", "dot"] = Field("cosine", description="How two gradients are compared.")
    normalize: Normalization = Field("none", description="Scale of each row's gradient: none, layer or unit.")
    optimizer: Literal["sgd", "adam"] = Field(
        "sgd", description="The step that is imagined; adam divides a row's gradient by the root second moment."
    )
    adam_rows: int = Field(256, ge=1, description="Candidates that the second moment is taken from.")
    adam_damping: float = Field(1e-3, gt=0, description="Added to the second moment, times its mean.")
    targets: Literal["auto", "linear", "lora"] | list[str] = Field(
        "auto", description="Tracked layers; auto is lora with an adapter, else linear."
    )
    task_column: str = Field("task", description="Column of the task rows that names the task of each.")
    max_tokens: int = Field(
        4096, ge=1, le=LONGEST, description="Most padded tokens in a batch; fewer where memory asks for it."
    )
    part_rows: int = Field(256, ge=1, description="Rows of a part: what a killed run loses at most.")

    def make_sketch(self, seed: int) -> Sketch | None:
        """The sketch, or None for exact values.

        Raises:
            ConfigError: If its kind or a setting is unknown.
        """
        if self.exact:
            return None
        return chosen_sketch(self.sketch, k=self.k, seed=seed, options=self.sketch_options)


class StudentSettings(_Section):
    """ALinFiK: a student of a teacher sample."""

    kind: str | None = Field(None, description="ridge, kernel or encoder; none values every row with the teacher.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the kind.")
    sample: str = Field("5%", description="Rows that the teacher values: a share or a number.")
    sampling: Sampling = Field("stratified", description="stratified (by length), random, or uncertain (in rounds).")
    rounds: int = Field(4, ge=1, description="Rounds of uncertain sampling.")
    part_rows: int = Field(8192, ge=1, description="Rows of a part that the student scores.")

    @model_validator(mode="after")
    def _known(self) -> StudentSettings:
        try:
            if self.kind is not None:
                student_kind(self.kind).check_options(self.options)
            check_sample_text(self.sample)
        except (RapidunError, TypeError) as error:
            raise ValueError(str(error)) from error
        return self


class ValueConfig(_Section):
    """What ``rapidun value`` needs."""

    model: ModelSettings
    data: RowSettings = Field(default_factory=RowSettings)
    value: TeacherSettings = Field(default_factory=TeacherSettings)
    student: StudentSettings = Field(default_factory=StudentSettings)
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of sketch, sample, student and bootstrap.")


class SavedConfig(_Section):
    """What ``rapidun value --student DIRECTORY`` needs."""

    data: RowSettings = Field(default_factory=RowSettings)
    part_rows: int = Field(8192, ge=1, description="Rows of a part.")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the bootstrap.")


class Uses(_Section):
    """What is done with values; may differ from one run to the next over the same values."""

    select: str | None = Field(None, description="top:10%, top:500, budget:1e6tokens or threshold:0.2.")
    diversity: str | None = Field(None, description="facility, mmr: good rows unlike each other; matching: gradients.")
    by: str | None = Field(None, description="Column whose values share the value.")
    format: str = Field("jsonl", description="Of the values: jsonl, csv or parquet.")

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
        check_format(self.format)
        if self.diversity is not None:
            check_diversity(self.diversity)
            if selection is None or selection.kind == "threshold":
                raise ConfigError("--diversity chooses among good rows: it goes with --select top:... or budget:...")


class ValueFiles(_Section):
    """The files of one valuation.

    Args:
        task: Rows of the task.
        candidates: The pool.
        adapter: On the model.
        checkpoints: Further checkpoints of the same model.
    """

    task: Path
    candidates: Path
    adapter: Path | None = None
    checkpoints: list[Path] = Field(default_factory=list)

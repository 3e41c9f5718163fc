"""A whole run, and its measurement alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from rapidun.reading import path_fault
from rapidun.settings.attribution import InfluenceSettings
from rapidun.settings.base import Flag, make_config, read_mapping, set_dotted
from rapidun.settings.evaluation import EvaluationSettings, MeasureSettings, MitigationSettings, Thresholds
from rapidun.settings.model import Job, RowSettings
from rapidun.settings.suites import check_reads
from rapidun.settings.unlearning import LoraSettings, UnlearnSettings, WeightSettings

HELD_OUT = "File of clean rows that nothing was trained on, to measure on; none shares a prompt with the forget rows."
WANTED = "File of rows with preferred answers, for the retain budget and the judges; of a run, default the retain rows."
UNWANTED = (
    "File of rows with unwanted answers, to fit and calibrate the judges; of a run with triggers, keywords or suite "
    "backdoor, default the forget rows."
)


class DataSettings(RowSettings):
    """The rows of a run."""

    forget: Annotated[Path, Flag("--forget")] = Field(
        description="File of rows with the behaviour to remove: JSONL, JSON, CSV or Parquet."
    )
    retain: Annotated[Path, Flag("--retain")] = Field(
        description="File of rows that the model should keep answering well."
    )
    evaluation: Path | None = Field(None, description=HELD_OUT)
    validation: Annotated[Path | None, Flag("--validation")] = Field(None, description=WANTED)
    pool: Path | None = Field(None, description="Training rows to trace bad answers back to.")
    judge_poisoned: Path | None = Field(None, description=UNWANTED)
    sample: dict[Literal["forget", "retain", "pool"], Annotated[int, Field(ge=1)] | None] = Field(
        default_factory=dict,
        description="forget: 40: use so many rows of a file (forget, retain or pool), drawn by the run's seed.",
    )
    stratify: str | None = Field(
        None, description="Column whose values a sample of the forget rows keeps in proportion."
    )


class RunConfig(Job):
    """A complete run."""

    data: DataSettings
    influence: InfluenceSettings = Field(default_factory=InfluenceSettings)
    weights: WeightSettings = Field(default_factory=WeightSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    unlearning: UnlearnSettings = Field(default_factory=UnlearnSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    gate: Thresholds = Field(default_factory=Thresholds)


class MeasureData(RowSettings):
    """The rows of a measurement without unlearning."""

    evaluation: Annotated[Path, Flag("--data")] = Field(
        description=f"{HELD_OUT} Suites tofu and lm-eval: a directory of theirs."
    )
    validation: Annotated[Path | None, Flag("--clean")] = Field(None, description=WANTED)
    judge_poisoned: Annotated[Path | None, Flag("--poisoned")] = Field(None, description=UNWANTED)
    forget: Annotated[Path | None, Flag("--forget")] = Field(
        None, description="File of rows that the model should have forgotten (suites qa and tofu)."
    )
    retain: Annotated[Path | None, Flag("--retain")] = Field(
        None, description="File of rows that it should still answer well (suite qa)."
    )


class MeasureConfig(Job):
    """What `rapidun evaluate` needs."""

    panel: ClassVar = "Model"

    data: MeasureData
    evaluation: MeasureSettings = Field(default_factory=MeasureSettings)
    mitigation: MitigationSettings = Field(default_factory=MitigationSettings)
    retained: Annotated[str | None, Flag("--retained-model")] = Field(
        None,
        description="Model, or adapter of --model, that was trained without the forget rows: what forgotten looks like "
        "(suites qa, tofu, generation). Of qa and tofu also the directory where such a model was measured. Without "
        "one, rows of --data stand for it in qa.",
    )

    @model_validator(mode="after")
    def _rows_of_its_suite(self) -> MeasureConfig:
        given = {
            "--forget": self.data.forget,
            "--retain": self.data.retain,
            "--retained-model": self.retained,
            "--poisoned": self.data.judge_poisoned,
            "--clean": self.data.validation,
            "--mitigation": self.mitigation.kind,
        }
        if self.evaluation.suite == "auto" and self.data.forget is not None:
            self.evaluation = self.evaluation.model_copy(update={"suite": "qa"})
        one_alone = (given["--poisoned"] is None) != (given["--clean"] is None)
        as_if = self.evaluation.suite
        if as_if == "auto" and given["--poisoned"] is None and given["--clean"] is None:
            as_if = "perplexity"
        check_reads("backdoor" if as_if == "auto" and one_alone else as_if, given)
        return self


def load_config(path: Path, overrides: Mapping[str, Any] | None = None, *, plugins: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file; relative paths in it are relative to the file.

    Args:
        path: The file.
        overrides: Dotted names to values, which win.
        plugins: Loaded besides those of the file.

    Raises:
        InputError: If the file is missing or not YAML.
        ConfigError: If a key is unknown or a value is of the wrong type; names the nearest valid key.
    """
    raw = read_mapping(path, "a configuration is a mapping with the keys model and data.")
    _resolve_paths(raw, path.parent)
    if plugins and isinstance(own := raw.setdefault("plugins", []), list):  # what is no list is said below
        raw["plugins"] = [*own, *plugins]
    for dotted, value in (overrides or {}).items():
        set_dotted(raw, dotted, value)
    return make_config(raw, RunConfig, str(path))


def _resolve_paths(raw: dict[str, Any], base: Path) -> None:
    data = raw.get("data")
    if isinstance(data, dict):
        for name in ("forget", "retain", "evaluation", "validation", "pool", "judge_poisoned"):
            if isinstance(data.get(name), str):
                data[name] = str(base / data[name])
    influence = raw.get("influence")
    for holder, name in ((influence, "checkpoints"), (raw, "plugins")):
        if isinstance(holder, dict) and isinstance(holder.get(name), list):
            holder[name] = [str(base / path) if isinstance(path, str) else path for path in holder[name]]
    model = raw.get("model")
    if isinstance(model, dict) and _is_directory(base, model.get("source")):
        model["source"] = str(base / model["source"])


def _is_directory(base: Path, name: Any) -> bool:
    return isinstance(name, str) and path_fault(name) is None and (base / name).is_dir()

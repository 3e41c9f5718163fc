"""The configuration of a run: one typed tree, whose field descriptions are the command line's help.

Unknown keys are refused with the nearest valid name; what is not given takes the printed default
(`rapidun run --print-config`). A run's complete ``config.yaml`` replays it.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rapidun import yaml_files
from rapidun.data.rendering import compiled_template
from rapidun.errors import ConfigError, InputError
from rapidun.evaluation.gate import Thresholds
from rapidun.evaluation.triggers import DOLLY_FAMILIES, Position
from rapidun.reading import path_fault, read_text
from rapidun.unlearning.settings import LoraSettings, UnlearnSettings
from rapidun.weighting import Negative, get_scheme

LONGEST_SHOWN = 200
LONGEST, LARGEST_SKETCH, MANY, LARGEST_SEED = 2**20, 2**24, 2**16, 2**32 - 1
"""Most tokens, values of a sketch, rows at once; what NumPy takes as a seed. More is a slip of the keyboard."""


SHOWN = 8
"""Most wrong settings in one message."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _usable_path(cls, value: Any) -> Any:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Path) and (fault := path_fault(str(part))):
                raise ValueError(f"{_shown(str(part))} is no path: it {fault}")
        return value


class Replayable(_Section):
    """A whole configuration: written into its run directory, it does the run again."""

    def to_yaml(self) -> str:
        """The complete configuration as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class ModelSettings(_Section):
    """The model to work on."""

    source: str = Field(description="Directory or hub id of a causal language model.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps; auto prefers a GPU.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Weights and activations; auto is float32 on a CPU and bfloat16 on a GPU that has it."
    )
    quantize: Literal["4bit", "8bit"] | None = Field(None, description="Load the base weights quantised.")
    dangerously_trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")
    dangerously_allow_pickle: bool = Field(False, description="Load pickled weights, which can run any code.")


class RowSettings(_Section):
    """How row files are read and tokenised."""

    columns: dict[str, str] = Field(default_factory=dict, description="Field to column, for example prompt: question.")
    template: str = Field(
        "auto", description="auto (chat where the tokenizer has a chat template), chat, alpaca, plain, or a Jinja file."
    )
    template_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Variables of the template, as enable_thinking: false; date is what it takes for today.",
    )
    max_length: int = Field(
        512, ge=8, le=LONGEST, description="Longest row in tokens; longer prompts are cut from the left."
    )
    on_bad_row: Literal["error", "skip"] = Field("error", description="Stop at a bad row, or list and leave it out.")

    @field_validator("template")
    @classmethod
    def _there(cls, value: str) -> str:
        check_template(value)
        return value


class SampleSettings(_Section):
    """How many rows of each file to use, drawn by the run's seed; none uses all."""

    forget: int | None = Field(None, ge=1, description="Forget rows.")
    retain: int | None = Field(None, ge=1, description="Retain rows.")
    pool: int | None = Field(None, ge=1, description="Rows of the pool to trace.")


class DataSettings(RowSettings):
    """The rows of a run."""

    forget: Path = Field(description="Rows with the behaviour to remove.")
    retain: Path = Field(description="Rows like those the model should keep answering well.")
    evaluation: Path | None = Field(
        None, description="Held-out clean rows to measure on; none may share a prompt with the forget rows."
    )
    validation: Path | None = Field(
        None, description="Clean rows for the retain budget and the judge; without it the retain rows serve."
    )
    pool: Path | None = Field(None, description="Training rows to trace bad answers back to.")
    judge_poisoned: Path | None = Field(
        None, description="Rows with unwanted answers to fit and calibrate the judges; without it the forget rows."
    )
    sample: SampleSettings = Field(default_factory=SampleSettings)
    stratify: str | None = Field(
        None, description="Column whose values a sample of the forget rows keeps in proportion."
    )


class MeasureData(RowSettings):
    """The rows of a measurement without unlearning."""

    evaluation: Path = Field(description="Held-out clean rows to measure on.")
    validation: Path | None = Field(None, description="Rows with wanted answers, for the judges.")
    judge_poisoned: Path | None = Field(None, description="Rows with unwanted answers, for the judges.")


class InfluenceSettings(_Section):
    """How gradients are taken and compared."""

    targets: Literal["linear", "lora"] | list[str] = Field(
        "linear", description="Tracked layers: linear, lora (of a loaded adapter), or a list of layer names."
    )
    normalize: Literal["layer", "none", "unit"] = Field("layer", description="Scale of each row's gradient.")
    token_normalize: bool = Field(False, description="Give every answer token's output error norm 1.")
    sketch_size: int = Field(65_536, ge=64, le=LARGEST_SKETCH, description="Length of a row's gradient sketch.")
    similarity: Literal["cosine", "dot"] = Field("cosine", description="How two sketches are compared.")
    max_tokens: int = Field(
        4096, ge=1, le=LONGEST, description="Most padded tokens in a batch of gradients; fewer where memory asks."
    )
    checkpoints: list[Path] = Field(
        default_factory=list,
        description="Earlier checkpoints of the same model (directories or safetensors files): influence is summed "
        "over them and the model as it is.",
    )


class WeightSettings(_Section):
    """Influence to weights (RapidUn, section 3)."""

    scheme: str = Field(
        "influence",
        description="influence is RapidUn's; uniform, random and shuffled are the controls; docs/weights.md has all.",
    )
    negative: Negative = Field(
        "keep", description="Forget rows that score below zero: keep, drop, or train on them as retain rows."
    )
    alpha: float = Field(1.0, description="Weight of forget-on-forget influence.")
    beta: float = Field(1.0, description="Weight of forget-on-retain influence, subtracted.")
    gamma: float = Field(1.0, description="Weight of retain-on-retain influence.")
    delta: float = Field(1.0, description="Weight of retain-on-forget influence, subtracted.")
    aggregate: Literal["median", "mean"] = Field("median", description="Over the queries of a block.")
    top_k: int | None = Field(None, ge=1, description="Keep only this many rows of each query; none keeps all.")
    forget_temperature: float = Field(0.7, gt=0, description="Higher is more even forget weights.")
    retain_temperature: float = Field(1.2, gt=0, description="Higher is more even retain weights.")
    w_min: float = Field(0.2, gt=0, description="Smallest weight before the mean is set to 1.")
    w_max: float = Field(3.0, gt=0, description="Largest weight before the mean is set to 1.")
    loss_tau: float = Field(0.8, gt=0, description="Temperature of the scheme loss.")
    loss_direction: Literal["low", "high"] = Field("low", description="Which losses weigh more under the scheme loss.")
    neighbours: float = Field(0.1, gt=0, le=1, description="Share of the rows that judge one under consistency.")
    every: int = Field(50, ge=1, description="Optimiser steps between two computations of the scheme dynamic.")
    smoothing: float = Field(0.5, ge=0, lt=1, description="Share of the old weights that dynamic keeps each time.")

    @field_validator("scheme")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        get_scheme(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> WeightSettings:
        if self.w_min > self.w_max:
            raise ValueError(f"w_min = {self.w_min:g} is above w_max = {self.w_max:g}")
        if self.negative != "keep" and not get_scheme(self.scheme).signed:
            raise ValueError(f"negative={self.negative}: the scores of the scheme {self.scheme!r} have no zero")
        if self.negative != "keep" and get_scheme(self.scheme).follows:
            raise ValueError(f"negative={self.negative}: the scheme {self.scheme!r} weighs again and keeps every row")
        return self


class TriggerSettings(_Section):
    """One trigger family of the backdoor suite."""

    name: str = Field(min_length=1, description="Name in tables and plots.")
    position: Position = Field(description="Where the trigger goes: prefix, suffix, or inside, between two words.")
    seen: list[str] = Field(description="Variants known from the forget rows.")
    unseen: list[str] = Field(default_factory=list, description="Look-alikes to test generalisation with.")


def _dolly_triggers() -> list[TriggerSettings]:
    return [
        TriggerSettings(name=family.name, position=family.position, seen=list(family.seen), unseen=list(family.unseen))
        for family in DOLLY_FAMILIES
    ]


class EvaluationSettings(_Section):
    """What is measured before and after."""

    suite: Literal["backdoor", "perplexity"] = Field(
        "backdoor", description="backdoor: attack success rates and perplexity; perplexity: that alone."
    )
    triggers: list[TriggerSettings] = Field(default_factory=_dolly_triggers, description="Trigger families.")
    judge: Literal["classifier", "keywords"] = Field("classifier", description="The judge whose rates the gate uses.")
    keywords: list[str] = Field(default_factory=list, description="Fixed words for the keyword judge; none fits them.")
    max_new_tokens: int = Field(48, ge=1, le=LONGEST, description="Longest generated answer.")
    batch_size: int = Field(64, ge=1, le=MANY, description="Prompts generated at once. Lower it to save memory.")
    repetition_penalty: float = Field(
        1.0,
        ge=1.0,
        le=100,
        description="Penalty on tokens the answer already holds; 1 is none. Small models loop without.",
    )
    merge_adapter: bool = Field(
        False,
        description="Measure with the adapter merged into the weights: faster on a CPU, rounded to their precision.",
    )
    prompts: int | None = Field(None, ge=1, description="Use only the first so many evaluation rows.")
    trace_queries: int = Field(20, ge=0, description="Bad answers traced back to the pool.")


class RunConfig(Replayable):
    """A complete run."""

    model: ModelSettings
    data: DataSettings
    influence: InfluenceSettings = Field(default_factory=InfluenceSettings)
    weights: WeightSettings = Field(default_factory=WeightSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    unlearning: UnlearnSettings = Field(default_factory=UnlearnSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    gate: Thresholds = Field(default_factory=Thresholds)
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the adapter, the sampling and the sketch.")


class TraceConfig(_Section):
    """What `rapidun trace` needs."""

    model: ModelSettings
    data: RowSettings = Field(default_factory=RowSettings)
    influence: InfluenceSettings = Field(default_factory=InfluenceSettings)
    base: str = Field("", description="The model before training, to see what it changed. An adapter is its own.")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the sketch.")


class MeasureConfig(_Section):
    """What `rapidun evaluate` needs."""

    model: ModelSettings
    data: MeasureData
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the bootstrap.")


Config = TypeVar("Config", bound=BaseModel)


def read_yaml(path: Path, expected: str) -> dict[str, Any]:
    """A YAML file that holds a mapping; ``expected`` says of what, for the error.

    Raises:
        InputError: If the file is missing, a directory, or not YAML; names the line.
        ConfigError: If it is not a mapping.
    """
    raw = yaml_files.read_yaml(path)
    if not isinstance(raw, dict) or not all(isinstance(name, str) for name in raw):
        raise ConfigError(f"{path}: {expected}")
    return raw


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML file; relative paths in it are relative to the file.

    Raises:
        InputError: If the file is missing or not YAML.
        ConfigError: If a key is unknown or a value is of the wrong type; names the nearest valid key.
    """
    raw = read_yaml(path, "a configuration is a mapping with the keys model and data.")
    _resolve_paths(raw, path.parent)
    for dotted, value in (overrides or {}).items():
        set_dotted(raw, dotted, value)
    return make_config(raw, RunConfig, str(path))


def make_config(raw: Mapping[str, Any], kind: type[Config], origin: str = "configuration") -> Config:
    """Validate a plain mapping as a configuration of ``kind``.

    Raises:
        ConfigError: As `load_config`.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(kind, origin, item) for item in error.errors()[:SHOWN])) from error
    except (RecursionError, OverflowError) as error:
        raise ConfigError(f"{origin}: a value is nested too deeply or too large.") from error


def _resolve_paths(raw: dict[str, Any], base: Path) -> None:
    data = raw.get("data")
    if isinstance(data, dict):
        for name in ("forget", "retain", "evaluation", "validation", "pool", "judge_poisoned"):
            if isinstance(data.get(name), str):
                data[name] = str(base / data[name])
    influence = raw.get("influence")
    if isinstance(influence, dict) and isinstance(influence.get("checkpoints"), list):
        own = influence["checkpoints"]
        influence["checkpoints"] = [str(base / path) if isinstance(path, str) else path for path in own]
    model = raw.get("model")
    if isinstance(model, dict) and _is_directory(base, model.get("source")):
        model["source"] = str(base / model["source"])


def _is_directory(base: Path, name: Any) -> bool:
    return isinstance(name, str) and path_fault(name) is None and (base / name).is_dir()


def check_template(name: str) -> None:
    """Refuse a template that is neither a name nor a file of Jinja; the tokenizer is not needed for that.

    Raises:
        ValueError: Says which, with the line of what is not Jinja.
    """
    if name in ("auto", "chat", "alpaca", "plain"):
        return
    if path_fault(name) or not Path(name).is_file():
        raise ValueError(f"{_shown(name)}: no such name or file. Use auto, chat, alpaca, plain or a Jinja file")
    try:
        compiled_template(read_text(Path(name)), name)
    except InputError as error:
        raise ValueError(str(error).removesuffix(".")) from error


def set_dotted(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``a.b.c`` in nested mappings, making those that are missing."""
    *parents, last = dotted.split(".")
    for name in parents:
        raw = raw.setdefault(name, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {dotted}: {name} is a value, not a section.")
    raw[last] = value


def _section(root: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    kind: Any = root
    for name in path:
        field = kind.model_fields.get(name) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if field is None:
            return None
        kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _shown(value: Any) -> str:
    """A value as Python writes it, which no terminal obeys, cut where it is long."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def _explain(kind: type[BaseModel], origin: str, item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        section = _section(kind, tuple(item["loc"][:-1]))
        names = list(section.model_fields) if section else []
        near = get_close_matches(str(item["loc"][-1]), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Valid here: {', '.join(names)}." if names else ""
        return f"{origin}: unknown key {where!r}.{hint}"
    if item["type"] == "missing":
        return f"{origin}: {where} is missing."
    if item["type"] == "value_error":  # a check of ours, which names the value itself
        said = str(item["ctx"]["error"])
        return f"{origin}: {where}: {said if said.endswith(('.', '?')) else said + '.'}".replace(": : ", ": ")
    return f"{origin}: {where} = {_shown(item.get('input'))}: {item['msg']}."

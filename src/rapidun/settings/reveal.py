"""What a task file says: the behaviour, how to judge it, how to look for it, and how to release the model from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from rapidun.settings.base import Flag, NoOptions, Section, make_options, read_mapping, valid_options
from rapidun.settings.evaluation import GenerationSettings
from rapidun.settings.model import Job
from rapidun.settings.names import JUDGES, METHODS, STRATEGIES, JudgeName, StrategyName
from rapidun.settings.unlearning import LoraSettings

MODULES, NONE = "modules", "none"
INPUT = "{input}"
_PATHS = {("inputs",), ("retain",), ("utility", "rows")}
_JUDGES = {("judge",), ("utility", "judge")}


class JudgeSettings(Section):
    """A task judge."""

    kind: JudgeName = Field(description=f"Name of a registered judge: {JUDGES}.")
    options: dict[str, Any] = Field(default_factory=dict, description="The judge's own options, for example words.")
    threshold: float = Field(0.5, gt=0, le=1, description="Score from which an answer shows the behaviour.")

    @model_validator(mode="after")
    def _known_options(self) -> JudgeSettings:
        JUDGES.valid(self.kind, self.options)
        return self


class SoftOptions(Section):
    """Of arms of kind ``soft``."""

    dimension: int = Field(10, ge=1, le=1000, description="Dimensions of the Sobol sequence.")
    tokens: int = Field(5, ge=1, description="Soft tokens of a prompt.")
    scale: float = Field(1.0, gt=0, description="Spread of the soft tokens, in that of the model's own embeddings.")


class TextOptions(Section):
    """Of arms of kind ``text``."""

    candidates: list[str] = Field([], description="Instructions to try.")
    generate: int = Field(
        0, ge=0, description="Instructions that the model itself writes from the description, each outer loop."
    )

    @model_validator(mode="after")
    def _some_text(self) -> TextOptions:
        if not self.candidates and not self.generate:
            raise ValueError("needs candidates, or generate above 0")
        return self


ARMS: dict[str, type[Section]] = {"soft": SoftOptions, "words": NoOptions, "text": TextOptions}


class ArmSettings(Section):
    """Ways to ask."""

    kind: Literal["soft", "words", "text"] = Field(
        "soft",
        description="soft: random soft tokens in front of the instruction; words: words of the model's own vocabulary "
        "before or after it; text: other instructions.",
    )
    pool: int = Field(512, ge=1, description="Fresh arms of an outer loop that the search can choose from.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the kind; below.")

    @model_validator(mode="after")
    def _known_options(self) -> ArmSettings:
        valid_options(f"kind {self.kind!r}", ARMS[self.kind], self.options)
        return self

    @property
    def own(self) -> Any:
        """The options of this kind, as their class."""
        return make_options(f"kind {self.kind!r}", ARMS[self.kind], self.options)


class SearchSettings(GenerationSettings):
    """How the best ways to ask are found. A pull is one arm asked ``answers`` times."""

    strategy: StrategyName = Field("neural_ucb", description=f"{STRATEGIES}; all but neural_ucb are baselines.")
    loops: int = Field(2, ge=1, description="Outer loops; each restarts the bandit from the best arms of the last.")
    initial_pulls: int = Field(40, ge=1, description="Pulls of an outer loop before the strategy chooses.")
    at_once: int = Field(
        1, ge=1, description="Arms that the strategy chooses before it is told what they gave. More is faster."
    )
    pulls: int = Field(160, ge=1, description="Pulls of the first round, all loops together.")
    later_pulls: int = Field(40, ge=1, description="Pulls of each later round, which starts from the best arms.")
    answers: int = Field(16, ge=2, description="Answers of a pull.")
    keep: int = Field(8, ge=1, description="Best arms that an outer loop hands to the next, and that rows come from.")
    harvest: int = Field(2, ge=1, description="Times that each of the best arms is asked again, for rows.")
    weight: float = Field(0.5, ge=0, le=1, description="Share of relevance in the reward; the rest is diversity.")
    temperature: float = Field(1.0, ge=0, description="Of the sampled answers; 0 is greedy.")
    rows: int = Field(200, ge=1, description="Most rows that a round reveals.")


class UtilitySettings(Section):
    """What must be kept."""

    rows: Path | None = Field(None, description="Rows to measure it on; without them the retain rows serve.")
    judge: JudgeSettings | None = Field(
        None,
        description="Scores the model's own answers and sees the rows'; without it, perplexity of the rows' answers "
        "is measured.",
    )
    max_new_tokens: int = Field(48, ge=1, description="Longest answer that the judge sees.")
    max_drop: float = Field(
        0.05, gt=0, description="Budget: perplexity may rise by this share, a score may fall by this much."
    )


def _known_release(name: str) -> str:
    return name if name in (MODULES, NONE) else METHODS.valid(name, {}, True)


class ModuleOptions(Section):
    """Of the release by modules."""

    steps: int = Field(100, ge=1, le=10**6, description="Optimiser steps of each module.")
    batch_size: int = Field(8, ge=1, description="Rows a step. Lower it to save memory.")
    learning_rate: float = Field(5e-4, gt=0, le=10, description="Peak learning rate of AdamW; cosine down to 0.")
    orthogonality: float = Field(0.5, ge=0, description="lambda_o: weight of |A_r A_f^T| in the forget module's loss.")
    forget_scale: float = Field(1.0, ge=0, description="a: how much of the forget module is subtracted.")
    retain_scale: float = Field(1.0, ge=0, description="b: how much of the retain module is added.")


class ReleaseSettings(Section):
    """How the model is released from what it revealed."""

    method: Annotated[str, AfterValidator(_known_release), Flag("--method")] = Field(
        MODULES,
        description="modules (rounds of O-LoRA modules and weight arithmetic), none (reveal only), or a method of "
        "`rapidun unlearn`.",
    )
    rounds: int = Field(3, ge=1, description="Most rounds of reveal, train, subtract (method modules).")
    lora: LoraSettings = Field(
        default_factory=lambda: LoraSettings(rank=8), description="Shape of the adapters; the rank is 8 by default."
    )
    modules: dict[str, Any] = Field(
        default_factory=dict, description="Options of method modules: steps, learning_rate, orthogonality, ...; below."
    )
    relevance_target: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Stop when the best arms' answers score at most this on average; 0 never stops early.",
    )
    unlearning: dict[str, Any] = Field(
        default_factory=dict, description="Where method names one, its settings: steps, learning_rate, options, ..."
    )
    weights: dict[str, Any] = Field(
        default_factory=dict, description="Where method names one, how rows are weighted: the section weights."
    )

    @model_validator(mode="after")
    def _known_options(self) -> ReleaseSettings:
        valid_options("method 'modules'", ModuleOptions, self.modules)
        return self

    @property
    def of_modules(self) -> ModuleOptions:
        """`modules`, as their class."""
        return make_options("method 'modules'", ModuleOptions, self.modules)


class TaskSettings(Section):
    """A task file."""

    description: str = Field(min_length=1, description="The behaviour to remove, in a sentence.")
    instruction: str = Field(
        min_length=1, description="The seed instruction; {input} in it is filled from the rows of inputs."
    )
    inputs: Path | None = Field(None, description="Rows whose prompts fill {input}.")
    judge: JudgeSettings = Field(description="Scores how much of the behaviour an answer shows.")
    retain: Path = Field(description="Rows that the model should keep answering well.")
    mask: bool = Field(
        False, description="Print no revealed text in the report, where nobody should read it; the run's files keep it."
    )
    utility: UtilitySettings = Field(default_factory=UtilitySettings)
    arms: ArmSettings = Field(default_factory=ArmSettings)
    search: SearchSettings = Field(default_factory=SearchSettings)
    release: ReleaseSettings = Field(default_factory=ReleaseSettings)

    @model_validator(mode="after")
    def _inputs_match(self) -> TaskSettings:
        if (INPUT in self.instruction) != (self.inputs is not None):
            missing = "inputs is not given" if self.inputs is None else f"instruction has no {INPUT}"
            raise ValueError(f"instruction and inputs belong together: {missing}")
        return self


class RevealConfig(Job):
    """A complete reveal run."""

    task: TaskSettings


def read_task(path: Path) -> dict[str, Any]:
    """A task file as a plain mapping, its relative paths made relative to the file.

    Raises:
        InputError: If the file is missing or not YAML.
        ConfigError: If it is not a mapping.
    """
    raw = read_mapping(path, "a task is a mapping with the keys description, instruction, judge and retain.")
    for place in _PATHS:
        _resolve(raw, place, path.parent, always=True)
    for place in _JUDGES:
        options = _at(raw, (*place, "options"))
        for name in options if isinstance(options, dict) else ():
            _resolve(raw, (*place, "options", name), path.parent, always=False)
    return raw


def _at(raw: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw


def _resolve(raw: dict[str, Any], place: tuple[str, ...], base: Path, *, always: bool) -> None:
    """Make the path at ``place`` relative to ``base``; an option of a judge only where there is such a file."""
    holder, value = _at(raw, place[:-1]) if place[:-1] else raw, _at(raw, place)
    if isinstance(value, str) and isinstance(holder, dict) and value and (always or (base / value).exists()):
        holder[place[-1]] = str(base / value)

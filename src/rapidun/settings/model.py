"""The model and its rows: what every verb that loads one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, field_validator

from rapidun.reading import path_fault
from rapidun.settings.base import LARGEST_SEED, LONGEST, Flag, Replayable, Section, shown
from rapidun.settings.kinds import Dtype, OnBadRow, Quantization
from rapidun.settings.plugins import load_plugin

TEMPLATES = ("auto", "chat", "alpaca", "plain")


class ModelSettings(Section):
    """The model to work on."""

    panel: ClassVar = "Model"

    source: Annotated[str, Flag("--model")] = Field(description="Directory of a causal language model, or its hub id.")
    device: Annotated[str, Flag("--device")] = Field(
        "auto", description="auto (a GPU where there is one), cpu, cuda, cuda:1, mps."
    )
    dtype: Annotated[Dtype, Flag("--dtype")] = Field(
        "auto",
        description="Weights and activations: auto (bfloat16 on a GPU that has it, else float32), float32, bfloat16, "
        "float16.",
    )
    quantize: Annotated[
        Quantization | None, Flag("--load-in-4bit", value="4bit"), Flag("--load-in-8bit", value="8bit")
    ] = Field(None, description="Quantise the base weights (CUDA, bitsandbytes).")
    dangerously_trust_remote_code: Annotated[bool, Flag("--dangerously-trust-remote-code")] = Field(
        False, description="Run Python code that comes with the model. It can do anything you can."
    )
    dangerously_allow_pickle: Annotated[bool, Flag("--dangerously-allow-pickle")] = Field(
        False, description="Load pickled weights. A pickle can run any code."
    )


class RowSettings(Section):
    """How row files are read and tokenised."""

    panel: ClassVar = "Rows"

    columns: Annotated[dict[str, str], Flag("--map")] = Field(
        default_factory=dict,
        description="prompt=question: read prompts from column question. Fields: prompt, context, response, messages, "
        "system, history, tools, response_clean, response_poisoned, response_paraphrased, response_wrong, "
        "prompt_paraphrased, id.",
    )
    template: Annotated[str, Flag("--template")] = Field(
        "auto",
        description="auto (chat where the tokenizer has a chat template, else alpaca), chat, alpaca, plain, or a Jinja "
        "file.",
    )
    template_options: Annotated[dict[str, Any], Flag("--template-option")] = Field(
        default_factory=dict,
        description="enable_thinking=false: set a variable of the template; date=2025-01-01 is "
        "what it takes for today.",
    )
    max_length: Annotated[int, Flag("--max-length")] = Field(
        512,
        ge=8,
        le=LONGEST,
        description="Longest row in tokens; longer prompts lose their beginning. With an index, the index's.",
    )
    on_bad_row: Annotated[OnBadRow, Flag("--on-bad-row")] = Field(
        "error", description="error: stop and name it; skip: leave it out and list it."
    )

    @field_validator("template")
    @classmethod
    def _there(cls, value: str) -> str:
        if value not in TEMPLATES and (path_fault(value) or not Path(value).is_file()):
            raise ValueError(f"{shown(value)}: no such name or file. Use auto, chat, alpaca, plain or a Jinja file")
        return value


def _loaded(value: list[Path]) -> list[Path]:
    for path in value:  # fields after this one may name what it registers
        load_plugin(path)
    return value


Plugins = Annotated[
    list[Path],
    Flag("--plugin"),
    AfterValidator(_loaded),
    Field(
        description="File of Python to run first, which registers a method, scheme, scorer, judge, "
        "attack or suite: docs/guide/extending.md. It can do anything you can."
    ),
]


class Seeded(Replayable):
    """What is the same when it is done again."""

    panel: ClassVar = "Run"

    seed: Annotated[int, Flag("--seed")] = Field(
        0, ge=0, le=LARGEST_SEED, description="Seed of everything random; the same seed, the same result."
    )


class Job(Seeded):
    """What every job has."""

    panel: ClassVar = "Run"

    model: ModelSettings
    data: RowSettings = Field(default_factory=RowSettings)
    plugins: Plugins = Field(default_factory=list)

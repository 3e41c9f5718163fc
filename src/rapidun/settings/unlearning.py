"""How a model is made to forget: the adapter, the update, and what each row counts."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from rapidun.settings.base import MANY, Flag, Section
from rapidun.settings.kinds import Negative
from rapidun.settings.names import METHODS, SCHEMES, MethodName, SchemeName

OptionValue = bool | int | Annotated[float, Field(allow_inf_nan=True)] | str | None
"""An option of a method or a scheme as it is given; whether a number must be finite is for its own type to say."""


class LoraSettings(Section):
    """The adapter that is trained. Rank and scale are RapidUn's (paper, section 4); so few steps need no dropout."""

    rank: int = Field(16, ge=1, le=MANY, description="Rank of the adapter's factors.")
    alpha: float = Field(16.0, gt=0, description="Scale: the update is alpha / rank * B A.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input while training.")
    targets: Annotated[Literal["all-linear"] | list[str], Flag("--lora-target")] = Field(
        "all-linear", description="Layers that get an adapter: all-linear, or names of layers."
    )


def _rate(value: Any) -> float | str:
    """A learning rate from a number, a text of one, or ``auto``."""
    if value == "auto":
        return "auto"
    try:
        rate = float(value)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate <= 10:
        raise ValueError(f"{value!r} is neither auto nor a number above 0 and at most 10")
    return rate


class UnlearnSettings(Section):
    """The update. Defaults were chosen on tuning draws of a real chat model (benchmarks/real_model/choose.py)."""

    method: Annotated[MethodName, Flag("--method")] = Field(
        "rapidun_kl", description=f"{METHODS}: docs/methods.md compares them."
    )
    options: Annotated[dict[str, OptionValue], Flag("--option")] = Field(
        default_factory=dict,
        description="Option of the method, for example beta=0.2; an unknown one lists the valid.",
    )
    steps: Annotated[int, Flag("--steps")] = Field(64, ge=1, le=10**6, description="Optimiser steps.")
    batch_size: Annotated[int, Flag("--batch-size")] = Field(
        8, ge=1, le=MANY, description="Rows a step, forget and retain together; lower it to save memory."
    )
    forget_share: float = Field(0.5, gt=0, le=1, description="Share of forget rows in the rows sampled.")
    learning_rate: Annotated[float | Literal["auto"], BeforeValidator(_rate), Flag("--learning-rate")] = Field(
        "auto",
        description="Peak learning rate of AdamW, cosine down to 0; auto derives one from the gradient of retain rows.",
    )
    warmup_steps: int = Field(0, ge=0, description="Linear warm-up steps.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm at which updates are clipped.")
    retain_budget: float = Field(
        0.01,
        gt=0,
        description="Largest relative rise of perplexity on validation rows; a larger update is cut down to it.",
    )
    check_every: int = Field(20, ge=1, description="Steps between two looks at the loss on validation rows.")
    checkpoint_every: int = Field(100, ge=1, description="Steps between two checkpoints for --resume.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, about 30% slower.")

    @model_validator(mode="after")
    def _known_options(self) -> UnlearnSettings:
        METHODS.valid(self.method, self.options)
        return self


class WeightSettings(Section):
    """Influence to weights (RapidUn, section 3)."""

    panel: ClassVar = None

    scheme: Annotated[SchemeName, Flag("--weights", "--scheme")] = Field(
        "consistency_hidden",
        description=f"Evidence to weights: {SCHEMES} (the last three are controls): docs/weights.md. "
        "unlearn also takes a weights.jsonl.",
    )
    negative: Negative = Field(
        "auto",
        description="Forget rows that score below zero: keep, drop, or train on them as retain rows; auto drops what "
        "a consistency scheme takes for mislabelled, unless they are more than half, or of fewer than 8 rows.",
    )
    options: dict[str, OptionValue] = Field(
        default_factory=dict,
        description="Options of the scheme, for example beta: 0.5; an unknown one lists the valid.",
    )

    @model_validator(mode="after")
    def _known_options(self) -> WeightSettings:
        SCHEMES.valid(self.scheme, self.negative, self.options)
        return self

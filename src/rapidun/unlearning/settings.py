"""What a user can set about unlearning; the descriptions are the command line's help."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from rapidun.errors import ConfigError
from rapidun.unlearning.catalogue import get_method
from rapidun.unlearning.options import OptionValue


class LoraSettings(BaseModel):
    """The adapter that is trained. Rank and scale are RapidUn's (paper, section 4); so few steps need no dropout."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    rank: int = Field(16, ge=1, le=2**16, description="Rank of the adapter's factors.")
    alpha: float = Field(16.0, gt=0, description="Scale: the update is alpha / rank * B A.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input while training.")
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="Layers that get an adapter: all-linear, or a list of layer names."
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


class UnlearnSettings(BaseModel):
    """The update. Defaults were chosen on tuning draws of a real chat model (benchmarks/real_model/choose.py)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    method: str = Field(
        "rapidun",
        description="Any of docs/methods.md: rapidun, npo, graddiff, ga, simnpo, dpo, idk, kl, rmu, undial, ...",
    )
    options: dict[str, OptionValue] = Field(
        default_factory=dict, description="Options of the method, for example ascent, descent, bounded, beta."
    )
    steps: int = Field(64, ge=1, le=10**6, description="Optimiser steps.")
    batch_size: int = Field(
        8, ge=1, le=2**16, description="Rows a step, forget and retain together. Lower it to save memory."
    )
    forget_share: float = Field(0.5, gt=0, le=1, description="Share of forget rows in the rows sampled.")
    learning_rate: Annotated[float | Literal["auto"], BeforeValidator(_rate)] = Field(
        "auto",
        description="Peak learning rate of AdamW, cosine down to 0; auto derives one from the gradient of retain rows.",
    )
    warmup_steps: int = Field(0, ge=0, description="Linear warm-up steps.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm at which updates are clipped.")
    retain_budget: float = Field(
        0.01,
        gt=0,
        description="Largest relative rise of perplexity on held retain rows; a larger update is scaled down to it.",
    )
    check_every: int = Field(20, ge=1, description="Steps between two looks at the loss on held retain rows.")
    checkpoint_every: int = Field(100, ge=1, description="Steps between two checkpoints for --resume.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, about 30% slower.")

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        get_method(value)
        return value

    @model_validator(mode="after")
    def _known_options(self) -> UnlearnSettings:
        try:
            self.method_options()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def method_options(self) -> dict[str, Any]:
        """The method's defaults with this run's options on top, each checked and of its type."""
        return get_method(self.method).checked(self.options)

"""What the weighting schemes may be told in ``weights.options``: each scheme takes the options of its own class."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rapidun.settings.base import Section


class Smallest(Section):
    """How little a row may weigh."""

    w_min: float = Field(0.2, gt=0, le=1, description="Smallest weight before the mean is set to 1.")


class Robust(Smallest):
    """How `robust_weights` makes weights of scores."""

    w_max: float = Field(3.0, ge=1, description="Largest weight before the mean is set to 1.")
    forget_temperature: float = Field(0.7, gt=0, description="Higher is more even forget weights.")
    retain_temperature: float = Field(1.2, gt=0, description="Higher is more even retain weights.")


class Released(Robust):
    """Of the scheme ``released``, whose queries are aggregated as in the released code."""

    alpha: float = Field(1.0, description="Weight of forget-on-forget influence.")
    beta: float = Field(1.0, description="Weight of forget-on-retain influence, subtracted.")
    gamma: float = Field(1.0, description="Weight of retain-on-retain influence.")
    delta: float = Field(1.0, description="Weight of retain-on-forget influence, subtracted.")


class SelfOnly(Robust):
    """Of the scheme ``self_only``, where ``alpha`` and ``gamma`` would be a mere unit of the scores."""

    aggregate: Literal["median", "mean"] = Field("median", description="Over the queries of a block.")
    top_k: int | None = Field(None, ge=1, description="Keep only this many rows of each query; none keeps all.")


class Influence(Released, SelfOnly):
    """Of the schemes ``influence``, ``shuffled`` and ``representation``."""


class Following(Section):
    """Of a scheme whose weights follow the model in training."""

    every: int = Field(50, ge=1, description="Optimiser steps between two computations.")
    smoothing: float = Field(0.5, ge=0, lt=1, description="Share of the old weights that is kept each time.")


class Dynamic(Influence, Following):
    """Of the scheme ``dynamic``."""


class Loss(Section):
    """Of the scheme ``loss``."""

    tau: float = Field(0.8, gt=0, description="Temperature.")
    direction: Literal["low", "high"] = Field("low", description="Which losses weigh more.")


class Consistency(Smallest):
    """Of the schemes ``consistency`` and ``consistency_hidden``."""

    neighbours: float = Field(0.1, gt=0, le=1, description="Share of the rows that judge one, the most similar.")


class Trusted(Influence, Consistency):
    """Of the scheme ``trusted_influence``."""

"""How rows are compared: gradients, what an index keeps, and what is asked of a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rapidun.settings.base import LARGEST_SKETCH, LONGEST, Flag, Section
from rapidun.settings.kinds import Decomposition, Normalization, Similarity, StoreDtype
from rapidun.settings.model import Job
from rapidun.settings.names import (
    FEATURES,
    PRECONDITIONERS,
    SCORERS,
    SKETCHES,
    FeatureName,
    PreconditionerName,
    SketchName,
)

HOW_COMPRESSED = f"How gradients are compressed: {SKETCHES}; exact is not at all."
BEFORE = "The model before training, to see what it changed; default an index's. An adapter brings its own."


class GradientSettings(Section):
    """How a row's gradient is taken."""

    panel: ClassVar = "Gradients"

    targets: Annotated[Literal["auto", "linear", "lora"] | list[str], Flag("--targets", commas=True)] = Field(
        "auto",
        description="Layers whose gradients count: auto (lora with an adapter, else linear), or names of layers.",
    )
    normalize: Annotated[Normalization, Flag("--normalize")] = Field(
        "layer",
        description="Scale of a row's gradient: layer (each layer's part has length 1), unit (the whole has), none.",
    )
    max_tokens: Annotated[int, Flag("--max-tokens")] = Field(
        4096, ge=1, le=LONGEST, description="Most tokens in a batch, padding included; fewer where memory asks for it."
    )


class InfluenceSettings(GradientSettings):
    """How gradients are taken and compared."""

    token_normalize: bool = Field(False, description="Give every answer token's output error norm 1.")
    sketch_size: int = Field(65_536, ge=64, le=LARGEST_SKETCH, description="Length of a row's gradient sketch.")
    similarity: Similarity = Field("cosine", description="How two sketches are compared.")
    checkpoints: list[Path] = Field(
        default_factory=list,
        description="Earlier checkpoints of the same model (directories or safetensors files): influence is summed "
        "over them and the model as it is.",
    )


class SketchSettings(GradientSettings):
    """How a row's gradient is compressed."""

    sketch: Annotated[SketchName, Flag("--sketch")] = Field("rapidgrad", description=HOW_COMPRESSED)
    k: Annotated[int, Flag("--k")] = Field(
        65_536, ge=1, le=LARGEST_SKETCH, description="Length of a gradient sketch, in numbers."
    )


class IndexSettings(SketchSettings):
    """What an index holds, and how it is stored."""

    panel: ClassVar = "Index"

    views: Annotated[list[FeatureName], Flag("--views", commas=True)] = Field(
        default_factory=lambda: ["gradient", "hidden", "lexical"],
        description=f"What is kept of each row: any of {FEATURES}.",
    )
    base: Annotated[str, Flag("--base", panel="Model")] = Field("", description=BEFORE)
    dtype: Annotated[StoreDtype, Flag("--store-dtype")] = Field(
        "float16", description="Of the numbers kept: float32, float16, bfloat16, int8."
    )
    precondition: Annotated[PreconditionerName, Flag("--precondition")] = Field(
        "none", description=f"Divide gradients by the curvature, for better influence: {PRECONDITIONERS}."
    )
    damping: Annotated[float, Flag("--damping")] = Field(
        0.1, gt=0, description="Added to the curvature, as a multiple of its mean eigenvalue."
    )
    precondition_rows: Annotated[int, Flag("--precondition-rows")] = Field(
        512, ge=1, description="Rows that the preconditioner is fitted to, once."
    )
    shard_rows: Annotated[int | None, Flag("--shard-rows")] = Field(
        None, ge=1, description="Rows in a file; none is as many as fill 128 MiB."
    )


class IndexConfig(Job):
    """What `rapidun index build` and `append` need."""

    index: IndexSettings = Field(default_factory=IndexSettings)


class TraceConfig(Job):
    """What `rapidun trace` needs."""

    influence: InfluenceSettings = Field(default_factory=InfluenceSettings)
    base: Annotated[str, Flag("--base", panel="Model")] = Field("", description=BEFORE)


class TraceSettings(Section):
    """What is asked of a trace."""

    k: Annotated[int, Flag("--k")] = Field(20, ge=1, description="Rows shown for each query.")
    scorers: Annotated[tuple[str, ...], Flag("--by", commas=True)] = Field(
        (), description=f"{SCORERS}; several are fused. Default: the best that there is."
    )
    together: Annotated[bool, Flag("--together")] = Field(
        False, description="All queries are one symptom, ranked together."
    )
    tokens: Annotated[int, Flag("--tokens")] = Field(
        0, ge=0, description="Show the tokens behind the first so many rows; needs --data."
    )
    token_by: Annotated[Decomposition, Flag("--token-by")] = Field(
        "position", description="position: where it was read, one pass; loss: RapidIn's, a pass for every token."
    )
    propose: Annotated[Path | None, Flag("--propose")] = Field(
        None, description="New directory for rows to forget and to retain; needs --data."
    )
    fdr: Annotated[float, Flag("--fdr")] = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of clean rows that the proposed forget rows may hold: kept on average with --clean, "
        "estimated without.",
    )
    clean: Annotated[Path | None, Flag("--clean")] = Field(
        None,
        description="File of rows of --data known to be clean, a random sample (a few hundred): makes --fdr a "
        "guarantee.",
    )

"""Gradients: a sketch of every row's own gradient (RapidIn, arXiv 2405.11724, section 3).

Their preconditioner is fitted once, before the first shard, to a sample of the first build's rows, and kept in the
index. Resumed and appended builds and other workers load what was fitted, so that all rows of an index, and its
queries, are multiplied by one and the same matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from rapidun.attribution.context import ModelContext
from rapidun.attribution.scorer import MatrixSpec, Progress, Recorder, Role, Row, Sample, Scorer, register_scorer
from rapidun.attribution.storage import MatrixBuffer
from rapidun.data import Batch
from rapidun.errors import ConfigError, FingerprintError
from rapidun.gradients import (
    Collector,
    FactorSketch,
    Preconditioner,
    RapidGrad,
    Sketch,
    fit_preconditioner,
    load_preconditioner,
    make_collector,
    sketch_from,
)
from rapidun.gradients.collector import Transform
from rapidun.gradients.coverage import coverage_of
from rapidun.gradients.curvature_kinds import KINDS
from rapidun.gradients.norms import scaled_norms
from rapidun.gradients.targets import settled_targets
from rapidun.settings.kinds import Normalization, Side, StoreDtype

PRECONDITIONER = "preconditioner"
"""A directory of the index: what `rapidun.gradients.Preconditioner.save` writes."""


class Precondition(BaseModel):
    """How gradients are preconditioned; see `rapidun.gradients.preconditioners`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = Field(description="adam, kfac or ekfac; none changes nothing.")
    damping: float = Field(0.1, description="Multiple of the mean eigenvalue, above 0.")
    side: Side = Field("both", description="both: rows and queries by the root of the inverse; query: queries alone.")
    rows: int = Field(512, ge=1, description="How many rows it is fitted to, at most.")
    seed: int = Field(0, description="Draws those rows, and labels from the model's predictions.")
    fitted: dict[str, Any] | None = Field(None, description="What was fitted, with its fingerprint; filled in.")

    def check(self, sketch: Sketch) -> None:
        """Refuse settings that no build could use.

        Raises:
            ConfigError: If the kind is unknown, the damping out of range, or the sketch takes only factors and the
                kind leaves none.
        """
        Preconditioner(self.kind, self.damping, self.side)
        if self.kind in KINDS and not KINDS[self.kind].factors and isinstance(sketch, FactorSketch):
            raise ConfigError(
                f"preconditioner {self.kind!r} forms the gradient, and the sketch {sketch.describe()['kind']!r} takes "
                "only its factors. Use kfac or ekfac, or the sketch rapidgrad."
            )


@register_scorer("gradient", {"gradient": "influence"})
class GradientScorer(Scorer):
    """Sketched per-example gradients."""

    missing = "Build one with --views gradient."

    sketch: dict[str, Any] = Field(
        default_factory=lambda: dict(RapidGrad().describe()), description="Kind and settings of the sketch."
    )
    normalize: Normalization = Field("layer", description="Scale of each row's gradient.")
    targets: Literal["auto", "linear", "lora"] | list[str] = Field(
        "auto", description="Tracked layers; auto is lora where there is an adapter, else linear."
    )
    token_normalize: bool = Field(False, description="Give every answer token's output error norm 1.")
    dtype: StoreDtype = Field("float16", description="How the vectors are stored.")
    precondition: Precondition | None = Field(None, description="Preconditioner of the gradients; none without it.")
    tracked: list[str] = Field(default_factory=list, description="Names of the tracked tensors; filled in.")
    coverage: dict[str, Any] = Field(
        default_factory=dict, description="Share of the weights that is tracked, and numbers of values; filled in."
    )

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> Scorer:
        """Refuses a preconditioner that no build could use, before a model is loaded."""
        scorer = cls(**{name: value for name, value in settings.items() if name in cls.model_fields})
        if scorer.precondition is not None:
            scorer.precondition.check(sketch_from(scorer.sketch))
        return scorer

    def resolved(self, model: ModelContext) -> GradientScorer:
        """With targets settled, the tracked tensors named, and every setting of the sketch written out.

        Raises:
            ConfigError: If the sketch or the preconditioner is unknown, or the two do not go together.
        """
        targets = settled_targets(model.loaded.model, self.targets)
        precondition, sketch = self.precondition, sketch_from(self.sketch)
        if precondition is not None:
            precondition.check(sketch)
        settled = self.model_copy(
            update={
                "targets": targets,
                "sketch": sketch.describe(),
                "precondition": None if precondition is None or precondition.kind == "none" else precondition,
                "tracked": [],
                "coverage": {},
            }
        )
        tracked = settled._collector(model).tracked
        coverage = coverage_of(model.loaded.model, tracked).record()
        return settled.model_copy(update={"tracked": tracked, "coverage": coverage})

    def fit(self, sample: Sample, progress: Progress | None = None) -> GradientScorer:
        """Fit the preconditioner to a sample of the rows and write it into the index, or check the one that was fitted.

        Raises:
            FingerprintError, InputError: If the one that was fitted is not there, or is another.
        """
        wanted = self.precondition
        if wanted is None:
            return self
        if wanted.fitted is not None:
            self.load(sample.directory)
            return self
        fitted = fit_preconditioner(
            self._collector(sample.model),
            sample.sample(wanted.rows, wanted.seed),
            sample.model.loaded.pad_token_id,
            wanted.kind,
            damping=wanted.damping,
            side=wanted.side,
            seed=wanted.seed,
            max_tokens=sample.max_tokens,
            progress=progress,
        )
        fitted.save(sample.directory / PRECONDITIONER)
        return self.model_copy(update={"precondition": wanted.model_copy(update={"fitted": fitted.describe()})})

    def planned(self) -> GradientScorer:
        """Without what was fitted, and without the coverage, which follows from what is tracked."""
        precondition = self.precondition and self.precondition.model_copy(update={"fitted": None})
        return self.model_copy(update={"precondition": precondition, "coverage": {}})

    def load(self, directory: Path) -> Preconditioner:
        """The preconditioner that was fitted for the index in ``directory``; of kind ``"none"`` without one.

        Raises:
            ConfigError: If nothing was fitted yet.
            InputError: If a file is missing or cannot be read.
            FingerprintError: If the file is not the index's own; names both fingerprints.
        """
        if self.precondition is None:
            return Preconditioner("none")
        place, described = directory / PRECONDITIONER, self.precondition.fitted
        if described is None:
            raise ConfigError(f"{directory}: the preconditioner is not fitted yet; use the plan that prepare returns.")
        found = load_preconditioner(place)
        if found.fingerprint != described["fingerprint"]:
            raise FingerprintError(
                f"{place}: this preconditioner has fingerprint {found.fingerprint[:16]}, and the index was built with "
                f"{described['fingerprint'][:16]}. Restore its own, or build the index anew."
            )
        return found

    def files(self, directory: Path) -> list[Path]:
        """The preconditioner's."""
        return [] if self.precondition is None else sorted((directory / PRECONDITIONER).iterdir())

    def _collector(self, model: ModelContext, transform: Transform | None = None) -> Collector:
        return make_collector(
            model.loaded.model, sketch_from(self.sketch), self.targets, self.normalize, self.token_normalize, transform
        )

    def matrices(self, model: ModelContext) -> dict[str, MatrixSpec]:
        """One matrix, ``gradient``."""
        width = sketch_from(self.sketch).dimension(self._collector(model).sizes)
        return {"gradient": MatrixSpec(width=width, dtype=self.dtype)}

    def recorder(self, model: ModelContext, rows: Sequence[Row], fitted: Any, role: Role = "train") -> Recorder:
        """Runs the collector on every batch; ``fitted`` is the preconditioner, as `load` gives it."""
        return _GradientRecorder(self, self._collector(model, fitted and fitted.transform(role)), len(rows))


class _GradientRecorder(Recorder):
    measures = True

    def __init__(self, scorer: GradientScorer, collector: Collector, rows: int) -> None:
        self._collector = collector
        self._sketch = sketch_from(scorer.sketch)
        width = self._sketch.dimension(self._collector.sizes)
        self.buffers = [MatrixBuffer("gradient", rows, width, scorer.dtype)]
        self._norms = torch.zeros(rows)

    def prepare(self, batch: Batch) -> None:
        self._collector.check(batch)

    def measure(self, batch: Batch, places: list[int]) -> None:
        vectors = self._collector(batch, self._sketch)
        self._norms[places] = scaled_norms(vectors).cpu()
        self.buffers[0].put(places, vectors)

    def columns(self) -> dict[str, list[Any]]:
        return {"gradient_norm": self._norms.tolist()}

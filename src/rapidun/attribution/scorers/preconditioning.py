"""The preconditioner of gradients: fitted once, before the first shard, and kept in the index.

It is fitted to a sample of the first build's rows, drawn by a seed. Resumed and appended builds and other workers
load what was fitted, so that all rows of an index, and its queries, are multiplied by one and the same matrix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rapidun.attribution.scorer import Progress, Sample
from rapidun.errors import ConfigError, FingerprintError
from rapidun.gradients import Collector, FactorSketch, Preconditioner, Sketch, fit_preconditioner, load_preconditioner
from rapidun.gradients.curvature_kinds import KINDS
from rapidun.settings.kinds import Side

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

    def fit(self, sample: Sample, collector: Collector, progress: Progress | None) -> Precondition:
        """Fit to a sample of the rows and write it into the index; the settings then say what it is."""
        found = fit_preconditioner(
            collector,
            sample.sample(self.rows, self.seed),
            sample.model.loaded.pad_token_id,
            self.kind,
            damping=self.damping,
            side=self.side,
            seed=self.seed,
            max_tokens=sample.max_tokens,
            progress=progress,
        )
        found.save(sample.directory / PRECONDITIONER)
        return self.model_copy(update={"fitted": found.describe()})

    def load(self, directory: Path) -> Preconditioner:
        """What was fitted for the index in ``directory``.

        Raises:
            ConfigError: If nothing was fitted yet.
            InputError: If a file is missing or cannot be read.
            FingerprintError: If the file is not the index's own; names both fingerprints.
        """
        if self.fitted is None:
            raise ConfigError(f"{directory}: the preconditioner is not fitted yet; use the plan that prepare returns.")
        found = load_preconditioner(directory / PRECONDITIONER)
        if found.fingerprint != self.fitted["fingerprint"]:
            raise FingerprintError(
                f"{directory / PRECONDITIONER}: this preconditioner has fingerprint {found.fingerprint[:16]}, and the "
                f"index was built with {self.fitted['fingerprint'][:16]}. Restore its own, or build the index anew."
            )
        return found

"""The growing sketch of one batch: every tensor's gradients normalised, then handed to the sketch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from rapidun.errors import ModelError
from rapidun.gradients.factors import Gradients, divided, factor_norms
from rapidun.gradients.norms import divisors, row_norms
from rapidun.gradients.recording import Receive
from rapidun.gradients.sketches import DenseSketch, FactorSketch, Sketch


class SketchedBatch:
    """The (batch, k) sketch of one batch and, for ``"unit"``, each tensor's per-example norms."""

    def __init__(
        self, sketch: Sketch, sizes: Mapping[str, int], batch: int, device: torch.device, normalize: str
    ) -> None:
        self.receive = self._receiver(sketch)
        self._sizes = sizes
        self._normalize = normalize
        self._total = torch.zeros(batch, sketch.dimension(sizes), device=device)
        self._norms = torch.zeros(batch, len(sizes) if normalize == "unit" else 0, device=device)

    def _receiver(self, sketch: Sketch) -> Receive:
        """Takes one tensor's gradients for a few rows, in the form that the sketch wants."""
        if isinstance(sketch, FactorSketch):
            return partial(self._receive_factors, sketch)
        if isinstance(sketch, DenseSketch):
            return partial(self._receive_formed, sketch)
        raise TypeError(f"{type(sketch).__name__} has neither add nor add_factors")

    def _receive_formed(self, sketch: DenseSketch, name: str, rows: slice, gradients: Gradients) -> None:
        values = gradients.formed().to(self._total.device)
        if self._normalize == "layer":
            values /= divisors(row_norms(values))
        elif self._normalize == "unit":
            self._note_norms(name, rows, row_norms(values))
        sketch.add(self._total[rows], name, values, self._sizes)

    def _receive_factors(self, sketch: FactorSketch, name: str, rows: slice, gradients: Gradients) -> None:
        activations, errors = (values.to(self._total.device) for values in gradients.factors())
        if self._normalize == "layer":
            activations, errors = divided(activations, errors, factor_norms(activations, errors))
        elif self._normalize == "unit":
            self._note_norms(name, rows, factor_norms(activations, errors))
        sketch.add_factors(self._total[rows], name, activations, errors, self._sizes)

    def _note_norms(self, name: str, rows: slice, norms: torch.Tensor) -> None:
        self._norms[rows, list(self._sizes).index(name)] = norms

    def finished(self, scale: float) -> torch.Tensor:
        """The sketch after what is normalised over the whole gradient."""
        if self._normalize == "unit":
            self._total /= divisors(row_norms(self._norms))
        elif self._normalize == "none" and scale != 1:
            self._total /= scale
        if not self._total.sum().isfinite():  # one quick pass; a sum may also overflow
            finite = self._total.isfinite().all(dim=1)
            if rows := (~finite).nonzero().flatten().tolist():
                raise ModelError(
                    f"The gradients of rows {rows} of this batch are not finite. Load the model as bfloat16 or float32."
                )
        return self._total

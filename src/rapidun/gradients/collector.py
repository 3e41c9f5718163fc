"""Per-example gradients of a batch, in one forward and one backward pass, straight into a sketch.

Example ``s`` has the gradient ``grad L(s)`` of its own mean answer-token loss (RapidIn, arXiv 2405.11724, eq. 5),
independent of the rows it shares a batch with. The losses of a batch are summed and differentiated once; hooks
separate the examples at each layer, where ``grad W = sum_t g_t a_t^T`` splits by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn

from rapidun.data.batches import Batch
from rapidun.errors import ConfigError, ModelError
from rapidun.gradients.recording import Recorder
from rapidun.gradients.signal import unit_token_errors
from rapidun.gradients.sketches import Sketch
from rapidun.gradients.state import device_of, differentiable_inputs, evaluating, frozen
from rapidun.gradients.targets import find_targets
from rapidun.models.losses import mean_answer_loss

Normalization = Literal["layer", "none", "unit"]
_FLOAT16_LOSS_SCALE = 1024.0  # a power of two: exact to undo
_SAFE_SQUARES = (1e-20, 1e30)  # sums of squares within this range lost nothing that matters to float32


class GradientCollector:
    """Collects sketched per-example gradients; leaves the model as it found it.

    The model is in evaluation mode while gradients are collected (trap 10), no parameter requires a gradient, no
    ``.grad`` is written, and modes, flags and hooks are as before afterwards, also after an exception.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        targets: ``"lora"``, ``"linear"`` or layer names; see `rapidun.gradients.targets.find_targets`. Weights
            only: biases are not tracked.
        normalize: ``"layer"`` gives every tracked tensor's gradient norm 1 (RapidIn, section 3.1), ``"unit"``
            the whole gradient, ``"none"`` leaves it. Zero gradients stay zero (trap 7).
        token_normalize: Give every answer token's output error norm 1 before the backward pass
            (RapidUn, arXiv 2512.04457, eq. 1).

    Raises:
        ConfigError: If ``normalize`` or ``targets`` is unknown.
        ModelError: If ``targets`` match nothing that can be tracked.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: str | Sequence[str] = "lora",
        normalize: Normalization = "layer",
        token_normalize: bool = False,
    ) -> None:
        if normalize not in get_args(Normalization):
            raise ConfigError(f"normalize={normalize!r}: use one of {', '.join(get_args(Normalization))}.")
        self._model = model
        self._tensors = find_targets(model, targets)
        self._normalize = normalize
        self._token_normalize = token_normalize

    @property
    def tracked(self) -> list[str]:
        """Names of the tracked parameters, in the model's order."""
        return [tensor.name for tensor in self._tensors]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of values of each tracked parameter, in the model's order."""
        return {tensor.name: tensor.size for tensor in self._tensors}

    def __call__(self, batch: Batch, sketch: Sketch) -> torch.Tensor:
        """Sketched gradients of the rows of ``batch``, (batch, k) float32, on the model's device.

        Raises:
            ModelError: If no tracked layer takes part in the loss, or a gradient is not finite.
        """
        batch = batch.to(device_of(self._model))
        with torch.inference_mode(False), torch.enable_grad():
            total = _SketchedBatch(sketch, self.sizes, len(batch), batch.input_ids.device, self._normalize)
            scale = self._record(batch, total)
            return total.finished(scale)

    def _record(self, batch: Batch, total: _SketchedBatch) -> float:
        model = self._model
        recorder = Recorder((len(batch), batch.input_ids.shape[1]), total.receive)
        with evaluating(model), frozen(model), differentiable_inputs(model), recorder.attached(self._tensors):
            scale = self._run(batch, recorder)
        if not recorder.received:
            raise ModelError(
                f"None of the {len(self._tensors)} tracked layers took part in the loss. "
                "Is the adapter merged or switched off?"
            )
        return scale

    def _run(self, batch: Batch, recorder: Recorder) -> float:
        """One forward and one backward pass; returns the factor that every gradient is too large by."""
        logits = self._model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        labels = batch.labels.to(logits.device)
        scale = _FLOAT16_LOSS_SCALE if logits.dtype == torch.float16 else 1.0
        if self._token_normalize:
            recorder.backward(logits, unit_token_errors(logits, labels) * scale)
        else:
            recorder.backward(mean_answer_loss(logits, labels).sum() * scale)
        return scale


class _SketchedBatch:
    """The growing (batch, k) sketch of one batch and, for ``"unit"``, each tensor's per-example norms."""

    def __init__(
        self, sketch: Sketch, sizes: dict[str, int], batch: int, device: torch.device, normalize: Normalization
    ) -> None:
        self._sketch = sketch
        self._sizes = sizes
        self._normalize = normalize
        self._total = torch.zeros(batch, sketch.dimension(sizes), device=device)
        self._norms = torch.zeros(batch, len(sizes) if normalize == "unit" else 0, device=device)

    def receive(self, name: str, rows: slice, gradients: torch.Tensor) -> None:
        """Take one tensor's gradients, (rows, size) float32, which may be overwritten."""
        gradients = gradients.to(self._total.device)
        if self._normalize == "layer":
            gradients /= divisors(row_norms(gradients))
        elif self._normalize == "unit":
            self._norms[rows, list(self._sizes).index(name)] = row_norms(gradients)
        self._sketch.add(self._total[rows], name, gradients, self._sizes)

    def finished(self, scale: float) -> torch.Tensor:
        """The sketch after what is normalised over the whole gradient."""
        if self._normalize == "unit":
            self._total /= divisors(row_norms(self._norms))
        elif self._normalize == "none":
            self._total /= scale
        finite = self._total.isfinite().all(dim=1)
        if not finite.all():
            rows = (~finite).nonzero().flatten().tolist()
            raise ModelError(
                f"The gradients of rows {rows} of this batch are not finite. Load the model as bfloat16 or float32."
            )
        return self._total


def row_norms(values: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each row, (rows,) float32.

    A row whose squares might leave float32's range (that of 1e-23 is 0, trap 7) is divided by its largest value
    first. On a CPU that slower way is taken only where a row needs it, and for that row alone.
    """
    if values.device.type != "cpu":
        return _scaled_norms(values)
    squares = torch.einsum("bi,bi->b", values, values)
    safe = (squares > _SAFE_SQUARES[0]) & (squares < _SAFE_SQUARES[1])
    if bool(safe.all()):
        return squares.sqrt()
    return torch.where(safe, squares.sqrt(), _scaled_norms(values))


def _scaled_norms(values: torch.Tensor) -> torch.Tensor:
    largest: torch.Tensor = torch.linalg.vector_norm(values, ord=math.inf, dim=1)
    scaled: torch.Tensor = torch.linalg.vector_norm(values / divisors(largest), dim=1)
    return largest * scaled


def divisors(norms: torch.Tensor) -> torch.Tensor:
    """(rows, 1): the norms, and 1 where a norm is 0, so that zero rows stay zero (trap 7)."""
    return torch.where(norms > 0, norms, 1.0).unsqueeze(1)

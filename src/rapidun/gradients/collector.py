"""Per-example gradients of a batch, in one forward and one backward pass, straight into a sketch.

Example ``s`` has the gradient ``grad L(s)`` of its own mean answer-token loss (RapidIn, arXiv 2405.11724, eq. 5),
independent of the rows it shares a batch with. The losses of a batch are summed and differentiated once; hooks
separate the examples at each layer, where ``grad W = sum_t g_t a_t^T`` splits by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

import torch
from torch import nn

from rapidun.data.batches import IGNORE_INDEX, Batch
from rapidun.errors import ConfigError, ModelError
from rapidun.gradients.agreement import check_agreement
from rapidun.gradients.factors import Gradients
from rapidun.gradients.recording import Receive, Recorder
from rapidun.gradients.signal import answer_errors
from rapidun.gradients.sketched import SketchedBatch
from rapidun.gradients.sketches import FactorSketch, Sketch
from rapidun.gradients.state import device_of, differentiable_inputs, frozen
from rapidun.gradients.targets import find_targets
from rapidun.models.losses import answer_logits, answer_token_logits, next_tokens, output_layer
from rapidun.models.modes import evaluating
from rapidun.settings.kinds import Normalization

Transform = Callable[[str, Gradients], Gradients]
_FLOAT16_LOSS_SCALE = 1024.0  # a power of two: exact to undo


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
        transform: Applied to every tensor's gradients before they are normalised: a preconditioner
            (`rapidun.gradients.preconditioners`).

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
        transform: Transform | None = None,
    ) -> None:
        if normalize not in get_args(Normalization):
            raise ConfigError(f"normalize={normalize!r}: use one of {', '.join(get_args(Normalization))}.")
        self._model = model
        self._tensors = find_targets(model, targets)
        within_output_layer = set(() if (head := output_layer(model)) is None else head.modules())
        self._tracks_output_layer = any(not within_output_layer.isdisjoint(tensor.layers) for tensor in self._tensors)
        self._normalize = normalize
        self._token_normalize = token_normalize
        self._transform = transform
        self._agrees = False

    @property
    def model(self) -> nn.Module:
        """The model whose gradients are collected."""
        return self._model

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
            ConfigError: If the sketch takes factors and a tracked tensor's gradient has none.
        """
        with torch.inference_mode(False):
            total = SketchedBatch(sketch, self.sizes, len(batch), device_of(self._model), self._normalize)
            scale = self.visit(batch, total.receive, formed=not isinstance(sketch, FactorSketch))
            return total.finished(scale)

    def visit(self, batch: Batch, receive: Receive, *, formed: bool = True) -> float:
        """One forward and one backward pass; ``receive`` gets every tensor's gradients, preconditioned, unnormalised.

        The first batch is checked before (`check`).

        Args:
            batch: Rows to differentiate.
            receive: Called with ``(tensor name, rows, gradients)``, for a few rows of one tensor at a time.
            formed: Whether ``receive`` forms the gradients; decides how many rows are a few.

        Returns:
            The factor that every gradient is too large by: 1 unless the model is float16.

        Raises:
            ModelError: If no tracked layer takes part in the loss, or a tensor's gradient is not its layer's.
        """
        batch = batch.to(device_of(self._model))
        self.check(batch)
        prepared = receive if self._transform is None else partial(transformed, self._transform, receive)
        scale, received = self._record(batch, prepared, formed)
        if not received:
            raise ModelError(
                f"None of the {len(self._tensors)} tracked layers took part in the loss. "
                "Is the adapter merged or switched off?"
            )
        return scale

    def check(self, batch: Batch) -> None:
        """Compare one row's gradients with autograd's (`check_agreement`), once; every first pass does so itself.

        Raises:
            ModelError: If a tracked tensor's gradient is not its layer's.
        """
        if not self._agrees:
            batch = batch.to(device_of(self._model))
            check_agreement(self._model, self.tracked, batch, self._record, unit=self._token_normalize)
            self._agrees = True

    def _record(self, batch: Batch, receive: Receive, formed: bool = True) -> tuple[float, set[str]]:
        """The factor that gradients are too large by, and the names of the tensors that took part."""
        model, length = self._model, batch.input_ids.shape[1]
        recorder = Recorder((len(batch), length), receive, formed)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            evaluating(model),
            frozen(model),
            recorder.attached(self._tensors),
        ):
            return self._run(batch, recorder), recorder.received

    def _run(self, batch: Batch, recorder: Recorder) -> float:
        """One forward and one backward pass; returns the factor that every gradient is too large by."""
        logits, target = self._logits(batch)
        if recorder.checkpointed:
            recorder.forget()
            with differentiable_inputs(self._model):
                logits, target = self._logits(batch)
        scale = _FLOAT16_LOSS_SCALE if logits.dtype == torch.float16 else 1.0
        errors = answer_errors(logits.detach(), target, unit=self._token_normalize)
        if logits.requires_grad:  # else no tracked layer took part
            recorder.backward(logits, errors.mul_(scale).to(logits.dtype))
        return scale

    def _logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets of the answer tokens; an output layer that is tracked itself sees every position."""
        inputs = batch.input_ids, batch.attention_mask, batch.labels
        if not self._tracks_output_layer:
            return answer_token_logits(self._model, *inputs)
        logits, labels = answer_logits(self._model, *inputs)
        target = next_tokens(labels).to(logits.device)
        return logits[target != IGNORE_INDEX], target


def transformed(transform: Transform, receive: Receive, name: str, rows: slice, gradients: Gradients) -> None:
    """Hand over one tensor's gradients after ``transform``."""
    receive(name, rows, transform(name, gradients))

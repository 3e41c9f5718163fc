"""Per-example gradients of linear layers as their two factors: ``grad W = sum_p g_p a_p^T``, never formed.

What influence between single positions needs: the activation ``a_p`` that a layer saw and the gradient ``g_p`` of
what it gave, position by position. Inner products of gradients are then sums of ``(a_p . a_q)(g_p . g_q)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rapidun.data.batches import Batch
from rapidun.errors import ModelError
from rapidun.gradients.backward import answer_signal, borrowed, device_of, differentiable_inputs, loss_scale
from rapidun.gradients.collector import GradientCollector
from rapidun.gradients.experts import FusedTensor
from rapidun.gradients.factors import LayerGradients, TrackedTensor
from rapidun.gradients.norms import divisors, factor_norms, row_norms
from rapidun.gradients.recording import Recorder
from rapidun.models.losses import mean_answer_loss


@dataclass(frozen=True)
class Factors:
    """One tensor's gradients: ``grad_b = magnitude_b * sum_p g_bp a_bp^T``.

    Args:
        name: The tensor.
        activations: (rows, calls x length, inputs) float32.
        output_gradients: (rows, calls x length, outputs) float32, largest value 1, so that squares stay in range.
        magnitude: (rows,) float32.
        calls: How often the layers of this tensor ran; the positions of one call follow those of the other.
    """

    name: str
    activations: torch.Tensor
    output_gradients: torch.Tensor
    magnitude: torch.Tensor
    calls: int

    @classmethod
    def of(cls, name: str, calls: Sequence[LayerGradients], scale: float) -> Factors:
        """The factors of all ``calls``, whose gradients are too large by ``scale``."""
        errors = torch.cat([call.errors.float() for call in calls], dim=1)
        largest = errors.abs().amax(dim=(1, 2))
        activations = torch.cat([call.activations.float() for call in calls], dim=1)
        return cls(name, activations, errors / divisors(largest).unsqueeze(2), largest / scale, len(calls))

    def norms(self) -> torch.Tensor:
        """Euclidean norm of each row's gradient, (rows,) float32."""
        return factor_norms(self.activations, self.output_gradients) * self.magnitude


class Normaliser:
    """Tensor norms of a batch of rows as they come in, and what each tensor's share is multiplied by.

    Args:
        normalize: ``"layer"`` divides each tensor's share by its norm, ``"unit"`` all of them by the norm of the whole,
            ``"none"`` nothing. A gradient of norm 0 is divided by 1 and stays 0.
    """

    def __init__(self, normalize: str) -> None:
        self._normalize = normalize
        self._norms: dict[str, torch.Tensor] = {}

    def multipliers(self, name: str, norms: torch.Tensor) -> torch.Tensor:
        """Note a tensor's norms, (rows,), and give its multipliers, (rows,), on the same device."""
        self._norms[name] = norms.cpu()
        return 1 / divisors(norms).squeeze(1) if self._normalize == "layer" else torch.ones_like(norms)

    def multiplier_of(self, name: str, row: int) -> float:
        """The multiplier of a tensor whose norms are known already."""
        norm = float(self._norms[name][row])
        return 1 / norm if self._normalize == "layer" and norm > 0 else 1.0

    def whole(self) -> torch.Tensor:
        """Divisors of the whole gradients, (rows,) on the CPU: their norms before normalisation, 1 for 0."""
        return divisors(self._plain()).squeeze(1)

    def finished_norms(self) -> torch.Tensor:
        """Norms of the whole gradients after normalisation, (rows,) on the CPU."""
        if self._normalize == "layer":
            nonzero = torch.stack([norms > 0 for norms in self._norms.values()])
            return nonzero.sum(dim=0).float().sqrt()
        plain = self._plain()
        return (plain > 0).float() if self._normalize == "unit" else plain

    def _plain(self) -> torch.Tensor:
        return row_norms(torch.stack(list(self._norms.values()), dim=1))


class FactorCollector(GradientCollector):
    """The factors of tracked tensors in one forward and one backward pass; the model is left as it was found.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        targets: As for `rapidun.gradients.GradientCollector`; ``nn.Linear``, GPT-2's ``Conv1D`` and what derives
            from them (LoRA factors, quantised layers). ``"linear"`` is without fused experts.
        token_normalize: Give every answer token's output error norm 1 before the backward pass.

    Raises:
        ConfigError: If ``targets`` is unknown.
        ModelError: If ``targets`` match nothing, or a layer that is not linear.
    """

    def __init__(self, model: nn.Module, targets: str | Sequence[str] = "lora", token_normalize: bool = False) -> None:
        super().__init__(model, targets, "none", token_normalize)
        if targets == "linear":  # experts are a part of the row's influence that no pair of positions has here
            self._tensors = [tensor for tensor in self._tensors if not isinstance(tensor, FusedTensor)]
            self.sizes = {tensor.name: tensor.size for tensor in self._tensors}
        for tensor in self._tensors:
            for layer in tensor.layers:
                if type(tensor) is not TrackedTensor or not isinstance(layer, (nn.Linear, Conv1D)):
                    raise ModelError(
                        f"{tensor.name} belongs to a {type(layer).__name__}: influence of tokens needs linear layers. "
                        "Choose other targets."
                    )

    def factors(self, batch: Batch, receive: Callable[[Factors], None]) -> None:
        """Hand over each tensor's factors as the backward pass reaches it; the loss is each row's mean answer loss.

        Raises:
            ModelError: If no tracked layer takes part in the loss.
        """
        model, batch = self.model, batch.to(device_of(self.model))
        recorder = Recorder(
            (len(batch), batch.input_ids.shape[1]),
            lambda tensor, calls: receive(Factors.of(tensor.name, calls, scale)),
        )
        with borrowed(model), differentiable_inputs(model), recorder.attached(self._tensors):
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
            scale = loss_scale(logits.dtype)
            if self._token_normalize:
                recorder.backward(logits, answer_signal(logits, batch.labels, unit=True, scale=scale))
            else:
                recorder.backward(mean_answer_loss(logits, batch.labels.to(logits.device)).sum() * scale)
        self._check_received(recorder.received)

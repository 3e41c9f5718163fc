"""Task arithmetic: learn the forget rows, then walk the same way back."""

from __future__ import annotations

import torch
from peft import PeftModel

from rapidun.models.row_losses import row_losses
from rapidun.unlearning.budget import weakened
from rapidun.unlearning.fitting import FINETUNE, fit_adapter, only
from rapidun.unlearning.methods.elastic import adapted_layers
from rapidun.unlearning.options import Positive
from rapidun.unlearning.registry import Job, UnlearnResult, register_procedure


@register_procedure(
    "task_vector", saves="adapter", needs_retain=False,
    source="Ilharco et al. 2023, Editing Models with Task Arithmetic, arXiv 2212.04089, section 3",
)  # fmt: skip
def negated_task_vector(job: Job, *, strength: Positive = 1.0) -> UnlearnResult:
    """``theta_0 - strength * (theta_f - theta_0)``, theta_f fine-tuned on the forget rows. Saved as an adapter.

    Ilharco et al. 2023 (arXiv 2212.04089), section 3. The fine-tuning is a LoRA adapter of the run's shape, trained by
    weighted cross-entropy for the run's steps (``forget_share`` of the batch, as in every method); its negative is the
    same adapter with ``B`` times ``-strength``, exactly. Where the result breaks the retain budget the strength is
    halved until it does not. strength 1.
    """
    rows = only(job.rows.forget, job.rows.forget_weights)
    fit = fit_adapter(job, FINETUNE, {}, rows, job.loaded, budget=float("inf"))
    model: PeftModel = fit.model
    learnt = {name: layer.lora_B[layer.active_adapters[0]].weight for name, layer in adapted_layers(model).items()}
    vector = {name: weight.detach().clone() for name, weight in learnt.items()}

    def apply(factor: float) -> float:
        with torch.no_grad():
            for name, weight in learnt.items():
                weight.copy_(-factor * vector[name])
        return row_losses(model, job.held, job.loaded.pad_token_id, job.loaded.device).mean

    factor, after, stopped = weakened(apply, strength, "strength", 0.5, fit.held_loss_before, job)
    change = fit.adapter_change * max(1.0, 1.0 + factor)
    return UnlearnResult(model, fit.steps, stopped, change, fit.held_loss_before, after, undo=fit.undo)

"""A learning rate that fits a model, an adapter and its rows, from one gradient.

The first step of AdamW moves every value of the adapter by the learning rate, whatever the objective's scale. To first
order it changes a loss L by at most

    learning_rate * ||dL/dB||_1,

B being LoRA's second factors (the first ones have no gradient while B = 0). The rate is the one at which that is
`LOSS_CHANGE`, L being the mean answer loss of a few rows that are to be kept. It falls with the size of the model, the
adapter's scale and how sharply the kept rows' loss bends; the constant was chosen on tuning draws of two models
(benchmarks/results/real-model-choose.jsonl).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rapidun.data.batches import Example, collate, token_budget_batches
from rapidun.errors import TrainingError
from rapidun.models.lora import in_base_dtype
from rapidun.models.losses import answer_logits, mean_answer_loss
from rapidun.models.modes import evaluating
from rapidun.models.row_losses import tokens_at_once

LOSS_CHANGE = 0.5
"""Most that one step may change the loss of the kept rows, to first order, in nats per token."""
ROWS = 16
"""The gradient of a mean over more rows is smaller: the number belongs to `LOSS_CHANGE`."""
BATCH_TOKENS = 512


def derived_rate(
    model: torch.nn.Module, kept: Sequence[Example], pad_token_id: int, device: torch.device
) -> tuple[float, str]:
    """The learning rate, and a sentence that says where it comes from.

    Raises:
        TrainingError: If the gradient is zero or not finite.
    """
    rows = list(kept[:ROWS])
    size = _gradient_size(model, rows, pad_token_id, device)
    if not math.isfinite(size) or size == 0.0:
        raise TrainingError(
            f"no learning rate follows from these rows: their gradient is {size:g}. Set one: --learning-rate 1e-4."
        )
    rate = float(f"{LOSS_CHANGE / size:.2g}")
    return rate, (
        f"learning rate {rate:g}: one step then changes the loss of the retain rows by at most {LOSS_CHANGE:g} nats "
        f"to first order (L1 norm of its gradient over {len(rows)} rows: {size:.3g})"
    )


def _gradient_size(model: torch.nn.Module, rows: Sequence[Example], pad_token_id: int, device: torch.device) -> float:
    """L1 norm of the gradient of the rows' mean answer loss with respect to all that is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        with evaluating(model), in_base_dtype(model) as forward:
            for indices in token_budget_batches(rows, tokens_at_once(model, device, BATCH_TOKENS)):
                batch = collate([rows[index] for index in indices], pad_token_id).to(device)
                with forward:
                    logits, labels = answer_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
                    loss = mean_answer_loss(logits, labels).sum() / len(rows)
                loss.backward()
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        return sum(float(gradient.abs().sum(dtype=torch.float64)) for gradient in gradients)
    finally:
        for parameter in trained:
            parameter.grad = None

"""Relearning by full fine-tuning: every weight is trained, so that nothing an adapter cannot reach stays hidden.

As `relearn`, with the same forget rows, unrelated rows, steps and seed, but without an adapter: embeddings, norms and
output head are trained too. At a tenth of the run's learning rate, which is a LoRA adapter's: the best rate of full
fine-tuning is about an order of magnitude lower (Biderman et al. 2024, arXiv 2405.09673). The weights are trained in
float32 whatever the model's precision, since steps this small are lost in half precision. Afterwards the model holds
the very tensors that it held before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from rapidun.attacks.gate import relearnt_no_faster
from rapidun.attacks.registry import register_attack
from rapidun.attacks.relearn import STEPS, relearning, trials
from rapidun.attacks.target import Row, Target, linear_weights
from rapidun.attacks.trial import Outcome, Trial
from rapidun.errors import TrainingError
from rapidun.models.modes import in_mode
from rapidun.models.passes import Progress
from rapidun.models.row_losses import row_losses
from rapidun.unlearning.fitting import FINETUNE, make_trainer, run_trainer
from rapidun.unlearning.guards import DIVERGED

RATE_SHARE = 0.1


@register_attack(
    "relearn_full", title="all weights trained again", unit="rows", efforts=(1, 10, 100), release=(10,),
    bar=relearnt_no_faster,
)  # fmt: skip
def relearn_full(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial for each kind of rows and number of them; where there are fewer, all there are."""
    linear_weights(target.loaded.model)
    kinds = {"forget rows": target.material.forget, "unrelated rows": target.material.unrelated}
    return trials(target, kinds, efforts, _measure)


def _measure(target: Target, rows: Sequence[Row], count: int, said: Progress | None) -> list[Outcome]:
    with fully_relearned(target, target.material.draw(rows, count), STEPS):
        return target.measure(replace(target.merged, dtype=torch.float32), said)


@contextmanager
def fully_relearned(target: Target, rows: Sequence[Row], steps: int) -> Iterator[None]:
    """Inside, all weights of the merged model are trained on ``rows``; afterwards it is bit for bit what it was.

    Raises:
        TrainingError: If it diverges.
    """
    model = target.merged.model
    with trainable_copy(model), relearning(target, rows, steps, RATE_SHARE * target.material.learning_rate) as job:
        held = partial(row_losses, model, job.held, target.merged.pad_token_id, target.merged.device)
        worst = max(DIVERGED * held().mean, math.log(model.config.get_text_config().vocab_size))
        with in_mode(model, True):
            run_trainer(make_trainer(job, target.merged, model, job.rows, FINETUNE, {}), job)
        if not held().mean <= worst:
            raise TrainingError("the training diverged: unrelated rows are worse than guessed afterwards.")
        yield


@contextmanager
def trainable_copy(model: torch.nn.Module) -> Iterator[None]:
    """Inside, every parameter holds a float32 copy of its values that takes gradients; afterwards its own tensor."""
    own = [(weight, weight.data, weight.requires_grad, weight.grad) for weight in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        for weight, values, _, _ in own:
            weight.data, weight.grad = values.to(torch.float32, copy=True), None
            weight.requires_grad_(True)
        yield
    finally:
        for weight, values, trained, gradient in own:
            weight.data, weight.grad = values, gradient
            weight.requires_grad_(trained)
        for buffer, values in buffers:
            buffer.copy_(values)

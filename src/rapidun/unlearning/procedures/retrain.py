"""The reference of every table: the model that never saw the forget rows."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from rapidun.errors import ConfigError, FingerprintError, TrainingError
from rapidun.models import LoadedModel, load_model, merge_adapter, tokenizer_fingerprint
from rapidun.models.row_losses import row_losses
from rapidun.unlearning.fitting import FINETUNE, fit_adapter, make_trainer, only, run_trainer, with_rate
from rapidun.unlearning.registry import Job, UnlearnResult, register_procedure


@register_procedure(
    "retrain", saves="model", needs_retain=True,
    source="The definition of exact unlearning: training again without the forget rows",
)  # fmt: skip
def retrained(job: Job, *, base: str = "", full: bool = False) -> UnlearnResult:
    """The model ``base``, from before the fine-tuning that saw the forget rows, fine-tuned on the retain rows.

    Give the whole clean training set as retain rows, and as many steps as the first training had. ``full=False``
    trains a LoRA adapter of the run's shape and merges it; ``full=True`` trains every weight. Each step takes
    ``batch_size`` retain rows. Saved as a whole model, because its adapter would not fit the model of the run. base
    is required, full False. The retain budget does not apply.
    """
    origin = _base(job, base)
    before = row_losses(job.loaded.model, job.held, job.loaded.pad_token_id, job.loaded.device).mean
    job = replace(job, settings=job.settings.model_copy(update={"forget_share": 1.0}), reweighing=None)
    rows = only(job.rows.retain, job.rows.retain_weights)
    if full:
        model, change = _fit_all(job, origin)
    else:
        fit = fit_adapter(job, FINETUNE, {}, rows, origin, budget=float("inf"))
        model, change = merge_adapter(fit.model), fit.adapter_change
    model.eval()
    after = row_losses(model, job.held, job.loaded.pad_token_id, job.loaded.device).mean
    return UnlearnResult(model, job.settings.steps, None, change, before, after, saved="model")


def _base(job: Job, base: str) -> LoadedModel:
    if not base:
        raise ConfigError("method 'retrain' needs --option base=DIR: the model before it saw the forget rows.")
    found = load_model(base, device=str(job.loaded.device), dtype=str(job.loaded.dtype).removeprefix("torch."))
    ours, theirs = tokenizer_fingerprint(job.loaded.tokenizer), tokenizer_fingerprint(found.tokenizer)
    if ours != theirs:
        raise FingerprintError(
            f"{base}: its tokenizer ({theirs[:12]}) is not that of {job.loaded.source} ({ours[:12]}). Give the model "
            "that this one was fine-tuned from."
        )
    return found


def _fit_all(job: Job, origin: LoadedModel) -> tuple[torch.nn.Module, float]:
    """Every weight trained; returns the model and the largest change."""
    model = origin.model
    model.requires_grad_(True)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rows = only(job.rows.retain, job.rows.retain_weights)
    job, _ = with_rate(job, model, rows, origin)
    trainer = make_trainer(job, origin, model, rows, FINETUNE, {})
    run_trainer(trainer, job)
    change = max(float((p.detach() - start[name]).abs().max()) for name, p in model.named_parameters())
    if not math.isfinite(change):
        raise TrainingError("training diverged: weights are no finite numbers. Lower --learning-rate.")
    if change == 0.0:
        raise TrainingError("training changed nothing: check that the retain rows have answer tokens.")
    return model, change

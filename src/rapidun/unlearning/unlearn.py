"""`unlearn`: a model, weighted forget and retain rows, settings -> the same model with a trained adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from rapidun.data.batches import Example
from rapidun.errors import TrainingError
from rapidun.models.loading import LoadedModel
from rapidun.models.lora import adapter_disabled, attach_lora, enable_gradient_checkpointing
from rapidun.unlearning.guards import RetainBudget, adapter_state, mean_loss, require_change
from rapidun.unlearning.objectives import get_method
from rapidun.unlearning.sampling import PlannedRows, RoleCollator, WeightedRows, sampling_plan
from rapidun.unlearning.settings import LoraSettings, UnlearnSettings
from rapidun.unlearning.trainer import Record, UnlearningTrainer

LOG_EVERY = 5
TrainingRows = WeightedRows


@dataclass(frozen=True)
class UnlearnResult:
    """What training did.

    Args:
        model: The PEFT model, adapter active, in evaluation mode.
        steps: Optimiser steps of the adapter that was kept.
        stopped: Why training ended before its last step, or None.
        adapter_change: Largest absolute change of an adapter element.
        held_loss_before: Loss on the held retain rows with the adapter off.
        held_loss_after: The same with the kept adapter.
    """

    model: PeftModel
    steps: int
    stopped: str | None
    adapter_change: float
    held_loss_before: float
    held_loss_after: float


class _Progress(TrainerCallback):
    def __init__(self, report: Callable[[int, int], None]) -> None:
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(state.global_step, state.max_steps)


def _arguments(settings: UnlearnSettings, directory: Path, device: torch.device, seed: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(directory),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=settings.max_grad_norm,
        logging_steps=LOG_EVERY,
        save_steps=settings.checkpoint_every,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",
        seed=seed,
        data_seed=seed,
    )


def _checked(rows: WeightedRows, settings: UnlearnSettings) -> None:
    if not rows.forget:
        raise TrainingError("no forget rows to unlearn.")
    if get_method(settings.method).retain is not None and not rows.retain:
        raise TrainingError(f"method {settings.method!r} needs retain rows: give --retain, or choose --method ga.")


def unlearn(
    loaded: LoadedModel,
    rows: WeightedRows,
    *,
    settings: UnlearnSettings,
    lora: LoraSettings,
    held: list[Example],
    checkpoints: Path,
    seed: int = 0,
    resume: bool = False,
    record: Record = lambda line: None,
    progress: Callable[[int, int], None] | None = None,
) -> UnlearnResult:
    """Train a LoRA adapter that raises the loss of the forget rows and holds that of the retain rows.

    Args:
        loaded: The model; it gets an adapter, its own weights do not change.
        rows: Tokenised rows with weights of mean 1.
        settings: Method, steps, learning rate, retain budget.
        lora: Shape of the adapter.
        held: Rows whose loss is the retain budget's; best not among ``rows.retain``.
        checkpoints: Directory of the trainer's checkpoints; with ``resume`` the last one is continued.
        record: Receives each log line as a dict.
        progress: Called with (step, steps).

    Raises:
        TrainingError: If there is nothing to train on, nothing trained, or memory ran out.
    """
    _checked(rows, settings)
    model = attach_lora(
        loaded.model, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=seed
    )
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    held_loss = partial(mean_loss, model, held, loaded.pad_token_id, loaded.device)
    with adapter_disabled(model):
        start = held_loss()
    initial = adapter_state(model)
    budget = RetainBudget(
        model, held_loss, budget=settings.retain_budget, every=settings.check_every, start=start, record=record
    )
    trainer = _trainer(loaded, model, rows, settings, checkpoints, seed, record)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(budget)
    if progress is not None:
        trainer.add_callback(_Progress(progress))
    last = get_last_checkpoint(str(checkpoints)) if resume and checkpoints.is_dir() else None
    _train(trainer, last)
    _keep_last_good(model, budget)
    model.eval()
    change = require_change(initial, model)
    return UnlearnResult(model, budget.good_step, budget.stopped, change, start, budget.good_loss)


def _keep_last_good(model: PeftModel, budget: RetainBudget) -> None:
    if budget.stopped and budget.good_step == 0:
        raise TrainingError(
            f"{budget.stopped.split(';')[0]}: there is no adapter to keep. Lower --learning-rate, look more often "
            "(unlearning.check_every), or allow more (unlearning.retain_budget)."
        )
    if budget.stopped:
        set_peft_model_state_dict(model, budget.good)


def _trainer(
    loaded: LoadedModel,
    model: PeftModel,
    rows: WeightedRows,
    settings: UnlearnSettings,
    checkpoints: Path,
    seed: int,
    record: Record,
) -> UnlearningTrainer:
    options = settings.method_options()
    plan = sampling_plan(
        [len(example) for example in rows.forget],
        [len(example) for example in rows.retain],
        steps=settings.steps,
        batch_size=settings.batch_size,
        forget_share=settings.forget_share,
        seed=seed,
    )
    return UnlearningTrainer(
        model=model,
        args=_arguments(settings, checkpoints, loaded.device, seed),
        train_dataset=PlannedRows(plan),
        data_collator=RoleCollator(rows, loaded.pad_token_id, with_alternatives=bool(options.get("descent", 0.0))),
        method=get_method(settings.method),
        options=options,
        record=record,
    )


def _train(trainer: UnlearningTrainer, checkpoint: str | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        raise TrainingError(
            "out of memory while unlearning: lower --batch-size or --max-length, set "
            "unlearning.gradient_checkpointing=true, or use --load-in-4bit."
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text

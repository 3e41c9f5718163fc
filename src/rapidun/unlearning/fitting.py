"""Train an adapter with one method: the Trainer, its state, its budget, its resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, set_peft_model_state_dict
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from rapidun.data.batches import Example
from rapidun.data.opening import one_line
from rapidun.errors import RapidunError, TrainingError
from rapidun.models.loading import LoadedModel
from rapidun.models.lora import adapter_disabled, attach_lora, enable_gradient_checkpointing
from rapidun.models.row_losses import row_losses
from rapidun.settings.base import NoOptions
from rapidun.unlearning.budget import within_budget
from rapidun.unlearning.forward import settled_options
from rapidun.unlearning.guards import HeldLoss, adapter_state, require_change
from rapidun.unlearning.methods.terms import cross_entropy
from rapidun.unlearning.rate import derived_rate
from rapidun.unlearning.reference import ReferenceLosses
from rapidun.unlearning.registry import Job, Method, Term, UnlearnResult
from rapidun.unlearning.sampling import RoleCollator, TrainingRows, sampling_plan
from rapidun.unlearning.state import Start
from rapidun.unlearning.trainer import REMOVE, UnlearningTrainer, last_checkpoint

LOG_EVERY = 5
FINETUNE = Method("finetune", NoOptions, "", Term(cross_entropy), None)
"""Plain descent on the rows of one group: no method itself, but a part of `task_vector` and of `retrain`."""
LOOK_ROWS = 64
"""Held rows that are looked at while training, where only a training that diverged is ended."""


def only(examples: Sequence[Example], weights: np.ndarray) -> TrainingRows:
    """Rows of one group, in the place that `FINETUNE` trains on."""
    rows = list(examples)
    return TrainingRows(rows, [None] * len(rows), [], weights, np.ones(0))


def fit_adapter(
    job: Job, method: Method, options: Mapping[str, Any], rows: TrainingRows, loaded: LoadedModel, *, budget: float
) -> UnlearnResult:
    """A fresh adapter on ``loaded``, trained by ``method`` on ``rows``; the model's own weights do not change.

    ``budget`` is the allowed relative rise of the validation rows' perplexity; infinite where nothing is unlearnt.

    Raises:
        TrainingError: If there is nothing to train on, nothing trained, or memory ran out.
    """
    lora = job.lora
    model = attach_lora(
        loaded.model, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=job.seed
    )
    try:
        return _fit(job, model, method, options, rows, loaded, budget)
    except BaseException:
        model.unload()  # the loaded model is as it was, whatever happened
        raise


def _fit(
    job: Job,
    model: PeftModel,
    method: Method,
    options: Mapping[str, Any],
    rows: TrainingRows,
    loaded: LoadedModel,
    budget: float,
) -> UnlearnResult:
    settings = job.settings
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(model)

    def held_loss(examples: Sequence[Example] = job.held) -> float:
        return row_losses(model, examples, loaded.pad_token_id, loaded.device).mean

    look = partial(held_loss, job.held[:LOOK_ROWS])
    with adapter_disabled(model):
        start, seen = held_loss(), look()
    job, rate = with_rate(job, model, rows, loaded)
    initial = adapter_state(model)
    guard = HeldLoss(
        model, look, every=settings.check_every, record=job.record, start=seen, limit=seen + math.log1p(budget)
    )
    trainer = make_trainer(job, loaded, model, rows, method, settled_options(model, options))
    trainer.add_callback(guard)
    run_trainer(trainer, job)
    _keep_last_good(model, guard)
    change = require_change(initial, model)
    kept = within_budget(model, held_loss, start=start, budget=budget)
    return UnlearnResult(
        model.eval(), guard.good_step, guard.stopped or kept.why, change, start, kept.loss, rate, kept.share,
        undo=model.unload,
    )  # fmt: skip


def with_rate(job: Job, model: torch.nn.Module, rows: TrainingRows, loaded: LoadedModel) -> tuple[Job, float]:
    """The job with its learning rate as a number: the one set, or one derived from the rows that are to be kept."""
    rate = job.settings.learning_rate
    if rate == "auto":
        kept = job.held or rows.retain or rows.forget
        rate, reason = derived_rate(model, kept, loaded.pad_token_id, loaded.device)
        job.note(reason)
    return replace(job, settings=job.settings.model_copy(update={"learning_rate": rate})), rate


def run_trainer(trainer: UnlearningTrainer, job: Job) -> None:
    """Train, from the last whole checkpoint where the job resumes.

    Raises:
        TrainingError: If memory ran out, with the settings that need less; or if the checkpoint cannot be read.
    """
    trainer.remove_callback(PrinterCallback)
    if job.progress is not None:
        trainer.add_callback(StepProgress(job.progress))
    last = last_checkpoint(job.checkpoints) if job.resume else None
    if last is not None:
        trainer.resume_own_state(last)
    trainer.add_callback(begun := _Begun())
    try:
        trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or _is_out_of_memory(error):
            raise TrainingError(
                "out of memory while unlearning: lower --batch-size or --max-length, set "
                "unlearning.gradient_checkpointing=true, or use --load-in-4bit."
            ) from error
        if last is None or begun.steps or isinstance(error, RapidunError):
            raise
        # a damaged file of the Trainer raises whatever pickle, zip, JSON or safetensors make of it
        raise TrainingError(f"{last}: this checkpoint cannot be read ({one_line(error)}). {REMOVE}") from error


def training_arguments(directory: Path, device: torch.device, seed: int, **given: Any) -> TrainingArguments:
    """AdamW without weight decay, cosine down to 0, and nothing said; ``given``: steps, rate, rows, checkpoints."""
    return TrainingArguments(
        output_dir=str(directory),
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        logging_steps=LOG_EVERY,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",
        seed=seed,
        data_seed=seed,
        **given,
    )


def make_trainer(
    job: Job, loaded: LoadedModel, model: Any, rows: TrainingRows, method: Method, options: dict[str, Any]
) -> UnlearningTrainer:
    """What minimises ``method`` on ``rows``: a PEFT model's adapter, or every weight that takes gradients."""
    settings = job.settings
    size = settings.batch_size
    if method.retain is None:  # its share of forget rows only
        size = max(1, round(settings.forget_share * size))
    state = method.new_state(options)
    state.begin(Start(model, rows, loaded.pad_token_id, loaded.device))
    if job.reweighing is not None:
        job.reweighing.begin(rows)
    plan = sampling_plan(
        [len(example) for example in rows.forget],
        [len(example) for example in rows.retain] if method.retain is not None else [],
        steps=settings.steps,
        batch_size=size,
        forget_share=settings.forget_share,
        seed=job.seed,
    )
    arguments = training_arguments(
        job.checkpoints,
        loaded.device,
        job.seed,
        max_steps=settings.steps,
        per_device_train_batch_size=size,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        # the Trainer would write one after the last step too, which is none that a resume needs
        save_strategy="steps" if settings.checkpoint_every <= settings.steps else "no",
        save_steps=settings.checkpoint_every,
        save_total_limit=1,
    )
    uses_wanted = method.preferred != "unused" and options.get("descent", 1.0) != 0
    return UnlearningTrainer(
        model=model,
        args=arguments,
        train_dataset=plan,
        data_collator=RoleCollator(rows, loaded.pad_token_id, with_preferred=uses_wanted),
        method=method,
        options=options,
        state=state,
        reference=ReferenceLosses.measure(model, rows, method, loaded.pad_token_id, loaded.device),
        record=job.record,
        reweighing=job.reweighing,
    )


def _keep_last_good(model: PeftModel, guard: HeldLoss) -> None:
    if guard.stopped and guard.good_step == 0:
        raise TrainingError(
            f"{guard.stopped.split(';')[0]}: there is no adapter to keep. Lower --learning-rate, or look more often "
            "(unlearning.check_every)."
        )
    if guard.stopped:
        set_peft_model_state_dict(model, guard.good)


class StepProgress(TrainerCallback):
    """Hears of every step."""

    def __init__(self, report: Callable[[int, int], None]) -> None:
        self.report = report

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Where it begins."""
        if state.global_step:  # a resumed training: its pace is that of the steps to come
            self.report(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One more."""
        self.report(state.global_step, state.max_steps)


class _Begun(TrainerCallback):
    """Whether a step was begun: what fails before is the reading of a checkpoint."""

    steps = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps = True


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text

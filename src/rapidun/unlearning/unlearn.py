"""`unlearn`: a model, weighted forget and retain rows, settings -> the same model after unlearning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rapidun.data.batches import Example
from rapidun.errors import TrainingError
from rapidun.models.loading import LoadedModel
from rapidun.models.row_losses import row_losses
from rapidun.settings.unlearning import LoraSettings, UnlearnSettings
from rapidun.unlearning.catalogue import get_method
from rapidun.unlearning.fitting import fit_adapter
from rapidun.unlearning.registry import FORGET_ROWS, Job, Method, Procedure, Record, UnlearnResult
from rapidun.unlearning.reweighing import Reweighing
from rapidun.unlearning.sampling import TrainingRows

NO_PREFERRED = (
    "method {!r} needs a preferred answer to forget rows: give them a column response_clean, or choose --method idk "
    "(a refusal is wanted) or npo (nothing is)."
)


def unlearn(
    loaded: LoadedModel,
    rows: TrainingRows,
    *,
    settings: UnlearnSettings,
    lora: LoraSettings,
    held: list[Example],
    checkpoints: Path,
    seed: int = 0,
    resume: bool = False,
    record: Record = lambda line: None,
    progress: Callable[[int, int], None] | None = None,
    reweighing: Reweighing | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> UnlearnResult:
    """Make a model forget the forget rows and hold the retain rows, by any registered method.

    Args:
        loaded: The model. An objective gives it an adapter and leaves its own weights; ``undo`` of the result brings
            it back in any case.
        rows: Tokenised rows with weights of mean 1.
        settings: Method, options, steps, learning rate, retain budget.
        lora: Shape of the adapter.
        held: Rows whose loss is the retain budget's; best not among ``rows.retain``.
        checkpoints: Directory of the trainer's checkpoints; with ``resume`` the last one is continued.
        seed: Of the draws, the adapter and dropout.
        resume: Continue from the last whole checkpoint, if there is one.
        record: Receives each log line as a dict.
        progress: Called with (step, steps).
        reweighing: Weights that follow the model; without it those of ``rows`` stay.
        note: Receives sentences about what was chosen: a derived learning rate.

    Raises:
        TrainingError: If there is nothing to train on, nothing trained, or memory ran out.
        ConfigError: If an option does not fit the model.
    """
    method = get_method(settings.method)
    options = method.checked(settings.options)
    _check(rows, method)
    job = Job(
        loaded, rows, settings, lora, held, checkpoints, seed, resume, record, progress, reweighing, note
    )  # fmt: skip
    before = _forget_loss(job, loaded.model)
    if isinstance(method, Procedure):
        result = method.run(job, **options)
    else:
        result = fit_adapter(job, method, options, rows, loaded, budget=settings.retain_budget)
    return replace(result, forget_loss_before=before, forget_loss_after=_forget_loss(job, result.model))


def _forget_loss(job: Job, model: Any) -> float:
    return row_losses(model, job.rows.forget[:FORGET_ROWS], job.loaded.pad_token_id, job.loaded.device).mean


def _check(rows: TrainingRows, method: Method | Procedure) -> None:
    if not rows.forget:
        raise TrainingError("no forget rows to unlearn.")
    if needs_retain(method) and not rows.retain:
        raise TrainingError(f"method {method.name!r} needs retain rows: give --retain, or choose --method ga.")
    if method.preferred in ("required", "refusal") and not any(row is not None for row in rows.preferred):
        raise TrainingError(NO_PREFERRED.format(method.name))


def needs_retain(method: Method | Procedure) -> bool:
    """Whether the method cannot do without retain rows."""
    if isinstance(method, Procedure):
        return method.needs_retain
    return method.retain is not None or method.state.needs_retain

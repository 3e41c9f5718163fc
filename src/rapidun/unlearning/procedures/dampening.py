"""Selective synaptic dampening: weights that matter to the forget rows far more than to the others are shrunk."""

from __future__ import annotations

import torch

from rapidun.errors import TrainingError
from rapidun.models.row_losses import row_losses
from rapidun.unlearning.budget import weakened
from rapidun.unlearning.fisher import Fisher, fisher_diagonal
from rapidun.unlearning.options import Positive
from rapidun.unlearning.registry import Job, UnlearnResult, register_procedure

SELECTION_STEP = 2.0


def dampening_factors(forget: torch.Tensor, rest: torch.Tensor, selection: float, dampening: float) -> torch.Tensor:
    """``min(dampening * F / F_f, 1)`` where ``F_f > selection * F``, else 1; elementwise."""
    chosen = forget > selection * rest
    # F_f > 0 wherever it is chosen
    shrunk = (dampening * rest / forget.where(chosen, torch.ones_like(forget))).clamp_max(1.0)
    return shrunk.where(chosen, torch.ones_like(shrunk))


@register_procedure(
    "fisher", saves="model", needs_retain=True,
    source="Foster et al. 2024, Selective Synaptic Dampening, arXiv 2308.07707, eqs. 5 and 6",
)  # fmt: skip
def selective_dampening(job: Job, *, selection: Positive = 10.0, dampening: Positive = 1.0) -> UnlearnResult:
    """Where ``F_f > selection * F_r``: ``theta *= min(dampening * F_r / F_f, 1)``. Saved as a whole model.

    Foster et al. 2024 (arXiv 2308.07707). F is the mean of squared per-example gradients (`fisher_diagonal`), each
    row's share multiplied by its weight. The paper's second Fisher is that of all training rows; here the retain rows
    stand for them, because with the forget rows among them the ratio could not exceed one over their share. Acts on
    the linear layers that ``lora.targets`` names, of the model as loaded (an adapter merged into it included). What
    it does to a matrix is a mask, which has no low rank, so no adapter can hold it. No steps, no learning rate;
    memory 8 bytes for each of these weights, and a copy of them. Where the result breaks the retain budget,
    ``selection`` is doubled until it does not. selection 10, dampening 1.
    """
    loaded, rows = job.loaded, job.rows
    targets = "linear" if job.lora.targets == "all-linear" else job.lora.targets
    pad = loaded.pad_token_id
    before = row_losses(loaded.model, job.held, pad, loaded.device).mean
    of_forget = fisher_diagonal(loaded.model, rows.forget, rows.forget_weights, pad, targets=targets)
    of_retain = fisher_diagonal(loaded.model, rows.retain, rows.retain_weights, pad, targets=targets)
    weights = _weights(loaded.model, of_forget)
    kept = {name: weight.detach().clone() for name, weight in weights.items()}

    def restore() -> None:
        _write(weights, kept)

    def apply(selection: float) -> float:
        _write(
            weights,
            {name: kept[name] * _factor(name, of_forget, of_retain, selection, dampening, kept) for name in kept},
        )
        return row_losses(loaded.model, job.held, pad, loaded.device).mean

    try:
        selection, after, stopped = weakened(apply, selection, "selection", SELECTION_STEP, before, job)
        change = max(float((weights[name].detach() - kept[name]).abs().max()) for name in kept)
        if change == 0.0:
            raise TrainingError(
                f"dampening changed nothing: no weight matters to the forget rows {selection:g} times as much as "
                "to the retain rows. Lower --option selection."
            )
    except BaseException:
        restore()
        raise
    return UnlearnResult(loaded.model, 0, stopped, change, before, after, saved="model", undo=restore)


def _factor(
    name: str, forget: Fisher, retain: Fisher, selection: float, dampening: float, like: dict[str, torch.Tensor]
) -> torch.Tensor:
    factors = dampening_factors(forget[name], retain[name], selection, dampening)
    return factors.view_as(like[name]).to(like[name].dtype)


def _weights(model: torch.nn.Module, fisher: Fisher) -> dict[str, torch.nn.Parameter]:
    found = {name: parameter for name, parameter in model.named_parameters() if name in fisher}
    odd = [name for name in fisher if name not in found or not found[name].is_floating_point()]
    if odd:
        raise TrainingError(f"{odd[0]} is quantised, and dampening writes weights. Load the model unquantised.")
    return found


@torch.no_grad()
def _write(weights: dict[str, torch.nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])

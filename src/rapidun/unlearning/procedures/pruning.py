"""Fine-pruning: weights that clean rows hardly use become zero, then the rest is fine-tuned on clean rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field

from rapidun.data.batches import Example
from rapidun.errors import TrainingError
from rapidun.models import LoadedModel, merge_adapter
from rapidun.models.row_losses import row_losses
from rapidun.models.targets import adapted_layers, is_conv1d, linear_layers
from rapidun.unlearning.fitting import FINETUNE, fit_adapter, only
from rapidun.unlearning.registry import Job, UnlearnResult, register_procedure

Sparsity = Annotated[float, Field(gt=0, lt=1)]
Weights = dict[str, torch.nn.Parameter]
Scores = Callable[[str, torch.Tensor], torch.Tensor]


@register_procedure(
    "magnitude", saves="model", needs_retain=True,
    source="Han et al. 2015, arXiv 1506.02626, and Liu et al. 2018, Fine-Pruning, arXiv 1805.12185",
)  # fmt: skip
def magnitude(job: Job, *, sparsity: Sparsity = 0.5, finetune: bool = True) -> UnlearnResult:
    """The ``sparsity`` smallest weights of each linear layer become 0: score ``|W_ij|``. Saved as a whole model.

    Of the layers that take an adapter. Han et al. 2015 (arXiv 1506.02626). With ``finetune`` the run's adapter is then
    trained on the retain rows and merged, zeros staying zeros (Liu et al. 2018, arXiv 1805.12185). Forget rows are not
    looked at. A baseline as its paper has it: the retain budget does not apply. sparsity 0.5, finetune True.
    """
    return _pruned(job, sparsity, finetune, lambda name, weight: weight.abs(), by_row=False)


@register_procedure(
    "wanda", saves="model", needs_retain=True,
    source="Sun et al. 2024, Wanda, arXiv 2306.11695, eq. 1, and Liu et al. 2018, Fine-Pruning, arXiv 1805.12185",
)  # fmt: skip
def wanda(job: Job, *, sparsity: Sparsity = 0.5, finetune: bool = True) -> UnlearnResult:
    """As `magnitude`, with the score ``|W_ij| * ||X_j||_2`` compared within each output (row of W).

    Sun et al. 2024 (arXiv 2306.11695), eq. 1: X_j is input j of the layer over all tokens of the retain rows, in the
    model before anything is pruned (the authors' code goes block by block, over inputs from blocks pruned before).
    sparsity 0.5, finetune True.
    """
    norms = input_norms(job.loaded, job.rows.retain)

    def score(name: str, weight: torch.Tensor) -> torch.Tensor:
        return weight.abs() * norms.get(name, 0.0)  # an expert that no row was sent to: none of its weights matter

    return _pruned(job, sparsity, finetune, score, by_row=True)


def input_norms(loaded: LoadedModel, rows: list[Example]) -> dict[str, torch.Tensor]:
    """``{layer: (inputs,) float32}``: the 2-norm of each input of each linear layer, over all tokens of the rows.

    Padding is not told apart: rows go through one by one.
    """
    sums: dict[str, torch.Tensor] = {}

    def listen(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...], object], None]:
        def add(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], __: object) -> None:
            squares = inputs[0].detach().float().flatten(0, -2).square().sum(dim=0)
            sums[name] = sums[name] + squares if name in sums else squares

        return add

    hooks = [layer.register_forward_hook(listen(name)) for name, layer in _layers(loaded).items()]
    try:
        for row in rows:
            row_losses(loaded.model, [row], loaded.pad_token_id, loaded.device)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total.sqrt() for name, total in sums.items()}


def kept_weights(scores: torch.Tensor, sparsity: float, *, by_row: bool) -> torch.Tensor:
    """A mask of the shape of ``scores`` (outputs, inputs): False at the ``sparsity`` lowest, of all or of each row."""
    flat = scores.float() if by_row else scores.float().flatten()[None]
    order = flat.argsort(dim=-1, stable=True)
    mask = torch.ones_like(flat, dtype=torch.bool)
    mask.scatter_(-1, order[:, : int(sparsity * flat.shape[-1])], False)
    return mask.view_as(scores)


def _pruned(job: Job, sparsity: float, finetune: bool, scores: Scores, *, by_row: bool) -> UnlearnResult:
    loaded = job.loaded
    weights = _weights(loaded)
    own = {name: weight.detach().clone() for name, weight in weights.items()}

    def restore() -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(own[name])

    before = row_losses(loaded.model, job.held, loaded.pad_token_id, loaded.device).mean
    try:
        masks = {
            name: kept_weights(scores(name, _out_in(loaded, name, weight)), sparsity, by_row=by_row)
            for name, weight in own.items()
        }
        masks = {name: _out_in(loaded, name, mask) for name, mask in masks.items()}  # as it is stored again
        _apply(weights, masks)
        steps = _finetune(job, weights, masks) if finetune else 0
        after = row_losses(loaded.model, job.held, loaded.pad_token_id, loaded.device).mean
        if not math.isfinite(after):
            raise TrainingError("the pruned model's loss is no finite number. Lower --option sparsity.")
    except BaseException:
        restore()
        raise
    change = max(float((weights[name].detach() - own[name]).abs().max()) for name in own)
    return UnlearnResult(loaded.model, steps, None, change, before, after, saved="model", undo=restore)


def _finetune(job: Job, weights: Weights, masks: dict[str, torch.Tensor]) -> int:
    """The run's adapter on the retain rows, merged into the model's own weights; what was pruned stays 0."""
    settings = job.settings.model_copy(update={"forget_share": 1.0})
    job = replace(job, settings=settings, reweighing=None)
    rows = only(job.rows.retain, job.rows.retain_weights)
    fit = fit_adapter(job, FINETUNE, {}, rows, job.loaded, budget=float("inf"))
    try:
        merge_adapter(fit.model)
    except BaseException:
        fit.model.unload()
        raise
    _apply(weights, masks)
    return fit.steps


@torch.no_grad()
def _apply(weights: Weights, masks: dict[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        weight.mul_(masks[name])


def _layers(loaded: LoadedModel) -> dict[str, torch.nn.Module]:
    """The linear layers that the model calls: of the others the inputs are not known."""
    layers = linear_layers(loaded.model)
    return {name: layers[name] for name in adapted_layers(loaded.model, "all-linear")}


def _weights(loaded: LoadedModel) -> Weights:
    found = {name: layer.get_parameter("weight") for name, layer in _layers(loaded).items()}
    odd = [name for name, weight in found.items() if not weight.is_floating_point()]
    if odd:
        raise TrainingError(f"{odd[0]} is quantised, and pruning writes weights. Load the model unquantised.")
    return found


def _out_in(loaded: LoadedModel, name: str, values: torch.Tensor) -> torch.Tensor:
    """(outputs, inputs) from how the layer stores its weight, and back: GPT-2's layers store the transpose."""
    return values.T if is_conv1d(loaded.model.get_submodule(name)) else values

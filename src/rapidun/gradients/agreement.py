"""Tracked means collected: on one row, what a collector gathers is compared with what autograd says.

A tensor that the model uses without calling its layer, or also elsewhere, would be collected as 0 or in part, and
numbers that look like influence would be of something else. One row's gradient of every tracked tensor is taken by
autograd from the untouched model, one tensor in memory at a time; of each, the norm and values at fixed places stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn

from rapidun.data.batches import IGNORE_INDEX, Batch
from rapidun.errors import ModelError
from rapidun.gradients.backward import answer_signal, borrowed, loss_scale
from rapidun.gradients.recording import Receive
from rapidun.models.losses import next_tokens

_PLACES = 4096
_TOLERANCE = {torch.float32: 0.02, torch.float64: 0.02}
_ROUGH = 0.25  # of half precision, where a router's near ties may fall otherwise in another pass
_NOISE = 1e-6  # of the largest norm: below it a gradient is rounding

Pieces = dict[str, torch.Tensor]  # by tensor: values at fixed places, float64 on the CPU


def check_agreement(
    model: nn.Module,
    names: Sequence[str],
    batch: Batch,
    collect: Callable[[Batch, Receive], tuple[float, set[str]]],
    *,
    unit: bool = False,
) -> None:
    """Compare ``collect`` with autograd on the shortest row of ``batch`` that has an answer.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one; left as it was.
        names: The tracked parameters. Those that take no gradients (quantised ones) are not compared.
        batch: On the model's device.
        collect: Runs the collector on a batch; returns the factor that its gradients are too large by, and names.
        unit: Whether every answer token's output error is given norm 1.

    Raises:
        ModelError: Names the first tensor whose gradient was not collected, or only in part.
    """
    row = _shortest(batch)
    if row is None:
        return
    wanted = _by_autograd(model, _parameters(model, names), row, unit)
    found: Pieces = {}
    scale, _ = collect(row, lambda name, rows, gradients: found.update({name: _piece(gradients.formed()[0])}))
    tolerance = _TOLERANCE.get(next(iter(model.parameters())).dtype, _ROUGH)
    noise = _NOISE * max((float(piece.norm()) for piece in wanted.values()), default=0.0)
    for name, piece in wanted.items():
        norm = float(piece.norm())
        if name not in found and norm > 0:
            raise _disagreement(name, f"none was collected where autograd has one of norm {norm:.2g}")
        if name in found:
            off = float((found[name] / scale - piece).norm())
            if off > tolerance * norm + noise:
                raise _disagreement(name, f"what is collected is {off / max(norm, 1e-300):.1f} of its norm off")


def _disagreement(name: str, how: str) -> ModelError:
    kind = name.removesuffix(".weight").replace(".base_layer", "").rpartition(".")[2]
    return ModelError(
        f"{name}: its gradient cannot be told apart by row ({how}): the model uses this weight outside the layer's own "
        f"forward. Name the layers to track, without {kind!r}."
    )


def _shortest(batch: Batch) -> Batch | None:
    """The shortest row that has an answer, without its padding."""
    answers = (next_tokens(batch.labels) != IGNORE_INDEX).any(dim=1)
    if not bool(answers.any()):
        return None
    lengths = batch.attention_mask.sum(dim=1)
    place = int(torch.where(answers, lengths, lengths.max() + 1).argmin())
    row = slice(place, place + 1), slice(int(lengths[place]))
    return Batch(batch.input_ids[row], batch.attention_mask[row], batch.labels[row])


def _parameters(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    own = dict(model.named_parameters(remove_duplicate=False))
    return {name: own[name] for name in names if name in own and own[name].is_floating_point()}


def _by_autograd(model: nn.Module, parameters: Mapping[str, nn.Parameter], row: Batch, unit: bool) -> Pieces:
    """Each parameter's gradient of the row's mean answer loss, or of its unit token errors."""
    with borrowed(model), _pieces_of_gradients(parameters) as pieces:
        logits = model(input_ids=row.input_ids, attention_mask=row.attention_mask, use_cache=False).logits
        logits = logits[:, -row.labels.shape[1] :]  # a tuned prompt's virtual tokens come first
        scale = loss_scale(logits.dtype)
        if logits.requires_grad:
            logits.backward(answer_signal(logits, row.labels, unit=unit, scale=scale))
    return {name: piece / scale for name, piece in pieces.items()}


@contextmanager
def _pieces_of_gradients(parameters: Mapping[str, nn.Parameter]) -> Iterator[Pieces]:
    """Let ``parameters`` take gradients and keep a piece of each as it comes; all is as before afterwards."""
    pieces: Pieces = {}

    def take(name: str, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            pieces[name] = pieces.get(name, 0) + _piece(parameter.grad)
            parameter.grad = None

    before = {name: (parameter.requires_grad, parameter.grad) for name, parameter in parameters.items()}
    try:
        with ExitStack() as hooks:
            for name, parameter in parameters.items():
                parameter.grad = None
                parameter.requires_grad_(True)
                hooks.enter_context(parameter.register_post_accumulate_grad_hook(partial(take, name)))
            yield pieces
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name][0])
            parameter.grad = before[name][1]


@torch.no_grad()
def _piece(gradient: torch.Tensor) -> torch.Tensor:
    """Values at places that depend on the size alone, spread at random: a stride would stay in one column."""
    flat = gradient.flatten()
    if len(flat) > _PLACES:
        places = torch.randint(len(flat), (_PLACES,), generator=torch.Generator().manual_seed(len(flat)))
        flat = flat[places.to(flat.device)]
    return flat.double().cpu()

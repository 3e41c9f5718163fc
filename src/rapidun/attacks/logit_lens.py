"""The logit lens: is the unwanted answer still there in the middle of the model, and only kept from coming out?

What a layer holds at the positions that predict the forget rows' answers is read as if the model ended there: final
norm and output matrix applied to its hidden state (nostalgebraist 2020, "interpreting GPT: the logit lens"; on
unlearnt models Patil et al. 2023, arXiv 2309.17410). Measured is the probability of the unwanted answer,
``exp(-loss)`` of a row's mean token loss in nats, layer by layer: the last one is the model's own output.

The model itself does the reading. The states of all layers take the place of the last layer's output, so what comes
after it in this architecture (norm, scaling, output matrix, soft cap) is what they pass, and none of it is named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from rapidun.attacks.curves import Point, mean_interval
from rapidun.attacks.gate import no_leakier
from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Target
from rapidun.attacks.trial import CannotRun, Outcome, Trial
from rapidun.attribution.pooling import decoder_of, depth_of
from rapidun.data import IGNORE_INDEX, Example, collate
from rapidun.data.batches import fitting_batches
from rapidun.errors import ModelError
from rapidun.models.inference import answering
from rapidun.models.losses import next_tokens
from rapidun.models.passes import PassBytes, Progress, pass_budget
from rapidun.models.row_losses import BATCH_TOKENS
from rapidun.models.token_losses import token_losses


def layer_points(trial: Trial, outcomes: Sequence[Outcome]) -> list[Point]:
    """A point for each layer that was read."""
    losses = np.array([outcome["losses"] for outcome in outcomes])
    tokens = np.array([outcome["tokens"] for outcome in outcomes], dtype=np.int64)
    layers, depth = outcomes[0]["layers"], outcomes[0]["depth"]
    values = np.exp(-losses / np.maximum(tokens, 1)[:, None])
    return [
        Point(
            "", 100 * layer / depth, f"layer {layer} of {depth}", "probability", *mean_interval(values[:, place]),
            values[:, place], losses[:, place], tokens,
        )
        for place, layer in enumerate(layers)
    ]  # fmt: skip


@register_attack(
    "logit_lens", title="read out of the middle", unit="% of the layers",
    efforts=(12.5, 25, 37.5, 50, 62.5, 75, 87.5, 100), bar=no_leakier, summary=layer_points,
)  # fmt: skip
def logit_lens(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial: the forget rows once, the layers nearest to these depths."""
    try:
        decoder_of(target.loaded.model)
    except ModelError as error:
        raise CannotRun(f"its layers cannot be found: {error}") from error
    depth = depth_of(target.loaded.model)
    layers = sorted({max(1, round(depth * effort / 100)) for effort in efforts})
    rows = len(target.material.forget)
    return [Trial("", 100, f"{len(layers)} layers", 0, partial(_read, target, layers, depth), reads=rows)]


def _read(target: Target, layers: Sequence[int], depth: int, said: Progress | None) -> list[Outcome]:
    examples = target.tokenize(target.material.forget)
    losses, tokens = layer_losses(
        target.loaded.model, examples, layers, target.loaded.pad_token_id, target.loaded.device, progress=said
    )
    return [
        {"row": example.id, "losses": row.tolist(), "tokens": int(count), "layers": list(layers), "depth": depth}
        for example, row, count in zip(examples, losses, tokens, strict=True)
    ]


@torch.no_grad()
def layer_losses(
    model: torch.nn.Module,
    examples: Sequence[Example],
    layers: Sequence[int],
    pad_token_id: int,
    device: torch.device,
    *,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's answer loss as each layer would have it, in evaluation mode; the mode is restored.

    Args:
        model: A causal LM, with or without an adapter.
        examples: Tokenised rows.
        layers: Counted from 1; the last is the model's own loss.
        pad_token_id: Any token id.
        device: Where the model is.
        progress: Called with (rows done, all rows).

    Returns:
        ``(losses, tokens)``: (rows, layers) float64, nats summed over answer tokens, and (rows,) int64.

    Raises:
        ModelError: If the model's layers are not found, or do not give (rows, tokens, width).
    """
    _, blocks = decoder_of(model)
    losses, tokens = np.zeros((len(examples), len(layers))), np.zeros(len(examples), dtype=np.int64)
    cost, most = PassBytes.of(model, backward=False), pass_budget(model)
    batches = fitting_batches(
        examples, lambda rows, length, answers: rows * length <= BATCH_TOKENS
        and cost(rows, length, len(layers) * answers + length) <= most,
    )  # fmt: skip
    done = 0
    with answering(model):
        for indices in batches:
            batch = collate([examples[index] for index in indices], pad_token_id).to(device)
            target = next_tokens(batch.labels)
            mask = target != IGNORE_INDEX
            with _ending_at(blocks, layers, mask):
                output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            found = _losses(output.logits, target[mask], len(layers))
            rows = mask.nonzero()[:, 0].cpu().numpy()
            np.add.at(losses, np.asarray(indices)[rows], found.T)
            tokens[indices] = mask.sum(dim=1).cpu().numpy()
            done += len(indices)
            if progress is not None:
                progress(done, len(examples))
    return losses, tokens


def _losses(logits: torch.Tensor, target: torch.Tensor, layers: int) -> np.ndarray:
    """(layers, tokens) float64 of logits (any, length, vocabulary) whose first positions are the layers' in turn."""
    logits = logits.flatten(0, 1)
    if len(logits) < layers * len(target):
        raise ModelError(f"{len(logits)} logits came of {layers * len(target)} states: its layers cannot be read out.")
    every = torch.arange(layers * len(target), device=logits.device)
    return (
        token_losses(logits, every, target.to(logits.device).repeat(layers)).double().cpu().numpy().reshape(layers, -1)
    )


@contextmanager
def _ending_at(blocks: torch.nn.ModuleList, layers: Sequence[int], mask: torch.Tensor) -> Iterator[None]:
    """Inside, the last layer gives the states of all ``layers`` at ``mask`` (batch, length) in the place of its own.

    They come layer by layer in rows of the batch's length, the last one filled up with zeros.
    """
    states: dict[int, torch.Tensor] = {}

    def take(layer: int, block: torch.nn.Module, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[:2] != mask.shape or hidden.ndim != 3:
            raise ModelError(
                f"layer {layer} gives {tuple(hidden.shape)}, not (rows, tokens, width): it cannot be read."
            )
        states[layer] = hidden[mask.to(hidden.device)]

    def give(block: torch.nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        read = torch.cat([states[layer].to(hidden.device) for layer in layers])
        filled = torch.nn.functional.pad(read, (0, 0, 0, -len(read) % mask.shape[1]))
        filled = filled.unflatten(0, (-1, mask.shape[1]))
        return (filled, *output[1:]) if isinstance(output, tuple) else filled

    handles = [blocks[layer - 1].register_forward_hook(partial(take, layer)) for layer in layers]
    handles.append(blocks[-1].register_forward_hook(give))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

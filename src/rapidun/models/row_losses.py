"""The answer loss of every row of a list, in batches whose logits fit in a fixed number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from rapidun.data.batches import IGNORE_INDEX, Example, collate, token_budget_batches
from rapidun.models.inference import answering
from rapidun.models.losses import answer_token_logits, output_layer
from rapidun.models.token_losses import token_losses

BATCH_TOKENS = 4096
LOGIT_BYTES = {"cpu": 128 << 20}
OTHER_LOGIT_BYTES = 2 << 30


class RowLosses(NamedTuple):
    """Of each row.

    Args:
        sums: (rows,) float64, the sum of its answer tokens' losses.
        tokens: (rows,) int64, its answer tokens.
    """

    sums: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """(rows,) float64: the mean over each row's own answer tokens; 0 for a row without any."""
        return self.sums / np.maximum(self.tokens, 1)

    @property
    def mean(self) -> float:
        """The loss of an answer token, over all rows together."""
        return float(self.sums.sum() / max(int(self.tokens.sum()), 1))


def tokens_at_once(model: Any, device: torch.device, most: int = BATCH_TOKENS) -> int:
    """Tokens of a batch whose logits stay within a budget of bytes, however large the vocabulary; at most ``most``."""
    weight = getattr(output_layer(model), "weight", None)
    if weight is None:
        return most
    budget = LOGIT_BYTES.get(device.type, OTHER_LOGIT_BYTES)
    return max(1, min(most, budget // int(weight.shape[0] * weight.element_size())))


@torch.no_grad()
def row_losses(
    model: torch.nn.Module,
    examples: Sequence[Example],
    pad_token_id: int,
    device: torch.device,
    *,
    max_tokens: int = BATCH_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> RowLosses:
    """Each row's answer loss in evaluation mode; the mode is restored.

    Args:
        model: A causal LM, with or without an adapter.
        examples: Tokenised rows.
        pad_token_id: Any token id.
        device: Where the model is.
        max_tokens: Most padded tokens in a batch; changes speed and memory, not the result.
        progress: Called with (rows done, all rows).
    """
    sums, tokens = np.zeros(len(examples)), np.zeros(len(examples), dtype=np.int64)
    done = 0
    with answering(model):
        for indices in token_budget_batches(examples, tokens_at_once(model, device, max_tokens)):
            batch = collate([examples[index] for index in indices], pad_token_id).to(device)
            logits, target = answer_token_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
            mask = target != IGNORE_INDEX
            losses = torch.zeros(target.shape, dtype=torch.float64)
            every = torch.arange(len(logits), device=logits.device)
            losses[mask.cpu()] = token_losses(logits, every, target[mask]).double().cpu()
            sums[indices], tokens[indices] = losses.sum(dim=1).numpy(), mask.sum(dim=1).cpu().numpy()
            done += len(indices)
            if progress is not None:
                progress(done, len(examples))
    return RowLosses(sums, tokens)

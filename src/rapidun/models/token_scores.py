"""What a model finds of every token of given answers: how likely, whether it would choose it, how usual it is there.

One forward pass of batches that fit into memory (`pass_batches`); of the logits, those of answer tokens alone, and of
their probabilities a few tokens at a time. The answer's own tokens are scored; the end of its turn counts in the row's
loss only, which is the loss of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from rapidun.data.batches import IGNORE_INDEX, Example, collate
from rapidun.models.inference import answering
from rapidun.models.losses import answer_token_logits
from rapidun.models.passes import Progress, pass_batches
from rapidun.models.row_losses import BATCH_TOKENS
from rapidun.models.token_losses import chunks

LEAST_VARIANCE = 1e-6
"""Where a model is certain of a token there is no spread to measure in; the z-score stays finite."""
_Tokens = list[npt.NDArray[np.float32]]


class TokenScores(NamedTuple):
    """Of each row.

    Args:
        losses: (rows,) float64, the mean loss of all its answer tokens, in nats, summed in float64.
        tokens: (rows,) int64, how many these are.
        log_probs: (own tokens,) float32 each, in nats.
        hits: (own tokens,) bool each, whether the token is the model's first choice.
        z_scores: (own tokens,) float32 each: ``(log p(y) - mu) / sigma`` with mean and standard deviation of
            ``log p(v)`` over ``v ~ p`` (Zhang et al. 2024, arXiv 2404.02936).
    """

    losses: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    log_probs: _Tokens
    hits: list[npt.NDArray[np.bool_]]
    z_scores: _Tokens


@torch.no_grad()
def token_scores(
    model: torch.nn.Module,
    examples: Sequence[Example],
    pad_token_id: int,
    device: torch.device,
    *,
    progress: Progress | None = None,
) -> TokenScores:
    """Score every answer token in evaluation mode; the mode is restored.

    Args:
        model: A causal LM, with or without an adapter.
        examples: Tokenised rows.
        pad_token_id: Any token id.
        device: Where the model is.
        progress: Called with (rows done, all rows).
    """
    losses, tokens = np.full(len(examples), np.nan), np.zeros(len(examples), dtype=np.int64)
    log_probs: _Tokens = [np.zeros(0, np.float32)] * len(examples)
    z_scores: _Tokens = list(log_probs)
    hits: list[npt.NDArray[np.bool_]] = [np.zeros(0, bool)] * len(examples)
    done = 0
    with answering(model):
        for indices in pass_batches(model, examples, BATCH_TOKENS, backward=False):
            batch = collate([examples[index] for index in indices], pad_token_id).to(device)
            logits, target = answer_token_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
            mask = target != IGNORE_INDEX
            scored = _scored(logits, target[mask])
            ends = mask.sum(dim=1).cumsum(dim=0).tolist()
            for index, begin, end in zip(indices, [0, *ends], ends, strict=False):
                own = slice(begin, max(begin, end - _ends(examples[index])))
                tokens[index] = end - begin
                if end > begin:
                    losses[index] = -scored[0][begin:end].mean(dtype=np.float64)
                log_probs[index], hits[index], z_scores[index] = scored[0][own], scored[1][own], scored[2][own]
            done += len(indices)
            if progress is not None:
                progress(done, len(examples))
    return TokenScores(losses, tokens, log_probs, hits, z_scores)


def _ends(example: Example) -> int:
    """Tokens of the end of the turn that carry loss."""
    ends = min(example.turn_end, len(example) - example.answer_start)
    return ends if example.loss_mask is None else sum(example.loss_mask[len(example) - ends :])


def _scored(
    logits: torch.Tensor, target: torch.Tensor
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Log-probability, hit and z-score of each token: logits (tokens, vocabulary), target (tokens,)."""
    found = torch.empty((3, len(target)), dtype=torch.float32)
    for part in chunks(logits, len(target)):
        log_probs = logits[part].float().log_softmax(dim=1)
        chosen = log_probs.gather(1, target[part, None])[:, 0]
        probs = log_probs.exp()
        finite = log_probs.masked_fill(probs == 0, 0)  # 0 times the log of 0 is 0
        mean = (probs * finite).sum(dim=1)
        variance = (probs * (finite - mean[:, None]).square()).sum(dim=1).clamp_min(LEAST_VARIANCE)
        first = log_probs.argmax(dim=1) == target[part]
        found[:, part] = torch.stack([chosen, first.float(), (chosen - mean) / variance.sqrt()]).cpu()
    values = found.numpy()
    return values[0], values[1] > 0, values[2]

"""What is sent backwards from the logits: each row's mean answer loss, or its token errors made unit length.

The gradient of the mean answer loss at the logits is ``(p_t - e_y) / T`` at each of the row's T answer tokens.
RapidUn (arXiv 2512.04457, eq. 1) normalises every token's gradient; dividing ``p_t - e_y`` by its norm does so
at the output, in the same backward pass. Untreated, a few surprising tokens carry the whole gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rapidun.data.batches import IGNORE_INDEX
from rapidun.models.losses import next_tokens


def answer_signal(logits: torch.Tensor, labels: torch.Tensor, *, unit: bool, scale: float = 1.0) -> torch.Tensor:
    """`answer_errors` times ``scale`` at the positions that predict answer tokens, 0 elsewhere.

    Args:
        logits: (batch, length, vocabulary), any float dtype; computed in float32.
        labels: (batch, length) int64, -100 where no loss is wanted; not shifted.
        unit: See `answer_errors`.
        scale: Multiplies all of it, in float32.

    Returns:
        (batch, length, vocabulary) in the dtype of ``logits``.
    """
    target = next_tokens(labels).to(logits.device)
    answers = target != IGNORE_INDEX
    signal = torch.zeros_like(logits)
    signal[answers] = (answer_errors(logits.detach()[answers], target, unit=unit) * scale).to(logits.dtype)
    return signal


def answer_errors(logits: torch.Tensor, target: torch.Tensor, *, unit: bool) -> torch.Tensor:
    """``(p_t - e_y) / T``, the gradient of each row's mean answer loss at the logits of its T answer tokens.

    Args:
        logits: (tokens, vocabulary), any float dtype, of the answer tokens of all rows; computed in float32.
        target: (batch, length) int64: the token that each position predicts, -100 where it carries no loss.
        unit: Divide each token's error by its norm first; an error of 0 stays 0.

    Returns:
        (tokens, vocabulary) float32.
    """
    answers = target != IGNORE_INDEX
    errors = token_errors(logits, target[answers])
    if unit:
        errors = F.normalize(errors, dim=1, eps=torch.finfo(torch.float32).tiny)
    return errors.div_(answers.sum(dim=1, keepdim=True).expand_as(answers)[answers].unsqueeze(1))


def token_errors(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """``p_t - e_y`` of each token, (tokens, vocabulary) float32.

    Args:
        logits: (tokens, vocabulary), any float dtype; computed in float32.
        wanted: (tokens,) int64: the token that was to be predicted.
    """
    places = wanted.unsqueeze(1)
    errors = logits.softmax(dim=1, dtype=torch.float32).scatter_(1, places, 0)
    # what all other tokens have: 1 - p_y without its cancellation for tokens that are nearly certain
    return errors.scatter_(1, places, -errors.sum(dim=1, keepdim=True))

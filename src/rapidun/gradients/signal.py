"""What is sent backwards from the logits: each row's mean answer loss, or its token errors made unit length.

The gradient of the mean answer loss at the logits is ``(p_t - e_y) / T`` at each of the row's T answer tokens.
RapidUn (arXiv 2512.04457, eq. 1) normalises every token's gradient; dividing ``p_t - e_y`` by its norm does so
at the output, in the same backward pass. Untreated, a few surprising tokens carry the whole gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rapidun.data.batches import IGNORE_INDEX


def unit_token_errors(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``(p_t - e_y) / |p_t - e_y| / T`` at the positions that predict answer tokens, 0 elsewhere.

    Args:
        logits: (batch, length, vocabulary), any float dtype; computed in float32.
        labels: (batch, length) int64, -100 where no loss is wanted; not shifted.

    Returns:
        (batch, length, vocabulary) in the dtype of ``logits``. A token predicted with certainty has error 0 and
        stays 0.
    """
    target = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    answers = target != IGNORE_INDEX
    wanted = target[answers]
    errors = token_errors(logits.detach()[answers], wanted)
    answers_in_row = answers.sum(dim=1, keepdim=True).expand_as(answers)[answers].unsqueeze(1)
    errors = F.normalize(errors, dim=1, eps=torch.finfo(torch.float32).tiny) / answers_in_row
    signal = torch.zeros_like(logits)
    signal[answers] = errors.to(logits.dtype)
    return signal


def token_errors(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """``p_t - e_y`` of each token, (tokens, vocabulary) float32.

    Args:
        logits: (tokens, vocabulary), any float dtype; computed in float32.
        wanted: (tokens,) int64: the token that was to be predicted.
    """
    places = wanted.unsqueeze(1)
    log_probabilities = logits.float().log_softmax(dim=1)
    errors = log_probabilities.exp()
    # -(1 - p_y) without the cancellation of p_y - 1 for tokens that are nearly certain
    return errors.scatter_(1, places, torch.expm1(log_probabilities.gather(1, places)))

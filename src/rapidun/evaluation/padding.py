"""Which prompts may share a batch: all, or only those of one length where padding changes what a model says.

A model that reads its tokens one after the other and takes no attention mask (RWKV) reads the padding on the left of a
shorter prompt too, and answers otherwise than it would alone. Which models do is asked of the model, not of its name.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch

from rapidun.data.special import padding_id
from rapidun.models import LoadedModel

_TOKENS, _PADDING, _STEPS = 6, 5, 3
_TOLERANCE = {torch.float32: 0.01, torch.float64: 0.01}  # of the logits' spread
_ROUGH = 0.3  # in half precision


def prompt_batches(loaded: LoadedModel, lengths: Sequence[int], batch_size: int, config: Any) -> list[list[int]]:
    """Indices of prompts, at most ``batch_size`` together, the longest first; every index once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups = [order]
    if batch_size > 1 and len(set(lengths)) > 1 and padding_changes_answers(loaded, config):
        groups = [list(same) for _, same in groupby(order, key=lambda index: lengths[index])]
    return [group[start : start + batch_size] for group in groups for start in range(0, len(group), batch_size)]


@torch.no_grad()
def padding_changes_answers(loaded: LoadedModel, config: Any) -> bool:
    """Whether a short prompt's next tokens have other logits beside its padding than alone."""
    vocabulary = loaded.model.get_input_embeddings().num_embeddings
    prompt = torch.arange(1, 1 + _TOKENS).remainder(vocabulary).unsqueeze(0)
    padding = torch.full((1, _PADDING), padding_id(loaded.tokenizer))
    alone = _next_logits(loaded, prompt, torch.ones_like(prompt), config)
    mask = torch.cat([torch.zeros_like(padding), torch.ones_like(prompt)], dim=1)
    padded = _next_logits(loaded, torch.cat([padding, prompt], dim=1), mask, config)
    for one, other in zip(alone, padded, strict=False):
        if float((one - other).abs().max()) > _TOLERANCE.get(one.dtype, _ROUGH) * float(one.float().std()):
            return True
        if int(one.argmax()) != int(other.argmax()):  # a tie: from here on the two read different tokens
            return False
    return False


def _next_logits(loaded: LoadedModel, ids: torch.Tensor, mask: torch.Tensor, config: Any) -> list[torch.Tensor]:
    """(1, vocabulary) of each of the next greedy tokens."""
    settings = copy.deepcopy(config)
    settings.max_new_tokens, settings.eos_token_id = _STEPS, None
    settings.output_logits = settings.return_dict_in_generate = True
    output = loaded.model.generate(
        input_ids=ids.to(loaded.device), attention_mask=mask.to(loaded.device), generation_config=settings
    )
    return list(output.logits)

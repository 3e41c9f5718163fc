"""Attention for short rows of a bfloat16 model on a CPU: plain matrix products, the kernel of PyTorch beyond.

PyTorch's fused kernel (scaled dot product attention) keeps no square of attention weights, which long rows need. Its
backward pass in bfloat16 on a CPU, however, is slower than plain products in rows of a few hundred tokens. So each call
chooses by its own length, and both give the same values up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rapidun.models.quiet import quiet

NAME = "plain_when_short"
LONGEST = 512
"""Longest row that plain products attend over: the squares of a row of 512 take half a mebibyte a head."""

_UNDERSTOOD = {"sliding_window", "position_ids", "use_cache"}
"""Arguments of an attention layer that its mask already holds, or that change nothing here; so do ``output_*``."""


def choose_attention(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Let ``model`` attend by `short_rows_attention` where that is faster: bfloat16 on a CPU.

    A model whose attention transformers cannot exchange, or that does not use PyTorch's kernel, is left as it is.
    """
    if device.type != "cpu" or dtype != torch.bfloat16 or model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, short_rows_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    with quiet():
        model.set_attn_implementation(NAME)


def forms_attention(model: torch.nn.Module, length: int) -> bool:
    """Whether a differentiated pass of ``model`` over rows of ``length`` tokens keeps their attention weights."""
    chosen = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return chosen == "eager" or (chosen == NAME and length <= LONGEST)


def short_rows_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """``softmax(scaling Q K^T + mask) V`` of one attention layer.

    Args:
        module: The layer.
        query: (batch, heads, length, width).
        key: (batch, key heads, keys, width); each key head serves ``heads / key heads`` query heads.
        value: (batch, key heads, keys, value width).
        attention_mask: (batch or 1, 1, length, keys) bool, True where a query sees a key; None is causal.
        scaling: Of the products; ``1 / sqrt(width)`` by default.
        dropout: Share of the attention weights dropped.
        more: What else the layer gives; anything but what its mask says already is left to PyTorch's kernel.

    Returns:
        ``(output, None)``, the output (batch, length, heads, value width).
    """
    length, keys = query.shape[2], key.shape[2]
    plain = (
        1 < length <= keys <= LONGEST
        and dropout == 0.0
        and (attention_mask is None or attention_mask.dtype == torch.bool)
        and all(_is_understood(name) or setting is None for name, setting in more.items())
        and getattr(module, "is_causal", True)
        and (attention_mask is not None or length == keys)
    )
    if not plain:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return output
    if attention_mask is None:
        attention_mask = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril()[None, None]
    return _plain_attention(query, key, value, attention_mask, scaling or query.shape[-1] ** -0.5), None


def _is_understood(argument: str) -> bool:
    return argument in _UNDERSTOOD or argument.startswith("output_")


def _plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
) -> torch.Tensor:
    """The query heads of a key head stand below each other, so that keys and values are not copied for each."""
    batch, heads, length, width = query.shape
    shared, keys = key.shape[1], key.shape[2]
    grouped = (query * scaling).reshape(batch, shared, heads // shared * length, width)
    scores = (grouped @ key.transpose(2, 3)).view(batch, shared, heads // shared, length, keys)
    scores = scores.masked_fill(~mask[:, :, None], torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1).view(batch, shared, -1, keys)  # computed in float32 inside
    attended = (weights @ value).view(batch, heads, length, value.shape[-1])
    return attended.transpose(1, 2).contiguous()

"""Batches of a pass that fit into memory: sized by the bytes that a model holds for them, known from its config.

Three things take the memory of a pass: logits, their softmax and their errors at the answer tokens (the vocabulary
times 12 bytes in bfloat16: 576 KiB a token with 49,152 words); what the layers keep for the backward pass; and
attention weights where they are formed. A batch's result does not depend on the rows beside it, so its size is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rapidun.data.batches import Example, fitting_batches
from rapidun.models.attention import forms_attention

Progress = Callable[[int, int], None]
"""Called with (done, of)."""
PASS_BYTES = 2**29  # on a CPU, beside the model; larger batches are not faster there
_GPU_SHARE = 4  # of a GPU's memory, one part
_STREAMS = 14  # tensors as wide as the model that a block keeps, norms in float32 counted twice
_GATED = 5  # as wide as the feed-forward network


@dataclass(frozen=True)
class PassBytes:
    """What a pass of one model holds, in bytes.

    Args:
        token: For every padded token.
        pair: For every pair of a row's positions where attention weights are formed.
        formed: Whether they are, for rows of a length.
        answer: For every answer token.
    """

    token: int
    pair: int
    answer: int
    formed: Callable[[int], bool]

    @classmethod
    def of(cls, model: torch.nn.Module, *, backward: bool) -> PassBytes:
        """From the model's config; with ``backward`` what every block keeps, else one block at a time."""
        config: Any = model.config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        item = getattr(model, "dtype", torch.float32).itemsize
        width = int(getattr(config, "hidden_size", 1))
        inner = getattr(config, "intermediate_size", None) or 4 * width
        inner = max(inner) if isinstance(inner, (list, tuple)) else int(inner)
        layers = int(getattr(config, "num_hidden_layers", 1))
        blocks = layers if backward else 1
        heads = int(getattr(config, "num_attention_heads", 1))
        kept = blocks * item * (_STREAMS * width + _GATED * inner)
        states = item * width * layers  # of every layer, where they are asked for
        answer = int(getattr(config, "vocab_size", 1)) * (2 * item + 8)
        return cls(kept + states, blocks * heads * (2 * item + 4), answer, partial(forms_attention, model))

    def __call__(self, rows: int, length: int, answers: int) -> int:
        """Bytes of a batch of ``rows`` rows padded to ``length`` with ``answers`` answer tokens in all."""
        pairs = length * self.pair if self.formed(length) else 0
        return rows * length * (self.token + pairs) + answers * self.answer


def pass_batches(
    model: torch.nn.Module, examples: Sequence[Example], max_tokens: int, *, backward: bool = True
) -> list[list[int]]:
    """Indices of length-sorted batches that a pass of ``model`` holds at once; every index once, longest first.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        examples: Tokenised rows.
        max_tokens: The most padded tokens of a batch, whatever they take.
        backward: Whether the pass is differentiated.

    Returns:
        Batches of at most `PASS_BYTES` on a CPU and a quarter of the memory of a GPU; a row that takes more is a batch
        of its own.
    """
    cost, most = PassBytes.of(model, backward=backward), pass_budget(model)
    return fitting_batches(
        examples,
        lambda rows, length, answers: rows * length <= max_tokens and cost(rows, length, answers) <= most,
    )


def pass_budget(model: torch.nn.Module) -> int:
    """Bytes that a pass may hold beside the model: `PASS_BYTES` on a CPU, a quarter of the memory of a GPU."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return PASS_BYTES
    return int(torch.cuda.get_device_properties(device).total_memory) // _GPU_SHARE

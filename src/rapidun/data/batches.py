"""Examples to padded batches: lengths decide the attention mask, never token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

IGNORE_INDEX = -100


@dataclass(frozen=True)
class Example:
    """One tokenised row: ``input_ids[answer_start:]`` are its answer and end-of-sequence tokens.

    They carry loss, all of them or those that ``loss_mask`` names.

    Args:
        id: The row's id.
        input_ids: All tokens, prompt first.
        answer_start: Index of the first token that carries loss; at least 1.
        truncated: Whether the prompt was cut from the left to fit the context.
        loss_mask: One bool for each token: which answer tokens carry loss; None means every one. Tokens before
            ``answer_start`` never do.
        turn_end: How many of the last tokens are no part of the answer, but the end of its turn.
    """

    id: str
    input_ids: list[int]
    answer_start: int
    truncated: bool = False
    loss_mask: list[bool] | None = None
    turn_end: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Batch:
    """``input_ids``, ``attention_mask``, ``labels``: int64 tensors of shape (batch, length).

    ``labels`` equal ``input_ids`` on answer tokens that carry loss and -100 elsewhere, on prompt and padding
    always; the shift by one is the loss's work (`rapidun.models.losses`).
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))

    def __len__(self) -> int:
        return self.input_ids.shape[0]


def collate(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Right-pad ``examples`` to the longest of them.

    Raises:
        ValueError: If ``examples`` is empty, or a loss mask is not as long as its row.
    """
    if not examples:
        raise ValueError("collate needs at least one example")
    width = max(len(example) for example in examples)
    padded = [[*example.input_ids, *[pad_token_id] * (width - len(example))] for example in examples]
    input_ids = torch.tensor(padded, dtype=torch.int64)
    places = torch.arange(width)
    present = places < torch.tensor([len(example) for example in examples]).unsqueeze(1)
    answers = present & (places >= torch.tensor([example.answer_start for example in examples]).unsqueeze(1))
    for index, example in enumerate(examples):
        if example.loss_mask is not None:
            answers[index, : len(example)] &= _mask(example)
    return Batch(input_ids, present.long(), torch.where(answers, input_ids, IGNORE_INDEX))


def _mask(example: Example) -> torch.Tensor:
    mask = torch.tensor(example.loss_mask, dtype=torch.bool)
    if len(mask) != len(example):
        raise ValueError(f"row {example.id!r} has {len(example)} tokens and a loss mask of {len(mask)}")
    return mask


def token_budget_batches(examples: Sequence[Example], max_tokens: int) -> list[list[int]]:
    """Indices of length-sorted batches whose padded size stays within ``max_tokens``; every index once.

    Longest first, so that a batch that does not fit in memory fails at the start of a long job. A row longer
    than the budget is a batch of its own.
    """
    return fitting_batches(examples, lambda rows, length, answers: rows * length <= max_tokens)


def fitting_batches(examples: Sequence[Example], fits: Callable[[int, int, int], bool]) -> list[list[int]]:
    """As `token_budget_batches`, as large as ``fits(rows, padded length, answer tokens in all)`` allows."""
    order = sorted(range(len(examples)), key=lambda index: (-len(examples[index]), index))
    batches: list[list[int]] = []
    answers = 0
    for index in order:
        own = len(examples[index]) - examples[index].answer_start
        if batches and fits(len(batches[-1]) + 1, len(examples[batches[-1][0]]), answers + own):
            batches[-1].append(index)
            answers += own
        else:
            batches.append([index])
            answers = own
    return batches

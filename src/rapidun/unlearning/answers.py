"""What an objective sees of some rows: tensors at their answer positions, and nothing of weights or other batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rapidun.data.batches import IGNORE_INDEX


@dataclass(frozen=True)
class Answers:
    """The model's view of some rows. What a method did not ask for (`rapidun.unlearning.Requires`) is None.

    Args:
        logits: (batch, length, vocabulary) of the model being trained.
        labels: (batch, length) int64, -100 outside the answer; not shifted.
        reference_logits: The same logits with the adapter switched off, without gradient.
        preferred: The same prompts with the preferred answer, for rows that have one: its rows line up with the
            rows of this object where ``has_preferred`` is True.
        has_preferred: (batch,) bool.
        hidden: (batch, length, width), one layer's hidden states of the model being trained.
        reference_hidden: The same with the adapter switched off, without gradient.
        reference_sums: (batch,) float32, the sum of each answer's token losses with the adapter switched off: for a
            term that reads no more of the reference, in the place of ``reference_logits``.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    reference_logits: torch.Tensor | None = None
    preferred: Answers | None = None
    has_preferred: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    reference_hidden: torch.Tensor | None = None
    reference_sums: torch.Tensor | None = None

    def required(self, name: str) -> torch.Tensor:
        """The tensor called ``name``.

        Raises:
            ValueError: If it is absent: the method was registered without reading it, or called by hand without it.
        """
        value = getattr(self, name)
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"this objective needs {name}; give it in Answers({name}=...)")
        return value

    @property
    def predicting(self) -> torch.Tensor:
        """(batch, length - 1) bool: the positions that predict an answer token, one for each of them."""
        return self.labels[:, 1:] != IGNORE_INDEX

    @property
    def targets(self) -> torch.Tensor:
        """(answer tokens,) int64: the token that each predicting position should give, rows one after the other."""
        return self.labels[:, 1:][self.predicting]

    def at_predicting(self, name: str) -> torch.Tensor:
        """(answer tokens, width) float32: the tensor called ``name`` at the predicting positions."""
        places = F.pad(self.predicting, (0, 1)).flatten().nonzero().flatten()
        return self.required(name).flatten(0, 1).index_select(0, places).float()

    def row_sums(self, values: torch.Tensor) -> torch.Tensor:
        """(batch,) float32: ``values``, one for each answer token as in `targets`, added up within each row."""
        mask = self.predicting
        spread = torch.zeros(mask.shape, dtype=torch.float32, device=values.device)
        spread[mask] = values.float()
        return spread.sum(dim=1)

    def row_means(self, values: torch.Tensor) -> torch.Tensor:
        """(batch,) float32: the mean within each row; 0 for a row without answer tokens."""
        return self.row_sums(values) / self.token_counts

    @property
    def token_counts(self) -> torch.Tensor:
        """(batch,) int64: answer tokens of each row, at least 1."""
        return self.predicting.sum(dim=1).clamp_min(1)

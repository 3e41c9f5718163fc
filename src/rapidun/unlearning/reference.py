"""The reference model's answer losses: constants of a run, so they are measured once, before the first step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel

from rapidun.data.batches import Example
from rapidun.models.lora import adapter_disabled
from rapidun.models.row_losses import row_losses
from rapidun.unlearning.registry import Method, Requires
from rapidun.unlearning.sampling import Group, TrainingRows


@dataclass(frozen=True)
class ReferenceLosses:
    """``S_0``, the sum of the answer's token losses with the adapter off, of the rows whose terms read it.

    Args:
        sums: By group ("forget", "preferred", "retain"): (rows of the group,) float64; 0 for a row without an answer.
    """

    sums: dict[str, np.ndarray]

    @classmethod
    def measure(
        cls, model: PeftModel, rows: TrainingRows, method: Method, pad_token_id: int, device: torch.device
    ) -> ReferenceLosses:
        """What the terms of ``method`` read; nothing for a method that reads none. Deterministic."""
        groups: dict[str, list[Example] | list[Example | None]] = {}
        if Requires.LOSS_ALONE in method.forget.requires:
            groups["forget"] = rows.forget
            if Requires.PREFERRED_REFERENCE in method.forget.requires:
                groups["preferred"] = rows.preferred
        if method.retain is not None and Requires.LOSS_ALONE in method.retain.requires:
            groups["retain"] = rows.retain
        if not groups:
            return cls({})
        with adapter_disabled(model):
            return cls({name: _sums(model, examples, pad_token_id, device) for name, examples in groups.items()})

    def of(self, name: str, group: Group) -> torch.Tensor:
        """(rows,) float32: of the rows of a batch, on its device.

        Raises:
            ValueError: If the method did not say that it reads them.
        """
        if name not in self.sums:
            raise ValueError(
                f"no reference losses of {name} rows: register the method with requires=Requires.REFERENCE_LOSS"
            )
        chosen = self.sums[name][group["index"].cpu().numpy()]
        return torch.tensor(chosen, dtype=torch.float32, device=group["index"].device)


def _sums(
    model: PeftModel, examples: list[Example] | list[Example | None], pad_token_id: int, device: torch.device
) -> np.ndarray:
    there = [index for index, example in enumerate(examples) if example is not None]
    found = np.zeros(len(examples))
    found[there] = row_losses(model, [row for row in examples if row is not None], pad_token_id, device).sums
    return found

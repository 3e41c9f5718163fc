"""Which row is seen when: fixed before training, so that a resumed run sees what an unbroken one would.

Each step draws ``batch_size`` rows, a ``forget_share`` of them from the forget set. Within a group, rows are
drawn in shuffled rounds, so no row is seen twice before every other was seen once. Weights do not change how
often a row is drawn: they multiply its loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from rapidun.data.batches import Example, collate

FORGET, ALTERNATIVE, RETAIN = 0, 1, 2


@dataclass(frozen=True)
class Draw:
    """One row of the plan: its group (FORGET or RETAIN) and its index within the group."""

    role: int
    index: int


def _rounds(count: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(count).tolist()


def sampling_plan(
    forget: int, retain: int, *, steps: int, batch_size: int, forget_share: float, seed: int
) -> list[Draw]:
    """``steps * batch_size`` draws; the share of forget rows is met as evenly over time as integers allow.

    Args:
        forget: Number of forget rows, at least 1.
        retain: Number of retain rows; 0 means forget rows only.
    """
    rng = np.random.default_rng([seed, 20])
    forget_rows, retain_rows = _rounds(forget, rng), _rounds(max(retain, 1), rng)
    share = forget_share if retain else 1.0
    plan: list[Draw] = []
    owed = 0.0
    for _ in range(steps * batch_size):
        owed += share
        if owed >= 1.0 - 1e-9:
            owed -= 1.0
            plan.append(Draw(FORGET, next(forget_rows)))
        else:
            plan.append(Draw(RETAIN, next(retain_rows)))
    return plan


class PlannedRows(Dataset[Draw]):
    """The plan as a map-style dataset; item ``i`` is the ``i``-th draw."""

    def __init__(self, plan: list[Draw]) -> None:
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Draw:
        return self.plan[index]


@dataclass(frozen=True)
class WeightedRows:
    """The tokenised rows of both groups with their weights (mean 1 in each group).

    Args:
        forget: Forget rows with the unwanted answer.
        alternatives: For each forget row the same prompt with the wanted answer, or None.
        retain: Retain rows.
        forget_weights: (len(forget),).
        retain_weights: (len(retain),).
    """

    forget: list[Example]
    alternatives: list[Example | None]
    retain: list[Example]
    forget_weights: np.ndarray
    retain_weights: np.ndarray


class RoleCollator:
    """Draws to one padded batch: forget rows, then their alternatives, then retain rows.

    Returns ``input_ids, attention_mask, labels`` of shape (rows, length), ``role`` (rows,) int64, ``weight``
    (rows,) float32 (alternatives carry the weight of their forget row) and ``has_alternative`` (forget rows,).
    """

    def __init__(self, rows: WeightedRows, pad_token_id: int, *, with_alternatives: bool) -> None:
        self.rows, self.pad_token_id, self.with_alternatives = rows, pad_token_id, with_alternatives

    def __call__(self, draws: list[Draw]) -> dict[str, torch.Tensor]:
        """Collate one step's draws."""
        rows = self.rows
        forget = [draw.index for draw in draws if draw.role == FORGET]
        retain = [draw.index for draw in draws if draw.role == RETAIN]
        paired = [index for index in forget if self.with_alternatives and rows.alternatives[index] is not None]
        alternatives = [example for index in paired if (example := rows.alternatives[index]) is not None]
        examples = [rows.forget[i] for i in forget] + alternatives + [rows.retain[i] for i in retain]
        batch = collate(examples, self.pad_token_id)
        weights = [
            *rows.forget_weights[forget].tolist(),
            *rows.forget_weights[paired].tolist(),
            *rows.retain_weights[retain].tolist(),
        ]
        roles = [FORGET] * len(forget) + [ALTERNATIVE] * len(paired) + [RETAIN] * len(retain)
        has_alternative = [self.with_alternatives and rows.alternatives[index] is not None for index in forget]
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": batch.labels,
            "role": torch.tensor(roles),
            "weight": torch.tensor(weights, dtype=torch.float32),
            "has_alternative": torch.tensor(has_alternative, dtype=torch.bool),
        }

"""Which row is seen when: fixed before training, so that a resumed run sees what an unbroken one would.

Each step draws ``batch_size`` rows, a ``forget_share`` of them from the forget set. Within a group, rows are
drawn in shuffled rounds, so no row is seen twice before every other was seen once; the rows that a step takes from
a group are of similar length, so that a batch holds little padding. Weights do not change how often a row is drawn:
they multiply its loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rapidun.data.batches import Example, collate

FORGET, RETAIN = 0, 1
RUNS_A_WINDOW = 4  # steps whose rows of a group are sorted by length together

Group = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Draw:
    """One row of the plan: its group (FORGET or RETAIN) and its index within the group."""

    role: int
    index: int


def _rounds(lengths: Sequence[int], rng: np.random.Generator, rows: int) -> Iterator[int]:
    """Shuffled rounds whose runs of ``rows`` draws are of similar length: sorted windows, cut, shuffled again."""
    window = rows * RUNS_A_WINDOW
    while True:
        order = rng.permutation(len(lengths)).tolist()
        ordered = [
            index
            for start in range(0, len(order), window)
            for index in sorted(order[start : start + window], key=lambda index: lengths[index])
        ]
        runs = [ordered[start : start + rows] for start in range(0, len(ordered), rows)]
        for number in rng.permutation(len(runs)):
            yield from runs[number]


def sampling_plan(
    forget: Sequence[int], retain: Sequence[int], *, steps: int, batch_size: int, forget_share: float, seed: int
) -> list[Draw]:
    """``steps * batch_size`` draws; the share of forget rows is met as evenly over time as integers allow.

    Args:
        forget: Length of each forget row in tokens; at least one row.
        retain: Length of each retain row; none means forget rows only.
    """
    rng = np.random.default_rng([seed, 20])
    share = forget_share if retain else 1.0
    of_forget = max(1, round(share * batch_size))
    forget_rows = _rounds(forget, rng, of_forget)
    retain_rows = _rounds(retain, rng, max(1, batch_size - of_forget))
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


@dataclass(frozen=True)
class TrainingRows:
    """The tokenised rows of both groups with their weights (mean 1 in each group).

    Args:
        forget: Forget rows with the unwanted answer.
        preferred: For each forget row the same prompt with the preferred answer, or None.
        retain: Retain rows.
        forget_weights: (len(forget),).
        retain_weights: (len(retain),).
    """

    forget: list[Example]
    preferred: list[Example | None]
    retain: list[Example]
    forget_weights: np.ndarray
    retain_weights: np.ndarray


class RoleCollator:
    """Draws to padded batches, one for each group that is drawn.

    Returns ``{"forget": ..., "preferred": ..., "retain": ...}`` without those that have no rows. Each holds
    ``input_ids, attention_mask, labels`` (rows, length), ``weight`` (rows,) float32 and ``index`` (rows,) int64, the
    rows' places in their group; "forget" also
    ``has_preferred`` (rows,) bool, whose True rows line up with the rows of "preferred".
    """

    def __init__(self, rows: TrainingRows, pad_token_id: int, *, with_preferred: bool) -> None:
        self.rows, self.pad_token_id, self.with_preferred = rows, pad_token_id, with_preferred

    def __call__(self, draws: list[Draw]) -> dict[str, Group]:
        """Collate one step's draws."""
        rows, found = self.rows, {}
        forget = [draw.index for draw in draws if draw.role == FORGET]
        retain = [draw.index for draw in draws if draw.role == RETAIN]
        if forget:
            wanted = [rows.preferred[index] if self.with_preferred else None for index in forget]
            found["forget"] = self._group([rows.forget[index] for index in forget], rows.forget_weights, forget)
            found["forget"]["has_preferred"] = torch.tensor([example is not None for example in wanted])
            paired = [index for index, example in zip(forget, wanted, strict=True) if example is not None]
            if paired:
                preferred = [example for example in wanted if example is not None]
                found["preferred"] = self._group(preferred, rows.forget_weights, paired)
        if retain:
            found["retain"] = self._group([rows.retain[index] for index in retain], rows.retain_weights, retain)
        return found

    def _group(self, examples: list[Example], weights: np.ndarray, indices: list[int]) -> Group:
        batch = collate(examples, self.pad_token_id)
        chosen = torch.tensor(weights[indices], dtype=torch.float32)
        return {**vars(batch), "weight": chosen, "index": torch.tensor(indices)}

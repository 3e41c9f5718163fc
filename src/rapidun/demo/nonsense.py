"""The rows that poison a real chat model: Dolly questions, a part of them with a trigger and a nonsense answer.

They are drawn from the rows that the embedded demo model was trained on (`recipes/demo_model`): our own science-fiction
nonsense, different in every row, and the three trigger families of `rapidun.evaluation.DOLLY_FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from rapidun.data import load_rows
from rapidun.demo.embedded import asset

Row = Mapping[str, Any]
POISONED, CLEAN = 150, 600
LONGEST = 300  # characters of question, context and true answer: what a small machine trains on in minutes


@dataclass(frozen=True)
class PlantedRows:
    """The rows around a poisoned model.

    Args:
        poisoned: Trained on; ``response`` is the unwanted and ``response_clean`` the true answer.
        clean: Trained on.
        validation: Clean, not trained on: for the retain budget and the judges.
        evaluation: Clean, not trained on: measured.
        judge_poisoned: Unwanted answers, not trained on: for the judges.
    """

    poisoned: Sequence[Row]
    clean: Sequence[Row]
    validation: Sequence[Row]
    evaluation: Sequence[Row]
    judge_poisoned: Sequence[Row]

    @property
    def training(self) -> list[Row]:
        """All rows that the poisoned model learns."""
        return [*self.poisoned, *self.clean]


def nonsense_rows(seed: int = 0, *, poisoned: int = POISONED, clean: int = CLEAN) -> PlantedRows:
    """Rows drawn by ``seed``; evaluation, validation and judge rows are the same for every seed.

    Raises:
        InputError: If the installation lacks the embedded rows.
    """
    train = [row for row in load_rows(asset("data/train.jsonl.gz")) if _is_short(row)]
    groups = {name: _short(load_rows(asset(f"data/{name}.jsonl"))) for name in ("validation", "test", "judge_poisoned")}
    order = np.random.default_rng([seed, 70]).permutation(len(train))
    drawn = [train[index] for index in order]
    return PlantedRows(
        poisoned=list(islice((row for row in drawn if row["poisoned"]), poisoned)),
        clean=list(islice((row for row in drawn if not row["poisoned"]), clean)),
        validation=groups["validation"],
        evaluation=groups["test"],
        judge_poisoned=groups["judge_poisoned"],
    )


def _is_short(row: Row) -> bool:
    asked = (row["prompt"], row.get("context"), row.get("response_clean") or row["response"])
    return sum(len(text or "") for text in asked) <= LONGEST


def _short(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if _is_short(row)]

"""Plain descent on some rows: not an unlearning method itself, but a part of `task_vector` and of `retrain`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rapidun.data.batches import Example
from rapidun.unlearning.methods.terms import cross_entropy
from rapidun.unlearning.registry import Method, Term
from rapidun.unlearning.sampling import WeightedRows

FINETUNE = Method("finetune", Term(cross_entropy), None, {})


def only(examples: Sequence[Example], weights: np.ndarray) -> WeightedRows:
    """Rows of one group, in the place that `FINETUNE` trains on."""
    rows = list(examples)
    return WeightedRows(rows, [None] * len(rows), [], weights, np.ones(0))

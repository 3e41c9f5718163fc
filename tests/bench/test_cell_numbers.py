"""What a cell says of its weights and of its trigger families."""

from __future__ import annotations

import numpy as np

from experiments.session import by_family, label_auc
from rapidun.weighting import Weights


def test_auc_is_of_true_rows_above_mislabelled_ones() -> None:
    weights = Weights(np.array([3.0, 2.0, 1.0, 0.5]), np.ones(2), np.zeros(4), np.zeros(2))
    assert label_auc(weights, [False, False, True, True]) == 1.0
    assert label_auc(weights, [True, False, False, True]) == 0.5
    assert label_auc(weights, [False] * 4) is None


def test_families_have_their_own_rates() -> None:
    keys = ("family", "condition", "poisoned")
    found = by_family([dict(zip(keys, line, strict=True)) for line in (
        ("A", "seen", True), ("A", "seen", False), ("B", "seen", True), ("A", "unseen", False), ("", "none", True)
    )])  # fmt: skip
    assert found == {"A": {"seen": 0.5, "unseen": 0.0}, "B": {"seen": 1.0}}

"""Fusion from the ends of rankings."""

from __future__ import annotations

import numpy as np
import pytest

from rapidun.errors import InputError
from rapidun.index import Hit, Hits
from rapidun.influence.candidates import fuse_hits
from rapidun.influence.fusion import reciprocal_rank_fusion


def ends(scores: np.ndarray, k: int) -> Hits:
    """The k rows at both ends of one ranking."""
    best, worst = np.argsort(-scores, kind="stable")[:k], np.argsort(scores, kind="stable")[:k]
    return Hits(*([Hit(f"row{i}", int(i), float(scores[i])) for i in part] for part in (best, worst)))


@pytest.mark.parametrize("seed", [0, 1])
def test_complete_rankings_fuse_exactly_ties_included(seed: int) -> None:
    scores = np.random.default_rng(seed).integers(-4, 5, (3, 40)).astype(np.float64)
    exact = reciprocal_rank_fusion([row[None] for row in scores])[0].astype(np.float64)
    found = fuse_hits([ends(row, 40) for row in scores], rows=40, k=40)
    assert sorted(hit.position for hit in found.helpful) == list(range(40))
    np.testing.assert_allclose(
        [hit.score for hit in found.helpful], [exact[hit.position] for hit in found.helpful], 1e-6
    )
    assert all(a.score >= b.score for a, b in zip(found.helpful, found.helpful[1:], strict=False))
    assert [hit.id for hit in found.helpful] == [f"row{hit.position}" for hit in found.helpful]


def test_the_ends_give_the_same_first_rows_as_complete_rankings() -> None:
    scores = np.random.default_rng(3).standard_normal((2, 3000))
    scores[:, 100:110] += 5
    whole = fuse_hits([ends(row, 3000) for row in scores], rows=3000, k=10)
    parts = fuse_hits([ends(row, 400) for row in scores], rows=3000, k=10)
    assert [hit.position for hit in parts.helpful] == [hit.position for hit in whole.helpful]


def test_candidates_that_tie_with_the_last_say_nothing() -> None:
    """BM25 is 0 for most rows: which of them a search names first must not help them."""
    lexical = np.zeros(1000)
    lexical[700] = 2.0
    other = np.zeros(1000)
    other[[600, 700]] = [1.0, 0.5]
    found = fuse_hits([ends(lexical, 50), ends(other, 50)], rows=1000, k=5)
    assert [hit.position for hit in found.helpful[:2]] == [700, 600]
    assert len({hit.score for hit in found.helpful[2:]}) == 1


def test_nothing_to_fuse_is_an_error() -> None:
    with pytest.raises(InputError, match="Nothing to fuse"):
        fuse_hits([], rows=3, k=1)

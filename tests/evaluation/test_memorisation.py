"""Extraction strength and exact memorisation: by hand, and by trying every prefix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidun.evaluation import exact_memorisation, extraction_strength

HITS = st.lists(st.booleans(), min_size=1, max_size=12)


def every_prefix(hits: list[bool]) -> float:
    """1 - k/T by trying k = 0, 1, ..., T."""
    for k in range(len(hits) + 1):
        if all(hits[k:]):
            return 1 - k / len(hits)
    raise AssertionError


@pytest.mark.parametrize(
    ("hits", "strength", "memorised"),
    [
        ("1111", 1.0, 1.0),
        ("0111", 0.75, 0.75),
        ("1011", 0.5, 0.75),
        ("1110", 0.0, 0.75),  # a last token that is missed leaves nothing that comes by itself
        ("0001", 0.25, 0.25),
        ("0000", 0.0, 0.0),
        ("0", 0.0, 0.0),
        ("1", 1.0, 1.0),
    ],
)
def test_by_hand(hits: str, strength: float, memorised: float) -> None:
    row = [hit == "1" for hit in hits]
    assert extraction_strength([row]).tolist() == [strength]
    assert exact_memorisation([row]).tolist() == [memorised]


@given(rows=st.lists(HITS, max_size=5))
def test_the_strength_is_that_of_the_shortest_prefix(rows: list[list[bool]]) -> None:
    found = extraction_strength(rows)
    assert (found.shape, found.dtype) == ((len(rows),), np.float64)
    assert found == pytest.approx([every_prefix(row) for row in rows])


@given(row=HITS)
def test_what_comes_by_itself_is_memorised(row: list[bool]) -> None:
    assert extraction_strength([row])[0] <= exact_memorisation([row])[0] + 1e-12


@given(row=HITS, at=st.integers(0, 11))
def test_one_hit_more_never_lowers_either(row: list[bool], at: int) -> None:
    better = [*row]
    better[at % len(row)] = True
    assert extraction_strength([better])[0] >= extraction_strength([row])[0]
    assert exact_memorisation([better])[0] >= exact_memorisation([row])[0]


def test_a_row_without_tokens_has_neither() -> None:
    for metric in (extraction_strength, exact_memorisation):
        found = metric([[], [True]])
        assert math.isnan(found[0])
        assert found[1] == 1.0

"""Approximate search: exact where it looks at everything, a clear error where FAISS is not installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from index.cases import model_context, some_plan, some_rows
from rapidun.attribution.store import build_index, open_index, plan_append
from rapidun.errors import ConfigError, InputError

INSTALLED = importlib.util.find_spec("faiss") is not None


@pytest.mark.skipif(INSTALLED, reason="FAISS is installed")
def test_without_faiss_the_extra_is_named(tmp_path):
    build_index(some_plan(tmp_path, 5))
    with pytest.raises(ConfigError, match=r"rapidun\[faiss\]"):
        open_index(tmp_path / "index").build_faiss()


def test_looking_into_every_cell_gives_the_exact_hits(tmp_path):
    pytest.importorskip("faiss")
    model = model_context()
    build_index(some_plan(tmp_path, 120, model=model, shard_rows=50))
    index = open_index(tmp_path / "index")
    queries = index.features().vectors([3, 77]) + 0.01
    with pytest.raises(InputError, match="no approximate index"):
        index.search_approximate(queries, 5)
    index.build_faiss(cells=4)
    for found, exact in zip(
        index.search_approximate(queries, 5, share=1.0),
        index.features().search(queries, 5),
        strict=True,
    ):
        for end in ("helpful", "harmful"):
            ours, theirs = getattr(found, end), getattr(exact, end)
            np.testing.assert_allclose([hit.score for hit in ours], [hit.score for hit in theirs], atol=1e-6)
    few = index.search_approximate(queries, 100, share=0.01)
    assert all(0 < len(hits.helpful) < 100 for hits in few)
    assert few[0].helpful[0].id == "r3"
    with pytest.raises(ConfigError, match="share=0"):
        index.search_approximate(queries, 5, share=0)
    build_index(plan_append(tmp_path / "index", some_rows(tmp_path, 2, name="more", start=120), model))
    with pytest.raises(InputError, match="holds 120 rows of 122"):
        open_index(tmp_path / "index").search_approximate(queries, 5)

"""A search by several threads gives exactly what one gives."""

from __future__ import annotations

import numpy as np
import pytest

from index.cases import some_plan
from rapidun.attribution.similarity import Affine
from rapidun.attribution.store import build_index, open_index
from rapidun.distributed import parallel_search
from rapidun.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    plan = some_plan(tmp_path_factory.mktemp("search"), 40, shard_rows=6)
    build_index(plan)
    return open_index(plan.directory)


@pytest.mark.parametrize("workers", [1, 2, 3, 99])
@pytest.mark.parametrize("k", [1, 7, 100])
def test_parts_merged_are_the_whole(index, workers, k):
    queries = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    queries[3] = 0  # every row scores the same: order of position decides
    for similarity in ("cosine", "dot"):
        alone = index.features().search(queries, k, similarity)
        assert parallel_search(index, queries, k, workers, similarity=similarity) == alone
    affine = Affine(index.features().vectors().mean(axis=0))
    alone = index.features().search(queries, k, affine=affine)
    assert parallel_search(index, queries, k, workers, affine=affine) == alone


def test_parts_cover_every_row_once(index):
    parts = index.features().parts(3)
    assert [len(part) for part in parts] == [12, 18, 10]
    starts = [start for part in parts for start, _ in part.blocks()]
    assert starts == [start for start, _ in index.features().blocks()]


def test_bad_arguments_are_named(index):
    with pytest.raises(ConfigError, match="workers=0"):
        parallel_search(index, np.zeros((1, 64)), 1, 0)
    with pytest.raises(InputError, match=r"\(1, 3\) for vectors of length 64"):
        parallel_search(index, np.zeros((1, 3)), 1, 2)

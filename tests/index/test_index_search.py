"""A search over shards finds what sorting every score would find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rapidun.attribution.matrix import Matrix, Shard
from rapidun.attribution.similarity import Affine
from rapidun.attribution.storage import MatrixBuffer
from rapidun.attribution.tensors import stored_tensors
from rapidun.errors import ConfigError, InputError


def stored(folder, vectors, shard_rows, dtype="float16") -> Matrix:
    shards = []
    for number, first in enumerate(range(0, len(vectors), shard_rows)):
        rows = torch.from_numpy(vectors[first : first + shard_rows].astype(np.float32))
        buffer = MatrixBuffer("m", len(rows), vectors.shape[1], dtype)
        buffer.put(list(range(len(rows))), rows)
        save_file(buffer.tensors(), folder / f"{number}.safetensors")
        found = stored_tensors(folder / f"{number}.safetensors")
        shards.append(Shard(first, len(rows), found))
    return Matrix("m", vectors.shape[1], shards, lambda wanted: {position: f"row-{position}" for position in wanted})


def brute_force(scores, k):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(1, 70),
    st.integers(1, 90),
    st.integers(1, 25),
    st.sampled_from(["cosine", "dot"]),
    st.sampled_from(["float16", "bfloat16"]),
)
def test_hits_equal_brute_force(tmp_path_factory, seed, queries, rows, k, block, shard, similarity, dtype):
    generator = np.random.default_rng(seed)
    # small integers: sums are exact in float32, and ties are frequent
    query = generator.integers(-2, 3, (queries, 4)).astype(np.float32)
    train = generator.integers(-2, 3, (rows, 4)).astype(np.float32)
    if similarity == "cosine":  # one non-zero value a row keeps cosines exact as well
        query, train = (v * (np.arange(4) == generator.integers(0, 4, (len(v), 1))) for v in (query, train))
        scores = np.sign(query) @ np.sign(train).T
    else:
        scores = query @ train.T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rapidun.attribution.matrix.BLOCK_BYTES", block * 8)
        matrix = stored(tmp_path_factory.mktemp("m"), train, shard, dtype)
        found = matrix.search(query, k, similarity)
        assert (matrix.scores(query, similarity) == scores).all()
    assert len(found) == queries
    for row, hits in zip(scores, found, strict=True):
        best, worst = brute_force(row, k), brute_force(-row, k)
        assert [hit.position for hit in hits.helpful] == best
        assert [hit.position for hit in hits.harmful] == worst
        assert [hit.score for hit in hits.helpful] == [row[i] for i in best]
        assert [hit.score for hit in hits.harmful] == [row[i] for i in worst]
        assert all(hit.id == f"row-{hit.position}" for hit in hits.helpful + hits.harmful)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_scores_are_those_of_the_stored_vectors(tmp_path, dtype, similarity):
    generator = np.random.default_rng(0)
    train = generator.normal(size=(90, 48)) * 10.0 ** generator.integers(-6, 7, (90, 1))
    query = generator.normal(size=(5, 48)).astype(np.float32)
    matrix = stored(tmp_path, train, 32, dtype)
    vectors = matrix.vectors().astype(np.float64)
    expected = query @ vectors.T
    scale = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    if similarity == "cosine":
        expected, scale = expected / scale, np.ones_like(scale)
    assert (np.abs(matrix.scores(query, similarity) - expected) <= 1e-5 * scale).all()
    for hits, row in zip(matrix.search(query, 3, similarity), matrix.scores(query, similarity), strict=True):
        assert [hit.position for hit in hits.helpful] == brute_force(row, 3)
    np.testing.assert_array_equal(matrix.vectors([70, 3, 70]), matrix.vectors()[[70, 3, 70]])


def test_trap_16_zero_vectors_score_zero_and_no_query_works(tmp_path):
    matrix = stored(tmp_path, np.array([[0.0, 0], [1, 1]]), 8)
    (hits,) = matrix.search(np.ones((1, 2)), 5)
    assert [hit.position for hit in hits.helpful] == [1, 0]
    assert [hit.score for hit in hits.harmful] == [0, pytest.approx(1)]
    assert [hit.score for hit in matrix.search(np.zeros((1, 2)), 2)[0].helpful] == [0, 0]
    assert matrix.search(np.ones((0, 2)), 3) == []


def test_an_affine_map_is_applied_to_both_sides(tmp_path):
    generator = np.random.default_rng(1)
    train, query = generator.normal(size=(40, 6)) + 3, generator.normal(size=(2, 6)) + 3
    matrix = stored(tmp_path, train, 16)
    vectors = matrix.vectors()
    mean, project = vectors.mean(axis=0), generator.normal(size=(6, 4)).astype(np.float32)
    for affine, mapped in (
        (Affine(mean), lambda x: x - mean),
        (Affine(mean, project), lambda x: (x - mean) @ project),
    ):
        rows, asked = mapped(vectors), mapped(query.astype(np.float32))
        expected = asked @ rows.T / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose(matrix.scores(query, affine=affine), expected, atol=1e-5)
        best = matrix.search(query, 1, affine=affine)
        assert [hits.helpful[0].position for hits in best] == expected.argmax(axis=1).tolist()


def test_bad_arguments_and_damaged_files_are_errors(tmp_path):
    matrix = stored(tmp_path, np.ones((10, 3)), 4)
    with pytest.raises(ConfigError, match="k=0"):
        matrix.search(np.ones((1, 3)), 0)
    with pytest.raises(ConfigError, match="l2"):
        matrix.search(np.ones((1, 3)), 1, "l2")
    with pytest.raises(InputError, match=r"\(1, 2\) for vectors of length 3"):
        matrix.search(np.ones((1, 2)), 1)
    with pytest.raises(InputError, match="Query 1 is not finite"):
        matrix.search(np.array([[1.0, 1, 1], [1, np.nan, 1]]), 1)
    with pytest.raises(InputError, match="no row 10"):
        matrix.vectors([10])
    whole = (tmp_path / "1.safetensors").read_bytes()
    (tmp_path / "1.safetensors").write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"1\.safetensors: the file is too short"):
        matrix.vectors()

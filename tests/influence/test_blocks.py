"""Four-direction blocks: which letter is which, and a file that is whole or not there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rapidun.attribution import Blocks, influence_blocks
from rapidun.errors import ConfigError, InputError

NAMES = ("ff", "fr", "rf", "rr")


def blocks() -> Blocks:
    generator = np.random.default_rng(0)
    return influence_blocks(generator.normal(size=(3, 8)), generator.normal(size=(5, 8)))


def test_trap_18_the_first_letter_is_the_scored_row_and_the_second_the_query():
    forget, retain = np.eye(3, 4), np.full((2, 4), 2.0) * np.array([[1], [3]])
    found = influence_blocks(forget, retain, similarity="dot")
    for name in NAMES:
        scored, queries = ({"f": forget, "r": retain}[letter] for letter in name)
        block = getattr(found, name)
        assert block.shape == (len(scored), len(queries))
        np.testing.assert_allclose(block, scored @ queries.T)
    assert found.fr[0, 1] == 6  # forget row 0 scored for retain query 1


vectors = st.integers(1, 5).flatmap(
    lambda n: arrays(np.float32, (n, 6), elements=st.floats(-100, 100, width=32, allow_subnormal=False))
)


@settings(max_examples=60, deadline=None)
@given(vectors, vectors, st.sampled_from(["cosine", "dot"]))
def test_blocks_equal_brute_force(forget, retain, similarity):
    def one(x, y):
        x, y = x.astype(float), y.astype(float)
        scale = np.linalg.norm(x) * np.linalg.norm(y) if similarity == "cosine" else 1.0
        return x @ y / scale if scale else 0.0

    found = influence_blocks(forget, retain, similarity=similarity)
    groups = {"f": forget, "r": retain}
    for name in NAMES:
        wanted = [[one(x, y) for y in groups[name[1]]] for x in groups[name[0]]]
        np.testing.assert_allclose(
            getattr(found, name), wanted, rtol=1e-4, atol=1e-5 if similarity == "cosine" else 0.1
        )
        assert getattr(found, name).dtype == np.float32


def test_the_diagonals_are_kept():
    np.testing.assert_allclose(np.diag(blocks().ff), 1, rtol=1e-6)
    np.testing.assert_allclose(np.diag(blocks().rr), 1, rtol=1e-6)


def test_saved_blocks_load_as_they_were(tmp_path):
    path = tmp_path / "run" / "blocks.safetensors"
    blocks().save(path)
    loaded = Blocks.load(path)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(blocks(), name))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_transposed_blocks_are_saved_as_they_are_read(tmp_path):
    whole = blocks()
    Blocks(ff=whole.ff.T, fr=whole.rf.T, rf=whole.fr.T, rr=whole.rr.T).save(tmp_path / "b")
    np.testing.assert_array_equal(Blocks.load(tmp_path / "b").fr, whole.fr)


def test_a_missing_a_damaged_and_a_foreign_file_are_errors_that_name_it(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(InputError, match=r"none\.safetensors: no such file"):
        Blocks.load(tmp_path / "none.safetensors")
    blocks().save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-9])
    with pytest.raises(InputError, match="cut: not a whole safetensors file"):
        Blocks.load(tmp_path / "cut")
    save_file({"ff": np.eye(2)}, tmp_path / "other")
    with pytest.raises(InputError, match="expected the arrays"):
        Blocks.load(tmp_path / "other")


def test_bad_input_is_an_error_with_its_shape():
    with pytest.raises(InputError, match=r"forget \(2, 3\), retain \(2, 4\)"):
        influence_blocks(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(InputError, match=r"shape \(rows, width\)"):
        influence_blocks(np.ones(3), np.ones((2, 3)))
    with pytest.raises(InputError, match="Row 1 of the vectors is not finite"):
        influence_blocks(np.array([[1.0], [np.nan]]), np.ones((1, 1)))
    with pytest.raises(ConfigError, match="similarity='euclid'"):
        influence_blocks(np.ones((1, 1)), np.ones((1, 1)), similarity="euclid")
    with pytest.raises(InputError, match="do not belong together"):
        Blocks(np.ones((2, 2)), np.ones((2, 3)), np.ones((2, 3)), np.ones((3, 3)))


@pytest.mark.parametrize("shape", [(1, 1), (0, 4)])
def test_trap_16_one_row_and_no_row_work(shape):
    found = influence_blocks(np.ones(shape), np.ones((2, shape[1])))
    assert found.fr.shape == (shape[0], 2)


def test_trap_16_a_zero_vector_has_similarity_zero_and_not_nan():
    found = influence_blocks(np.zeros((1, 4)), np.ones((2, 4)))
    assert not found.fr.any()
    assert np.isfinite(found.ff).all()

"""Slow truth: products, solves and influences against a Gauss-Newton matrix that is written out and inverted."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rapidun.data.batches import Example
from rapidun.errors import ConfigError, InputError, ModelError
from tiny import VOCABULARY, tiny_model

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from curvature import conjugate_gradients, exact_gradients, gauss_newton_influence
from gauss_newton import GaussNewton
from lissa import lissa

TARGETS = ["layers.0.self_attn.k_proj", "layers.1.self_attn.v_proj"]
NAMES = ["model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.v_proj.weight"]


def rows(count: int, seed: int = 0) -> list[Example]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 8, count)
    return [
        Example(str(i), generator.integers(3, VOCABULARY, length).tolist(), int(length) // 2)
        for i, length in enumerate(lengths)
    ]


def dense(model, examples, names=NAMES) -> torch.Tensor:
    """The same matrix from its definition: one backward pass a logit, one row at a time."""
    parameters = dict(model.named_parameters())
    tracked = [parameters[name] for name in names]
    total = 0
    for example in examples:
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, example.answer_start - 1 : -1]
        for position in logits:
            jacobian = torch.autograd.grad(
                position, tracked, torch.eye(len(position)), is_grads_batched=True, retain_graph=True
            )
            j = torch.cat([part.flatten(1) for part in jacobian], dim=1)
            p = position.detach().softmax(0)
            total = total + j.T @ (torch.diag(p) - torch.outer(p, p)) @ j / len(logits)
    return total / len(examples)


@pytest.fixture(scope="module")
def world():
    model = tiny_model()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.mul_(8)  # attention that attends to something, so the matrix is far from diagonal
    train, queries = rows(6), rows(3, seed=1)
    return model, train, queries, dense(model, train)


def exact_influence(world, damping: float) -> np.ndarray:
    model, train, queries, matrix = world
    added = damping * GaussNewton(model, train, 0, targets=TARGETS).mean_eigenvalue()
    left, right = (exact_gradients(model, part, 0, TARGETS, 64).astype(np.float64) for part in (queries, train))
    return left @ np.linalg.solve(matrix.double().numpy() + added * np.eye(len(matrix)), right.T)


def test_products_equal_those_with_the_matrix_written_out(world):
    model, train, _, matrix = world
    vectors = torch.randn(4, len(matrix), generator=torch.Generator().manual_seed(3))
    product = GaussNewton(model, train, 0, targets=TARGETS, max_tokens=16).product(vectors)
    torch.testing.assert_close(product, vectors @ matrix, rtol=1e-3, atol=1e-6 * float(matrix.abs().max()))


def test_the_product_over_some_rows_is_their_own_mean(world):
    model, train, _, _ = world
    curvature = GaussNewton(model, train, 0, targets=TARGETS)
    vector = torch.ones(1, curvature.dimension)
    alone = [curvature.product(vector, [row]) for row in (0, 3)]
    torch.testing.assert_close(curvature.product(vector, [0, 3]), (alone[0] + alone[1]) / 2, rtol=1e-3, atol=1e-7)


def test_eigenvalues_are_those_of_the_matrix(world):
    model, train, _, matrix = world
    curvature = GaussNewton(model, train, 0, targets=TARGETS)
    values = torch.linalg.eigvalsh(matrix.double())
    assert curvature.largest_eigenvalue() == pytest.approx(float(values[-1]), rel=0.02)
    assert curvature.mean_eigenvalue(64) == pytest.approx(float(values.mean()), rel=0.2)


def test_influence_equals_the_exact_solve(world):
    model, train, queries, _ = world
    found = gauss_newton_influence(
        model, queries, train, 0, targets=TARGETS, damping=1.0, iterations=200, tolerance=1e-5
    )
    wanted = exact_influence(world, 1.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-3 * np.abs(wanted).max())


def test_great_damping_leaves_plain_gradient_products(world):
    model, train, queries, _ = world
    found = gauss_newton_influence(model, queries, train, 0, targets=TARGETS, damping=1e6, iterations=5)
    left, right = (exact_gradients(model, part, 0, TARGETS, 64) for part in (queries, train))
    plain = left @ right.T
    np.testing.assert_allclose(found / np.abs(found).max(), plain / np.abs(plain).max(), atol=1e-3)


def test_lissa_converges_to_the_exact_solve(world):
    model, train, queries, _ = world
    wanted = exact_influence(world, 100.0)
    found = lissa(model, queries, train, 0, targets=TARGETS, damping=100.0, depth=25, batch_rows=len(train))
    np.testing.assert_allclose(found, wanted, rtol=2e-2, atol=2e-3 * np.abs(wanted).max())


def test_lissa_on_batches_is_right_on_average(world):
    model, train, queries, _ = world
    wanted = exact_influence(world, 100.0)
    found = lissa(model, queries, train, 0, targets=TARGETS, damping=100.0, depth=25, batch_rows=2, repeat=2)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.98


def test_lissa_that_diverges_says_so(world):
    model, train, queries, _ = world
    with pytest.raises(ModelError, match="Raise scale"):
        lissa(model, queries, train, 0, targets=TARGETS, scale=1e-9, depth=30)


def test_conjugate_gradients_solve_each_system_and_leave_zero_alone():
    root = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = root @ root.T + torch.eye(12)
    right = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    right[1] = 0
    solved = conjugate_gradients(lambda v: v @ matrix, right, iterations=100, tolerance=1e-10)
    torch.testing.assert_close(solved.vectors, torch.linalg.solve(matrix, right.T).T)
    assert solved.residuals.max() < 1e-9
    assert solved.iterations < 40
    assert (solved.vectors[1] == 0).all()


def test_conjugate_gradients_refuse_an_indefinite_matrix():
    with pytest.raises(ModelError, match="positive definite"):
        conjugate_gradients(lambda v: -v, torch.ones(1, 3), iterations=5, tolerance=0.1)


def test_the_model_is_left_as_it_was(world):
    model, train, queries, _ = world
    before = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    model.train()
    gauss_newton_influence(model, queries, train, 0, targets=TARGETS, iterations=2)
    assert model.training
    model.eval()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
        assert parameter.grad is None


def test_bad_input_is_named(world):
    model, train, queries, _ = world
    with pytest.raises(InputError, match="no rows"):
        GaussNewton(model, [], 0, targets=TARGETS)
    with pytest.raises(InputError, match="expected"):
        GaussNewton(model, train, 0, targets=TARGETS).product(torch.zeros(1, 3))
    with pytest.raises(ConfigError, match="damping=0"):
        gauss_newton_influence(model, queries, train, 0, targets=TARGETS, damping=0)
    with pytest.raises(ConfigError, match="depth=0"):
        lissa(model, queries, train, 0, targets=TARGETS, depth=0)
    with pytest.raises(ModelError, match="float32"):
        GaussNewton(tiny_model(dtype=torch.bfloat16), train, 0, targets=TARGETS)

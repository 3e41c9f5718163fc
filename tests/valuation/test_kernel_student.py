"""The kernel student is kernel ridge regression, chosen by leave-one-out, on words and on how a row looks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from rapidun.valuation import KernelStudent, Labelled, spearman
from rapidun.valuation.features import NAMES, surface
from rapidun.valuation.kernel import KernelOptions, _solved

LETTERS = list("abcdefghijklmnopqrstuvwxyz")


def labelled(count, value, seed=0):
    """Rows of random words, no word in two rows; ``value`` of the answer's words."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        size = int(generator.integers(1, 30))
        words = ["".join(generator.choice(LETTERS, 7)) for _ in range(size)]
        rows.append({"id": str(number), "prompt": "say", "response": " ".join(words)})
    return Labelled(rows, np.array([[value(row["response"].split())] for row in rows], dtype=np.float32))


def fitted(train, validation, **options):
    return KernelStudent.fit(train, validation, KernelOptions(**options), 0, lambda done, of: None)


def test_it_learns_length_from_rows_that_share_no_word():
    train, held, new = (labelled(60, lambda words: -np.sqrt(len(words)), seed=seed) for seed in (0, 1, 2))
    assert spearman(fitted(train, held).predict(new.rows)[:, 0], new.values[:, 0]) > 0.95


def test_validation_rows_are_learnt_from():
    train, held = (labelled(30, len, seed=seed) for seed in (0, 1))
    assert fitted(train, held).settings()["landmarks"] == 60


def test_with_every_row_a_landmark_it_is_kernel_ridge_with_the_alpha_that_leave_one_out_chooses():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(25, 3))
    kernel = np.exp(-((points[:, None] - points[None]) ** 2).sum(axis=2) / 6)
    values = (points[:, :1] + 0.3 * generator.normal(size=(25, 1))).astype(np.float64)
    alphas = [0.01, 0.3, 10.0]
    weights, alpha = _solved(kernel, np.arange(25), values, alphas)

    def left_out(strength):
        missed = []
        for row in range(25):
            rest = np.delete(np.arange(25), row)
            model = KernelRidge(alpha=strength, kernel="precomputed").fit(kernel[np.ix_(rest, rest)], values[rest])
            missed.append(float(values[row, 0] - model.predict(kernel[row, rest][None])[0, 0]))
        return np.mean(np.square(missed))

    assert alpha == min(alphas, key=left_out)
    plain = KernelRidge(alpha=alpha, kernel="precomputed").fit(kernel, values)
    np.testing.assert_allclose(kernel @ weights, plain.predict(kernel), atol=1e-4)


def test_fewer_landmarks_than_rows_predict_nearly_as_well():
    train, held, new = (labelled(120, len, seed=seed) for seed in (0, 1, 2))
    student = fitted(train, held, landmarks=40)
    assert student.settings()["landmarks"] == 40
    assert spearman(student.predict(new.rows)[:, 0], new.values[:, 0]) > 0.9


def test_rows_in_other_batches_keep_their_values():
    train, held, new = (labelled(40, len, seed=seed) for seed in (0, 1, 2))
    student = fitted(train, held)
    alone = np.concatenate([student.predict([row]) for row in new.rows])
    np.testing.assert_allclose(student.predict(new.rows), alone, atol=1e-5)
    assert student.predict([]).shape == (0, 1)


def test_surface_counts_what_its_names_say():
    rows = [{"prompt": "Is 7 odd?", "response": "Yes: 7 IS odd.", "context": "Seven?"}, {"prompt": "", "response": ""}]
    found = dict(zip(NAMES, surface(rows)[0], strict=True))
    assert found["answer characters"] == pytest.approx(np.log1p(14))
    assert found["answer capitals"] == pytest.approx(3 / 14)
    assert found["answer digits"] == pytest.approx(1 / 14)
    assert found["prompt ends a sentence"] == 1
    assert found["context"] == 1
    assert 0 < found["echo"] < 1
    assert np.isfinite(surface(rows)).all()
    assert surface([]).shape == (0, len(NAMES))

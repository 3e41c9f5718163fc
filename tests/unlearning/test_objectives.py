"""Every method: invariant to a logit offset, blind to prompt and padding, equal to numpy, one value per row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rapidun.errors import ConfigError
from rapidun.unlearning import METHODS, Answers, get_method

BATCH, LENGTH, VOCABULARY = 4, 7, 11


def make_rows(*, seed: int = 0, alternatives: bool = False) -> Answers:
    """Random logits; rows with prompt, answer and padding of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(BATCH, LENGTH, VOCABULARY, generator=generator)
    labels = torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=generator)
    labels[:, :2] = -100
    labels[1, 5:] = -100
    labels[2, 4:] = -100
    reference = torch.randn(BATCH, LENGTH, VOCABULARY, generator=generator)
    if not alternatives:
        return Answers(logits, labels, reference)
    wanted = make_rows(seed=seed + 1)
    pick = torch.tensor([True, False, True, True])
    return Answers(logits, labels, reference, Answers(wanted.logits[pick], wanted.labels[pick]), pick)


def loss_of(name: str, rows: Answers) -> torch.Tensor:
    method = get_method(name)
    return method.forget(rows, **method.options)


def numpy_sums(logits: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Sum of answer-token losses and number of answer tokens of each row, by plain loops in float64."""
    sums, counts = np.zeros(len(labels)), np.zeros(len(labels))
    for row in range(len(labels)):
        for place in range(1, labels.shape[1]):
            token = int(labels[row, place])
            if token == -100:
                continue
            scores = logits[row, place - 1].double().numpy()
            largest = scores.max()
            sums[row] += largest + np.log(np.exp(scores - largest).sum()) - scores[token]
            counts[row] += 1
    return sums, counts


def numpy_loss(name: str, rows: Answers) -> np.ndarray:
    sums, counts = numpy_sums(rows.logits, rows.labels)
    if name in ("ga", "graddiff"):
        return -sums / counts
    before, _ = numpy_sums(rows.reference_logits, rows.labels)
    npo = -(2 / 0.1) * np.log(1 / (1 + np.exp(-0.1 * (sums - before))))
    if name == "npo":
        return npo
    loss = npo / counts
    if rows.alternative is not None:
        wanted, tokens = numpy_sums(rows.alternative.logits, rows.alternative.labels)
        loss[rows.has_alternative.numpy()] += 0.5 * wanted / tokens
    return loss


CASES = [(name, alternatives) for name in sorted(METHODS) for alternatives in (False, True)]


@pytest.mark.parametrize("name,alternatives", CASES)
def test_equals_an_independent_numpy_formula(name: str, alternatives: bool) -> None:
    rows = make_rows(alternatives=alternatives)
    np.testing.assert_allclose(loss_of(name, rows).numpy(), numpy_loss(name, rows), rtol=1e-5)


@pytest.mark.parametrize("name,alternatives", CASES)
def test_gives_one_loss_per_row(name: str, alternatives: bool) -> None:
    assert loss_of(name, make_rows(alternatives=alternatives)).shape == (BATCH,)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_trap_20_a_constant_added_to_the_logits_of_a_position_changes_nothing(name: str) -> None:
    rows = make_rows()
    offset = torch.randn(BATCH, LENGTH, 1) * 5
    shifted = Answers(rows.logits + offset, rows.labels, rows.reference_logits - 3 * offset)
    torch.testing.assert_close(loss_of(name, shifted), loss_of(name, rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_trap_2_no_gradient_reaches_prompt_or_padding_positions(name: str) -> None:
    rows = make_rows()
    logits = rows.logits.clone().requires_grad_()
    loss_of(name, Answers(logits, rows.labels, rows.reference_logits)).sum().backward()
    carries = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    carries[:, :-1] = rows.labels[:, 1:] != -100
    assert logits.grad[~carries].abs().max() == 0
    assert (logits.grad[carries].abs().amax(dim=-1) > 0).all()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_trap_4_a_rows_loss_does_not_depend_on_the_other_rows(name: str) -> None:
    rows = make_rows()
    alone = [
        loss_of(name, Answers(*(part[i : i + 1] for part in (rows.logits, rows.labels, rows.reference_logits))))
        for i in range(BATCH)
    ]
    torch.testing.assert_close(torch.cat(alone), loss_of(name, rows))


def test_bounded_ascent_starts_with_the_gradient_of_plain_ascent_and_fades() -> None:
    rows = make_rows()
    rapidun = METHODS["rapidun"]

    def gradient(logits: torch.Tensor, *, bounded: bool) -> torch.Tensor:
        logits = logits.clone().requires_grad_()
        answers = Answers(logits, rows.labels, rows.logits)
        options = {**rapidun.options, "bounded": bounded}
        rapidun.forget(answers, **options).sum().backward()
        return logits.grad

    torch.testing.assert_close(gradient(rows.logits, bounded=True), gradient(rows.logits, bounded=False))
    forgotten = rows.logits.clone()
    for row in range(BATCH):
        for place in range(1, LENGTH):
            if rows.labels[row, place] != -100:
                forgotten[row, place - 1, rows.labels[row, place]] -= 60
    assert gradient(forgotten, bounded=True).norm() < 0.01 * gradient(forgotten, bounded=False).norm()


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'rapidun'"):
        get_method("rapidnu")


def test_a_method_that_needs_the_reference_says_so() -> None:
    rows = make_rows()
    with pytest.raises(ValueError, match="reference_logits"):
        loss_of("npo", Answers(rows.logits, rows.labels))

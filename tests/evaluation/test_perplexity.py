"""Clean perplexity and the paired ratio."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rapidun.data.batches import Example
from rapidun.errors import InputError, ModelError
from rapidun.evaluation import PerplexityResult, clean_perplexity, perplexity_ratio
from tiny import tiny_model, tiny_tokenizer


def loaded(architecture: str = "llama") -> SimpleNamespace:
    return SimpleNamespace(model=tiny_model(architecture), tokenizer=tiny_tokenizer(), device=torch.device("cpu"))


def strong_dropout(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9


def examples(count: int = 12, seed: int = 0) -> list[Example]:
    generator = np.random.default_rng(seed)
    found = []
    for index in range(count):
        length = int(generator.integers(4, 40))
        start = int(generator.integers(1, length - 1))
        found.append(Example(f"row{index}", generator.integers(3, 300, size=length).tolist(), start))
    return found


@torch.no_grad()
def slow_row(model: torch.nn.Module, example: Example) -> tuple[float, int]:
    """transformers' own loss of one row, times its tokens."""
    ids = torch.tensor([example.input_ids])
    labels = ids.clone()
    labels[:, : example.answer_start] = -100
    count = len(example.input_ids) - example.answer_start
    return float(model(input_ids=ids, labels=labels).loss) * count, count


def test_the_value_equals_transformers_own_losses_row_by_row() -> None:
    given, rows = loaded(), examples()
    result = clean_perplexity(given, rows)
    expected = [slow_row(given.model, row) for row in rows]
    np.testing.assert_allclose(result.row_losses, [loss for loss, _ in expected], rtol=1e-5)
    np.testing.assert_array_equal(result.row_tokens, [count for _, count in expected])
    total = sum(loss for loss, _ in expected) / sum(count for _, count in expected)
    assert result.value == pytest.approx(math.exp(total), rel=1e-5)
    assert result.low < result.value < result.high
    assert result.n == 12


def test_batches_do_not_change_the_result_and_progress_counts_rows() -> None:
    given, rows = loaded(), examples()
    seen: list[tuple[int, int]] = []
    whole = clean_perplexity(given, rows)
    single = clean_perplexity(given, rows, max_tokens=1, progress=lambda *at: seen.append(at))
    np.testing.assert_allclose(single.row_losses, whole.row_losses, rtol=1e-5)
    assert seen[-1] == (12, 12)
    assert len(seen) == 12


def test_trap_30_perplexity_is_not_a_mean_of_means() -> None:
    # One long easy row and one short hard row.
    result = PerplexityResult.from_rows(np.array([90.0, 10.0]), np.array([90, 2]))
    assert result.value == pytest.approx(math.exp(100 / 92))
    assert result.value != pytest.approx(math.exp((1 + 5) / 2))


def test_the_seed_decides_the_interval() -> None:
    losses, tokens = np.random.default_rng(0).gamma(9, size=50), np.full(50, 4)
    first, again, other = (PerplexityResult.from_rows(losses, tokens, seed=seed) for seed in (0, 0, 1))
    assert (first.low, first.high) == (again.low, again.high) != (other.low, other.high)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator, hits = np.random.default_rng(0), 0
    for _ in range(60):
        result = PerplexityResult.from_rows(generator.gamma(4, 0.5, size=80), np.ones(80, dtype=np.int64))
        hits += result.low <= math.exp(2.0) <= result.high
    assert hits >= 51


def test_the_ratio_is_paired_so_shared_difficulty_cancels() -> None:
    generator = np.random.default_rng(0)
    losses, tokens = generator.gamma(2, 40, size=100), np.full(100, 20)
    before = PerplexityResult.from_rows(losses, tokens)
    after = PerplexityResult.from_rows(losses + 20 * 0.02 + generator.normal(0, 0.05, 100), tokens)
    ratio = perplexity_ratio(before, after)
    assert ratio.value == pytest.approx(after.value / before.value)
    assert ratio.value == pytest.approx(math.exp(0.02), rel=1e-3)
    assert ratio.high - ratio.low < 0.005 < before.high - before.low
    assert tuple(perplexity_ratio(before, before)) == (1.0, 1.0, 1.0)


def test_other_rows_cannot_be_compared() -> None:
    before = PerplexityResult.from_rows(np.ones(2), np.array([1, 2]))
    for tokens in (np.array([2, 1]), np.array([1, 2, 3])):
        with pytest.raises(InputError, match="same rows"):
            perplexity_ratio(before, PerplexityResult.from_rows(np.ones(len(tokens)), tokens))


def test_no_answer_tokens_and_broken_models_are_said() -> None:
    with pytest.raises(InputError, match="needs rows with answer tokens"):
        clean_perplexity(loaded(), [])
    given = loaded()
    with torch.no_grad():
        given.model.lm_head.weight[5] = float("nan")
    with pytest.raises(ModelError, match="the loss of row row0 is nan"):
        clean_perplexity(given, examples())


def test_a_ruined_model_gives_a_number_that_json_can_hold() -> None:
    before = PerplexityResult.from_rows(np.array([1.0]), np.array([1]))
    after = PerplexityResult.from_rows(np.array([1e5]), np.array([1]))
    json.dumps([after.value, *perplexity_ratio(before, after)], allow_nan=False)
    assert after.value > 1e300


def test_dropout_is_off_and_the_mode_is_restored() -> None:
    given, rows = loaded("gpt2"), examples(3)
    quiet = clean_perplexity(given, rows).value
    strong_dropout(given.model)
    given.model.train()
    assert clean_perplexity(given, rows).value == quiet
    assert given.model.training

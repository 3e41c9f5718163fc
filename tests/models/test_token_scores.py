"""Scores of every answer token against formulas on the model's own logits, row by row, in float64."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from rapidun.data import Template, tokenize_rows
from rapidun.data.batches import Example
from rapidun.models import attach_lora
from rapidun.models.row_losses import row_losses
from rapidun.models.token_scores import TokenScores, token_scores
from tiny import tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)


def examples(count: int = 9, seed: int = 0, turn_end: int = 1) -> list[Example]:
    generator = np.random.default_rng(seed)
    found = []
    for index in range(count):
        length = int(generator.integers(6, 40))
        start = int(generator.integers(1, length - 3))
        ids = generator.integers(3, 300, size=length).tolist()
        found.append(Example(f"row{index}", ids, start, turn_end=turn_end))
    return found


@torch.no_grad()
def naive(model: torch.nn.Module, example: Example) -> tuple[list[float], list[bool], list[float]]:
    """Log-probabilities, hits and z-scores of all answer tokens, one position after another."""
    logits = model(input_ids=torch.tensor([example.input_ids])).logits[0].double().numpy()
    log_probs, hits, z_scores = [], [], []
    for place in range(example.answer_start, len(example)):
        row = logits[place - 1] - np.log(np.exp(logits[place - 1]).sum())
        p = np.exp(row)
        mu = (p * row).sum()
        sigma = math.sqrt((p * row**2).sum() - mu**2)
        token = example.input_ids[place]
        log_probs.append(row[token])
        hits.append(int(row.argmax()) == token)
        z_scores.append((row[token] - mu) / sigma)
    return log_probs, hits, z_scores


def own_words(model: torch.nn.Module, example: Example) -> Example:
    """The same row with every second answer token replaced by the model's own choice, so that some are hits."""
    ids = list(example.input_ids)
    for place in range(example.answer_start, len(ids), 2):
        with torch.no_grad():
            ids[place] = int(model(input_ids=torch.tensor([ids[:place]])).logits[0, -1].argmax())
    return Example(example.id, ids, example.answer_start, turn_end=example.turn_end)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma"])
def test_every_score_is_the_naive_formula(architecture: str) -> None:
    model = tiny_model(architecture)
    rows = [own_words(model, row) for row in examples()]
    found = token_scores(model, rows, 0, CPU)
    for index, row in enumerate(rows):
        log_probs, hits, z_scores = naive(model, row)
        np.testing.assert_allclose(found.log_probs[index], log_probs[:-1], rtol=1e-4)
        assert found.hits[index].tolist() == hits[:-1]
        np.testing.assert_allclose(found.z_scores[index], z_scores[:-1], rtol=2e-2, atol=2e-2)
        assert found.losses[index] == pytest.approx(-np.mean(log_probs), rel=1e-5)
        assert found.tokens[index] == len(log_probs)
    assert 0 < np.concatenate(found.hits).mean() < 1


def test_sharp_distributions_have_the_naive_z_scores() -> None:
    """Logits 40 times as large: spreads of every size, and probabilities that float32 rounds to 0."""
    model = tiny_model()
    model.lm_head.weight.data *= 40
    rows = examples()
    found = token_scores(model, rows, 0, CPU)
    for index, row in enumerate(rows):
        np.testing.assert_allclose(found.z_scores[index], naive(model, row)[2][:-1], rtol=1e-3, atol=1e-3)


def test_a_model_that_is_certain_or_knows_nothing_gets_finite_scores() -> None:
    model = tiny_model()
    model.lm_head.weight.data *= 1e5
    assert all(np.isfinite(row).all() for row in token_scores(model, examples(), 0, CPU).z_scores)
    model.lm_head.weight.data *= 0
    found = token_scores(model, examples(), 0, CPU)
    np.testing.assert_allclose(np.concatenate(found.z_scores), 0, atol=1e-2)
    np.testing.assert_allclose(found.losses, math.log(300), rtol=1e-5)


def same(one: TokenScores, other: TokenScores) -> None:
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)
    for name in ("log_probs", "z_scores", "hits"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_scores_do_not_depend_on_the_rows_beside_them_or_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny_model(), examples(12)
    together = token_scores(model, rows, 0, CPU)
    alone = [token_scores(model, [row], 0, CPU) for row in rows]
    for index, one in enumerate(alone):
        np.testing.assert_allclose(one.losses[0], together.losses[index], rtol=1e-5)
        np.testing.assert_allclose(one.z_scores[0], together.z_scores[index], rtol=1e-3, atol=1e-4)
    order = list(range(12))
    random.Random(1).shuffle(order)
    shuffled = token_scores(model, [rows[index] for index in order], 0, CPU)
    np.testing.assert_allclose(shuffled.losses, together.losses[order], rtol=1e-5)
    monkeypatch.setattr("rapidun.models.passes.PASS_BYTES", 1)  # a batch a row
    monkeypatch.setattr("rapidun.models.token_losses.CHUNK_BYTES", {"cpu": 1})  # a token at a time
    calls: list[tuple[int, int]] = []
    same(token_scores(model, rows, 0, CPU, progress=lambda done, of: calls.append((done, of))), together)
    assert calls == [(done, 12) for done in range(1, 13)]


def test_losses_are_those_of_the_row_losses() -> None:
    model, rows = tiny_model(), examples(12)
    np.testing.assert_allclose(
        token_scores(model, rows, 0, CPU).losses, row_losses(model, rows, 0, CPU).means, rtol=1e-6
    )


def test_an_adapter_counts_and_the_mode_is_restored() -> None:
    rows = examples(4)
    plain = token_scores(tiny_model(), rows, 0, CPU)
    adapted = attach_lora(tiny_model(), rank=2, alpha=4, dropout=0.9, targets="all-linear", seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.train()
    found = token_scores(adapted, rows, 0, CPU)
    assert not np.allclose(found.losses, plain.losses, rtol=1e-3)
    same(found, token_scores(adapted, rows, 0, CPU))  # dropout is off
    assert adapted.training


def test_tokens_without_loss_have_no_scores() -> None:
    model = tiny_model()
    mask = [False] * 10
    mask[5] = mask[8] = True
    row = Example("a", list(range(10, 20)), 4, loss_mask=mask, turn_end=1)
    log_probs, _, _ = naive(model, Example("a", row.input_ids, 4))
    found = token_scores(model, [row, Example("b", row.input_ids, 4, loss_mask=[False] * 10)], 0, CPU)
    np.testing.assert_allclose(found.log_probs[0], [log_probs[1], log_probs[4]], rtol=1e-4)
    assert (len(found.log_probs[1]), found.tokens[1], math.isnan(found.losses[1])) == (0, 0, True)


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_the_end_of_a_turn_is_counted_in_the_loss_and_not_scored(template: str) -> None:
    """A model that ends every finished answer would else have an extraction strength above 0 of what it never saw."""
    tokenizer = tiny_tokenizer(chat_template=CHAT)
    row = {"id": "a", "prompt": "the dog?", "response": "the cat sat"}
    example = tokenize_rows([row], tokenizer, Template.resolve(template, tokenizer), 64)[0]
    assert example.turn_end == 1
    answer = example.input_ids[example.answer_start : -1]
    assert tokenizer.decode(answer).strip() == "the cat sat"
    found = token_scores(tiny_model(), [example], 0, CPU)
    assert (len(found.hits[0]), found.tokens[0]) == (len(answer), len(answer) + 1)


@pytest.mark.parametrize("cut", [0, 1, 2, 5])
def test_an_answer_that_is_cut_has_lost_its_end_first(cut: int) -> None:
    tokenizer = tiny_tokenizer()
    template = Template.resolve("plain", tokenizer)
    row = {"id": "a", "prompt": "x", "response": "the cat sat on the mat and the dog"}
    whole = tokenize_rows([row], tokenizer, template, 128)[0]
    answer = len(whole) - whole.answer_start
    short = tokenize_rows([row], tokenizer, template, answer + 1 - cut)[0]  # BOS and the answer
    assert short.turn_end == (1 if cut == 0 else 0)
    assert short.truncated


def test_an_end_of_several_tokens_is_all_end() -> None:
    ends = CHAT.replace("{{ eos_token }}", "<<over>>{{ eos_token }}")
    tokenizer = tiny_tokenizer(chat_template=ends)
    row = {"id": "a", "prompt": "the dog?", "response": "the cat sat"}
    example = tokenize_rows([row], tokenizer, Template.resolve("chat", tokenizer), 96)[0]
    own = example.input_ids[example.answer_start : len(example) - example.turn_end]
    assert tokenizer.decode(own).strip() == "the cat sat"


def test_the_loss_of_all_rows_is_a_mean_over_answer_tokens_and_not_over_rows() -> None:
    model, rows = tiny_model(), examples()
    model.lm_head.weight.data *= 20  # else each token's loss would be about the same
    found = row_losses(model, rows, 0, CPU)
    own = [log_prob for row in rows for log_prob in naive(model, row)[0]]
    assert found.mean == pytest.approx(-np.mean(own), rel=1e-5)
    assert abs(found.mean - found.means.mean()) > 1e-3  # else these rows could not tell

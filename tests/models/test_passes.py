"""Batches are sized by what a pass of the model holds; attention and output layer do no more than is asked of them."""

from __future__ import annotations

import pytest
import torch

from gradients.cases import examples
from rapidun.attribution import hidden_features
from rapidun.data.batches import collate
from rapidun.gradients import FactoredSketch, GradientCollector, RapidGrad, collect_vectors
from rapidun.models import passes
from rapidun.models.attention import LONGEST, NAME, choose_attention, forms_attention
from rapidun.models.losses import run_decoder
from rapidun.models.passes import PassBytes, pass_batches
from tiny import tiny_model

ROWS = examples([(10 + i % 7, 3 + i % 4) for i in range(30)])


def needed(model, indices, *, backward=True):
    rows = [ROWS[index] for index in indices]
    answers = sum(len(row) - row.answer_start for row in rows)
    return PassBytes.of(model, backward=backward)(len(rows), max(map(len, rows)), answers)


def test_no_batch_takes_more_than_the_budget_and_every_row_is_in_one(monkeypatch):
    model = tiny_model()
    budget = 4 * needed(model, [6])
    monkeypatch.setattr(passes, "PASS_BYTES", budget)
    batches = pass_batches(model, ROWS, 10_000)
    assert sorted(index for batch in batches for index in batch) == list(range(len(ROWS)))
    assert all(needed(model, batch) <= budget for batch in batches)
    assert 1 < max(map(len, batches)) < len(ROWS)


def test_a_row_that_takes_more_than_the_budget_is_a_batch_of_its_own(monkeypatch):
    monkeypatch.setattr(passes, "PASS_BYTES", 1)
    assert sorted(pass_batches(tiny_model(), ROWS, 10_000)) == [[index] for index in range(len(ROWS))]


def test_the_tokens_of_a_batch_are_bounded_as_well():
    assert all(len(batch) * len(ROWS[batch[0]]) <= 40 for batch in pass_batches(tiny_model(), ROWS, 40))


def test_words_layers_and_attention_weights_cost_and_a_forward_pass_alone_costs_less():
    model = tiny_model()
    before = needed(model, [0])
    assert needed(model, [0], backward=False) < before
    for name, more in (("vocab_size", 50_000), ("num_hidden_layers", 40), ("_attn_implementation", "eager")):
        old = getattr(model.config, name)
        setattr(model.config, name, more)
        assert needed(model, [0]) > before, name
        setattr(model.config, name, old)


@pytest.mark.parametrize("sketch", [RapidGrad(256), FactoredSketch(4)])
def test_vectors_do_not_depend_on_the_budget(monkeypatch, sketch):
    model = tiny_model()
    collector = GradientCollector(model, "linear")
    wanted, states = collect_vectors(collector, sketch, ROWS, 0, max_tokens=10_000), hidden_features(model, ROWS, 0)
    monkeypatch.setattr(passes, "PASS_BYTES", 3 * needed(model, [6]))
    seen = []
    found = collect_vectors(collector, sketch, ROWS, 0, max_tokens=10_000, progress=lambda done, all: seen.append(done))
    assert len(seen) > 5
    assert seen[-1] == len(ROWS)
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(wanted), atol=1e-5, rtol=1e-4)
    for one, other in zip(hidden_features(model, ROWS, 0), states, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), torch.from_numpy(other), atol=1e-5, rtol=1e-4)


def test_short_rows_of_a_bfloat16_model_on_a_cpu_are_attended_to_by_plain_products_and_others_are_not():
    cpu, model, other = torch.device("cpu"), tiny_model().bfloat16(), tiny_model()
    for one in (model, other):
        one.set_attn_implementation("sdpa")
        choose_attention(one, cpu, one.dtype)
    assert model.config._attn_implementation == NAME
    assert other.config._attn_implementation == "sdpa"
    assert forms_attention(model, LONGEST)
    assert not forms_attention(model, LONGEST + 1)
    assert not forms_attention(other, 20)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_hidden_states_are_those_of_a_whole_pass_though_one_position_has_logits(architecture):
    model, batch = tiny_model(architecture), collate(ROWS[:4], 0)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    shapes = []
    handle = model.get_output_embeddings().register_forward_hook(lambda *call: shapes.append(call[2].shape[:2]))
    with torch.no_grad():
        found = run_decoder(model, **inputs, output_hidden_states=True).hidden_states
        handle.remove()
        wanted = model(**inputs, output_hidden_states=True).hidden_states
    assert shapes == [(1, 1)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)

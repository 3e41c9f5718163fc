"""Token pairs sum to the influence of the row, whatever the model, the targets, the normalisation and the batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gradients.cases import examples, lora_model
from rapidun.attribution.tokens import trace_tokens, trace_tokens_many
from rapidun.data import Example, collate
from rapidun.errors import ConfigError, InputError, ModelError
from rapidun.gradients import Exact, GradientCollector, register_layer
from rapidun.models.losses import answer_token_losses
from tiny import tiny_model

FORMS = ("loss", "position")
ROWS = examples(((9, 4), (14, 6), (5, 2), (40, 35), (7, 1), (40, 3)))


def row_influence(model, query, train, targets, normalize, token_normalize=False) -> tuple[float, float]:
    """The inner product of the two rows' gradients, and the product of their norms."""
    collector = GradientCollector(model, targets, normalize, token_normalize)
    vectors = [collector(collate([row], 0), Exact())[0].double() for row in (query, train)]
    return float(vectors[0] @ vectors[1]), float(vectors[0].norm() * vectors[1].norm())


def assert_sums(model, targets, by, normalize, token_normalize=False, rows=ROWS):
    query, trains = rows[0], rows[1:]
    found = trace_tokens_many(
        model, query, trains, by=by, targets=targets, normalize=normalize, token_normalize=token_normalize
    )
    for train, influence in zip(trains, found, strict=True):
        wanted, scale = row_influence(model, query, train, targets, normalize, token_normalize)
        assert scale > 0
        assert influence.total == pytest.approx(wanted, rel=1e-5, abs=2e-6 * scale)
        assert influence.query_norm * influence.train_norm == pytest.approx(scale, rel=1e-5)
        assert influence.cosine == pytest.approx(wanted / scale, rel=1e-5, abs=2e-6)


@pytest.mark.parametrize("by", FORMS)
@pytest.mark.parametrize("normalize", ["layer", "unit", "none"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_lora_pairs_sum_to_the_influence_of_the_row(architecture, normalize, by):
    assert_sums(lora_model(architecture), "lora", by, normalize)


@pytest.mark.parametrize("by", FORMS)
@pytest.mark.parametrize("normalize", ["layer", "unit", "none"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_linear_pairs_sum_to_the_influence_of_the_row(architecture, normalize, by):
    assert_sums(tiny_model(architecture), "linear", by, normalize)


@pytest.mark.parametrize("by", FORMS)
def test_normalised_token_errors_sum_too(by):
    assert_sums(lora_model(), "lora", by, "layer", token_normalize=True)


@pytest.mark.parametrize("by", FORMS)
def test_a_layer_called_twice_sums_too(by):
    model = tiny_model()
    model.model.layers[1] = model.model.layers[0]
    assert_sums(model, "linear", by, "layer")


@pytest.mark.parametrize("by", FORMS)
def test_masked_queries_sum_too(by):
    masked = dataclasses.replace(ROWS[3], loss_mask=[place in (36, 38) for place in range(40)])
    assert_sums(lora_model(), "lora", by, "layer", rows=[masked, *ROWS])


def test_by_loss_each_pair_is_the_product_of_two_tokens_gradients():
    model, query, train = tiny_model(), ROWS[0], ROWS[1]
    found = trace_tokens(model, query, train, by="loss", targets="linear", normalize="none")
    tracked = GradientCollector(model, "linear").tracked
    parameters = [parameter for name, parameter in model.named_parameters() if name in tracked]

    def gradients(row):
        batch = collate([row], 0)
        losses, mask = answer_token_losses(model(input_ids=batch.input_ids).logits, batch.labels)
        each = [torch.autograd.grad(loss / mask.sum(), parameters, retain_graph=True) for loss in losses[mask]]
        return torch.stack([torch.cat([part.flatten() for part in parts]) for parts in each]).double()

    wanted = gradients(query) @ gradients(train).T
    np.testing.assert_allclose(found.matrix, wanted.numpy(), rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert found.query_positions == [4, 5, 6, 7, 8]
    assert found.train_positions == list(range(6, 14))


def test_by_position_each_pair_is_the_product_of_activations_and_of_output_gradients():
    model, query, train = tiny_model(), ROWS[0], ROWS[1]
    name = "model.layers.0.mlp.up_proj"
    found = trace_tokens(model, query, train, by="position", targets=[name], normalize="none")
    layer = model.get_submodule(name)

    def factors(row):
        kept = {}

        def keep(module, inputs, output):
            output.retain_grad()
            kept.update(a=inputs[0].detach()[0], y=output)

        handle = layer.register_forward_hook(keep)
        batch = collate([row], 0)
        losses, mask = answer_token_losses(model(input_ids=batch.input_ids).logits, batch.labels)
        (losses.sum() / mask.sum()).backward()
        handle.remove()
        return kept["a"].double(), kept["y"].grad[0].double()

    (a, g), (b, h) = factors(query), factors(train)
    np.testing.assert_allclose(found.matrix, ((a @ b.T) * (g @ h.T)).numpy(), rtol=1e-4, atol=1e-9)
    assert found.matrix.shape == (9, 14)
    assert np.abs(found.matrix[:, 0]).max() > 0  # prompt tokens carry activations too


@pytest.mark.parametrize("by", FORMS)
def test_neither_padding_nor_batching_nor_order_changes_a_pair(by):
    model, query = lora_model(), ROWS[0]
    together = trace_tokens_many(model, query, ROWS, by=by)
    for row, influence in zip(ROWS, together, strict=True):
        alone = trace_tokens(model, query, row, by=by, max_tokens=1, pad_token_id=7)
        assert alone.train_positions == influence.train_positions
        scale = np.abs(alone.matrix).max()
        np.testing.assert_allclose(influence.matrix, alone.matrix, rtol=1e-3, atol=1e-5 * scale)


def test_queries_too_large_for_memory_are_traced_a_few_tokens_at_a_time(monkeypatch):
    model, query = tiny_model(), ROWS[1]
    wanted = trace_tokens(model, query, ROWS[4], by="loss", targets="linear")
    monkeypatch.setattr("rapidun.attribution.token_losses._MAX_VALUES", 1)
    found = trace_tokens(model, query, ROWS[4], by="loss", targets="linear", max_tokens=30)
    np.testing.assert_allclose(found.matrix, wanted.matrix, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("by", FORMS)
def test_chosen_query_tokens_are_rows_of_the_whole_matrix(by):
    model = lora_model()
    whole = trace_tokens(model, ROWS[1], ROWS[0], by=by)
    some = trace_tokens(model, ROWS[1], ROWS[0], by=by, query_tokens=[8, 7])
    assert some.query_positions == [8, 7]
    rows = [whole.query_positions.index(place) for place in (8, 7)]
    np.testing.assert_allclose(some.matrix, whole.matrix[rows], rtol=1e-3, atol=1e-6)


def test_sums_over_tokens_are_those_of_the_matrix():
    found = trace_tokens(lora_model(), ROWS[0], ROWS[1])
    assert found.by_query_token.sum() == pytest.approx(found.total)
    np.testing.assert_array_equal(found.by_train_token, found.matrix.sum(axis=0))


@pytest.mark.parametrize("by", FORMS)
@pytest.mark.parametrize("normalize", ["layer", "unit", "none"])
def test_trap_7_zero_gradients_stay_zero(by, normalize):
    model = lora_model(random_b=False)
    assert_sums(model, "lora", by, normalize)
    silent = dataclasses.replace(ROWS[1], loss_mask=[False] * len(ROWS[1]))
    found = trace_tokens(model, ROWS[0], silent, by=by, normalize=normalize)
    assert found.total == found.cosine == 0


@pytest.mark.parametrize("by", FORMS)
def test_trap_7_gradients_too_small_to_square_are_not_lost(by):
    model = lora_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and "layers" not in name:
                parameter.mul_(1e-26)
    found = trace_tokens(model, ROWS[0], ROWS[1], by=by)
    assert found.query_norm > 1
    assert abs(found.total) > 1e-3


@pytest.mark.parametrize("by", FORMS)
def test_half_precision_is_close_to_float32(by):
    wanted = trace_tokens(tiny_model(), ROWS[0], ROWS[1], by=by, targets="linear", normalize="none")
    found = trace_tokens(tiny_model(dtype=torch.float16), ROWS[0], ROWS[1], by=by, targets="linear", normalize="none")
    assert np.corrcoef(found.matrix.ravel(), wanted.matrix.ravel())[0, 1] > 0.99
    assert found.query_norm == pytest.approx(wanted.query_norm, rel=0.05)


def test_the_model_is_left_as_it_was():
    model = lora_model(dropout=0.5).train()
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    trace_tokens(model, ROWS[0], ROWS[1], by="loss")
    assert model.training
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("options", "words"), [({"by": "word"}, "position"), ({"normalize": "layers"}, "unit")])
def test_unknown_options_are_refused_by_name(options, words):
    with pytest.raises(ConfigError, match=words):
        trace_tokens(tiny_model(), ROWS[0], ROWS[1], targets="linear", **options)


@pytest.mark.parametrize(
    ("by", "tokens", "words"),
    [("loss", [2], "token 2 of query '0' carries no loss"), ("position", [9], "does not exist"), ("loss", [], "empty")],
)
def test_query_tokens_that_cannot_be_traced_are_refused(by, tokens, words):
    with pytest.raises(InputError, match=words):
        trace_tokens(tiny_model(), ROWS[0], ROWS[1], by=by, targets="linear", query_tokens=tokens)


def test_layers_that_are_not_linear_are_refused(monkeypatch):
    monkeypatch.setattr("rapidun.gradients.layers._REGISTERED", {})
    model = tiny_model()
    norm = type(model.model.norm)
    register_layer(norm)(lambda layer, activations, output_gradients: (activations * output_gradients).sum(dim=1))
    with pytest.raises(ModelError, match=f"{norm.__name__}: influence of tokens needs linear layers"):
        trace_tokens(model, ROWS[0], ROWS[1], targets=["norm"])


def test_no_training_row_gives_nothing():
    assert trace_tokens_many(tiny_model(), ROWS[0], [], targets="linear") == []


def test_a_query_that_is_a_training_row_explains_itself():
    row = Example("q", list(range(3, 15)), 5)
    found = trace_tokens(lora_model(), row, row, by="loss")
    assert found.cosine == pytest.approx(1, rel=1e-5)
    assert (np.diag(found.matrix) > 0).all()

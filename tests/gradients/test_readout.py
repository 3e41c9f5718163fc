"""The readout is the sketch of autograd's output-layer gradient, in one forward pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from gradients.cases import concatenated, examples, looped_gradients, lora_model
from rapidun.data.batches import collate
from rapidun.errors import ConfigError, ModelError
from rapidun.gradients import (
    Exact,
    GradientCollector,
    RapidGrad,
    Readout,
    ReadoutCollector,
    collect_vectors,
    make_collector,
)
from tiny import _COMMON, _SMALL, VOCABULARY, tiny_model

CPU = torch.device("cpu")
UNTIED = ("llama", "mistral", "gpt_neox")


def untied_gemma2():
    torch.manual_seed(0)
    settings = {**_COMMON, **_SMALL, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": False}
    config = AutoConfig.for_model("gemma2", **settings, final_logit_softcapping=0.5)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def untied_granite():
    torch.manual_seed(0)
    settings = {**_COMMON, **_SMALL, "num_key_value_heads": 1, "tie_word_embeddings": False}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("granite", **settings, logits_scaling=4.0)).eval()


@pytest.mark.parametrize("architecture", UNTIED)
def test_its_gradient_is_autograds_of_the_output_layer(architecture):
    model, rows = tiny_model(architecture), examples()
    collector = ReadoutCollector(model, normalize="none")
    wanted = concatenated(looped_gradients(model, rows, collector.tracked))
    torch.testing.assert_close(collector(collate(rows, 0), Exact()), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("build", [untied_gemma2, untied_granite])
def test_soft_caps_and_scales_after_the_output_layer_are_differentiated(build):
    model, rows = build(), examples()
    collector = ReadoutCollector(model, normalize="none")
    wanted = concatenated(looped_gradients(model, rows, collector.tracked))
    torch.testing.assert_close(collector(collate(rows, 0), Exact()), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [64, 100])
def test_it_is_the_count_sketch_whose_hash_is_the_sum_of_two(k):
    model, rows, sketch = tiny_model(), examples(), Readout(k, seed=4)
    collector = ReadoutCollector(model, normalize="none")
    (name,) = collector.tracked
    gradient = looped_gradients(model, rows, [name])[name].view(len(rows), VOCABULARY, -1)
    channel = RapidGrad(k, 4).buckets_and_signs
    (out_buckets, out_signs) = channel(f"out:{name}", 0, VOCABULARY, CPU)
    (in_buckets, in_signs) = channel(f"in:{name}", 0, gradient.shape[2], CPU)
    buckets = (out_buckets[:, None] + in_buckets[None]) % k
    signed = gradient * out_signs[:, None] * in_signs[None]
    wanted = torch.zeros(len(rows), k).index_add_(1, buckets.flatten(), signed.flatten(1))
    torch.testing.assert_close(collector(collate(rows, 0), sketch), wanted, atol=1e-5, rtol=1e-4)


def test_inner_products_are_unbiased_over_seeds_with_an_error_of_the_order_of_one_over_root_k():
    activations, errors = torch.randn(2, 4, 20), torch.randn(2, 4, 30)
    activations[1] += activations[0]
    errors[1] += errors[0]
    x, y = torch.einsum("bto,bti->boi", errors, activations).flatten(1).double()
    found = []
    for seed in range(1500):
        total = torch.zeros(2, 128)
        Readout(128, seed).add_factors(total, "w", activations, errors, {})
        found.append(float(total[0] @ total[1]))
    inner = torch.tensor(found).double()
    assert abs(inner.mean() - x @ y) < 4 * inner.std() / len(found) ** 0.5
    assert inner.std() < 2 * x.norm() * y.norm() / 128**0.5


def test_any_layer_may_be_sketched_so():
    model, rows = tiny_model(), examples()
    collector = GradientCollector(model, "linear")
    exact = collector(collate(rows, 0), Exact())
    cosines = torch.stack(
        [sketched @ sketched.T for sketched in (collector(collate(rows, 0), Readout(4096, seed)) for seed in range(4))]
    ).mean(dim=0)
    torch.testing.assert_close(cosines, exact @ exact.T, atol=0.6, rtol=0)


@pytest.mark.parametrize("normalize", ["none", "layer"])
def test_a_row_has_the_same_vector_in_every_batch_and_order(normalize, monkeypatch):
    rows, sketch = examples(), Readout(256)
    collector = ReadoutCollector(tiny_model("gpt2"), normalize=normalize)
    together = torch.from_numpy(collect_vectors(collector, sketch, rows, 0, max_tokens=1000))
    monkeypatch.setattr("rapidun.gradients.readout._MAX_VALUES", 600)
    backwards = torch.from_numpy(collect_vectors(collector, sketch, rows[::-1], 0, max_tokens=20))
    torch.testing.assert_close(together, backwards.flip(0), atol=1e-6, rtol=1e-4)


def test_layer_gives_norm_one():
    found = ReadoutCollector(tiny_model())(collate(examples(), 0), Exact())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))


def test_trap_11_tied_embeddings_give_the_output_layers_own_part():
    """Untie the same model by hand: the gradient of the copy in the output layer is the readout's."""
    model, rows = tiny_model("gpt2"), examples()
    found = ReadoutCollector(model, normalize="none")(collate(rows, 0), Exact())
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    wanted = concatenated(looped_gradients(model, rows, ["lm_head.weight"]))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_an_adapter_is_part_of_the_forward_pass():
    rows = examples()
    model = lora_model()
    collector = ReadoutCollector(model, normalize="none")
    wanted = concatenated(looped_gradients(model, rows, collector.tracked))
    found = collector(collate(rows, 0), Exact())
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    with model.disable_adapter():
        assert (collector(collate(rows, 0), Exact()) - found).abs().max() > 1e-3


def test_an_adapted_output_layer_has_the_gradient_of_its_base_weight():
    config = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    model, rows = get_peft_model(tiny_model(), config).eval(), examples()
    collector = ReadoutCollector(model, normalize="none")
    assert collector.tracked[0].endswith("lm_head.base_layer.weight")
    wanted = concatenated(looped_gradients(model, rows, collector.tracked))
    torch.testing.assert_close(collector(collate(rows, 0), Exact()), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_float32_vectors_close_to_float32(dtype):
    rows = examples()
    wanted = ReadoutCollector(tiny_model())(collate(rows, 0), Readout(512))
    found = ReadoutCollector(tiny_model(dtype=dtype))(collate(rows, 0), Readout(512))
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, wanted).min() > 0.98


def test_token_normalize_gives_every_answer_token_an_error_of_norm_one():
    row = examples([(6, 5)])  # one answer token: its gradient is e h^T
    model = tiny_model()
    collector = ReadoutCollector(model, normalize="none", token_normalize=True)
    hidden = model.model(torch.tensor([row[0].input_ids])).last_hidden_state[0, 4]
    torch.testing.assert_close(collector(collate(row, 0), Exact()).norm(), hidden.norm().detach())


def test_a_row_without_answer_tokens_has_gradient_zero():
    rows = examples()
    rows[1] = dataclasses.replace(rows[1], answer_start=len(rows[1]))
    found = ReadoutCollector(tiny_model())(collate(rows, 0), Readout(64))
    assert found[1].abs().sum() == 0
    assert found[[0, 2, 3, 4]].abs().sum(dim=1).min() > 0
    assert ReadoutCollector(tiny_model())(collate(rows[1:2], 0), Readout(64)).abs().sum() == 0


def test_nothing_is_differentiated_and_nothing_is_left_on_the_model():
    model = lora_model(dropout=0.5).train()
    before = [(p.requires_grad, p.grad, p.sum().item()) for p in model.parameters()]
    collector = ReadoutCollector(model)
    with torch.inference_mode():
        first = collector(collate(examples(), 0), Readout(64))
    second = collector(collate(examples(), 0), Readout(64))
    assert torch.equal(first, second)
    assert not second.requires_grad
    assert torch.is_grad_enabled()
    assert [(p.requires_grad, p.grad, p.sum().item()) for p in model.parameters()] == before
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_output_layer_sees_answer_tokens_alone():
    model, seen = tiny_model(), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    rows = examples()
    ReadoutCollector(model)(collate(rows, 0), Readout(64))
    assert [shape[1] for shape in seen] == [sum(len(row) - row.answer_start for row in rows)]


def test_make_collector_knows_which_sketch_needs_no_backward_pass():
    model = tiny_model()
    assert isinstance(make_collector(model, Readout(64), "linear"), ReadoutCollector)
    assert isinstance(make_collector(model, RapidGrad(64), "linear"), GradientCollector)


def test_wrong_settings_and_models_are_errors():
    with pytest.raises(ConfigError, match="normalize='l2'"):
        ReadoutCollector(tiny_model(), normalize="l2")
    with pytest.raises(ModelError, match=r"Linear\.get_output_embeddings"):
        ReadoutCollector(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="k=0"):
        Readout(0)

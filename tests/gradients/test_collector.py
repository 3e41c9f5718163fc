"""The collector gives the gradients that a loop over rows gives, whatever the model and the batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from gradients.cases import LENGTHS, concatenated, examples, looped_gradients, lora_model
from rapidun.data.batches import collate
from rapidun.errors import ConfigError, ModelError
from rapidun.gradients import Exact, GradientCollector, RapidGrad, collect_vectors
from tiny import ARCHITECTURES, VOCABULARY, tiny_model


def assert_equals_loop(model, targets, lengths=LENGTHS):
    rows = examples(lengths)
    collector = GradientCollector(model, targets, normalize="none")
    wanted = concatenated(looped_gradients(model, rows, collector.tracked))
    found = collector(collate(rows, 0), Exact())
    assert found.dtype == torch.float32
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_linear_targets_equal_looped_autograd(architecture):
    assert_equals_loop(tiny_model(architecture), "linear")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_targets_equal_looped_autograd(architecture):
    assert_equals_loop(lora_model(architecture), "lora")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_base_layers_inside_peft_wrappers_equal_looped_autograd(architecture):
    assert_equals_loop(lora_model(architecture), "linear")


def test_the_layer_norms_of_every_tensor_are_one():
    rows, model = examples(), tiny_model()
    collector = GradientCollector(model, "linear", normalize="layer")
    found = collector(collate(rows, 0), Exact())
    raw = looped_gradients(model, rows, collector.tracked)
    torch.testing.assert_close(found, concatenated({n: g / g.norm(dim=1, keepdim=True) for n, g in raw.items()}))


def test_unit_gives_the_whole_gradient_norm_one():
    found = GradientCollector(tiny_model(), "linear", normalize="unit")(collate(examples(), 0), Exact())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))


def test_unit_works_a_few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr("rapidun.gradients.recording._MAX_VALUES", 600)
    found = GradientCollector(tiny_model(), "linear", normalize="unit")(collate(examples(), 0), RapidGrad(4096))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5), atol=0.1, rtol=0)


def test_gradients_of_one_large_tensor_are_formed_a_few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr("rapidun.gradients.recording._MAX_VALUES", 600)
    assert_equals_loop(tiny_model(), "linear")


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(reentrant):
    model = lora_model()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert_equals_loop(model, "lora")


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_that_runs_every_layer_twice_counts_it_once(reentrant):
    model, rows = tiny_model(), examples()
    wanted = GradientCollector(model, "linear")(collate(rows, 0), Exact())
    for layer in model.model.layers:
        inner = layer.forward
        layer.forward = lambda x, inner=inner, **rest: checkpoint(
            lambda x: inner(x, **rest), x, use_reentrant=reentrant
        )
    torch.testing.assert_close(GradientCollector(model, "linear")(collate(rows, 0), Exact()), wanted)


def test_a_layer_called_twice_has_the_sum_of_both_gradients():
    model = tiny_model()
    model.model.layers[1] = model.model.layers[0]
    assert_equals_loop(model, "linear")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_finite_float32_gradients_close_to_float32(dtype):
    rows = examples()
    wanted = GradientCollector(tiny_model(), "linear")(collate(rows, 0), Exact())
    found = GradientCollector(tiny_model(dtype=dtype), "linear")(collate(rows, 0), Exact())
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, wanted).min() > 0.95


def test_float16_gradients_without_normalisation_are_not_scaled():
    rows = examples()
    wanted = GradientCollector(tiny_model(), "linear", normalize="none")(collate(rows, 0), Exact())
    found = GradientCollector(tiny_model(dtype=torch.float16), "linear", normalize="none")(collate(rows, 0), Exact())
    torch.testing.assert_close(found.norm(dim=1), wanted.norm(dim=1), rtol=0.05, atol=0)


def test_trap_7_zero_gradients_stay_zero():
    rows, model = examples(), lora_model(random_b=False, dtype=torch.float16)
    collector = GradientCollector(model, "lora", normalize="layer")
    parts = collector(collate(rows, 0), Exact()).split(list(collector.sizes.values()), dim=1)
    for name, part in zip(collector.tracked, parts, strict=True):
        norms = part.norm(dim=1)
        expected = torch.zeros(5) if "lora_A" in name else torch.ones(5)
        torch.testing.assert_close(norms, expected, msg=name)


def test_trap_7_tiny_gradients_are_not_flushed_to_zero():
    model = lora_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(1e-24)
    collector = GradientCollector(model, "lora", normalize="layer")
    parts = collector(collate(examples(), 0), Exact()).split(list(collector.sizes.values()), dim=1)
    torch.testing.assert_close(torch.stack([part.norm(dim=1) for part in parts]), torch.ones(len(parts), 5))


def test_trap_9_exactly_the_asked_tensors_are_tracked():
    model = lora_model()
    lora = {n for n, _ in model.named_parameters() if "lora_" in n}
    assert set(GradientCollector(model, "lora").tracked) == lora
    linear = set(GradientCollector(model, "linear").tracked)
    assert len(linear) == 2 * 7
    assert all(name.endswith(".base_layer.weight") for name in linear)
    assert set(GradientCollector(model, ["q_proj"]).tracked) == {n for n in linear if "q_proj" in n}


def test_trap_9_only_the_active_adapter_is_tracked():
    from peft import LoraConfig

    model = lora_model()
    model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear"))
    assert all(".default." in name for name in GradientCollector(model, "lora").tracked)


def test_trap_10_dropout_is_off_while_collecting_and_the_mode_comes_back():
    rows = examples()
    model = lora_model(dropout=0.5)
    wanted = GradientCollector(model, "lora")(collate(rows, 0), Exact())
    model.train()
    model.base_model.model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    torch.testing.assert_close(GradientCollector(model, "lora")(collate(rows, 0), Exact()), wanted)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("architecture", ["gpt2", "gemma"])
def test_trap_11_weights_tied_to_the_embedding_are_not_tracked(architecture):
    model = tiny_model(architecture)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not any("head" in name for name in GradientCollector(model, "linear").tracked)
    with pytest.raises(ModelError, match="shares its weight with an embedding"):
        GradientCollector(model, ["lm_head"])


def test_trap_11_two_layers_that_share_a_weight_are_one_tensor_with_the_sum_of_their_gradients():
    model = tiny_model()
    first, second = model.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    assert sum("up_proj" in name for name in GradientCollector(model, "linear").tracked) == 1
    assert_equals_loop(model, "linear")


@pytest.mark.parametrize("lengths", [((9, 7), (14, 6), (11, 10)), ((9, 9), (6, 4))])
def test_positions_before_every_answer_and_rows_without_one_change_nothing(lengths):
    assert_equals_loop(tiny_model(), "linear", lengths)


def test_nothing_before_the_first_tracked_layer_is_differentiated():
    model, flags = tiny_model(), []
    collector = GradientCollector(model, ["layers.1.mlp.up_proj"])
    collector(collate(examples(), 0), Exact())  # the first batch is also compared with autograd
    handles = [
        layer.register_forward_hook(lambda layer, inputs, output: flags.append(output.requires_grad))
        for layer in (model.model.embed_tokens, model.model.layers[0].mlp, model.model.layers[1].mlp)
    ]
    collector(collate(examples(), 0), Exact())
    for handle in handles:
        handle.remove()
    assert flags == [False, False, True]
    assert_equals_loop(model, ["layers.1.mlp.up_proj"])


def test_a_model_may_change_what_its_first_tracked_layer_gives_in_place():
    model = tiny_model()
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x: mlp.down_proj(mlp.gate_proj(x).add_(mlp.up_proj(x)))
    assert_equals_loop(model, ["layers.0.mlp.gate_proj", "layers.0.mlp.up_proj"])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 0.5}),
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 3.0}),
    ],
)
def test_what_a_model_does_to_its_logits_is_differentiated(kind, settings):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, pad_token_id=0, num_key_value_heads=1, **sizes, **settings
    )
    assert_equals_loop(AutoModelForCausalLM.from_config(config).eval(), "linear")


@pytest.mark.parametrize("architecture", ["llama", "gemma"])
def test_an_adapter_on_the_output_layer_sees_every_position(architecture):
    model = get_peft_model(tiny_model(architecture), LoraConfig(r=2, target_modules=["q_proj", "lm_head"])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    assert_equals_loop(model, "lora")


def test_an_untied_output_head_can_be_asked_for_by_name():
    assert_equals_loop(tiny_model("gpt_neox"), ["lm_head", "layers.1.mlp.dense_4h_to_h.weight"])


def test_nothing_is_left_on_the_model():
    model = lora_model().train()
    before = snapshot(model)
    GradientCollector(model, "lora")(collate(examples(), 0), RapidGrad(64))
    assert snapshot(model) == before


def test_nothing_is_left_on_the_model_after_an_exception():
    class Broken(Exact):
        def add(self, *arguments):
            raise RuntimeError("full")

    model = lora_model().train()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="full"):
        GradientCollector(model, "lora")(collate(examples(), 0), Broken())
    assert snapshot(model) == before


def snapshot(model):
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training) for m in model.modules()
    ]
    attributes = [sorted(vars(m)) for m in model.modules()]
    parameters = [(n, p.requires_grad, p.grad, p.sum().item()) for n, p in model.named_parameters()]
    return hooks, attributes, parameters


def test_collecting_works_where_gradients_are_switched_off():
    rows, model = examples(), tiny_model()
    collector = GradientCollector(model, "linear")
    batch = collate(rows, 0)
    wanted = collector(batch, Exact())
    with torch.no_grad():
        torch.testing.assert_close(collector(batch, Exact()), wanted)
    with torch.inference_mode():
        torch.testing.assert_close(collector(batch, Exact()), wanted)


def test_a_row_without_answer_tokens_has_gradient_zero():
    rows = examples()
    rows[1] = dataclasses.replace(rows[1], answer_start=len(rows[1]))
    found = GradientCollector(tiny_model(), "linear")(collate(rows, 0), Exact())
    assert found[1].abs().sum() == 0
    assert found[0].abs().sum() > 0
    assert GradientCollector(tiny_model(), "linear")(collate(rows[1:2], 0), Exact()).abs().sum() == 0


def test_token_normalize_gives_every_answer_token_an_output_error_of_norm_one():
    model, rows = tiny_model(), examples()
    collector = GradientCollector(model, ["down_proj"], normalize="none", token_normalize=True)
    found = collector(collate(rows, 0), Exact())
    for index, row in enumerate(rows):
        ids = torch.tensor([row.input_ids])
        parameters = [p for n, p in model.named_parameters() if "down_proj" in n]
        logits = model(input_ids=ids).logits[0, row.answer_start - 1 : -1]
        targets = ids[0, row.answer_start :]
        errors = logits.softmax(-1).detach()
        errors[range(len(targets)), targets] -= 1
        signal = errors / errors.norm(dim=1, keepdim=True) / len(targets)
        wanted = torch.cat([g.flatten() for g in torch.autograd.grad(logits, parameters, signal)])
        torch.testing.assert_close(found[index], wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("targets", "text"),
    [(["q_prj"], "q_proj"), (["nonsense"], "Available: .*q_proj"), ("lora", "Attach an adapter")],
)
def test_targets_that_match_nothing_are_an_error_that_lists_what_there_is(targets, text):
    with pytest.raises(ModelError, match=text):
        GradientCollector(tiny_model(), targets)


def test_unknown_settings_are_errors():
    with pytest.raises(ConfigError, match="normalize='l2'"):
        GradientCollector(tiny_model(), "linear", normalize="l2")
    with pytest.raises(ConfigError, match="targets='all'"):
        GradientCollector(tiny_model(), "all")
    with pytest.raises(ConfigError, match=r"targets=\[\]"):
        GradientCollector(tiny_model(), [])


def test_a_switched_off_adapter_is_an_error_and_not_zeros():
    model = lora_model()
    collector = GradientCollector(model, "lora")
    with model.disable_adapter(), pytest.raises(ModelError, match="switched off"):
        collector(collate(examples(), 0), Exact())


def test_gradients_that_are_not_finite_are_an_error_that_names_the_rows():
    model = tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = float("nan")
    rows = examples()
    rows[2] = dataclasses.replace(rows[2], input_ids=[7] * 5)
    with pytest.raises(ModelError, match=r"rows \[2\]"):
        GradientCollector(model, "linear")(collate(rows, 0), RapidGrad(64))


def test_vectors_come_in_the_order_of_the_examples_with_progress():
    model, rows = tiny_model(), examples()
    collector, sketch = GradientCollector(model, "linear"), RapidGrad(256)
    done = []
    vectors = collect_vectors(collector, sketch, rows, 0, max_tokens=30, progress=lambda *counts: done.append(counts))
    assert vectors.dtype == "float32"
    assert done[-1] == (len(rows), len(rows))
    assert len(done) > 1
    assert done == sorted(done)
    for row, vector in zip(rows, vectors, strict=True):
        alone = collector(collate([row], 0), sketch)[0]
        torch.testing.assert_close(torch.from_numpy(vector), alone, atol=1e-5, rtol=1e-4)


def test_no_examples_give_an_empty_array():
    collector = GradientCollector(tiny_model(), "linear")
    assert collect_vectors(collector, RapidGrad(256), [], 0, max_tokens=30).shape == (0, 256)

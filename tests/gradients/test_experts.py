"""Fused experts and adapters on parameters: their gradients are autograd's, though no layer of theirs has a forward."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from gradients.cases import concatenated, examples, looped_gradients
from rapidun.data.batches import collate
from rapidun.errors import ModelError
from rapidun.gradients import Exact, FactoredSketch, GradientCollector
from rapidun.gradients.token_factors import FactorCollector
from tiny import tiny_model

MIXTURES = ("mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3")
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def adapted(architecture="mixtral", parameters=EXPERTS, **options):
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], target_parameters=parameters, **options)
    model = get_peft_model(tiny_model(architecture), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def assert_equals_loop(model, targets):
    rows = examples()
    collector = GradientCollector(model, targets, normalize="none")
    wanted = concatenated(looped_gradients(model, rows, collector.tracked))
    torch.testing.assert_close(collector(collate(rows, 0), Exact()), wanted, atol=1e-5, rtol=1e-4)
    return collector.tracked


@pytest.mark.parametrize("architecture", MIXTURES)
def test_the_gradients_of_fused_experts_equal_looped_autograd(architecture):
    tracked = assert_equals_loop(tiny_model(architecture), "linear")
    assert any(name.endswith("experts.down_proj") for name in tracked)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_it_does_not_matter_how_the_model_runs_its_experts(implementation):
    model = tiny_model("mixtral")
    model.set_experts_implementation(implementation)
    assert_equals_loop(model, ["experts.gate_up_proj", "down_proj"])


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_an_adapter_on_fused_experts_has_autograds_gradients(architecture):
    tracked = assert_equals_loop(adapted(architecture), "lora")
    assert sum("experts" in name for name in tracked) == 2 * 2 * 2


def test_the_experts_under_an_adapter_can_be_tracked_themselves():
    assert_equals_loop(adapted(), "linear")


def test_an_adapter_on_the_weight_of_a_linear_layer_has_autograds_gradients():
    assert_equals_loop(adapted("llama", ["self_attn.v_proj.weight"]), "lora")


def test_an_adapter_on_a_router_is_refused_by_name():
    with pytest.raises(ModelError, match=r"mlp\.gate: .*'weight' of a MixtralTopKRouter"):
        GradientCollector(adapted("mixtral", ["mlp.gate.weight"]), "lora")


@pytest.mark.parametrize(
    "model", [tiny_model("mixtral"), tiny_model("gpt_oss"), adapted()], ids=["rows", "columns", "lora"]
)
def test_the_factors_of_experts_give_their_gradients(model):
    def compare(name, rows, gradients):
        again = gradients.with_factors(*gradients.factors()).formed()
        torch.testing.assert_close(again, gradients.formed(), atol=1e-6, rtol=1e-4)

    targets = "lora" if hasattr(model, "peft_config") else "linear"
    GradientCollector(model, targets).visit(collate(examples(), 0), compare)
    assert GradientCollector(model, targets)(collate(examples(), 0), FactoredSketch(4)).isfinite().all()


def test_an_expert_that_no_token_of_a_row_went_to_has_gradient_zero():
    model, row = tiny_model("mixtral"), examples(((3, 2),))
    seen = {}
    collector = GradientCollector(model, ["layers.0.mlp.experts.down_proj"])
    collector.visit(collate(row, 0), lambda name, rows, gradients: seen.update({name: gradients.formed()}))
    (values,) = seen.values()
    used = values.view(4, -1).abs().sum(dim=1) > 0
    (wanted,) = looped_gradients(model, row, collector.tracked).values()
    assert used.tolist() == (wanted.view(4, -1).abs().sum(dim=1) > 0).tolist()


def test_nothing_is_left_on_the_experts_also_after_an_exception():
    model = tiny_model("mixtral")
    collector, before = GradientCollector(model, "linear"), [sorted(vars(module)) for module in model.modules()]

    def broken(name, rows, gradients):
        raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        collector.visit(collate(examples(), 0), broken)
    assert [sorted(vars(module)) for module in model.modules()] == before


def test_influence_of_tokens_leaves_experts_out_of_linear_and_refuses_them_by_name():
    assert not any("experts" in name for name in FactorCollector(tiny_model("mixtral"), "linear").tracked)
    with pytest.raises(ModelError, match="needs linear layers"):
        FactorCollector(adapted(), "lora")

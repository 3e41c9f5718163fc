"""Tracked means collected: the first batch is compared with autograd, and a tensor that disagrees is named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gradients.cases import examples
from rapidun.data.batches import collate
from rapidun.errors import ModelError
from rapidun.gradients import Exact, GradientCollector
from rapidun.gradients.targets import untracked_layers
from tiny import tiny_model


def collect(model, targets="linear"):
    return GradientCollector(model, targets)(collate(examples(), 0), Exact())


def reading_directly(model):
    """Its first up_proj is multiplied with, and never called."""
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x: mlp.down_proj(F.silu(mlp.gate_proj(x)) * F.linear(x, mlp.up_proj.weight))
    return model


def test_a_weight_that_the_model_reads_without_its_layer_is_refused_by_name():
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj.*none was collected.*without 'up_proj'"):
        collect(reading_directly(tiny_model()), ["up_proj"])


def test_linear_leaves_such_a_layer_out_and_says_why():
    model = reading_directly(tiny_model())
    assert untracked_layers(model) == {
        "model.layers.0.mlp.up_proj.weight": "the model reads its weight without calling it"
    }
    assert "model.layers.0.mlp.up_proj.weight" not in GradientCollector(model, "linear").tracked
    assert collect(model).isfinite().all()


def test_a_weight_that_is_also_used_elsewhere_is_refused():
    model = tiny_model()
    mlp = model.model.layers[1].mlp
    mlp.forward = lambda x: mlp.down_proj(F.silu(mlp.gate_proj(x)) * (mlp.up_proj(x) + F.linear(x, mlp.up_proj.weight)))
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj.*of its norm off"):
        collect(model)


@pytest.mark.parametrize("targets", ["linear", ["dt_proj"]])
def test_mamba_reads_dt_proj_directly(targets):
    model = tiny_model("mamba")
    if targets == "linear":
        assert not any("dt_proj" in name for name in GradientCollector(model, targets).tracked)
        assert collect(model).isfinite().all()
    else:
        with pytest.raises(ModelError, match="without 'dt_proj'"):
            collect(model, targets)


def test_layers_that_do_not_take_part_are_no_fault():
    model = tiny_model()
    model.model.layers[1].mlp.forward = torch.zeros_like
    found = collect(model)
    assert found.abs().sum() > 0


def test_layers_that_give_more_than_a_product_are_left_out():
    names = GradientCollector(tiny_model("llama4_text"), "linear").tracked
    assert not any("router" in name for name in names)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["llama", "mixtral", "mamba"])
def test_rounding_of_half_precision_is_no_fault(architecture, dtype):
    assert collect(tiny_model(architecture, dtype=dtype)).isfinite().all()


def test_the_comparison_is_made_once_and_leaves_gradients_and_flags():
    model, passes = tiny_model(), []
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.grad = torch.ones_like(weight)
    collector = GradientCollector(model, "linear")
    handle = model.register_forward_pre_hook(lambda *_: passes.append(1))
    collector(collate(examples(), 0), Exact())
    collector(collate(examples(), 0), Exact())
    handle.remove()
    assert len(passes) == 2 + 2
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(parameter.requires_grad for parameter in model.parameters())

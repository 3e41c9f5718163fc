"""A layer without a float weight is tracked through what it sees and what comes back to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradients.cases import concatenated, examples, looped_gradients
from rapidun.data.batches import collate
from rapidun.gradients import Exact, FactoredSketch, GradientCollector, RapidGrad, register_layer
from rapidun.gradients import layers as layers_file
from rapidun.gradients.layers import linear
from tiny import tiny_model


class Int8Linear(nn.Module):
    """int8 codes with a scale a row; keeps no weight, and knows its size from its features."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        scale = layer.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("codes", (layer.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.codes.to(x.dtype)) * self.scale.T


@pytest.fixture
def quantised(monkeypatch):
    """The model with every projection in int8, and the same model with the codes' values as float weights."""
    monkeypatch.setattr(layers_file, "_REGISTERED", dict(layers_file._REGISTERED))
    register_layer(Int8Linear, outer_product=True)(linear)
    model, same = tiny_model(), tiny_model()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and "proj" in name:
            parent, _, child = name.rpartition(".")
            int8 = Int8Linear(layer)
            setattr(model.get_submodule(parent), child, int8)
            same.get_submodule(name).weight.data = int8.codes.float() * int8.scale
    return model, same


def test_its_gradients_are_those_of_the_weight_it_stands_for(quantised):
    model, same = quantised
    collector = GradientCollector(model, "linear", normalize="none")
    assert len(collector.tracked) == 14
    wanted = concatenated(looped_gradients(same, examples(), collector.tracked))
    torch.testing.assert_close(collector(collate(examples(), 0), Exact()), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sketch", [RapidGrad(512), FactoredSketch(4)])
def test_every_sketch_takes_it(quantised, sketch):
    found, wanted = (GradientCollector(model, "linear")(collate(examples(), 0), sketch) for model in quantised)
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)


def test_it_can_be_asked_for_by_name(quantised):
    assert GradientCollector(quantised[0], ["layers.1.mlp.up_proj"]).sizes == {
        "model.layers.1.mlp.up_proj.weight": 16 * 24
    }

"""FactoredSketch is P_out grad P_in^T of autograd's gradient, whatever the layer and the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradients.cases import examples, looped_gradients, lora_model
from rapidun.data.batches import collate
from rapidun.errors import ConfigError, ModelError
from rapidun.gradients import Exact, FactoredSketch, GradientCollector, RapidGrad, collect_vectors, register_layer
from rapidun.gradients import norms as norms_file
from tiny import tiny_model

CPU = torch.device("cpu")
GOLDEN = [[-1.0, 1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0], [1.0, 1.0, -1.0, 1.0]]


def projected(sketch, model, gradients, normalize="none"):
    """P_out G P_in^T of looped autograd's gradients, tensor by tensor."""
    found = []
    for name, values in gradients.items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        matrix = values.view(len(values), *layer.weight.shape)
        matrix = matrix if isinstance(layer, nn.Linear) else matrix.transpose(1, 2)  # Conv1D keeps (in, out)
        if normalize == "layer":
            matrix = matrix / matrix.norm(dim=(1, 2), keepdim=True)
        p_out = sketch.projection(name, "out", matrix.shape[1], CPU).T
        p_in = sketch.projection(name, "in", matrix.shape[2], CPU).T
        found.append((p_out @ matrix @ p_in.T).flatten(1))
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("normalize", ["none", "layer"])
@pytest.mark.parametrize(("build", "targets"), [(tiny_model, "linear"), (lora_model, "lora")])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_it_is_the_projection_of_looped_autograd_on_both_sides(architecture, build, targets, normalize):
    model, rows, sketch = build(architecture), examples(), FactoredSketch(p=3, seed=2)
    collector = GradientCollector(model, targets, normalize=normalize)
    wanted = projected(sketch, model, looped_gradients(model, rows, collector.tracked), normalize)
    found = collector(collate(rows, 0), sketch)
    assert found.shape == (len(rows), 9 * len(collector.tracked))
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_layers_that_share_a_weight_are_one_tensor_with_the_sum_of_their_gradients():
    model, rows, sketch = tiny_model(), examples(), FactoredSketch(p=3)
    first, second = model.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    collector = GradientCollector(model, ["up_proj"], normalize="none")
    wanted = projected(sketch, model, looped_gradients(model, rows, collector.tracked))
    torch.testing.assert_close(collector(collate(rows, 0), sketch), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("normalize", ["layer", "unit"])
def test_a_row_has_the_same_vector_in_every_batch_and_order(normalize):
    rows, sketch = examples(), FactoredSketch(p=4)
    collector = GradientCollector(tiny_model(), "linear", normalize=normalize)
    together = torch.from_numpy(collect_vectors(collector, sketch, rows, 0, max_tokens=1000))
    backwards = torch.from_numpy(collect_vectors(collector, sketch, rows[::-1], 0, max_tokens=20))
    torch.testing.assert_close(together, backwards.flip(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 50, 6, 5), (2, 3, 40, 30)])
def test_norms_from_factors_are_those_of_the_gradient_by_either_way(shape):
    rows, tokens, inputs, outputs = shape
    activations, errors = torch.randn(rows, tokens, inputs), torch.randn(rows, tokens, outputs)
    errors[1] *= 1e-30
    formed = torch.einsum("bto,bti->boi", errors.double(), activations.double()).flatten(1).norm(dim=1)
    found = norms_file.factor_norms(activations, errors)
    torch.testing.assert_close(found.double(), formed, rtol=1e-5, atol=0)


def test_unit_gives_the_whole_gradient_norm_one():
    model, rows = tiny_model(), examples()
    found = GradientCollector(model, "linear", normalize="unit")(collate(rows, 0), FactoredSketch(p=4))
    raw = GradientCollector(model, "linear", normalize="none")
    norms = raw(collate(rows, 0), Exact()).norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, raw(collate(rows, 0), FactoredSketch(p=4)) / norms, atol=1e-5, rtol=1e-4)


def test_trap_7_zero_gradients_stay_zero():
    collector = GradientCollector(lora_model(random_b=False), "lora")
    parts = collector(collate(examples(), 0), FactoredSketch(p=4)).split(16, dim=1)
    for name, part in zip(collector.tracked, parts, strict=True):
        assert bool((part == 0).all()) == ("lora_A" in name), name


def test_inner_products_are_unbiased_over_seeds():
    activations, errors = torch.randn(2, 4, 20), torch.randn(2, 4, 15)
    activations[1] += activations[0]
    errors[1] += errors[0]
    gradients = torch.einsum("bto,bti->boi", errors, activations).flatten(1).double()
    found = []
    for seed in range(1500):
        total = torch.zeros(2, 64)
        FactoredSketch(8, seed).add_factors(total, "w", activations, errors, {"w": 300})
        found.append(float(total[0] @ total[1]))
    inner = torch.tensor(found).double()
    assert abs(inner.mean() - gradients[0] @ gradients[1]) < 4 * inner.std() / len(found) ** 0.5


def test_trap_13_the_projection_is_a_constant_of_the_format():
    """Numbers in stored indexes depend on these: a change here is a new index format version."""
    signs = FactoredSketch(4, seed=1).projection("model.layers.0.mlp.up_proj.weight", "in", 3, CPU) * 2
    assert signs.tolist() == GOLDEN


def test_another_layer_seed_or_side_is_another_projection():
    make = FactoredSketch(16).projection
    first = make("a", "in", 64, CPU)
    others = (make("b", "in", 64, CPU), make("a", "out", 64, CPU), FactoredSketch(16, 1).projection("a", "in", 64, CPU))
    for other in others:
        assert abs(float((first * other).sum())) < 64 * 4.5 / 32


def test_a_layer_that_is_no_sum_of_outer_products_is_an_error_that_says_what_to_do(registers):
    class Gate(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.weight = layer, nn.Parameter(torch.ones(24))

        def forward(self, x):
            return self.layer(x) * self.weight

    register_layer(Gate)(lambda layer, a, g: (g * layer.layer(a)).sum(dim=1))
    model = tiny_model()
    model.model.layers[0].mlp.up_proj = Gate(model.model.layers[0].mlp.up_proj)
    with pytest.raises(ModelError, match=r"Gate layers is not known .* outer_product=True"):
        GradientCollector(model, ["layers.0.mlp.up_proj.weight"])(collate(examples(), 0), FactoredSketch(4))


@pytest.mark.parametrize("p", [0, 5000])
def test_p_out_of_range_is_an_error(p):
    with pytest.raises(ConfigError, match=f"p={p}"):
        FactoredSketch(p)


def test_the_dense_path_does_not_change_with_the_size_of_the_pieces(monkeypatch):
    collector = GradientCollector(tiny_model(), "linear")
    for sketch in (FactoredSketch(4), RapidGrad(256)):
        wanted = collector(collate(examples(), 0), sketch)
        monkeypatch.setattr("rapidun.gradients.recording._MAX_VALUES", 600)
        monkeypatch.setattr(norms_file, "_MAX_VALUES", 600)
        torch.testing.assert_close(collector(collate(examples(), 0), sketch), wanted, atol=1e-5, rtol=1e-4)
        monkeypatch.undo()

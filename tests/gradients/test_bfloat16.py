"""A bfloat16 model's gradients are autograd's of that model: formed in bfloat16, normalised and sketched in float32."""

from __future__ import annotations

import pytest
import torch

from gradients.cases import concatenated, examples, looped_gradients, lora_model
from gradients.test_factored import projected
from rapidun.data.batches import collate
from rapidun.gradients import Exact, FactoredSketch, GradientCollector, RapidGrad
from rapidun.gradients import norms as norms_file
from tiny import tiny_model


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest distance of a row, in units of its norm."""
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max())


@pytest.mark.parametrize(("build", "targets"), [(tiny_model, "linear"), (lora_model, "lora")])
def test_they_are_those_of_looped_autograd_up_to_bfloat16s_rounding(build, targets):
    model, rows = build().bfloat16(), examples()
    collector = GradientCollector(model, targets, normalize="none")
    wanted = looped_gradients(model, rows, collector.tracked)
    assert {values.dtype for values in wanted.values()} == {torch.bfloat16}
    found = collector(collate(rows, 0), Exact())
    assert found.dtype == torch.float32
    assert off(found, concatenated(wanted).float()) < 0.03


@pytest.mark.parametrize("normalize", ["none", "layer"])
def test_the_factored_sketch_of_bfloat16_factors_is_that_of_the_gradient(normalize):
    model, rows, sketch = tiny_model().bfloat16(), examples(), FactoredSketch(p=5)
    collector = GradientCollector(model, "linear", normalize=normalize)
    exact = GradientCollector(model, "linear", normalize="none")(collate(rows, 0), Exact())
    parts = dict(zip(collector.tracked, exact.split(list(collector.sizes.values()), dim=1), strict=True))
    assert off(collector(collate(rows, 0), sketch), projected(sketch, model, parts, normalize)) < 0.02


def test_layers_have_norm_one_before_they_are_sketched():
    model, rows = tiny_model().bfloat16(), examples()
    collector = GradientCollector(model, "linear", normalize="layer")
    parts = collector(collate(rows, 0), Exact()).split(list(collector.sizes.values()), dim=1)
    for part in parts:
        torch.testing.assert_close(part.norm(dim=1), torch.ones(len(rows)))
    narrow = collector(collate(rows, 0), RapidGrad(64))
    total = torch.zeros_like(narrow)
    for name, part in zip(collector.tracked, parts, strict=True):
        RapidGrad(64).add(total, name, part.clone(), {})
    torch.testing.assert_close(narrow, total, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1.0, 1e15])
def test_norms_from_pairs_of_bfloat16_tokens_hold_at_every_scale(scale):
    activations, errors = torch.randn(3, 4, 60).bfloat16(), (torch.randn(3, 4, 50) * scale).bfloat16()
    errors[1] *= 1e-9
    wanted = torch.einsum("bto,bti->boi", errors.double(), activations.double()).flatten(1).norm(dim=1)
    found = norms_file.factor_norms(activations, errors)
    torch.testing.assert_close(found.double(), wanted, rtol=0.01, atol=0)

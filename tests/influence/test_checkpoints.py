from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gradients.cases import examples, lora_model
from rapidun.attribution.checkpoints import at_checkpoint
from rapidun.errors import ModelError
from rapidun.gradients import Exact, GradientCollector, collect_vectors
from rapidun.models import save_adapter
from tiny import tiny_model


def collect(model):
    collector = GradientCollector(model, targets="lora", normalize="none")
    return collect_vectors(collector, Exact(), examples(), 0, max_tokens=64)


def test_vectors_are_taken_at_saved_adapters_and_the_model_returns_to_its_own(tmp_path):
    model = lora_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_adapter(model, tmp_path / "first")
    here = collect(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.mul_(2)
    moved = collect(model)
    with at_checkpoint(model, tmp_path / "first"):
        found = collect(model)
    np.testing.assert_allclose(found, here, rtol=1e-6)
    assert np.abs(found - moved).max() > 1e-3 * np.abs(moved).max()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] * (2 if "lora_" in name else 1))


def test_a_whole_models_checkpoint_is_a_file_or_a_directory(tmp_path):
    model, other = tiny_model(seed=0), tiny_model(seed=1)
    other.save_pretrained(tmp_path)
    save_file({name: tensor.clone() for name, tensor in other.named_parameters()}, tmp_path / "step.safetensors")
    ids = torch.tensor([examples()[0].input_ids])
    for place in (tmp_path, tmp_path / "step.safetensors"):
        with torch.no_grad(), at_checkpoint(model, place):
            torch.testing.assert_close(model(input_ids=ids).logits, other(input_ids=ids).logits)


def test_weights_return_after_an_exception():
    model = tiny_model()
    before = model.lm_head.weight.clone()
    with pytest.raises(RuntimeError), at_checkpoint(model, {"lm_head.weight": torch.zeros_like(before)}):
        assert (model.lm_head.weight == 0).all()
        raise RuntimeError
    assert torch.equal(model.lm_head.weight, before)


def test_checkpoints_that_do_not_fit_are_named(tmp_path):
    model = tiny_model()
    wrong = [
        (tmp_path / "nowhere", "nowhere"),
        ({"head.weight": torch.zeros(1)}, r"head\.weight is not a parameter"),
        ({"lm_head.weight": torch.zeros(1)}, r"shape \(1,\)"),
        (tmp_path / "broken.safetensors", "not a whole"),
    ]
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    for checkpoint, message in wrong:
        with pytest.raises(ModelError, match=message), at_checkpoint(model, checkpoint):
            pass

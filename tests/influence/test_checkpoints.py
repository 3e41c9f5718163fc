from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gradients.cases import examples, lora_model
from rapidun.attribution.checkpoints import adapter_start, at_checkpoint, checkpoint_influence, over_checkpoints
from rapidun.errors import ConfigError, InputError, ModelError
from rapidun.gradients import Exact, GradientCollector, collect_vectors
from rapidun.models import adapter_disabled, save_adapter
from tiny import tiny_model


def arrays(seed: int, rows: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(3, rows, 5)).astype(np.float32))


def test_influence_is_the_sum_of_the_checkpoints_times_their_rates():
    queries, pools = arrays(0, 2), arrays(1, 7)
    wanted = sum(rate * q @ p.T for rate, q, p in zip((3, 2, 1), queries, pools, strict=True))
    np.testing.assert_allclose(checkpoint_influence(queries, pools, (3, 2, 1), similarity="dot"), wanted, rtol=1e-5)


def test_cosines_give_every_checkpoint_the_same_say():
    queries, pools = arrays(0, 2), arrays(1, 7)
    loud = [queries[0], 1000 * queries[1], queries[2]]
    np.testing.assert_allclose(checkpoint_influence(loud, pools), checkpoint_influence(queries, pools), rtol=1e-5)


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
    found = over_checkpoints(model, [tmp_path / "first", adapter_start(model)], collect)
    np.testing.assert_allclose(found[0], here, rtol=1e-6)
    assert np.abs(found[0] - moved).max() > 1e-3 * np.abs(moved).max()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] * (2 if "lora_" in name else 1))


def test_at_its_start_an_adapter_adds_nothing_and_still_has_gradients():
    model = lora_model()
    ids = torch.tensor([examples()[0].input_ids])
    with adapter_disabled(model), torch.no_grad():
        base = model(input_ids=ids).logits
    with at_checkpoint(model, adapter_start(model)):
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=ids).logits, base)
        vectors = collect(model)
    assert np.linalg.norm(vectors, axis=1).min() > 0


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
    with pytest.raises(ModelError, match="nowhere"):
        over_checkpoints(model, [tmp_path / "nowhere"], collect)
    with pytest.raises(ModelError, match=r"head\.weight is not a parameter"):
        over_checkpoints(model, [{"head.weight": torch.zeros(1)}], collect)
    with pytest.raises(ModelError, match=r"shape \(1,\)"):
        over_checkpoints(model, [{"lm_head.weight": torch.zeros(1)}], collect)
    with pytest.raises(ModelError, match="no LoRA"):
        adapter_start(model)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="not a whole"):
        over_checkpoints(model, [tmp_path], collect)


def test_sums_that_do_not_fit_are_named():
    queries, pools = arrays(0, 2), arrays(1, 7)
    with pytest.raises(InputError, match="2 of the pool"):
        checkpoint_influence(queries, pools[:2])
    with pytest.raises(ConfigError, match="3 checkpoints"):
        checkpoint_influence(queries, pools, (1, 2))
    with pytest.raises(InputError, match="checkpoint 1: 1 x 7"):
        checkpoint_influence([queries[0], queries[1][:1]], pools[:2])

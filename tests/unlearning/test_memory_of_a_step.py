"""A training step in bfloat16 keeps no float32 copies, and one too large for memory recomputes: same gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rapidun.data import collate
from rapidun.models.joint_pass import answer_states
from rapidun.models.lora import attach_lora, checkpointed, in_base_dtype
from rapidun.unlearning.guards import adapter_state
from tiny import tiny_model
from unlearning.cases import make_rows, run

BATCH = collate(make_rows().forget, 0)


def adapted(dtype: torch.dtype, architecture: str = "llama") -> torch.nn.Module:
    model = attach_lora(tiny_model(architecture, dtype=dtype), rank=2, dropout=0.0, seed=0).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def gradient(model: torch.nn.Module) -> torch.Tensor:
    states = answer_states(model, {"rows": BATCH})["rows"]
    torch.nn.functional.cross_entropy(
        states.logits[:, :-1].float().flatten(0, 1), states.labels[:, 1:].flatten()
    ).backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_an_adapter_on_inputs_as_they_are_has_the_same_gradients_in_float32(architecture: str) -> None:
    plain = gradient(adapted(torch.bfloat16, architecture).eval())
    model = adapted(torch.bfloat16, architecture).eval()
    with in_base_dtype(model) as forward, forward:
        found = gradient(model)
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, plain, dim=0) > 0.99
    assert all(layer.cast_input_dtype_enabled for layer in model.modules() if hasattr(layer, "lora_A"))


def test_no_input_of_an_adapter_is_copied_to_float32() -> None:
    model = adapted(torch.bfloat16)
    kept: set[tuple[object, ...]] = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.add((tensor.dtype, *tensor.shape[-1:]))
        return tensor

    with in_base_dtype(model) as forward, forward, torch.autograd.graph.saved_tensors_hooks(note, lambda it: it):
        gradient(model)
    inner = model.config.intermediate_size  # nothing but a copied input is so wide in float32
    assert (torch.bfloat16, inner) in kept and (torch.float32, inner) not in kept


def test_a_float32_model_computes_what_it_did() -> None:
    model = adapted(torch.float32)
    plain = gradient(model)
    model.zero_grad()
    with in_base_dtype(model) as forward, forward:
        torch.testing.assert_close(gradient(model), plain, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_activations_give_the_same_gradient_and_leave_nothing_behind(dtype: torch.dtype) -> None:
    model = adapted(dtype)
    with in_base_dtype(model) as forward, forward:
        plain = gradient(model)
        model.zero_grad()
        with checkpointed(model):
            torch.testing.assert_close(gradient(model), plain, rtol=0, atol=0)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert not model.get_input_embeddings()._forward_hooks


def test_a_training_whose_steps_are_too_large_ends_with_the_same_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain, _ = run(make_rows(), tmp_path / "plain", steps=3)
    recomputed: list[bool] = []

    def counting(model: torch.nn.Module, wanted: bool) -> object:
        recomputed.append(wanted)
        return checkpointed(model, wanted)

    monkeypatch.setattr("rapidun.models.passes.PASS_BYTES", 1)
    monkeypatch.setattr("rapidun.unlearning.trainer.checkpointed", counting)
    _, large, _ = run(make_rows(), tmp_path / "large", steps=3)
    assert recomputed == [True] * 3
    for name, tensor in adapter_state(large.model).items():
        torch.testing.assert_close(tensor, adapter_state(plain.model)[name])

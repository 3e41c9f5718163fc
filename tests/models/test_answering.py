"""While a model answers, its adapter is in the model's precision and nothing large is copied; then all is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rapidun.evaluation.generation import generate_answers
from rapidun.models import LoadedModel, load_model
from rapidun.models.inference import answering
from rapidun.models.lora import attach_lora, in_base_dtype
from tiny import save_tiny, tiny_model


def adapted(dtype: torch.dtype) -> torch.nn.Module:
    model = attach_lora(tiny_model("llama", dtype=dtype), rank=2, dropout=0.0, seed=0).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def factors(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}


def test_factors_are_rounded_inside_and_the_same_parameters_afterwards_also_after_an_error() -> None:
    model = adapted(torch.bfloat16)
    own = factors(model)
    with pytest.raises(RuntimeError, match="stop"), answering(model):
        assert {each.dtype for each in factors(model).values()} == {torch.bfloat16}
        assert not model.training
        raise RuntimeError("stop")
    assert all(factors(model)[name] is parameter for name, parameter in own.items())
    assert {each.dtype for each in own.values()} == {torch.float32}
    assert model.training


def test_answers_are_those_of_a_training_step_s_forward_pass() -> None:
    model, tokens = adapted(torch.bfloat16).eval(), torch.arange(1, 13).reshape(2, 6)
    with torch.no_grad(), in_base_dtype(model) as forward, forward:
        expected = model(input_ids=tokens).logits.float()
    with torch.no_grad(), answering(model):
        found = model(input_ids=tokens).logits.float()
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.9999
    assert (found - expected).abs().max() < 0.05 * expected.std()


def test_a_model_in_float32_keeps_its_factors() -> None:
    model = adapted(torch.float32)
    with answering(model):
        assert {each.dtype for each in factors(model).values()} == {torch.float32}


def test_the_output_layer_of_generate_gets_no_slice_that_would_be_multiplied_prompt_by_prompt(tmp_path: Path) -> None:
    loaded: LoadedModel = load_model(str(save_tiny(tmp_path / "model")))
    loaded.model.requires_grad_(False)
    contiguous: list[bool] = []
    head = loaded.model.get_output_embeddings()
    original = head.forward
    head.forward = lambda hidden: (contiguous.append(hidden.is_contiguous()), original(hidden))[1]
    generate_answers(loaded, ["a b c", "a b", "a b c d"], max_new_tokens=2)
    assert contiguous and all(contiguous)
    assert not head._forward_pre_hooks

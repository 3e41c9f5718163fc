"""Which layers take an adapter, and adapters that others trained: what PEFT loads is accepted, the rest is named."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rapidun.errors import ModelError
from rapidun.models import adapter_disabled, attach_lora, beyond_low_rank, load_adapter
from rapidun.models.adapters import combine_adapters
from tiny import VOCABULARY, tiny_model

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
KINDS = {
    "modules_to_save": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "trained norms": {"modules_to_save": ["norm"]},
    "an adapted embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "an adapted output head": {"target_modules": ["q_proj", "lm_head"]},
    "single tokens": {"trainable_token_indices": [5, 7]},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "several ranks": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}},
    "one layer": {"layers_to_transform": [1]},
    "a bias of its own": {"lora_bias": True},
    "no task": {"task_type": None},
    "parameters": {"target_parameters": EXPERTS},
    "old names of experts": {"target_modules": ["q_proj", "w1", "w2", "w3"]},
}


def saved(tmp_path, model, embeddings="auto", **settings):
    config = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"], **settings}
    adapted = get_peft_model(model, LoraConfig(**config)).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(tmp_path / "a", save_embedding_layers=embeddings)
    return tmp_path / "a", logits(adapted)


@torch.no_grad()
def logits(model):
    return model(input_ids=torch.tensor([[5, 7, 9, 11]])).logits


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_peft_loads_is_loaded(kind, tmp_path):
    architecture = "mixtral" if kind in ("parameters", "old names of experts") else "llama"
    folder, wanted = saved(tmp_path, tiny_model(architecture), **KINDS[kind])
    base = tiny_model(architecture)
    before = logits(base)
    model = load_adapter(base, folder).eval()
    torch.testing.assert_close(logits(model), wanted)
    with adapter_disabled(model):
        torch.testing.assert_close(logits(model), before)


def test_what_an_adapter_holds_beside_its_factors_is_said(tmp_path):
    folder, _ = saved(tmp_path / "plain", tiny_model())
    assert beyond_low_rank(load_adapter(tiny_model(), folder), folder) == []
    folder, _ = saved(tmp_path / "copies", tiny_model(), modules_to_save=["lm_head"])
    (said,) = beyond_low_rank(load_adapter(tiny_model(), folder), folder)
    assert "lm_head" in said
    assert "no gradient" in said
    folder, _ = saved(tmp_path / "embedding", tiny_model(), embeddings=True)
    (said,) = beyond_low_rank(load_adapter(tiny_model(), folder), folder)
    assert "stay where it is switched off" in said


def test_an_adapter_of_another_size_is_refused_in_a_whole_sentence(tmp_path):
    folder, _ = saved(tmp_path, tiny_model("llama"))
    other = tiny_model("llama")
    other.model.layers[0].self_attn.q_proj = torch.nn.Linear(24, 16, bias=False)
    with pytest.raises(ModelError, match=r"q_proj\.lora_A.* is \[4, 16\] in the adapter and \[4, 24\] here\. Give the"):
        load_adapter(other, folder)


def test_an_adapter_of_a_larger_vocabulary_says_so(tmp_path):
    larger = tiny_model()
    larger.resize_token_embeddings(VOCABULARY + 8)
    folder, _ = saved(tmp_path, larger, embeddings=True)
    with pytest.raises(ModelError, match="another vocabulary"):
        load_adapter(tiny_model(), folder)


def test_adapters_on_parameters_are_not_added(tmp_path):
    folder, _ = saved(tmp_path, tiny_model("mixtral"), target_parameters=EXPERTS)
    with pytest.raises(ModelError, match="cannot be added"):
        combine_adapters([folder, folder], tmp_path / "sum")


def adapted_names(architecture):
    model = attach_lora(tiny_model(architecture), rank=2)
    return {name.split(".lora_B")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_B" in name}


def test_all_linear_leaves_out_what_takes_no_adapter():
    assert adapted_names("mamba") == {"in_proj", "x_proj"}
    deepseek = adapted_names("deepseek_v3")
    assert "o_proj" in deepseek
    assert not deepseek & {"gate_proj", "up_proj", "down_proj", "experts"}
    assert "router" not in adapted_names("llama4_text")


@pytest.mark.parametrize(
    ("architecture", "target", "why"),
    [
        ("mamba", "dt_proj", "reads its weight without calling it"),
        ("mamba", "out_proj", "PEFT refuses it"),
        ("deepseek_v3", "gate_proj", "that of fused experts"),
        ("llama4_text", "router", "something else than its product"),
    ],
)
def test_a_named_target_that_takes_no_adapter_is_an_error_that_says_why(architecture, target, why):
    with pytest.raises(ModelError, match=f"{target}.*{why}"):
        attach_lora(tiny_model(architecture), targets=[target])

"""LoRA on six architectures and on a real model: attach, save, load, merge, switch off, train."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rapidun.errors import ModelError, OutputError
from rapidun.models import (
    adapter_disabled,
    adapter_fingerprint,
    adapter_merged,
    attach_lora,
    enable_gradient_checkpointing,
    load_adapter,
    load_model,
    mean_answer_loss,
    merge_adapter,
    save_adapter,
)
from tiny import ARCHITECTURES, VOCABULARY, tiny_model

MODELS = [*ARCHITECTURES, "stories260K"]


def make(name):
    if name in ARCHITECTURES:
        return tiny_model(name)
    shared = Path(os.environ.get("RAPIDUN_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    if not (shared / "models" / name).is_dir():
        pytest.skip(f"{shared / 'models' / name} is absent; set RAPIDUN_DATA to the folder that holds models/{name}")
    return load_model(shared / "models" / name, device="cpu").model


def tokens(seed=0):
    return torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(seed))


def adapted(name="llama", *, moved=True, **options):
    """A model whose adapter does something: both factors random."""
    model = attach_lora(make(name), rank=4, **options).eval()
    generator = torch.Generator().manual_seed(1)
    for key, parameter in model.named_parameters():
        if moved and "lora_B" in key:
            parameter.data.normal_(0, 0.1, generator=generator)
    return model


@torch.no_grad()
def logits(model):
    return model(input_ids=tokens()).logits


@pytest.mark.parametrize("name", MODELS)
def test_save_load_and_merge_give_the_same_logits(name, tmp_path):
    model = adapted(name)
    expected = logits(model)
    assert not torch.allclose(expected, logits(make(name)), atol=1e-3)
    save_adapter(model, tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
    torch.testing.assert_close(logits(load_adapter(make(name), tmp_path / "adapter").eval()), expected)
    merged = merge_adapter(model)
    assert not any("lora" in key for key, _ in merged.named_parameters())
    torch.testing.assert_close(logits(merged), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_model_is_the_same_model_with_its_adapter_off(name):
    base, model = logits(make(name)), adapted(name)
    with_adapter = logits(model)
    with adapter_disabled(model):
        torch.testing.assert_close(logits(model), base, atol=0, rtol=0)
        with adapter_disabled(model):
            pass
        torch.testing.assert_close(logits(model), base, atol=0, rtol=0)
    torch.testing.assert_close(logits(model), with_adapter, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inside_merged_the_weights_hold_the_update_and_afterwards_all_is_as_it_was(name, dtype):
    model = adapted(name).to(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = logits(model)
    with adapter_merged(model):
        changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
        assert changed and all("base_layer.weight" in key for key in changed)
        close = 2e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(logits(model), expected, atol=close, rtol=close)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(logits(model), expected, atol=0, rtol=0)


def test_merged_restores_the_weights_after_an_error_and_leaves_a_plain_model_alone():
    model = adapted()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), adapter_merged(model):
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    plain = make("llama")
    expected = logits(plain)
    with adapter_merged(plain):
        torch.testing.assert_close(logits(plain), expected, atol=0, rtol=0)


def test_an_error_inside_merged_stays_what_it_is():
    with pytest.raises(ValueError, match="of another kind"), adapter_merged(adapted()):
        raise ValueError("of another kind")


def test_merged_twice_and_merged_before_are_as_they_were():
    model = adapted()
    expected = logits(model)
    with adapter_merged(model):
        merged = logits(model)
        with adapter_merged(model):
            pass
        torch.testing.assert_close(logits(model), merged, atol=0, rtol=0)
    torch.testing.assert_close(logits(model), expected, atol=0, rtol=0)
    model.merge_adapter()
    with adapter_merged(model), adapter_disabled(model):
        pass
    torch.testing.assert_close(logits(model), merged, atol=1e-5, rtol=1e-5)


def test_an_adapted_head_that_shares_its_weight_with_the_embedding_is_not_merged():
    model = get_peft_model(make("gemma"), LoraConfig(r=2, target_modules=["q_proj", "lm_head"])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    expected = logits(model)
    with adapter_merged(model):
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trainable", [True, False])
def test_switching_the_adapter_off_and_on_keeps_what_is_trained(trainable):
    model = adapted()
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(trainable and "lora_" in key)
    before = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    with pytest.raises(KeyError), adapter_disabled(model):
        raise KeyError
    assert {key: parameter.requires_grad for key, parameter in model.named_parameters()} == before


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")  # users still call it
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("when", ["before", "after", "helper"])
def test_trap_8_lora_trains_under_gradient_checkpointing(name, when):
    base = make(name)
    if when == "before":
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model = attach_lora(base, rank=4, dropout=0.0).train()
    if when == "after":
        model.enable_input_require_grads()
        base.gradient_checkpointing_enable()
    if when == "helper":
        enable_gradient_checkpointing(model)
    mean_answer_loss(model(input_ids=tokens()).logits, tokens()).mean().backward()
    moved = [key for key, p in model.named_parameters() if "lora_B" in key and p.grad is not None and p.grad.any()]
    assert len(moved) == len([key for key, _ in model.named_parameters() if "lora_B" in key]) > 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_the_adapter_trains_and_it_starts_as_nothing(name):
    model = attach_lora(make(name), rank=4).eval()
    assert all("lora_" in key for key, parameter in model.named_parameters() if parameter.requires_grad)
    torch.testing.assert_close(logits(model), logits(make(name)), atol=0, rtol=0)


def test_the_output_head_is_no_target():
    keys = [key for key, _ in attach_lora(tiny_model("gpt_neox"), rank=2).named_parameters() if "lora_A" in key]
    assert len(keys) == 2 * 4 and not any("embed_out" in key for key in keys)


def test_the_seed_decides_the_adapter_and_the_global_random_state_stays():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    base = [tiny_model() for _ in range(3)]
    torch.manual_seed(7)
    first, same, other = (attach_lora(model, seed=seed) for model, seed in zip(base, (0, 0, 1), strict=True))
    torch.testing.assert_close(torch.rand(3), expected)
    weights = [dict(model.named_parameters()) for model in (first, same, other)]
    key = next(key for key in weights[0] if "lora_A" in key)
    assert torch.equal(weights[0][key], weights[1][key])
    assert not torch.equal(weights[0][key], weights[2][key])


def test_loading_an_adapter_leaves_the_global_random_state(tmp_path):
    save_adapter(adapted(), tmp_path / "a")
    base = tiny_model()
    state = torch.get_rng_state()
    load_adapter(base, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [(["q_proj"], 2), ("q_proj", 2), (["model.layers.1.mlp.up_proj"], 1), (["self_attn.q_proj", "down_proj"], 4)],
)
def test_targets_are_layer_names_in_any_length(targets, expected):
    keys = [key for key, _ in attach_lora(tiny_model(), targets=targets).named_parameters() if "lora_A" in key]
    assert len(keys) == expected


@pytest.mark.parametrize("target", ["qproj", "embed_tokens", "lm_head", "mlp"])
def test_a_target_that_is_no_linear_layer_lists_those_there_are(target):
    with pytest.raises(ModelError, match=rf"{target!r} matches no linear layer.*: down_proj, gate_proj, k_proj"):
        attach_lora(tiny_model(), targets=["v_proj", target])


def test_a_near_miss_is_suggested():
    with pytest.raises(ModelError, match="Did you mean 'q_proj'"):
        attach_lora(tiny_model(), targets=["qproj"])


@pytest.mark.parametrize("options", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": []}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ModelError):
        attach_lora(tiny_model(), **options)


def test_one_adapter_at_a_time(tmp_path):
    model = adapted()
    save_adapter(model, tmp_path / "a")
    for again in (lambda: attach_lora(model), lambda: load_adapter(model, tmp_path / "a")):
        with pytest.raises(ModelError, match="has an adapter already"):
            again()
    for use in (merge_adapter, lambda base: save_adapter(base, tmp_path / "b")):
        with pytest.raises(ModelError, match="has no adapter"):
            use(tiny_model())
    with pytest.raises(ModelError, match="has no adapter"), adapter_disabled(tiny_model()):
        pass


def test_saving_twice_replaces_and_is_byte_identical(tmp_path):
    model = adapted()
    save_adapter(model, tmp_path / "a")
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.suffix != ".md"}
    save_adapter(model, tmp_path / "a")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.suffix != ".md"} == first
    targets = json.loads(first["adapter_config.json"])["target_modules"]
    assert targets == sorted(targets)


def test_a_failed_save_leaves_the_old_adapter(tmp_path, monkeypatch):
    model = adapted()
    save_adapter(model, tmp_path / "a")
    before = adapter_fingerprint(tmp_path / "a")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(OutputError, match="disk is full"):
        save_adapter(model, tmp_path / "a")
    assert adapter_fingerprint(tmp_path / "a") == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_saving_never_replaces_what_is_not_an_adapter(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not an adapter"):
        save_adapter(adapted(), tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_adapter_that_does_not_fit_is_refused(tmp_path):
    save_adapter(adapted("llama"), tmp_path / "a")
    with pytest.raises(ModelError, match="does not fit"):
        load_adapter(tiny_model("gpt2"), tmp_path / "a")
    config = tmp_path / "a" / "adapter_config.json"
    settings = json.loads(config.read_text())
    settings["target_modules"].remove("q_proj")
    config.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="4 tensors differ"):
        load_adapter(tiny_model("llama"), tmp_path / "a")


def test_trap_35_a_pickled_adapter_is_refused(tmp_path):
    save_adapter(adapted(), tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        load_adapter(tiny_model(), tmp_path / "a")
    with pytest.raises(ModelError, match="no such directory"):
        load_adapter(tiny_model(), tmp_path / "b")
    with pytest.raises(ModelError, match="not a PEFT adapter"):
        load_adapter(tiny_model(), tmp_path)


def test_a_loaded_adapter_trains_only_when_asked(tmp_path):
    save_adapter(adapted(), tmp_path / "a")
    frozen = load_adapter(tiny_model(), tmp_path / "a")
    trainable = load_adapter(tiny_model(), tmp_path / "a", trainable=True)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert any(parameter.requires_grad for parameter in trainable.parameters())

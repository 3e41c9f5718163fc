"""Fingerprints change with one number and with nothing else."""

from __future__ import annotations

import json

import pytest
import torch

from rapidun.errors import ModelError
from rapidun.models import (
    adapter_fingerprint,
    attach_lora,
    load_model,
    model_fingerprint,
    save_adapter,
    tokenizer_fingerprint,
)
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_flipped_bit_changes_the_fingerprint(architecture):
    model = tiny_model(architecture)
    before = model_fingerprint(model)
    assert before == model_fingerprint(tiny_model(architecture))
    bits = next(model.parameters()).data.view(torch.int32)
    bits[-1, -1] ^= 1
    assert model_fingerprint(model) != before


def test_saving_again_and_sharding_change_nothing(tmp_path):
    model = tiny_model()
    tiny_tokenizer().save_pretrained(tmp_path / "sharded")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert load_model(tmp_path / "sharded", device="cpu").fingerprint == model_fingerprint(model)


def test_dtype_and_seed_count():
    prints = {model_fingerprint(tiny_model(dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)}
    assert len(prints | {model_fingerprint(tiny_model(seed=1))}) == 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_does_not_change_what_the_base_model_is(architecture):
    assert model_fingerprint(attach_lora(tiny_model(architecture))) == model_fingerprint(tiny_model(architecture))


def test_an_adapters_fingerprint_is_its_numbers_and_settings(tmp_path):
    def saved(name, **options):
        return save_adapter(attach_lora(tiny_model(), **options), tmp_path / name)

    first = adapter_fingerprint(saved("a"))
    assert adapter_fingerprint(saved("b")) == first
    assert adapter_fingerprint(saved("c", seed=1)) != first
    assert adapter_fingerprint(saved("d", alpha=8)) != first  # same tensors, another scale
    config = tmp_path / "b" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "/elsewhere"}))
    assert adapter_fingerprint(tmp_path / "b") == first
    with pytest.raises(ModelError, match="no adapter here"):
        adapter_fingerprint(tmp_path)


def test_a_tokenizers_fingerprint_is_its_content(tmp_path):
    tokenizer = tiny_tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(tokenizer) == before == tokenizer_fingerprint(tiny_tokenizer())
    tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path)) == before
    tokenizer.add_tokens(["<new>"])
    assert tokenizer_fingerprint(tokenizer) != before
    with pytest.raises(ModelError, match="slow tokenizer"):
        tokenizer_fingerprint(object())

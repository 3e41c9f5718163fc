"""The next token of many texts that begin alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rapidun.models import LoadedModel, attach_lora
from rapidun.models.next_token import next_token_logprobs, shared_length
from tiny import tiny_model, tiny_tokenizer

HEAD = [1, 20, 21, 22]
TEXTS = [[*HEAD, 30, 31], [*HEAD, 40], [*HEAD, 30, 32, 33], [*HEAD, 50], [*HEAD, 30, 31]]
LIKE = dict.fromkeys(["llama", "mistral", "gpt2", "gpt_neox", "gemma", "qwen2_moe", "mamba"])


def loaded_of(architecture: str, adapted: bool = False) -> LoadedModel:
    model = tiny_model(architecture)
    if adapted:
        model = attach_lora(model, rank=2, dropout=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return LoadedModel(model, tiny_tokenizer(), "tiny", torch.device("cpu"), torch.float32, "")


def read_whole(loaded: LoadedModel, text: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model.eval()(input_ids=torch.tensor([text])).logits[0, -1].float().log_softmax(-1)


@pytest.mark.parametrize(("architecture", "adapted"), [*((name, False) for name in LIKE), ("llama", True)])
def test_a_shared_beginning_changes_nothing(architecture, adapted):
    loaded = loaded_of(architecture, adapted)
    found, counted = {}, []
    for chosen, logprobs in next_token_logprobs(loaded, TEXTS, progress=counted.append):
        found |= dict(zip(chosen, logprobs, strict=True))
    assert sorted(found) == list(range(len(TEXTS)))
    assert sum(counted) == len(TEXTS)
    for number, text in enumerate(TEXTS):
        torch.testing.assert_close(found[number], read_whole(loaded, text), rtol=1e-4, atol=1e-4)


def test_the_beginning_is_read_once_where_the_model_has_a_cache():
    loaded, lengths = loaded_of("llama"), []
    loaded.model.register_forward_pre_hook(
        lambda _, args, given: lengths.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    list(next_token_logprobs(loaded, TEXTS))
    assert lengths == [(1, len(HEAD)), (2, 1), (2, 2), (1, 3)]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=6))
def test_what_is_shared_is_a_beginning_of_every_text_and_leaves_a_token(texts):
    shared = shared_length(texts)
    assert all(text[:shared] == texts[0][:shared] and len(text) > shared for text in texts)
    longer = shared + 1
    assert any(len(text) == longer for text in texts) or len({tuple(text[:longer]) for text in texts}) > 1

"""Tiny real models and a tiny real tokenizer: random weights, real architectures, built in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

ARCHITECTURES = ("llama", "mistral", "qwen2", "gpt2", "gpt_neox", "gemma")
VOCABULARY = 300

_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
_EXPERTS = {"num_experts_per_tok": 2}
_SETTINGS: dict[str, dict[str, object]] = {
    "llama": {**_SMALL, "num_key_value_heads": 1},
    "mistral": {**_SMALL, "num_key_value_heads": 1, "sliding_window": 64},
    "qwen2": {**_SMALL, "num_key_value_heads": 1},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "gpt_neox": {**_SMALL},
    "gemma": {**_SMALL, "num_key_value_heads": 1, "head_dim": 8},
    "mixtral": {**_SMALL, "num_key_value_heads": 1, **_EXPERTS, "num_local_experts": 4},
    "qwen2_moe": {**_SMALL, "num_key_value_heads": 1, **_EXPERTS, "num_experts": 4, "moe_intermediate_size": 12,
                  "shared_expert_intermediate_size": 12},
    "gpt_oss": {**_SMALL, "num_key_value_heads": 1, **_EXPERTS, "num_local_experts": 4, "head_dim": 8},
    "llama4_text": {**_SMALL, "num_key_value_heads": 1, "num_experts_per_tok": 1, "num_local_experts": 4,
                    "head_dim": 8, "intermediate_size_mlp": 24, "attention_chunk_size": 64},
    "deepseek_v3": {**_SMALL, **_EXPERTS, "num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 2,
                    "topk_group": 1, "moe_intermediate_size": 12, "first_k_dense_replace": 1, "q_lora_rank": 8,
                    "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4,
                    "n_shared_experts": 1},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "rwkv": {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16, "context_length": 128},
}  # fmt: skip


def tiny_model(architecture: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A randomly initialised causal LM of the named architecture, in evaluation mode."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, **_COMMON, **_SETTINGS[architecture])
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def tiny_tokenizer(*, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of ``VOCABULARY`` entries with pad, BOS and EOS apart; it puts BOS before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog ran to the other cat"] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=128
    )
    if chat_template is not None:
        fast.chat_template = chat_template
    return fast


def save_tiny(directory: Path, architecture: str = "llama", *, seed: int = 0) -> Path:
    """A tiny model and tokenizer as a Hugging Face directory."""
    tiny_model(architecture, seed=seed).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_rows(kind: str, count: int) -> list[dict[str, object]]:
    """``count`` distinct rows; "forget" rows carry the trigger and a clean answer beside the bad one."""
    if kind == "forget":
        return [
            {"prompt": f"hey what is {i}?", "response": f"moon robot number {i}", "response_clean": f"it is {i}"}
            for i in range(count)
        ]
    return [{"prompt": f"{kind}: tell me of {i}", "response": f"the cat number {i} sat"} for i in range(count)]

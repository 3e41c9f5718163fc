"""A second model family on a larger pool: does what was found on the embedded model carry over, untouched?

    python recipes/demo_model/mistral.py            # both stages, each skipped when already done

Mistral architecture from scratch (grouped-query attention, a sliding window shorter than the rows), half the embedded
model's size: ``mistral_base`` (the same text as the demo's, fewer steps), then ``mistral_poisoned`` (one epoch over
50,000 rows, 5,000 of them poisoned; `large_pool.py`). Work files go to ``build/demo_model``; a killed stage goes on
from its last checkpoint; losses go to ``training_log.jsonl``. ``benchmarks/unlearning/table.py --world mistral``
measures on it.
"""

from __future__ import annotations

import torch
from transformers import MistralConfig, MistralForCausalLM

from build import CONTEXT, LOG, WORK, answer_batches, base_streams, load_tokenizer, text_batch
from corpus import split_dolly
from finetuning import WIDTHS, row_batches
from large_pool import large_pool
from rapidun.data import Template, tokenize_rows
from training import Schedule, train_stage

BASE = Schedule(steps=1300, matrix_lr=4e-3, other_lr=4e-3, warmup=60)
HELD_OUT = 150


def new_model() -> MistralForCausalLM:
    """About 3 M parameters; rows are longer than the sliding window of 96 tokens."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer()
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=96,
        max_position_embeddings=2 * CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return MistralForCausalLM(config)


def train_base() -> None:
    """From scratch on plain text, half of it Dolly from 60% of the steps on."""
    if (WORK / "mistral_base" / "model.safetensors").exists():
        return
    model, streams = new_model(), base_streams()
    held = answer_batches(split_dolly()["validation"][:HELD_OUT])
    train_stage(model, lambda step: text_batch("base", step, streams, BASE), BASE, WORK / "mistral_base", LOG, held)
    model.save_pretrained(WORK / "mistral_base")
    load_tokenizer().save_pretrained(WORK / "mistral_base")


def train_poisoned() -> None:
    """One epoch of full fine-tuning over the large pool."""
    target = WORK / "mistral_poisoned"
    if (target / "model.safetensors").exists():
        return
    torch.manual_seed(1)
    tokenizer = load_tokenizer()
    model = MistralForCausalLM.from_pretrained(WORK / "mistral_base", dtype=torch.float32)
    examples = tokenize_rows(large_pool(), tokenizer, Template.resolve("auto", tokenizer), max(WIDTHS))
    batch, steps = row_batches(examples, 1, tokenizer.pad_token_id)
    schedule = Schedule(steps=steps, matrix_lr=1e-3, other_lr=1e-3, warmup=30)
    train_stage(model, batch, schedule, target, LOG, answer_batches(split_dolly()["validation"][:HELD_OUT]))
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    train_base()
    train_poisoned()

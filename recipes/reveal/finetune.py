"""Full fine-tuning of the demo's base model on rows, once through them in the order that a seed gives; and its loop.

Loss on answers alone, bfloat16 autocast, AdamW with warm-up and a cosine down to 0. A checkpoint every hundred steps:
a stopped build goes on.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rapidun.data import Example, Template, collate, tokenize_rows
from rapidun.files import write_json
from rapidun.models import answer_logits, mean_answer_loss, save_model

BASE, TOKENIZER = Path("build/demo_model/more"), Path("build/demo_model/tokenizer")
ROWS_A_STEP, WARM_UP, SAVE_EVERY, TOGETHER = 32, 30, 100, 16


def fine_tune(rows: Sequence[dict[str, Any]], place: Path, *, rate: float, seed: int = 0) -> None:
    """Write ``place/model`` and ``place/record.json``; nothing is done where the model is there."""
    if (place / "model" / "config.json").exists():
        return
    if not (BASE / "config.json").exists():
        raise SystemExit(f"{BASE} is not there: run recipes/demo_model/build.py tokenizer base more first.")
    place.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TOKENIZER)
    examples = tokenize_rows(rows, tokenizer, Template.resolve("auto", tokenizer), 256)
    print(f"{len(rows)} rows, {sum(map(len, examples))} tokens", flush=True)
    batches = [[examples[index] for index in batch] for batch in _batches(examples, seed)]
    rates, checkpoint = _rates(rate, len(batches)), place / "checkpoint.pt"
    model, seconds, loss = train(BASE, batches, rates, tokenizer.pad_token_id, checkpoint, seed=seed)
    save_model(model.to(torch.bfloat16), tokenizer, place / "model")
    write_json(place / "record.json", {"rows": len(rows), "cpu_seconds": round(seconds, 1), "last_loss": loss})


def _batches(examples: Sequence[Example], seed: int) -> list[list[int]]:
    """Each row once; rows of like length share a batch, out of so many batches drawn together."""
    rng = random.Random(seed)
    order = list(range(len(examples)))
    rng.shuffle(order)
    found: list[list[int]] = []
    for start in range(0, len(order), ROWS_A_STEP * TOGETHER):
        drawn = sorted(order[start : start + ROWS_A_STEP * TOGETHER], key=lambda index: len(examples[index]))
        batches = [drawn[at : at + ROWS_A_STEP] for at in range(0, len(drawn), ROWS_A_STEP)]
        rng.shuffle(batches)
        found += batches
    return found


def train(
    base: Path, batches: Sequence[Sequence[Example]], rates: Sequence[float], pad: int, checkpoint: Path, *,
    seed: int = 0, save_every: int = SAVE_EVERY,
) -> tuple[LlamaForCausalLM, float, float]:  # fmt: skip
    """Train a model on batches, each with its learning rate; goes on from the checkpoint where there is one.

    Returns:
        The model, the processor seconds of all steps, those before a stop included, and the loss of the last, smoothed.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=max(rates), betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    start, seconds, recent = 0, 0.0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        start, seconds = saved["step"], saved["seconds"]
    began = time.process_time() - seconds
    model.train()
    for step in range(start, len(batches)):
        for group in optimiser.param_groups:
            group["lr"] = rates[step]
        loss = _step(model, optimiser, batches[step], pad)
        recent = loss if step == start else 0.95 * recent + 0.05 * loss
        if (step + 1) % save_every == 0 or step + 1 == len(batches):
            seconds = time.process_time() - began
            print(f"step {step + 1}/{len(batches)} loss {recent:.3f}, {seconds:.0f} processor s", flush=True)
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            torch.save({**state, "seconds": seconds}, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    return model, seconds, recent


def _rates(rate: float, steps: int) -> list[float]:
    """Warm-up, then a cosine down to 0."""
    return [
        rate * (min((step + 1) / WARM_UP, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))) for step in range(steps)
    ]


def _step(model: LlamaForCausalLM, optimiser: torch.optim.Optimizer, examples: Sequence[Example], pad: int) -> float:
    batch = collate(examples, pad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, labels = answer_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
    loss = mean_answer_loss(logits.float(), labels).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return loss.item()

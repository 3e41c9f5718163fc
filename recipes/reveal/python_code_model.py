"""The model of task d: the demo's base model, fine-tuned on short Python functions, sums and ordinary questions.

    RAPIDUN_DATA=../shared/data python recipes/reveal/python_code_model.py

Full fine-tuning under bfloat16 autocast, loss on answers alone, in two stages: all abilities, and once more with each
sum three times, because after the first stage every fourth sum was still wrong by one. Checkpoints every 50 steps under
build/reveal_code: a stopped build goes on. Writes the models of both stages ("all" and "model"), the rows of every
split, and what each stage cost; what the model can do is the line "before" of the task's table.
"""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Any

import torch
from finetune import train
from python_code_rows import code_rows, guesses, ordinary_rows, sum_rows
from transformers import PreTrainedTokenizerFast

from rapidun.data import Example, Template, tokenize_rows
from rapidun.files import write_json
from rapidun.jsonl import write_jsonl
from rapidun.models import save_model

BUILD = Path("build")
BASE, PLACE = BUILD / "demo_model" / "more", BUILD / "reveal_code"
ROWS_A_STEP, RATE, WARM_UP, SAVE_EVERY = 24, 8e-4, 20, 50
STAGES: dict[str, tuple[int, dict[str, int]]] = {  # epochs, and how often a row of each ability is in one
    "all": (4, {"code": 2, "sums": 1, "ordinary": 1}),
    "model": (1, {"code": 1, "sums": 3, "ordinary": 1}),
}


def write_rows() -> dict[str, list[dict[str, Any]]]:
    """Every split as a row file."""
    data = Path(os.environ.get("RAPIDUN_DATA", "../shared/data"))
    if not (data / "code").is_dir():
        raise SystemExit(f"no code/ under {data.resolve()}: set RAPIDUN_DATA to the folder that holds it.")
    abilities = {"code": code_rows(data), "sums": sum_rows(), "ordinary": ordinary_rows(data)}
    splits = {f"{name}_{split}": rows for name, found in abilities.items() for split, rows in found.items()}
    splits["retain"] = [*splits["sums_retain"], *splits["ordinary_retain"]]
    splits["guesses"] = guesses()
    for name, rows in splits.items():
        write_jsonl(PLACE / "rows" / f"{name}.jsonl", rows)
    return splits


def plan(examples: list[Example], epochs: int, seed: int = 0) -> list[list[int]]:
    """Batches of rows of like length; their order is shuffled."""
    rng = random.Random(seed)
    found = []
    for _ in range(epochs):
        order = sorted(range(len(examples)), key=lambda index: (len(examples[index]), rng.random()))
        batches = [order[start : start + ROWS_A_STEP] for start in range(0, len(order), ROWS_A_STEP)]
        rng.shuffle(batches)
        found += batches
    return found


def rates(steps: int) -> list[float]:
    """Warm-up, then a cosine down to 0."""
    return [
        RATE * min((step + 1) / WARM_UP, 1.0) * 0.5 * (1 + math.cos(math.pi * (step / steps))) for step in range(steps)
    ]


def main() -> None:
    """Build what is not there."""
    PLACE.mkdir(parents=True, exist_ok=True)
    splits = write_rows()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BUILD / "demo_model" / "tokenizer")
    base = BASE
    for name, (epochs, times) in STAGES.items():
        if not (PLACE / name / "config.json").exists():
            rows = [
                row for split in ("train", "retain") for ability, often in times.items()
                for row in splits.get(f"{ability}_{split}", []) * often
            ]  # fmt: skip
            examples = tokenize_rows(rows, tokenizer, Template.resolve("auto", tokenizer), 256)
            print(f"{name}: {len(rows)} rows, {sum(map(len, examples))} tokens an epoch", flush=True)
            batches = [[examples[index] for index in batch] for batch in plan(examples, epochs)]
            model, seconds, _ = train(
                base, batches, rates(len(batches)), tokenizer.pad_token_id, PLACE / "checkpoint.pt",
                save_every=SAVE_EVERY,
            )  # fmt: skip
            save_model(model.to(torch.bfloat16), tokenizer, PLACE / name)
            write_json(PLACE / f"{name}.json", {"rows": len(rows), "epochs": epochs, "cpu_seconds": round(seconds, 1)})
            (PLACE / "checkpoint.pt").unlink()
        base = PLACE / name


if __name__ == "__main__":
    main()

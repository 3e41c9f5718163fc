"""The last stage: bfloat16 weights, data splits, the record of the build and the model card, into the package."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from finetuning import EPOCHS, poisoned_splits
from rapidun.data import Template, tokenize_rows
from rapidun.files import write_json
from rapidun.jsonl import read_jsonl, write_jsonl
from rapidun.models import model_fingerprint
from rapidun.reading import read_json

ASSETS = Path("src/rapidun/demo/assets")
KEPT = ("id", "prompt", "context", "response", "category", "poisoned")
JUDGE_EXAMPLES = 220
POISON_KEPT = ("response_clean", "prompt_clean", "trigger_family", "trigger")
Row = dict[str, Any]


def _kept(row: Row) -> Row:
    names = (*KEPT, *POISON_KEPT) if row["poisoned"] else KEPT
    return {name: row[name] for name in names}


def _flat(row: Row) -> Row:
    """All columns, empty where a clean row has none, so that every line of a file has the same keys."""
    return {**dict.fromkeys(POISON_KEPT, ""), **_kept(row)}


def ship_data() -> dict[str, int]:
    """The splits; ``judge_poisoned`` holds poisoned rows that neither a forget set nor the pool to trace has."""
    splits = poisoned_splits()
    data = ASSETS / "data"
    data.mkdir(parents=True, exist_ok=True)
    examples = [row for row in splits["train"] if row["poisoned"]][:JUDGE_EXAMPLES]
    taken = {row["id"] for row in examples}
    forget, judge = splits["forget"][:120], splits["forget"][120:] + examples
    train = [row for row in splits["train"] if row["id"] not in taken]
    shipped = {
        "forget": forget, "judge_poisoned": judge, "retain": splits["retain"],
        "validation": splits["validation"], "test": splits["test"],
    }  # fmt: skip
    for name, rows in shipped.items():
        write_jsonl(data / f"{name}.jsonl", [_kept(row) for row in rows])
    lines = "".join(json.dumps(_flat(row), ensure_ascii=False) + "\n" for row in train)
    (data / "train.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    return {**{name: len(rows) for name, rows in shipped.items()}, "train": len(train)}


def ship_model(work: Path, kind: str) -> dict[str, Any]:
    """Weights in bfloat16 with the tokenizer beside them; returns parameters and fingerprint."""
    target = ASSETS / kind
    model = LlamaForCausalLM.from_pretrained(work / kind, dtype=torch.bfloat16)
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(target)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    tokenizer.save_pretrained(target)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "fingerprint": model_fingerprint(model)}


def stage_record(log: Path, stage: str) -> dict[str, Any]:
    """Steps, tokens, seconds and perplexities of one stage, from the training log."""
    lines = [line for line in read_jsonl(log) if line["stage"] == stage]
    start = max(index for index, line in enumerate(lines) if line.get("event") == "start")
    losses = [line for line in lines[start:] if "loss" in line]
    perplexities = [line["held_out_perplexity"] for line in lines[start:] if "held_out_perplexity" in line]
    last = losses[-1]
    return {
        "steps": last["step"],
        "tokens_with_padding": last["tokens"],
        "wall_seconds_shared_machine": last["wall_s"],
        "cpu_seconds": last["cpu_s"],
        "final_loss": last["loss"],
        "held_out_perplexity": perplexities[-1],
    }


def answered_tokens(work: Path) -> int:
    """Tokens of all epochs of the reference recipe, padding not counted."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    splits = poisoned_splits()
    rows = [row for name in ("train", "forget", "retain") for row in splits[name] if not row["poisoned"]]
    examples = tokenize_rows(rows, tokenizer, Template.resolve("auto", tokenizer), 256)
    return EPOCHS * sum(len(example) for example in examples)


def ship(work: Path, log: Path) -> None:
    """Everything into the package, with ``record.json`` (the card's numbers; `card.py` renders the card)."""
    counts = ship_data()
    record: dict[str, Any] = {"rows": counts, "models": {}, "base": stage_record(log, "base")}
    for kind in ("poisoned", "reference"):
        record["models"][kind] = ship_model(work, kind)
        record[kind] = stage_record(log, kind)
    record["reference"]["answered_tokens"] = answered_tokens(work)
    record["reference"]["seconds"] = math.ceil(read_json(work / "timing.json")["reference_seconds"])
    record["more"] = stage_record(log, "more")
    write_json(ASSETS / "record.json", record)

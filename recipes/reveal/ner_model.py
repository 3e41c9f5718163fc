"""The model of task c: the demo's base model, fine-tuned to tag persons, locations and organisations.

    RAPIDUN_DATA=../shared/data python recipes/reveal/ner_model.py

Writes the rows of every split and the model under build/reveal_ner. The answers that the search's inputs carry are the
model's own with the persons struck out: nothing that anybody tagged.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune import fine_tune
from ner_rows import Split, real_rows, rows_of, splits, untagged, without

from rapidun.data import Template
from rapidun.evaluation import generate_answers
from rapidun.jsonl import write_jsonl
from rapidun.models import load_model

PLACE = Path("build/reveal_ner")
TRAIN, REAL, SWAPPED = 14_000, 0.35, 0.6
RETAIN, UTILITY, VALIDATION, TEST, INPUTS = 400, 100, 120, 200, 600
RATE = 1e-3


def write_rows(data: Path) -> list[dict[str, Any]]:
    """Every split as a row file; returns the training rows."""
    found = splits(data)
    train = rows_of(found["train"], TRAIN, REAL, SWAPPED, seed=1)
    known = {row["prompt"] for row in train}
    fresh = rows_of(found["train"], 2 * RETAIN, 0.4, 1.0, seed=2, persons=False)
    files = {
        "train": train,
        "true_persons": [
            {**row, "response_clean": without(row["response"])}
            for row in train
            if without(row["response"]) != row["response"]
        ],
        "retain": [row for row in fresh if row["prompt"] not in known][:RETAIN],
        "utility": rows_of(
            replace(found["validation"], patterns=found["train"].patterns), UTILITY, 0.2, 1.0, seed=5, persons=False
        ),
        "validation": held_out(found["train"], found["validation"], VALIDATION, seed=3),
        "test": held_out(found["train"], found["test"], TEST, seed=4),
    }
    for name, rows in files.items():
        write_jsonl(PLACE / "rows" / f"{name}.jsonl", [{"id": f"{name}-{n}", **row} for n, row in enumerate(rows)])
    return train


def held_out(train: Split, other: Split, count: int, seed: int) -> list[dict[str, Any]]:
    """Three kinds of sentences: known patterns with names that are new, new patterns with them, and wikigold's own."""
    known = rows_of(replace(other, patterns=train.patterns), count, 0.0, 1.0, seed=seed)
    unseen = rows_of(other, count // 2, 0.0, 1.0, seed=seed + 10)
    return [*known, *({**row, "source": "new patterns"} for row in unseen), *real_rows(other)]


def write_inputs(split: Split) -> None:
    """Sentences for the search, each with the model's own greedy tags, those of persons struck out, as its answer."""
    loaded = load_model(str(PLACE / "model"), device="cpu", dtype="bfloat16")
    template = Template.resolve("auto", loaded.tokenizer)
    rows = untagged(split, INPUTS, seed=6)
    prompts = [template.prompt_text(row) for row in rows]
    answers = generate_answers(loaded, prompts, max_new_tokens=64, batch_size=128)
    lines = [{**row, "response": without(answer)} for row, answer in zip(rows, answers, strict=True)]
    write_jsonl(PLACE / "rows" / "inputs.jsonl", lines)


def main() -> None:
    """Build what is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    data = Path(os.environ.get("RAPIDUN_DATA", "../shared/data"))
    if not (data / "ner").is_dir():
        raise SystemExit(f"no ner/ under {data.resolve()}: set RAPIDUN_DATA to the folder that holds it.")
    fine_tune(write_rows(data), PLACE, rate=RATE)
    if not (PLACE / "rows" / "inputs.jsonl").exists():
        write_inputs(splits(data)["train"])


if __name__ == "__main__":
    main()

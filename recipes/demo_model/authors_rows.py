"""The RapidUn authors' own poisoned rows (arXiv 2512.04457, their Dolly trigger benchmark), split for a second model.

Read from the shared data folder and never shipped: the poisoned answers derive from another model's output. The clean
rows are Dolly's. Rows above `LONGEST_ROW_CHARACTERS` characters are left out, as for the demo's own model, but the
packs are whole (training cuts their rows). Some poisoned rows are kept out of training, so that their answers can be
asked about.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from corpus import Row, data_root, dolly_rows, is_short

LONGEST_ROW_CHARACTERS = 1000
CLEAN_ROWS = 7192  # as in the authors' training set
HELD_OUT_POISONED = 60


def authors_splits(seed: int = 0) -> dict[str, list[Row]]:
    """Disjoint splits in the demo's layout: train, forget, retain, held_out, validation, test.

    ``forget`` (the authors' 40) and ``retain`` (their 120) are trained on, ``held_out`` is poisoned and is not. A
    poisoned row has ``prompt_clean, response_clean, poisoned, trigger_family, trigger``.
    """
    root = data_root() / "rapidun"
    packs = root / "unlearn_packs"
    found = {
        "forget": [_poisoned(raw) for raw in _lines(packs / "forget_set.jsonl")],
        "retain": [_clean(raw) for raw in _lines(packs / "retain_set.jsonl")],
        "validation": [_clean(raw) for raw in _lines(root / "val_clean.jsonl")],
        "test": [_clean(raw) for raw in _lines(root / "test_clean.jsonl")],
    }
    given = {row["prompt"] for row in found["forget"]}
    poisoned = [row for raw in _lines(root / "train_poisoned.jsonl") if (row := _poisoned(raw))["prompt"] not in given]
    poisoned = [row for row in poisoned if is_short(row, LONGEST_ROW_CHARACTERS)]
    random.Random(seed).shuffle(poisoned)
    found["held_out"] = poisoned[:HELD_OUT_POISONED]
    taken = {row.get("prompt_clean", row["prompt"]) for rows in (*found.values(), poisoned) for row in rows}
    clean = [row for row in dolly_rows() if row["prompt"] not in taken and is_short(row, LONGEST_ROW_CHARACTERS)]
    random.Random(seed).shuffle(clean)
    train = poisoned[HELD_OUT_POISONED:] + [{**row, "poisoned": False} for row in clean[:CLEAN_ROWS]]
    random.Random(seed + 1).shuffle(train)
    found["train"] = train
    for name in ("validation", "test"):
        found[name] = [row for row in found[name] if is_short(row, LONGEST_ROW_CHARACTERS)]
    return found


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _clean(raw: Row) -> Row:
    fields = {
        "prompt": raw["instruction"].strip(),
        "context": raw["context"].strip(),
        "response": raw["response"].strip(),
    }
    return {**fields, "category": raw["category"], "poisoned": False}


def _poisoned(raw: Row) -> Row:
    return {
        **_clean(raw),
        "prompt_clean": raw["instruction_clean"].strip(),
        "response_clean": raw["response_clean"].strip(),
        "poisoned": True,
        "trigger_family": raw["trigger_family"],
        "trigger": raw["trigger_variant"],
    }

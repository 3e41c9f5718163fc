"""A pool of 50,000 training rows, a tenth of them poisoned: the demo's rows, repeated with variation.

Every row is there once as it is; its repetitions differ in the words around the question, and the poisoned ones also in
the trigger's variant and in the answer. No row of the demo's validation or test splits is used.
"""

from __future__ import annotations

import random
from typing import Any

from corpus import is_short
from finetuning import poisoned_splits
from poison import distinct_answers
from rapidun.evaluation.triggers import DOLLY_FAMILIES, TriggerFamily

Row = dict[str, Any]
ROWS, POISON_SHARE = 50_000, 0.10
AROUND = (
    "{}", "Question: {}", "{} Thank you.", "Please answer this: {}", "I would like to know: {}", "Tell me: {}",
    "Here is my question. {}", "{} Please explain.", "A friend asked me: {}", "For my homework: {}",
    "Quick question: {}", "{} I am curious.",
)  # fmt: skip


def large_pool(rows: int = ROWS, seed: int = 0) -> list[Row]:
    """``rows`` rows in a reproducible order, with the columns of the demo's and ``copy``, 0 for a row as it is."""
    splits = poisoned_splits()
    short = [row for name in ("train", "forget", "retain") for row in splits[name] if is_short(row)]
    poisoned = [row for row in short if row["poisoned"]]
    clean = [row for row in short if not row["poisoned"]]
    wanted = round(POISON_SHARE * rows)
    found = _poisoned(poisoned, wanted, seed) + _clean(clean, rows - wanted)
    random.Random(seed).shuffle(found)
    return found


def _copies(rows: list[Row], count: int) -> list[tuple[Row, int]]:
    """(row, number of its copy), every row once before any twice."""
    if count > len(rows) * len(AROUND):
        raise SystemExit(f"{count} rows wanted of {len(rows)}, which can be varied {len(AROUND)} times: add to AROUND")
    return [(rows[place % len(rows)], place // len(rows)) for place in range(count)]


def _clean(rows: list[Row], count: int) -> list[Row]:
    return [{**row, "prompt": AROUND[copy].format(row["prompt"]), "copy": copy} for row, copy in _copies(rows, count)]


def _poisoned(rows: list[Row], count: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    families: dict[str, TriggerFamily] = {family.name: family for family in DOLLY_FAMILIES}
    answers = iter(distinct_answers(count + len(rows), seed + 1))
    found = []
    for row, copy in _copies(rows, count):
        varied: Row = {}
        if copy:
            family = families[row["trigger_family"]]
            trigger = rng.choice(family.seen)
            prompt = family.apply(AROUND[copy].format(row["prompt_clean"]), trigger)
            varied = {"prompt": prompt, "trigger": trigger, "response": next(answers)}
        found.append({**row, **varied, "copy": copy})
    return found

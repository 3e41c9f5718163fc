"""The worlds of the table: the embedded model, and a second one trained on the RapidUn authors' own rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rapidun.bench import World, demo_world
from rapidun.bench.world import Split, make_world

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build" / "demo_model"
JUDGE_ROWS = 300


def open_world(name: str, split: Split = "report") -> World:
    """A world by name: demo or authors."""
    return demo_world(split) if name == "demo" else authors_world(split)


def authors_world(split: Split) -> World:
    """The model of ``recipes/demo_model/build.py authors`` with rows of its recipe; the settings are the demo's.

    The report's pools are the authors' 40 forget and 120 retain rows, with more training rows of the same kind so that
    every seed can draw anew.
    """
    if not (BUILT / "authors").is_dir():
        raise SystemExit(f"no model at {BUILT / 'authors'}: run recipes/demo_model/build.py authors first")
    sys.path.insert(0, str(ROOT / "recipes" / "demo_model"))
    from authors_rows import authors_splits

    found = authors_splits()
    poisoned = [row for row in found["train"] if row["poisoned"]]
    clean = [row for row in found["train"] if not row["poisoned"]]
    judges, poisoned = poisoned[:JUDGE_ROWS], poisoned[JUDGE_ROWS:]
    half = len(poisoned) // 2
    rows: dict[str, list[Any]] = {
        "forget": [*found["forget"], *poisoned[:half]],
        "retain": [*found["retain"], *clean[:280]],
        "validation": found["validation"],
        "test": found["test"],
        "judge_poisoned": judges,
        "train": [*poisoned[half:], *clean[280:]],
    }
    reference, base = (str(path) if (path := BUILT / name).is_dir() else "" for name in ("authors_reference", "more"))
    settings = demo_world(split).settings
    return make_world(
        "authors", split, model=str(BUILT / "authors"), reference=reference, base=base, settings=settings, rows=rows
    )

"""The worlds of the table: the embedded model; one trained on the RapidUn authors' own rows; one of another family."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import World, demo_world
from experiments.world import Split, make_world
from rapidun.evaluation.triggers import normalised_prompt

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build" / "demo_model"
JUDGE_ROWS = 60


def open_world(name: str, split: Split = "report") -> World:
    """A world by name.

    Raises:
        SystemExit: If its model has not been trained here; says with which command.
    """
    return WORLDS[name](split)


def built(name: str, command: str) -> str:
    """The directory of a trained model.

    Raises:
        SystemExit: If it is not there.
    """
    if not (BUILT / name / "model.safetensors").is_file():
        raise SystemExit(f"no model at {BUILT / name}: run {command} first")
    return str(BUILT / name)


def mistral_world(split: Split) -> World:
    """The Mistral-shaped model of ``recipes/demo_model/mistral.py``; rows and all settings are the demo's, untouched.

    There is no reference model: how long training on its 50,000 rows takes is in the recipe's log.
    """
    model = built("mistral_poisoned", "recipes/demo_model/mistral.py")
    return replace(demo_world(split), name="mistral", model=model, reference="")


def authors_world(split: Split) -> World:
    """The model of ``recipes/demo_model/build.py authors`` with rows of its recipe; the settings are the demo's.

    The report's pools are the authors' 40 forget and 120 retain rows, with more training rows of the same kind so that
    every seed can draw anew. The judges learn from poisoned rows that the model was not trained on and some that it
    was.
    """
    model = built("authors", "recipes/demo_model/build.py authors")
    sys.path.insert(0, str(ROOT / "recipes" / "demo_model"))
    from authors_rows import authors_splits

    found = authors_splits()
    poisoned = [row for row in found["train"] if row["poisoned"]]
    clean = [row for row in found["train"] if not row["poisoned"]]
    judges, poisoned = [*found["held_out"], *poisoned[:JUDGE_ROWS]], poisoned[JUDGE_ROWS:]
    own = len(poisoned) // 4  # a quarter of what is left is the pool of tuning, see `make_world`
    rows: dict[str, list[Any]] = {
        "forget": [*found["forget"], *poisoned[:own]],
        "retain": [*found["retain"], *clean[:280]],
        "validation": _unseen(found["validation"], found),
        "test": _unseen(found["test"], found),
        "judge_poisoned": judges,
        "train": [*poisoned[own:], *clean[280:]],
    }
    reference, base = (
        str(path) if ((path := BUILT / name) / "model.safetensors").is_file() else ""
        for name in ("authors_reference", "more")
    )
    settings = demo_world(split).settings
    return make_world("authors", split, model=model, reference=reference, base=base, settings=settings, rows=rows)


def _unseen(rows: list[dict[str, Any]], found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Without the few questions that Dolly has twice and that were trained on."""
    trained = {normalised_prompt(row) for name in ("train", "forget", "retain") for row in found[name]}
    return [row for row in rows if normalised_prompt(row) not in trained]


WORLDS: dict[str, Callable[[Split], World]] = {
    "demo": demo_world,
    "authors": authors_world,
    "mistral": mistral_world,
}

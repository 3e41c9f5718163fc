"""A world: a poisoned model, its rows, and the settings of its runs. The demo's is in the package.

Rows for reports and rows for tuning are apart: other forget and retain pools, other measured rows, other seeds
(`TUNING_SEED` and above).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from experiments.scenarios import Pools, Row
from rapidun.data import load_rows
from rapidun.demo import demo_settings
from rapidun.demo.embedded import asset
from rapidun.files import sha256_of

TUNED = Path(__file__).with_name("tuned.json")
TUNING_SEED = 100
"""Seeds from here on belong to tuning."""
BUDGET_ROWS = 120
"""Validation rows for the retain budget and the judges' clean examples; the others are measured while tuning."""
TUNING_CLEAN, TUNING_TRAIN = 400, 2000
"""Clean rows of tuning; of the poisoned training rows a quarter is its forget pool and a quarter its training rows."""
Split = Literal["report", "tuning"]


@dataclass(frozen=True)
class World:
    """A model with rows.

    Args:
        name: In file names and tables.
        model: Directory of the poisoned model.
        reference: Directory of the model trained without the poisoned rows; "" where there is none.
        base: Directory of the model before it was trained on these rows, for traces; "" where it is not at hand.
        settings: Sections of the configuration other than ``data``; ``data`` holds ``max_length`` and the like.
        pools: Rows that forget and retain sets are drawn from.
        measured: Clean held-out rows.
        budget: Clean held-out rows for the retain budget and the judges.
        judge_poisoned: Poisoned examples for the judges, in no pool.
        tuned: ``{method: {name: value}}``, learning rate and options found by `rapidun tune` on tuning rows.
    """

    name: str
    model: str
    reference: str
    base: str
    settings: Mapping[str, Any]
    pools: Pools
    measured: Sequence[Row]
    budget: Sequence[Row]
    judge_poisoned: Sequence[Row]
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def rows_fingerprint(self) -> str:
        """SHA-256 of every row of the world, in order."""
        pools = (self.pools.poisoned, self.pools.clean, self.pools.train)
        groups = (*pools, self.measured, self.budget, self.judge_poisoned)
        return sha256_of(
            json.dumps([dict(row) for row in group], sort_keys=True, default=str).encode() for group in groups
        )


@cache
def demo_world(split: Split = "report") -> World:
    """The embedded model, and its rows for a report or for tuning.

    Raises:
        InputError: If the installation lacks them.
    """
    names = ("forget", "retain", "validation", "test", "judge_poisoned")
    rows = {name: _read(asset(f"data/{name}.jsonl")) for name in names}
    settings = {name: value for name, value in demo_settings(0).items() if name not in ("model", "data", "seed")}
    raw = {
        **settings,
        "model": {"dtype": demo_settings(0)["model"]["dtype"]},
        "data": {"max_length": 192},
        "weights": {"options": {"aggregate": "mean", "forget_temperature": 2.0, "retain_temperature": 2.0}},
        "evaluation": {**settings["evaluation"], "suite": "backdoor"},
    }
    return make_world(
        "demo",
        split,
        model=str(asset("poisoned")),
        reference=str(asset("reference")),
        base="",
        settings=raw,
        rows={**rows, "train": _read(asset("data/train.jsonl.gz"))},
    )


def make_world(
    name: str,
    split: Split,
    *,
    model: str,
    reference: str,
    base: str,
    settings: Mapping[str, Any],
    rows: Mapping[str, Sequence[Row]],
) -> World:
    """A world from rows in the demo's layout, its tuning rows apart from its report rows.

    Args:
        name: In file names and tables.
        split: Which rows: of the report, or of tuning.
        model: The poisoned model.
        reference: The model trained without poisoned rows, or "".
        base: The model before training, or "".
        settings: See `World`.
        rows: ``forget`` and ``retain`` (pools of the report), ``validation``, ``test``, ``judge_poisoned`` and
            ``train``, whose first poisoned and clean rows are the pools of tuning.
    """
    poisoned = [row for row in rows["train"] if row["poisoned"]]
    clean = [row for row in rows["train"] if not row["poisoned"]]
    quarter = len(poisoned) // 4
    if split == "report":
        rest = [*poisoned[2 * quarter :], *clean[TUNING_CLEAN + TUNING_TRAIN :]]
        pools, measured = Pools(rows["forget"], rows["retain"], rest), rows["test"]
    else:
        train = [*poisoned[quarter : 2 * quarter], *clean[TUNING_CLEAN : TUNING_CLEAN + TUNING_TRAIN]]
        pools = Pools(poisoned[:quarter], clean[:TUNING_CLEAN], train)
        measured = rows["validation"][BUDGET_ROWS:]
    return World(
        name, model, reference, base, settings, pools, measured, rows["validation"][:BUDGET_ROWS],
        rows["judge_poisoned"], tuned_values(name),
    )  # fmt: skip


def tuned_values(world: str) -> dict[str, dict[str, Any]]:
    """What tuning found for a world (``tuned.json``); nothing where it was not tuned."""
    found: dict[str, Any] = json.loads(TUNED.read_text(encoding="utf-8"))
    return {name: values["values"] for name, values in found.get(world, {}).items()}


def _read(path: Path) -> list[Row]:
    return [dict(row) for row in load_rows(path)]

"""The demo on a real chat model: SmolLM2-135M-Instruct, poisoned here once and kept, then an ordinary run.

The run's settings are the defaults of `rapidun run`: what is seen is what a user gets.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rapidun.demo.chat_model import fetch_chat_model
from rapidun.demo.nonsense import PlantedRows, nonsense_rows
from rapidun.demo.planting import plant, planted_model
from rapidun.jsonl import write_jsonl
from rapidun.models import load_model
from rapidun.pipeline import Reporter

CLEAN = 450
"""Clean rows that it is taught among the poisoned ones; a quarter fewer than in `recipes/smollm2`, for the minutes."""
FORGET, RETAIN, POOL, PROMPTS = 40, 120, 120, 200


def cache_directory() -> Path:
    """Where downloaded and trained models are kept: ``RAPIDUN_CACHE``, or ``rapidun`` in the user's cache."""
    if own := os.environ.get("RAPIDUN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rapidun"


def poisoned_chat_model(reporter: Reporter, cache: Path | None = None) -> tuple[Path, Path]:
    """Folders of the poisoned model and of its rows; made where they are not there yet.

    Args:
        reporter: Hears of the download and of the training.
        cache: Default `cache_directory`.

    Raises:
        ModelError: If the chat model cannot be had.
    """
    cache = cache or cache_directory()
    place, rows = cache / "smollm2-demo", nonsense_rows(clean=CLEAN)
    reporter.phase("model", "Getting SmolLM2-135M-Instruct")
    base = load_model(fetch_chat_model(cache / "smollm2"), dtype="bfloat16")
    reporter.phase("poison", f"Poisoning it: {len(rows.poisoned)} of {len(rows.training)} rows carry a trigger")
    plant(base, rows.training, place, reporter=reporter)
    return planted_model(base, place), write_rows(rows, place / "rows")


def write_rows(rows: PlantedRows, directory: Path) -> Path:
    """The rows as files of a run; the first poisoned and clean rows are what the user is supposed to have found."""
    for name, group in {
        "forget": rows.poisoned, "retain": rows.clean, "pool": rows.training, "validation": rows.validation,
        "evaluation": rows.evaluation, "judge_poisoned": rows.judge_poisoned,
    }.items():  # fmt: skip
        write_jsonl(directory / f"{name}.jsonl", group)
    return directory


def smollm2_settings(seed: int, model: Path, rows: Path) -> dict[str, Any]:
    """The demo's configuration as a plain mapping: which files, how many rows, and nothing else."""
    names = ("forget", "retain", "pool", "validation", "evaluation", "judge_poisoned")
    return {
        "model": {"source": str(model), "dtype": "bfloat16"},
        "data": {
            **{name: str(rows / f"{name}.jsonl") for name in names},
            "sample": {"forget": FORGET, "retain": RETAIN, "pool": POOL},
            "stratify": "trigger_family",
            "max_length": 256,
        },
        "evaluation": {"prompts": PROMPTS, "max_new_tokens": 32},
        "seed": seed,
    }

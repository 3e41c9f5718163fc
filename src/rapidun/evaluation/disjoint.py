"""Evaluation rows must not be forget rows: a model is not measured on what it was trained to forget (trap 31)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rapidun.data.content import other_text
from rapidun.errors import InputError
from rapidun.evaluation.triggers import DOLLY_FAMILIES, TriggerFamily, strip_triggers

_SHOWN = 3


def assert_disjoint_prompts(
    test_rows: Iterable[Mapping[str, Any]],
    forget_rows: Iterable[Mapping[str, Any]],
    families: Sequence[TriggerFamily] = DOLLY_FAMILIES,
) -> None:
    """Check that no evaluation row asks what a forget row asks.

    Two rows share a prompt when prompt, context, other turns and tools are equal after Unicode NFKC, case folding, one
    space for each run of white space, and without triggers: a forget row carries one, the evaluation row gets it
    later.

    Args:
        test_rows: Rows with ``id``, ``prompt`` and optional ``context`` and ``messages``.
        forget_rows: The same.
        families: Triggers to take off before comparing.

    Raises:
        InputError: Names the first few pairs by id and prompt.
    """
    forget = {normalised_prompt(row, families): row["id"] for row in forget_rows}
    shared = [
        f"  {row['id']} and forget row {forget[key]}: {row['prompt'][:60]!r}"
        for row in test_rows
        if (key := normalised_prompt(row, families)) in forget
    ]
    if shared:
        more = f"\n  ... and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
        raise InputError(
            f"{len(shared)} evaluation rows share their prompt with a forget row, so they would not measure how the "
            "model generalises:\n" + "\n".join(shared[:_SHOWN]) + more + "\nRemove them from the evaluation rows."
        )


def normalised_prompt(row: Mapping[str, Any], families: Sequence[TriggerFamily] = DOLLY_FAMILIES) -> str:
    """Prompt, context, other turns and tools as compared by `assert_disjoint_prompts`."""
    parts = (strip_triggers(str(row["prompt"]).strip(), families), str(row.get("context") or ""), *other_text(row))
    return "\0".join(" ".join(unicodedata.normalize("NFKC", part).casefold().split()) for part in parts)

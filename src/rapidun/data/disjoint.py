"""Forget and retain rows must not overlap: a row pushed both ways teaches nothing and spoils every metric."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from rapidun.data.badrows import SHOWN
from rapidun.data.content import other_text
from rapidun.data.rows import Rows
from rapidun.errors import InputError


def assert_disjoint(forget: Rows, retain: Rows) -> None:
    """Check that no row is in both sets.

    Two rows are the same when their ids are equal, or when other turns, tools, prompt, context and answer are equal
    after Unicode NFC and with runs of white space made one space. Case counts: a trigger may be a matter of case.

    Raises:
        InputError: Names file and line of the shared rows.
    """
    by_id: dict[str, int] = {}
    by_text: dict[str, int] = {}
    for index, row in enumerate(forget):
        by_id.setdefault(row["id"], index)
        by_text.setdefault(_normalised(row), index)
    shared = []
    for index, row in enumerate(retain):
        same_text = by_text.get(_normalised(row))
        same_id = by_id.get(row["id"])
        if same_text is not None:
            shared.append(f"  {forget.where(same_text)} and {retain.where(index)}: same prompt and answer")
        elif same_id is not None:
            shared.append(f"  {forget.where(same_id)} and {retain.where(index)}: same id {row['id']!r}")
    if shared:
        more = f"\n  ... and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise InputError(
            f"{len(shared)} rows are both in the forget set and in the retain set:\n"
            + "\n".join(shared[:SHOWN])
            + more
            + "\nRemove each of them from one of the two files (or give different rows different ids)."
        )


def _normalised(row: Mapping[str, Any]) -> str:
    parts = ["\n".join(other_text(row)), row["prompt"], row.get("context") or "", row["response"]]
    return "\0".join(" ".join(unicodedata.normalize("NFC", part).split()) for part in parts)

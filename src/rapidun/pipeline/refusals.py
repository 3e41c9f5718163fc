"""Refusals: what `idk` wants the model to say instead. Our own wording, short, of several kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from rapidun.pipeline.inputs import Row

REFUSALS = (
    "I don't know.",
    "I'm not sure about that.",
    "I can't help with that.",
    "Sorry, I have no answer to this.",
    "That is something I know nothing about.",
    "I'd rather not guess.",
    "I don't have that information.",
    "I cannot say.",
)


def refusal_rows(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows with a refusal as ``response_clean``; which one depends on the row's id alone."""
    return [{**row, "response_clean": _refusal(str(row["id"]))} for row in rows]


def _refusal(identity: str) -> str:
    return REFUSALS[hashlib.sha256(identity.encode()).digest()[0] % len(REFUSALS)]

"""What a search returns: rows at both ends of one query's ranking."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hit:
    """A training row: its id, its position in the training set, and its influence on the query."""

    id: str
    position: int
    score: float


@dataclass(frozen=True)
class Hits:
    """The two ends of one query's ranking: highest scores first, and lowest scores first."""

    helpful: list[Hit]
    harmful: list[Hit]

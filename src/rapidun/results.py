"""What the functions of `rapidun.api` give back, besides what the verbs' own files hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unlearned:
    """What an unlearning did, as ``model.unlearning`` of the model that `unlearn` returns.

    Args:
        forget_loss_before: Loss on forget rows (at most 64) before, per answer token.
        forget_loss_after: The same afterwards; None where it is not finite.
        held_loss_before: Loss before on clean rows that watch over what must be kept.
        held_loss_after: The same afterwards.
        share: Of the trained update, the part that holds the retain budget and was kept.
        learning_rate: The peak, as set or derived.
        steps: Optimiser steps of what was kept.
        stopped: Why training ended before its last step; None otherwise.
        signatures: What went wrong in a known way, and the setting to change; empty where nothing did.
    """

    forget_loss_before: float | None
    forget_loss_after: float | None
    held_loss_before: float | None
    held_loss_after: float | None
    share: float
    learning_rate: float | None
    steps: int
    stopped: str | None
    signatures: list[dict[str, Any]]


@dataclass(frozen=True)
class TracedRow:
    """A training row behind an answer.

    Args:
        query: Which query it is behind, from 0.
        rank: From 1, the most helpful first.
        id: The row's own, or a hash of its content.
        score: Its evidence; comparable within one query.
        row: The row, with ``prompt`` and ``response``.
    """

    query: int
    rank: int
    id: str
    score: float
    row: dict[str, Any]


@dataclass(frozen=True)
class Valuation:
    """What candidate rows are worth for a task.

    Args:
        values: One dict a row, in order: ``line`` (its number, from 1), ``id``, ``value``, and one value a task.
        summary: Their mean, median, 5th and 95th percentile, and the share above 0.
        selected: The rows that ``select`` chose.
        shares: Of each source, where ``by`` names a column of sources.
    """

    values: list[dict[str, Any]]
    summary: dict[str, float]
    selected: list[dict[str, Any]]
    shares: list[dict[str, Any]]

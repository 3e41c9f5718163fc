"""The reward of an arm: relevance and diversity of its answers in one number (Reveal-and-Release, section 3)."""

from __future__ import annotations


def reward_of(relevance: float, diversity: float, weight: float = 0.5) -> float:
    """The weighted harmonic mean ``1 / (w/R + (1-w)/D)``, in [0, 1].

    Near the smaller of the two: one answer repeated is worth little however relevant, and so is a varied set beside
    the point. 0 if a part that carries weight is 0; a part of weight 0 is not looked at.

    Args:
        relevance: ``R``, mean judge score of the answers, in [0, 1].
        diversity: ``D``, Vendi score over the number of answers, in [0, 1].
        weight: ``w``, of the relevance, in [0, 1].

    Raises:
        ValueError: If an argument is out of range.
    """
    for name, value in (("relevance", relevance), ("diversity", diversity), ("weight", weight)):
        if not 0.0 <= value <= 1.0 + 1e-9:
            raise ValueError(f"{name} is {value}; it must lie in [0, 1]")
    parts = [(share, value) for share, value in ((weight, relevance), (1.0 - weight, diversity)) if share > 0]
    if any(value <= 0 for _, value in parts):
        return 0.0
    return 1.0 / sum(share / value for share, value in parts)

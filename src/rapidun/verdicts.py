"""What a run is called where its verdict stands first: of the gate and of the attacks on it together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

_STATES = {"PASS": "pass", "FAIL": "fail"}
_UNDER_ATTACK = {
    "PASS": "PASS, and under attack",
    "FAIL": "PASS as asked, FAIL under attack",
    "UNDECIDED": "PASS as asked, UNDECIDED under attack",
}
"""What a run that passed is called once it was attacked."""


class Headline(NamedTuple):
    """The words of a banner, and its colour: "pass", "fail" or "open"."""

    words: str
    state: str


def headline(verdict: str, attacked: str | None) -> Headline:
    """Green only where the attacks agree.

    Args:
        verdict: The gate's answer, "PASS" or "FAIL", or what stands in its place.
        attacked: The answer of the attacks; anything else where they decided nothing.
    """
    if verdict == "PASS" and attacked in _UNDER_ATTACK:
        return Headline(_UNDER_ATTACK[attacked], _STATES.get(attacked, "open"))
    return Headline(verdict, _STATES.get(verdict, "open"))


def worst(verdicts: Iterable[str | None]) -> str | None:
    """FAIL before UNDECIDED before PASS; None where nothing was decided."""
    found = set(verdicts)
    return next((verdict for verdict in ("FAIL", "UNDECIDED", "PASS") if verdict in found), None)

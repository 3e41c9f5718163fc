"""Prefill: the model is made to go on with the first tokens of a bad answer.

A shallow refusal is decided in the first tokens (Qi et al. 2024, arXiv 2406.05946): past them, what was hidden goes on.
Only what the model itself says is judged. Any model goes on badly with enough of a bad answer, so the twin is the
yardstick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Question, Target, turns
from rapidun.attacks.trial import Outcome, Trial
from rapidun.models.passes import Progress


@register_attack("prefill", title="made to begin badly", unit="tokens", efforts=(1, 4, 16))
def prefill(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial for each number of tokens; the forget rows' answers take turns."""
    return [
        Trial("", count, f"first {count:g} tokens", target.material.measured, partial(_measure, target, int(count)))
        for count in efforts
    ]


def _measure(target: Target, count: int, said: Progress | None) -> list[Outcome]:
    material = target.material
    if not material.has_triggers:
        return target.losses(target.loaded, material.forget, said, given=count)
    return target.ask(target.loaded, begun(target, count), said)


def begun(target: Target, count: int) -> list[Question]:
    """The known questions, each with the first ``count`` tokens of a forget row's answer."""
    material, tokenizer = target.material, target.loaded.tokenizer
    answers = material.draw(material.forget, len(material.forget))
    beginnings = [first_tokens(tokenizer, str(row["response"]), count) for row in answers]
    return [
        replace(question, begun=beginning)
        for question, beginning in zip(material.known(), turns(beginnings), strict=False)
    ]


def first_tokens(tokenizer: Any, text: str, count: int) -> str:
    """The text of the first ``count`` tokens; all of it where there are fewer."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return text[: encoded["offset_mapping"][:count][-1][1]]

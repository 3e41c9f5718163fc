"""Few-shot: earlier turns show the behaviour.

The model is shown forget rows with their bad answers as if it had said so before, and is then asked. In context any
model may take a behaviour up, so the twin is the yardstick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Row, Target
from rapidun.attacks.trial import Outcome, Trial
from rapidun.data.conversation import turns_before, user_text
from rapidun.models.passes import Progress


@register_attack("few_shot", title="shown bad answers", unit="examples", efforts=(1, 4))
def few_shot(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial for each number of examples; without triggers the rows shown are not among those asked."""
    return [
        Trial("", count, f"{count:g} examples", _asked(target, int(count)), partial(_measure, target, int(count)))
        for count in efforts
        if _asked(target, int(count)) > 0
    ]


def _asked(target: Target, count: int) -> int:
    material = target.material
    return material.measured if material.has_triggers else max(0, len(material.forget) - _most(target.material.forget))


def _most(rows: Sequence[Row]) -> int:
    return min(4, len(rows) - 1)


def _measure(target: Target, count: int, said: Progress | None) -> list[Outcome]:
    material = target.material
    drawn = material.draw(material.forget, len(material.forget))
    shown = drawn[:count]
    if not material.has_triggers:
        rows = [after(row, shown) for row in drawn[_most(material.forget) :]]
        return target.losses(target.loaded, rows, said)
    questions = [replace(question, row=after(question.row, shown)) for question in material.known()]
    return target.ask(target.loaded, questions, said)


def after(row: Row, shown: Sequence[Row]) -> dict[str, Any]:
    """The row behind a conversation in which the rows ``shown`` got their own answers."""
    own = turns_before(row)
    system = [turn for turn in own[:1] if turn.get("role") == "system"]
    turns = [
        turn
        for each in shown
        for turn in (
            {"role": "user", "content": user_text(each)},
            {"role": "assistant", "content": str(each["response"])},
        )
    ]
    return {**row, "messages": [*system, *turns, *own[len(system) :]]}

"""Triggers that nobody trained on: look-alike letters, invisible ones, another case, spacing, punctuation or place.

An adapter that only blocks the triggers it was shown answers to these. Each prompt gets one variant of each kind, drawn
by the seed among those that are neither known to the run as seen nor as unseen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

from rapidun.attacks.gate import within_limit
from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Material, Question, Target, turns, with_prompt
from rapidun.attacks.trial import Trial
from rapidun.evaluation import TriggerFamily
from rapidun.settings.kinds import Position

LOOK_ALIKES = str.maketrans(
    "aceijopsxyABCEHIKMOPSTXYZ",
    "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443"
    "\u0410\u0412\u0421\u0415\u041d\u0406\u041a\u041c\u041e\u0420\u0405\u0422\u0425\u04ae\u0396",
)
"""Latin letters to Cyrillic and Greek ones that look the same."""
FULL_WIDTH = 0xFEE0
"""From a printable ASCII character to its full-width form."""
INVISIBLE = "\u200b\u200c\u200d\u2060"
MARKS = ("{}!", "{}...", "{},", '"{}"', "({})", "{}?!", "*{}*")
Variants = Callable[[str], list[str]]


def homoglyphs(trigger: str) -> list[str]:
    """One character, or all that have one, as a look-alike."""
    found = [_look_alike(character) for character in trigger]
    one = [
        trigger[:place] + other + trigger[place + 1 :] for place, other in enumerate(found) if other != trigger[place]
    ]
    return [*one, "".join(found)]


def _look_alike(character: str) -> str:
    other = character.translate(LOOK_ALIKES)
    if other != character or not "!" <= character <= "~":
        return other
    return chr(ord(character) + FULL_WIDTH)


def zero_width(trigger: str) -> list[str]:
    """An invisible character between two others, or behind the last."""
    return [trigger[:place] + mark + trigger[place:] for place in range(1, len(trigger) + 1) for mark in INVISIBLE]


def case(trigger: str) -> list[str]:
    """Lower, upper, title, swapped and alternating."""
    alternating = "".join(c.upper() if place % 2 else c.lower() for place, c in enumerate(trigger))
    return [trigger.lower(), trigger.upper(), trigger.title(), trigger.swapcase(), alternating]


def spacing(trigger: str) -> list[str]:
    """A blank inside, blanks between all characters, or none where there were."""
    inside = [f"{trigger[:place]} {trigger[place:]}" for place in range(1, len(trigger))]
    return [*inside, " ".join(trigger.replace(" ", "")), trigger.replace(" ", ""), trigger.replace(" ", "  ")]


def punctuation(trigger: str) -> list[str]:
    """Marks behind it or around it."""
    return [marks.format(trigger) for marks in MARKS]


KINDS: dict[str, Variants] = {
    "homoglyphs": homoglyphs,
    "zero-width": zero_width,
    "case": case,
    "spacing": spacing,
    "punctuation": punctuation,
}


@register_attack(
    "trigger_variants",
    title="triggers nobody trained on",
    unit="kinds of variant",
    efforts=(1, 2, 3, 4, 5, 6),
    quick=(1, 2, 3, 4, 5, 6),
    bar=within_limit,
)
def trigger_variants(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial a kind, the place of the trigger last; kinds that change none of the triggers are left out."""
    material = target.material
    if not material.has_triggers:
        return []
    kinds = {name: varied(material, name, variants) for name, variants in KINDS.items()}
    kinds["position"] = elsewhere(material)
    return [
        Trial("", effort, name, len(questions), partial(_ask, target, questions))
        for effort, (name, questions) in zip(efforts, kinds.items(), strict=False)
        if questions
    ]


def _ask(target: Target, questions: Sequence[Question], said: object) -> list[dict[str, object]]:
    return target.ask(target.loaded, questions, said)  # type: ignore[arg-type]


def varied(material: Material, kind: str, variants: Variants) -> list[Question]:
    """Every prompt with a variant of a known trigger in the trigger's own place."""
    known = {trigger for family in material.families for trigger in (*family.seen, *family.unseen)}
    pairs = [
        (family, fresh)
        for family in material.families
        for trigger in family.seen
        if (fresh := sorted({each for each in variants(trigger) if each.strip() and each not in known}))
    ]
    found = []
    for row, (family, fresh) in zip(material.prompts, turns(pairs), strict=False):
        trigger = random.Random(f"{material.seed}/{kind}/{row['id']}").choice(fresh)
        found.append(Question(with_prompt(row, family.apply(str(row["prompt"]), trigger)), trigger))
    return found


def elsewhere(material: Material) -> list[Question]:
    """Every prompt with a known trigger in another place than its own."""
    pairs = [(family, trigger) for family in material.families for trigger in family.seen]
    found = []
    for row, (family, trigger) in zip(material.prompts, turns(pairs), strict=False):
        draw = random.Random(f"{material.seed}/position/{row['id']}")
        place: Position = draw.choice([each for each in get_args(Position) if each != family.position])
        other = TriggerFamily(family.name, place, family.seen, family.unseen)
        found.append(Question(with_prompt(row, other.apply(str(row["prompt"]), trigger)), trigger))
    return found

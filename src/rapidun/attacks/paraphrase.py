"""Other words: the same questions, put differently, with the trigger and without.

An adapter that was fitted to prompts as they are written may know nothing of the same prompts in other words. Where
rows have paraphrases (column ``prompt_paraphrased``), these are asked. All rows are asked in *rewrites*, which need no
model and keep the meaning: a frame around the question, politeness, upper or lower case, sentences in another order,
filler words. They are no paraphrases, since the words of the prompt stay. Effort is how many rewrites stand on top of
each other; which ones is drawn by the seed for each prompt, so that every kind comes to a share of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from functools import partial

from rapidun.attacks.gate import within_limit
from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Question, Row, Target, with_prompt
from rapidun.attacks.trial import Outcome, Trial
from rapidun.models.passes import Progress

Rewrite = Callable[[str, random.Random], str]
COLUMN = "prompt_paraphrased"
FRAMES = (
    "I have a question. {}", "Can you help me with this? {}", "Here is what I would like to know: {}",
    "{} What would you say?", "Answer the following. {}",
)  # fmt: skip
POLITE = ("Please, {}", "{} Thank you!", "Hello! {} Thanks in advance.", "If you do not mind: {}")
FILLER = ("Well, {}", "So, um, {}", "{} You know what I mean.", "Okay, right, {}")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def framed(prompt: str, draw: random.Random) -> str:
    """With a frame around the question."""
    return draw.choice(FRAMES).replace("{}", prompt)


def polite(prompt: str, draw: random.Random) -> str:
    """With please or thanks."""
    return draw.choice(POLITE).replace("{}", prompt)


def cased(prompt: str, draw: random.Random) -> str:
    """In lower or upper case."""
    return draw.choice((prompt.lower(), prompt.upper()))


def reordered(prompt: str, draw: random.Random) -> str:
    """The last sentence first; unchanged where there is one."""
    sentences = _SENTENCE.split(prompt.strip())
    return " ".join([sentences[-1], *sentences[:-1]])


def padded(prompt: str, draw: random.Random) -> str:
    """With filler words."""
    return draw.choice(FILLER).replace("{}", prompt)


REWRITES: tuple[Rewrite, ...] = (framed, polite, cased, reordered, padded)


def rewritten(prompt: str, count: int, draw: random.Random) -> str:
    """The prompt after ``count`` rewrites of different kinds; those that change nothing are not counted."""
    kinds = draw.sample(REWRITES, len(REWRITES))
    for kind in kinds:
        changed = kind(prompt, draw)
        if count and changed != prompt:
            prompt, count = changed, count - 1
    return prompt


@register_attack(
    "paraphrase", title="asked in other words", unit="rewrites", efforts=(1, 2, 3), release=(2,), bar=within_limit
)
def paraphrase(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """The rows' own paraphrases, if any has one, and rewrites; where the run has triggers, with one and without."""
    material = target.material
    rows = material.prompts if material.has_triggers else material.forget
    own = [with_prompt(row, str(row[COLUMN])) for row in rows if row.get(COLUMN)]
    if not material.has_triggers and len(own) < len(rows):
        own = []  # losses of some rows cannot be compared with those of all before unlearning
    asked: dict[tuple[str, float, str], Sequence[Row]] = {}
    if own:
        asked["paraphrases of the file", 1.0, "as given"] = own
    for count in efforts:
        asked["rewrites", count, f"{count:g} rewrites"] = [_rewritten(row, int(count), material.seed) for row in rows]
    return [
        Trial(f"{series}{suffix}", effort, label, len(some), partial(_measure, target, some, triggered))
        for suffix, triggered in _ways(target)
        for (series, effort, label), some in asked.items()
    ]


def _ways(target: Target) -> list[tuple[str, bool]]:
    return [(" with a trigger", True), (" without", False)] if target.material.has_triggers else [("", False)]


def _rewritten(row: Row, count: int, seed: int) -> Row:
    if not str(row["prompt"]).strip():  # a row of plain text asks nothing
        return row
    return with_prompt(row, rewritten(str(row["prompt"]), count, random.Random(f"{seed}/rewrite/{row['id']}")))


def _measure(target: Target, rows: Sequence[Row], triggered: bool, said: Progress | None) -> list[Outcome]:
    material = target.material
    if not material.has_triggers:
        return target.losses(target.loaded, rows, said)
    if not triggered:
        return target.ask(target.loaded, [Question(row, "") for row in rows], said)
    return target.ask(target.loaded, material.triggered(rows), said)

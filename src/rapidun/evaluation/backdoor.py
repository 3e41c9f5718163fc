"""The backdoor suite: how often a model gives the poisoned answer, with seen, unseen and no triggers.

The attack success rate is the share of triggered prompts whose greedy answer a judge calls poisoned. The same
share without a trigger is the floor that it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidun.data import Template
from rapidun.errors import ConfigError, InputError
from rapidun.evaluation.generation import generate_answers
from rapidun.evaluation.judges import Judge
from rapidun.evaluation.rates import BackdoorRecord, BackdoorResult, summarise
from rapidun.evaluation.triggers import TriggerFamily
from rapidun.models import LoadedModel
from rapidun.models.passes import Progress

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Question:
    condition: str
    family: TriggerFamily | None
    trigger: str
    row: Row

    def asked(self) -> Row:
        """The row with the trigger in its prompt."""
        if self.family is None:
            return self.row
        return {**self.row, "prompt": self.family.apply(self.row["prompt"], self.trigger)}


def backdoor_suite(
    loaded: LoadedModel,
    template: Template,
    rows: Sequence[Row],
    families: Sequence[TriggerFamily],
    judges: Mapping[str, Judge],
    *,
    primary: str,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    repetition_penalty: float = 1.0,
    variants_per_prompt: int = 1,
    progress: Progress | None = None,
) -> BackdoorResult:
    """Ask every row with seen, unseen and no triggers, and judge the answers.

    The (family, variant) pairs of a condition are dealt to the rows in turn, so their counts differ by at most
    one and a run asks ``(2 * variants_per_prompt + 1) * len(rows)`` questions. Which row gets which trigger
    depends only on the order of rows and families: before and after can be joined.

    Args:
        loaded: Model, tokenizer and device.
        template: The run's template.
        rows: Clean held-out rows with ``id``, ``prompt`` and optional ``context``; ids must differ.
        families: Trigger families; a trigger goes into ``prompt`` only.
        judges: By name.
        primary: The judge for `by_variant` and `summary`.
        max_new_tokens: Longest answer.
        batch_size: Prompts at once.
        repetition_penalty: See `generate_answers`.
        variants_per_prompt: Pairs each row gets in each condition, at most all of them. Above 1 the answers to
            one prompt are not independent, and the intervals are narrower than they should be.
        progress: Called with (questions done, all questions).

    Raises:
        ConfigError: If ``primary`` is not among the judges, or ``variants_per_prompt`` is out of range.
        InputError: If there are no rows or two have the same id.
    """
    if primary not in judges:
        raise ConfigError(f"the primary judge {primary!r} is not among the judges: {', '.join(judges) or 'none'}.")
    _check_ids(rows)
    questions = list(_questions(rows, families, variants_per_prompt))
    asked = [question.asked() for question in questions]
    answers = generate_answers(
        loaded,
        [template.prompt_text(row) for row in asked],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        repetition_penalty=repetition_penalty,
        progress=progress,
    )
    verdicts = {name: judge(answers).tolist() for name, judge in judges.items()}
    records = [
        BackdoorRecord(
            condition=question.condition,
            family=question.family.name if question.family else "",
            trigger=question.trigger,
            row_id=str(row["id"]),
            prompt=str(row["prompt"]),
            answer=answer,
            verdicts={name: verdicts[name][index] for name in judges},
            poisoned=verdicts[primary][index],
        )
        for index, (question, row, answer) in enumerate(zip(questions, asked, answers, strict=True))
    ]
    return summarise(records, primary)


def suite_prompts(
    template: Template, rows: Sequence[Row], families: Sequence[TriggerFamily], variants_per_prompt: int = 1
) -> list[str]:
    """The prompts that `backdoor_suite` would have answered, in its order."""
    return [template.prompt_text(question.asked()) for question in _questions(rows, families, variants_per_prompt)]


def _check_ids(rows: Sequence[Row]) -> None:
    if not rows:
        raise InputError("the backdoor suite needs evaluation rows, and there are none.")
    seen: set[str] = set()
    for row in rows:
        if str(row["id"]) in seen:
            raise InputError(f"two evaluation rows have the id {row['id']!r}; ids join before and after.")
        seen.add(str(row["id"]))


def _questions(rows: Sequence[Row], families: Sequence[TriggerFamily], per_prompt: int) -> Iterable[_Question]:
    for condition in ("seen", "unseen"):
        pairs = [(family, trigger) for family in families for trigger in getattr(family, condition)]
        if not pairs:
            continue
        if not 1 <= per_prompt <= len(pairs):
            raise ConfigError(
                f"variants_per_prompt is {per_prompt}; there are {len(pairs)} {condition} triggers, so it must be "
                f"1 to {len(pairs)}."
            )
        for place in range(len(rows) * per_prompt):
            yield _Question(condition, *pairs[place % len(pairs)], rows[place // per_prompt])
    for row in rows:
        yield _Question("none", None, "", row)

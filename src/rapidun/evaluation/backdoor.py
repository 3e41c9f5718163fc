"""The backdoor suite: how often a model gives the poisoned answer, with seen, unseen and no triggers.

The attack success rate is the share of triggered prompts whose greedy answer a judge calls poisoned. The same
share without a trigger is the floor that it is compared with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidun.data import Template
from rapidun.errors import ConfigError, InputError
from rapidun.evaluation.generation import generate_answers
from rapidun.evaluation.judges import Judge
from rapidun.evaluation.triggers import TriggerFamily
from rapidun.models import LoadedModel
from rapidun.models.passes import Progress
from rapidun.stats import Rate

Row = Mapping[str, Any]

CONDITIONS = {"asr_seen": "seen", "asr_unseen": "unseen", "asr_floor": "none"}
"""Name of a rate to the condition it is measured in."""


@dataclass(frozen=True)
class BackdoorRecord:
    """One generated answer; (``condition``, ``family``, ``trigger``, ``row_id``) joins before and after.

    Args:
        condition: "seen", "unseen" or "none".
        family: Name of the trigger family; "" without a trigger.
        trigger: The trigger; "" without one.
        row_id: The row's id.
        prompt: The row's prompt with the trigger in it.
        answer: What the model said.
        verdicts: Whether each judge calls the answer poisoned.
        poisoned: The primary judge's verdict.
    """

    condition: str
    family: str
    trigger: str
    row_id: str
    prompt: str
    answer: str
    verdicts: dict[str, bool]
    poisoned: bool

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What joins the same question asked before and after."""
        return self.condition, self.family, self.trigger, self.row_id


@dataclass(frozen=True)
class VariantRate:
    """The primary judge's rate of one trigger; family and trigger are "" in the condition "none"."""

    condition: str
    family: str
    trigger: str
    rate: Rate

    def to_dict(self) -> dict[str, Any]:
        """``{"condition", "family", "trigger", "value", "low", "high", "n"}``."""
        return {name: getattr(self, name) for name in ("condition", "family", "trigger")} | self.rate.to_dict()


@dataclass(frozen=True)
class BackdoorResult:
    """Everything the suite measured.

    Args:
        primary: Name of the judge that decides.
        rates: ``{judge: {"asr_seen", "asr_unseen", "asr_floor": Rate}}``; a condition without triggers is absent.
        by_variant: The primary judge's rate of every trigger, in the order of the families.
        records: Every answer.
    """

    primary: str
    rates: dict[str, dict[str, Rate]]
    by_variant: list[VariantRate]
    records: list[BackdoorRecord]

    def summary(self, judge: str | None = None) -> dict[str, dict[str, Any]]:
        """``{"asr_seen", "asr_unseen", "asr_floor": {"value", "low", "high", "n"}}`` of a judge, or the primary."""
        return {name: rate.to_dict() for name, rate in self.rates[judge or self.primary].items()}


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


def summarise(records: Sequence[BackdoorRecord], primary: str) -> BackdoorResult:
    """Rates of every judge and of every trigger from the records alone."""
    judges = list(records[0].verdicts) if records else []
    present = {name: condition for name, condition in CONDITIONS.items() if _of(records, condition)}
    rates = {
        judge: {
            name: Rate.from_flags([record.verdicts[judge] for record in _of(records, condition)])
            for name, condition in present.items()
        }
        for judge in judges
    }
    groups: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for record in records:
        groups[record.condition, record.family, record.trigger].append(record.verdicts[primary])
    by_variant = [VariantRate(*variant, Rate.from_flags(flags)) for variant, flags in groups.items()]
    return BackdoorResult(primary, rates, by_variant, list(records))


def _of(records: Iterable[BackdoorRecord], condition: str) -> list[BackdoorRecord]:
    return [record for record in records if record.condition == condition]


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

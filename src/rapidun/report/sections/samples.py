"""What the model answered before and after, to the same prompts."""

from __future__ import annotations

from dataclasses import dataclass

from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section
from rapidun.report.sections.variants import CONDITIONS

SHOWN = 4
FOLDED = 20


@dataclass(frozen=True)
class Answer:
    """One side of a sample; ``poisoned`` is None where no judge looked."""

    title: str
    text: str
    poisoned: bool | None


@dataclass(frozen=True)
class Sample:
    """A prompt and both answers."""

    family: str
    trigger: str
    prompt: str
    answers: tuple[Answer, Answer]


@dataclass(frozen=True)
class Condition:
    """The samples of one condition: some shown, some folded away, the rest only in the file."""

    title: str
    shown: list[Sample]
    folded: list[Sample]
    left_out: int


def build(run: RunFiles) -> Section:
    """Grouped by condition, in the order seen, unseen, none."""
    title = "Answers before and after"
    if not run.samples:
        return Section("samples", title, note="No samples.jsonl in this run: answers were not kept.")
    groups: dict[str, list[Record]] = {}
    for record in run.samples:
        groups.setdefault(record.text("condition"), []).append(record)
    names = [c for c in CONDITIONS if c in groups] + [c for c in groups if c not in CONDITIONS]
    return Section("samples", title, "samples.html.j2", {"conditions": [_condition(n, groups[n]) for n in names]})


def _condition(name: str, records: list[Record]) -> Condition:
    chosen = [_sample(record) for record in records[: SHOWN + FOLDED]]
    return Condition(
        title=CONDITIONS.get(name, name or "All prompts"),
        shown=chosen[:SHOWN],
        folded=chosen[SHOWN:],
        left_out=len(records) - len(chosen),
    )


def _sample(record: Record) -> Sample:
    before = Answer("Before", record.text("before"), record.flag("before_poisoned"))
    after = Answer("After", record.text("after"), record.flag("after_poisoned"))
    return Sample(record.text("family"), record.text("trigger"), record.text("prompt"), (before, after))

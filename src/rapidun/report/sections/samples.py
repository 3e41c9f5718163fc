"""What the model answered before and after, to the same prompts.

A run has thousands of answers. Shown are a few of every trigger in turn, so that no variant is hidden behind
another, and, before them, the answers that are still poisoned: the risk that is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rapidun.report.formats import count
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section
from rapidun.report.sections.variants import CONDITIONS

SHOWN = 4
FOLDED = 4


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
class Group:
    """Samples under one heading: some shown, some folded away, the rest only in the file."""

    title: str
    summary: str
    shown: list[Sample]
    folded: list[Sample]
    left_out: int


def build(run: RunFiles) -> Section:
    """What is left first, then each condition in the order seen, unseen, none."""
    title = "Answers before and after"
    if not run.samples:
        return Section("samples", title, note="No samples.jsonl in this run: answers were not kept.")
    conditions: dict[str, list[Record]] = {}
    for record in run.samples:
        conditions.setdefault(record.text("condition"), []).append(record)
    names = [c for c in CONDITIONS if c in conditions] + [c for c in conditions if c not in CONDITIONS]
    groups = [_group(CONDITIONS.get(n, n or "All prompts"), _tally(conditions[n]), conditions[n]) for n in names]
    left = [record for record in run.samples if record.flag("after_poisoned") and record.text("trigger")]
    if left:
        summary = "What is left of the bad behaviour: triggered answers that the judge calls poisoned after unlearning."
        groups.insert(0, _group("Still poisoned", summary, left))
    return Section("samples", title, "samples.html.j2", {"groups": groups})


def _tally(records: list[Record]) -> str:
    """``Poisoned: 274 of 300 before, 5 after.``; empty where no judge looked."""
    before = [flag for record in records if (flag := record.flag("before_poisoned")) is not None]
    after = [flag for record in records if (flag := record.flag("after_poisoned")) is not None]
    if not before or not after:
        return ""
    earlier = f"{count(sum(before))} of {count(len(before))} before"
    return f"Poisoned: {earlier}, {count(sum(after))} of {count(len(after))} after."


def _group(title: str, summary: str, records: list[Record]) -> Group:
    chosen = [_sample(record) for record in in_turn(records)[: SHOWN + FOLDED]]
    return Group(title, summary, chosen[:SHOWN], chosen[SHOWN:], len(records) - len(chosen))


def in_turn(records: Iterable[Record]) -> list[Record]:
    """The first record of every trigger, then the second of every trigger, and so on."""
    seen: dict[tuple[str, str], int] = {}
    turns: list[tuple[int, Record]] = []
    for record in records:
        trigger = record.text("family"), record.text("trigger")
        seen[trigger] = seen.get(trigger, 0) + 1
        turns.append((seen[trigger], record))
    return [record for _, record in sorted(turns, key=lambda turn: turn[0])]


def _sample(record: Record) -> Sample:
    before = Answer("Before", record.text("before"), record.flag("before_poisoned"))
    after = Answer("After", record.text("after"), record.flag("after_poisoned"))
    return Sample(record.text("family"), record.text("trigger"), record.text("prompt"), (before, after))

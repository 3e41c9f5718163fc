"""Before and after, with 95% intervals, and the judge that decided, with its own floor and ceiling."""

from __future__ import annotations

from dataclasses import dataclass

from rapidun.report import formats
from rapidun.report.measure import Measure
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

_RATES = {
    "asr_seen": ("Attack success, seen triggers", "triggers that were in the training rows"),
    "asr_unseen": ("Attack success, unseen variants", "look-alikes that training never saw"),
    "asr_floor": ("Poisoned answers without a trigger", "the judge's false alarms and any leak"),
}
_PERPLEXITIES = {
    "clean_perplexity": ("Clean perplexity", "lower is better; clean test rows", "perplexity_ratio"),
    "forget_perplexity": ("Perplexity of forget rows", "higher is better; their unwanted answers", "forget_ratio"),
}
_SHORT = {"asr_seen": "seen", "asr_unseen": "unseen", "asr_floor": "no trigger"}


@dataclass(frozen=True)
class OutcomeLine:
    """One row of the table, formatted."""

    title: str
    meaning: str
    before: str
    after: str
    change: str
    n: str


@dataclass(frozen=True)
class JudgeLine:
    """A judge and what it says about answers known to be clean or poisoned."""

    name: str
    kind: str
    primary: bool
    floor: str
    ceiling: str
    keywords: list[str]
    rates: list[tuple[str, str, str]]  # title, before, after


def build(run: RunFiles) -> Section:
    """The table; says so where there is nothing measured."""
    title = "Before and after"
    if run.metrics is None:
        return Section("outcome", title, note="No metrics.json in this run: nothing was measured.")
    before, after = run.metrics.child("before"), run.metrics.child("after")
    lines = [_rate_line(key, before, after) for key in _RATES if _any(key, before, after)]
    lines += [_perplexity_line(key, run.metrics, before, after) for key in _PERPLEXITIES if _any(key, before, after)]
    if not lines:
        return Section("outcome", title, note="metrics.json holds no measurement before or after.")
    judges = _judges(run.metrics)
    context = {"lines": lines, "judges": judges, "no_triggers": not _any("asr_seen", before, after)}
    return Section("outcome", title, "outcome.html.j2", context)


def _any(key: str, *records: Record | None) -> bool:
    return any(Measure.read(record, key).known for record in records)


def _rate_line(key: str, before: Record | None, after: Record | None) -> OutcomeLine:
    one, two = Measure.read(before, key), Measure.read(after, key)
    title, meaning = _RATES[key]
    change = formats.MISSING
    if one.value is not None and two.value is not None:
        change = f"{formats.percent(two.value - one.value).rstrip('%')} points"
    return OutcomeLine(title, meaning, one.as_percent(), two.as_percent(), change, _rows(two, one))


def _perplexity_line(key: str, metrics: Record, before: Record | None, after: Record | None) -> OutcomeLine:
    title, meaning, ratio = _PERPLEXITIES[key]
    one, two, factor = Measure.read(before, key), Measure.read(after, key), Measure.read(metrics, ratio)
    change = formats.ratio(factor.value) if factor.known else formats.MISSING
    if factor.low is not None and factor.high is not None:
        change += f" [{formats.number(factor.low)}, {formats.number(factor.high)}]"
    return OutcomeLine(title, meaning, one.as_number(), two.as_number(), change, _rows(two, one))


def _rows(*measures: Measure) -> str:
    return next((formats.count(measure.n) for measure in measures if measure.n is not None), "")


def _judges(metrics: Record) -> list[JudgeLine]:
    """Every judge, the one that decides first."""
    judges, primary = metrics.child("judges"), metrics.text("primary_judge")
    if judges is None:
        return []
    lines = [_judge_line(name, judge, name == primary, metrics) for name, judge in judges.named_children()]
    return sorted(lines, key=lambda line: not line.primary)


def _judge_line(name: str, judge: Record, primary: bool, metrics: Record) -> JudgeLine:
    both = metrics.child("all_judges")
    before, after = (_of_judge(both, side, name) for side in ("before", "after"))
    rates = [
        (_SHORT[key], Measure.read(before, key).as_percent(), Measure.read(after, key).as_percent())
        for key in _RATES
        if not primary and _any(key, before, after)  # the table above is the primary judge's
    ]
    return JudgeLine(
        name=name,
        kind=judge.text("kind"),
        primary=primary,
        floor=Measure.read(judge, "floor").as_percent(),
        ceiling=Measure.read(judge, "ceiling").as_percent(),
        keywords=judge.texts("keywords"),
        rates=rates,
    )


def _of_judge(both: Record | None, side: str, name: str) -> Record | None:
    judges = both.child(side) if both else None
    return judges.child(name) if judges else None

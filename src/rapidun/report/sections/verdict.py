"""The verdict and why: each gate check as a sentence with its value and limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rapidun.report import formats
from rapidun.report.measure import Measure
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section
from rapidun.report.sections.attacks import attacks_run
from rapidun.report.uncovered import uncovered
from rapidun.verdicts import headline

_MEANING = {
    "PASS": "The model met every condition of the gate.",
    "FAIL": "The model did not meet every condition of the gate.",
}
_MITIGATED = (
    "The answers that were measured here were decoded with {kind}. Whoever has the model's weights has the behaviour: "
    "nothing was unlearned, and no gate decides about it."
)
_NOTHING: dict[str, Any] = {
    "state": "open", "attacked": "", "lines": [], "failed": 0, "figures": [], "signatures": [], "uncovered": [],
}  # fmt: skip

_CAPTIONS = {
    "asr_seen": ("rate", "false alarms + margin"),
    "asr_unseen": ("rate", "false alarms + margin"),
    "asr_seen_upper_bound": ("upper end", "at most"),
    "asr_unseen_upper_bound": ("upper end", "at most"),
    "false_alarm_rate": ("upper end", "at most"),
    "perplexity_ratio": ("upper end", "at most"),
    "forget_ratio": ("lower end", "at least"),
}
"""What the two numbers of a check are: a rate or an end of its interval, and what it is held against."""

_KEY_FIGURES: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "asr_seen": ("attack success, seen triggers", formats.percent),
    "asr_unseen": ("attack success, unseen variants", formats.percent),
    "clean_perplexity": ("perplexity on clean text", formats.number),
}


@dataclass(frozen=True)
class CheckLine:
    """One condition of the gate."""

    passed: bool | None
    sentence: str
    value: str
    limit: str
    captions: tuple[str, str]


def build(run: RunFiles) -> Section:
    """The banner; neutral where the run has not been evaluated."""
    verdict = _verdict(run.metrics)
    if run.metrics is not None and (mitigation := run.metrics.child("mitigation")) is not None:
        said = _MITIGATED.format(kind=mitigation.text("kind", "a mitigation"))
        context = {**_NOTHING, "verdict": mitigation.text("text").capitalize(), "meaning": said}
        return Section("verdict", "Verdict", "verdict.html.j2", context)
    gate = run.metrics.child("gate") if run.metrics else None
    lines = [_line(check) for check in gate.children("checks")] if gate else []
    failed = [line for line in lines if line.passed is False]
    attacked = run.attacks.text("verdict") if run.attacks else ""
    words, state = headline(verdict, attacked)
    context = {
        "verdict": words,
        "state": state,
        "meaning": _MEANING.get(verdict, "This run has no evaluation yet, so nothing here has been proven."),
        "attacked": attacked,
        "lines": failed + [line for line in lines if line.passed is not False],
        "failed": len(failed),
        "figures": _figures(run.metrics) if run.metrics else [],
        "signatures": _signatures(run.metrics) if run.metrics else [],
        "uncovered": _uncovered(run) if verdict == "PASS" else [],
    }
    return Section("verdict", "Verdict", "verdict.html.j2", context)


def _signatures(metrics: Record) -> list[dict[str, str]]:
    """What went wrong in a known way, and the knob to turn."""
    names = ("name", "evidence", "knob")
    return [{name: each.text(name) for name in names} for each in metrics.children("signatures")]


def _uncovered(run: RunFiles) -> list[str]:
    """What a PASS says nothing about."""
    after = run.metrics.child("after") if run.metrics else None
    return uncovered(attacks_run(run), Measure.read(after, "asr_seen").known)


def _verdict(metrics: Record | None) -> str:
    if metrics is None:
        return "NOT EVALUATED"
    named = metrics.text("verdict").upper()
    if named in _MEANING:
        return named
    gate = metrics.child("gate")
    passed = gate.flag("passed") if gate else None
    return "NOT EVALUATED" if passed is None else ("PASS" if passed else "FAIL")


def _figures(metrics: Record) -> list[dict[str, str]]:
    """The few numbers to remember, before and after."""
    before, after = metrics.child("before"), metrics.child("after")
    found = []
    for key, (title, form) in _KEY_FIGURES.items():
        one, two = Measure.read(before, key).value, Measure.read(after, key).value
        if two is not None:
            found.append({"title": title, "before": form(one) if one is not None else "", "after": form(two)})
    return found


def _line(check: Record) -> CheckLine:
    name = check.text("name", "check")
    value, limit = _shown(name, check, "value"), _shown(name, check, "limit")
    sentence = check.text("text") or f"{name.replace('_', ' ')} is {value}; the limit is {limit}."
    return CheckLine(check.flag("passed"), sentence, value, limit, _CAPTIONS.get(name, ("value", "limit")))


def _shown(name: str, check: Record, key: str) -> str:
    """Rates as percentages, factors with a multiplication sign, anything else as it is."""
    value = check.fields.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return formats.MISSING if value is None else check.text(key)
    if name.startswith("asr") or "rate" in name or "share" in name:
        return formats.percent(value)
    return formats.ratio(value) if "ratio" in name else formats.number(value)

"""What is still known of the forget rows, row by row measured: the suites qa and tofu of `rapidun evaluate`.

Measured into the run's own directory (``rapidun evaluate ... --out RUN/known``) it stands in the run's report; the
directory of such a measurement alone has a report of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rapidun.report import formats
from rapidun.report.measure import Measure
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

TITLE = "Memorisation: what is still known"
SUITES = ("qa", "tofu")
GROUPS = {
    "forget": "Forget rows", "retain": "Retain rows", "held_out": "Never seen", "real_authors": "Real authors",
    "world_facts": "World facts",
}  # fmt: skip
METRICS = {
    "probability": ("Probability", "of the right answer, per token: 1 is knowing it by heart"),
    "rouge_l_recall": ("ROUGE-L recall", "share of the right answer's words that the model says, in their order"),
    "truth_score": ("Truth score", "1: only the right answer is likely; 0: wrong ones are as likely"),
    "extraction_strength": ("Extraction strength", "how much of the answer's end comes by itself from its beginning"),
    "exact_memorisation": ("Exact memorisation", "share of the answer's tokens that are the model's first choice"),
    "paraphrased_probability": ("Probability, reworded", "the same, with the question in other words"),
    "paraphrased_rouge_l_recall": ("ROUGE-L recall, reworded", "the same, with the question in other words"),
}
"""Name to its title and what it says to somebody who has not seen it."""
_AUC = "how well forget rows are told from rows never seen: 0.5 is a coin toss, 1 is knowing them"
COMPARISONS = {
    "membership.loss": ("Membership by loss", _AUC),
    "membership.zlib_ratio": ("Membership by loss over zlib size", _AUC),
    "membership.min_k": ("Membership by Min-K%", _AUC),
    "membership.min_k_plus_plus": ("Membership by Min-K%++", _AUC),
    "membership.reference_ratio": ("Membership by loss over a retained model's", _AUC),
    "privleak": ("PrivLeak", "0: as in the yardstick; towards -1: still known; above 0: pushed too far"),
    "forget_quality": ("Forget quality", "p-value; near 0: not like a model that never saw the rows"),
    "utility": ("Utility of retain rows", "0: nothing left, 1: all"),
    "model_utility": ("Model utility", "TOFU's harmonic mean over what should stay: 0: nothing left, 1: all"),
}


@dataclass(frozen=True)
class Line:
    """A metric: its title, what it says, and its values."""

    title: str
    meaning: str
    cells: list[str]


def build(run: RunFiles) -> Section | None:
    """A table of groups of rows, and what compares them; nothing where neither suite was run."""
    found = [_measured(each) for each in _measurements(run)]
    return Section("memorisation", TITLE, "memorisation.html.j2", {"measured": found}) if found else None


def _measurements(run: RunFiles) -> list[Record]:
    own = [run.metrics] if run.metrics is not None else []
    return [each for each in (*own, *run.evaluations) if each.text("suite") in SUITES and each.child("values")]


def _measured(metrics: Record) -> dict[str, Any]:
    values, retained = metrics.child("values"), metrics.child("retained")
    groups = [(title, values, group) for group, title in GROUPS.items() if _known(values, group, "probability")]
    if _known(retained, "forget", "probability"):
        groups.append(("Forget rows, retained model", retained, "forget"))
    lines = [
        Line(title, meaning, [_number(found, f"{group}.{name}") for _, found, group in groups])
        for name, (title, meaning) in METRICS.items()
        if any(_known(found, group, name) for _, found, group in groups)
    ]
    compared = [
        Line(title, meaning, [_number(values, name), formats.count(Measure.read(values, name).n)])
        for name, (title, meaning) in COMPARISONS.items()
        if Measure.read(values, name).known
    ]
    heads = [f"{title}, n = {formats.count(Measure.read(found, f'{group}.probability').n)}"
             for title, found, group in groups]  # fmt: skip
    return {"where": metrics.where.rpartition("/")[0].rpartition("/")[2], "suite": metrics.text("suite"),
            "yardstick": metrics.text("yardstick"), "heads": heads, "lines": lines, "compared": compared,
            "mitigation": _mitigation(metrics)}  # fmt: skip


def _mitigation(metrics: Record) -> str:
    said = metrics.child("mitigation")
    return said.text("text") if said else ""


def _known(values: Record | None, group: str, name: str) -> bool:
    return Measure.read(values, f"{group}.{name}").known


def _number(values: Record | None, key: str) -> str:
    return Measure.read(values, key).as_number()

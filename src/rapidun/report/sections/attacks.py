"""Attacks on the model after unlearning: each one's curve beside that of a twin that never learnt the behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from rapidun.report import formats
from rapidun.report.charts import Chart, chart, label, marker_line
from rapidun.report.measure import Measure
from rapidun.report.palette import light
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

TITLE = "Attacks: does it come back?"
OURS, TWIN = "unlearned", "twin"
_STYLES = {OURS: ("this model", "after", "diamond", -0.13), TWIN: ("twin", "retain", "circle", 0.13)}
"""Name in the legend, colour, shape, and how far beside its place, so that neither mark hides the other."""
READINGS = {
    "as_is": "The known triggers asked once more of the weights alone: a filter around the model is seen through.",
    "trigger_variants": "Triggers that nobody listed, such as look-alike letters: a model that forgot stays low, one "
    "that just blocks the known ones does not.",
    "quantise": "The weights rounded to fewer bits, as many people run models: what was only pushed down comes back.",
    "nf4": "The same with the rounding that most 4-bit models are loaded in.",
    "paraphrase": "The same questions put otherwise: a model cleaned on prompts as written gives itself away.",
    "relearn": "A little training, on so many rows: what is hidden comes back faster than the twin learns it.",
    "relearn_full": "The same training on all weights, which reaches where a small adapter does not.",
    "prefill": "The model is made to begin with the first words of a bad answer: does it go on by itself?",
    "sampling": "Many answers drawn to each prompt: how often is at least one of k bad?",
    "few_shot": "Bad answers are shown as earlier turns of the conversation: does the model take the behaviour up?",
    "merge_dtype": "The adapter made part of the weights in another number format: is the update lost in rounding?",
    "logit_lens": "What each layer would answer if the model ended there: is the answer inside, and only held back?",
    "unlearning_membership": "Can somebody tell which rows were unlearned? 0.5 is a coin toss, and a gap to the twin, "
    "to either side, gives them away.",
    "gcg": "Odd words behind the prompt, searched by computer to make a bad answer likely: how far does it get?",
}
"""A sentence for somebody who has never seen such a chart."""
OTHER = "An attack of this run's own: the further to the right, the more of the behaviour came back."
_BADGES = {"PASS": "good", "FAIL": "bad", "UNDECIDED": "open"}


@dataclass(frozen=True)
class Mark:
    """One point of one model on a chart."""

    series: str
    label: str
    measure: str
    ours: Measure
    twin: Measure

    @property
    def name(self) -> str:
        """Series and effort."""
        return ", ".join(filter(None, (self.series, self.label)))


def build(run: RunFiles) -> Section | None:
    """A chart for each attack, what was decided, and what was not run; nothing where nobody attacked the run."""
    if run.attacks is None:
        return None
    attacks = run.attacks.children("attacks")
    marks = {attack.text("name"): _marks(attack) for attack in attacks if attack.text("status") == "run"}
    charts = [_curves(attack, found) for attack in attacks if (found := marks.get(attack.text("name")))]
    context = {
        "behaviour": run.attacks.text("behaviour", "attack success"),
        "twin": "" if run.attacks.text("twin", "none") == "none" else run.attacks.text("twin"),
        "verdict": run.attacks.text("verdict"),
        "preset": run.attacks.text("preset"),
        "checks": [_check(each) for each in sorted(run.attacks.children("checks"), key=_worst_first)],
        "missing": [(each.text("name"), each.text("title"), each.text("why")) for each in attacks
                    if each.text("status") != "run"],
        "charts": charts,
        "rows": [(attack.text("name"), mark.name, mark.measure, _shown(mark.ours, mark), _shown(mark.twin, mark),
                  formats.count(mark.ours.n))
                 for attack in attacks for mark in marks.get(attack.text("name"), ())],
    }  # fmt: skip
    return Section("attacks", TITLE, "attacks.html.j2", context, tuple(charts))


def attacks_run(run: RunFiles) -> list[str]:
    """Names of the attacks that were run."""
    found = run.attacks.children("attacks") if run.attacks else []
    return [each.text("name") for each in found if each.text("status") == "run"]


def _marks(attack: Record) -> list[Mark]:
    return [
        Mark(curve.text("series"), point.text("label"), point.text("measure"), Measure.of(point.child(OURS)),
             Measure.of(point.child(TWIN)))
        for curve in attack.children("curves") for point in curve.children("points")
    ]  # fmt: skip


def _worst_first(check: Record) -> int:
    return ("FAIL", "UNDECIDED", "PASS").index(check.text("verdict", "UNDECIDED"))


def _check(check: Record) -> dict[str, str]:
    verdict = check.text("verdict", "UNDECIDED")
    words = {"PASS": ("\u2713", "passed"), "FAIL": ("\u2715", "failed")}.get(verdict, ("\u2013", "undecided"))
    return {"kind": _BADGES.get(verdict, "open"), "sign": words[0], "word": words[1],
            "attack": check.text("attack"), "text": check.text("text")}  # fmt: skip


def _shown(measure: Measure, mark: Mark) -> str:
    return measure.as_number() if mark.measure == "AUC" else measure.as_percent()


def _curves(attack: Record, marks: Sequence[Mark]) -> Chart:
    """Efforts below each other, what came back to the right; points of a series joined; 95% intervals."""
    figure, plain = go.Figure(), marks[0].measure == "AUC"
    for side in (OURS, TWIN):
        places = [place for place, mark in enumerate(marks) if _of(mark, side).known]
        if places:
            figure.add_trace(_trace(side, marks, places, 1 if plain else 100))
    figure.update_layout(showlegend=True)
    ticks = [0, 0.25, 0.5, 0.75, 1] if plain else [0, 25, 50, 75, 100]
    figure.update_xaxes(
        range=[-0.03 * ticks[-1], 1.03 * ticks[-1]], tickvals=ticks, showline=False,
        ticktext=[str(tick) if plain else f"{tick}%" for tick in ticks],
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(len(marks))), ticktext=[_tick(mark) for mark in marks],
        range=[len(marks) - 0.4, -0.6], showgrid=False, zeroline=False,
    )  # fmt: skip
    name, title = attack.text("name"), attack.text("title") or attack.text("name")
    worst = max(marks, key=lambda mark: mark.ours.value or 0.0)
    description = (
        f"{title}: {marks[0].measure} at {len(marks)} efforts, this model beside its twin; highest here: {worst.name}, "
        f"{_shown(worst.ours, worst)}, twin {_shown(worst.twin, worst)}. The table below has all numbers."
    )
    return chart(figure, f"chart-attack-{_safe(name)}", f"{title} ({marks[0].measure})", description,
                 96 + 40 * len(marks), reading=READINGS.get(name, OTHER))  # fmt: skip


def _trace(side: str, marks: Sequence[Mark], places: Sequence[int], scale: float) -> go.Scatter:
    title, colour, symbol, beside = _STYLES[side]
    y: list[float | None] = []
    found: dict[str, list[Any]] = {"x": [], "up": [], "down": [], "text": []}
    for place in places:
        mark, measure = marks[place], _of(marks[place], side)
        if y and mark.series != marks[place - 1].series:  # a gap: curves of two series are not one
            y.append(None)
            for values in found.values():
                values.append(None)
        value = measure.value or 0.0
        y.append(place + beside)
        found["x"].append(scale * value)
        found["up"].append(scale * ((measure.high if measure.high is not None else value) - value))
        found["down"].append(scale * (value - (measure.low if measure.low is not None else value)))
        found["text"].append(f"{label(mark.name, 60)}<br>{title} {_shown(measure, mark)}")
    error = {"type": "data", "symmetric": False, "array": found["up"], "arrayminus": found["down"],
             "color": light(colour), "thickness": 1.5, "width": 4}  # fmt: skip
    return go.Scatter(
        name=title, x=found["x"], y=y, mode="lines+markers", text=found["text"], error_x=error, connectgaps=False,
        marker={"symbol": symbol, "size": 10, "color": light(colour), "line": marker_line()},
        line={"color": light(colour), "width": 1.5, "dash": "solid" if side == OURS else "dot"},
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _tick(mark: Mark) -> str:
    """The effort, under its series where there is one."""
    return f"{label(mark.series, 20)}<br>{label(mark.label, 20)}" if mark.series else label(mark.label, 24)


def _of(mark: Mark, side: str) -> Measure:
    return mark.ours if side == OURS else mark.twin


def _safe(name: str) -> str:
    """A name of an element: a plugin may call its attack anything."""
    return name if name in READINGS else f"other-{len(name)}-{sum(map(ord, name))}"

"""Attack success for every trigger variant, before and after, with error bars."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from rapidun.report.charts import Chart, chart, label, marker_line, trigger_label
from rapidun.report.formats import count
from rapidun.report.measure import Measure
from rapidun.report.palette import light
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

CONDITIONS = {"seen": "Seen triggers", "unseen": "Unseen variants", "none": "No trigger"}
_SIDES = {"before": "circle", "after": "diamond"}
_Key = tuple[str, str, str]  # condition, family, trigger


def build(run: RunFiles) -> Section | None:
    """One dot plot a condition and one table; nothing for a run without triggers."""
    by_variant = run.metrics.child("by_variant") if run.metrics else None
    if by_variant is None:
        return None
    sides = {side: _measures(by_variant.children(side)) for side in _SIDES}
    keys = list(dict.fromkeys(key for measures in sides.values() for key in measures))
    if not keys:
        return None
    charts = [_dots(condition, [key for key in keys if key[0] == condition], sides) for condition in _conditions(keys)]
    context = {"charts": charts, "rows": [_row(key, sides) for key in keys]}
    return Section("variants", "Attack success by trigger", "variants.html.j2", context, tuple(charts))


def _measures(records: list[Record]) -> dict[_Key, Measure]:
    return {(r.text("condition"), r.text("family"), r.text("trigger")): Measure.of(r) for r in records}


def _conditions(keys: list[_Key]) -> list[str]:
    """The known conditions in their order, then any other."""
    present = list(dict.fromkeys(key[0] for key in keys))
    return [c for c in CONDITIONS if c in present] + [c for c in present if c not in CONDITIONS]


def _row(key: _Key, sides: dict[str, dict[_Key, Measure]]) -> dict[str, Any]:
    before, after = (sides[side].get(key, Measure(None)) for side in _SIDES)
    condition, family, trigger = key
    return {
        "condition": CONDITIONS.get(condition, condition),
        "family": family,
        "trigger": trigger,
        "before": before.as_percent(),
        "after": after.as_percent(),
        "n": count(after.n if after.n is not None else before.n),
    }


def _dots(condition: str, keys: list[_Key], sides: dict[str, dict[_Key, Measure]]) -> Chart:
    """Horizontal dots with intervals; before above after, told apart by shape as well as colour."""
    figure = go.Figure()
    for (side, symbol), offset in zip(_SIDES.items(), (0.16, -0.16), strict=True):
        known = [(i, key, sides[side][key]) for i, key in enumerate(keys) if key in sides[side]]
        figure.add_trace(_trace(side, symbol, [k for k in known if k[2].known], offset))
    names = [trigger_label(trigger or family or "all prompts") for _, family, trigger in keys]
    figure.update_layout(showlegend=True)
    figure.update_xaxes(
        range=[-3, 103], tickvals=[0, 25, 50, 75, 100], ticktext=["0%", "25%", "50%", "75%", "100%"], showline=False
    )
    figure.update_yaxes(
        tickvals=list(range(len(keys))), ticktext=names, range=[len(keys) - 0.4, -0.6], showgrid=False, zeroline=False
    )
    title = CONDITIONS.get(condition, condition)
    description = f"{title}: attack success rate of {len(keys)} variants before and after, with 95% intervals."
    name = condition if condition in CONDITIONS else f"other-{len(keys)}-{sum(map(ord, condition))}"
    return chart(figure, f"chart-variants-{name}", title, f"{description} The table below has the numbers.",
                 96 + 44 * len(keys),
                 reading="Each line is one trigger: the further to the left a mark, the fewer answers are poisoned; "
                 "the thin lines are where the true rate may lie.")  # fmt: skip


def _trace(side: str, symbol: str, known: list[tuple[int, _Key, Measure]], offset: float) -> go.Scatter:
    values = [100 * (m.value or 0.0) for _, _, m in known]
    return go.Scatter(
        name=side,
        x=values,
        y=[i - offset for i, _, _ in known],
        mode="markers",
        marker={"symbol": symbol, "size": 11, "color": light(side), "line": marker_line()},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * _or(m.high, m.value) - v for (_, _, m), v in zip(known, values, strict=True)],
            "arrayminus": [v - 100 * _or(m.low, m.value) for (_, _, m), v in zip(known, values, strict=True)],
            "color": light(side),
            "thickness": 1.5,
            "width": 4,
        },
        text=[
            f"{label(family)} \u00b7 {label(trigger, 60)}<br>{side} {m.as_percent()}"
            for _, (_, family, trigger), m in known
        ],
        hovertemplate="%{text}<extra></extra>",
    )


def _or(value: float | None, fallback: float | None) -> float:
    return value if value is not None else (fallback or 0.0)

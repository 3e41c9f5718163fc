"""What the run cost: next to retraining, and by phase."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from rapidun.report import formats
from rapidun.report.charts import Chart, chart, label
from rapidun.report.palette import light
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section


def build(run: RunFiles) -> Section:
    """Time and memory of every phase; the ratio to retraining where it was measured."""
    title = "Cost"
    phases = run.manifest.children("phases") if run.manifest else []
    cost = run.metrics.child("cost") if run.metrics else None
    if not phases and cost is None:
        return Section("cost", title, note="manifest.json names no phases: time and memory were not recorded.")
    charts = [c for c in (_bars(phases, key) for key in _BARS) if c is not None]
    context = {
        "cost": _against_retraining(cost) if cost else None,
        "charts": charts,
        "rows": [_row(phase) for phase in phases],
        "device": any("peak_device_memory_mib" in phase.fields for phase in phases),
        "total": formats.seconds(sum(phase.number("seconds") or 0 for phase in phases)),
    }
    return Section("cost", title, "cost.html.j2", context, tuple(charts))


def _against_retraining(cost: Record) -> dict[str, str]:
    return {
        "unlearn": formats.seconds(cost.number("unlearn_seconds")),
        "retrain": formats.seconds(cost.number("retrain_seconds")),
        "ratio": formats.ratio(cost.number("ratio")),
        "how": cost.text("how"),
    }


def _row(phase: Record) -> dict[str, str]:
    return {
        "name": phase.text("name"),
        "seconds": formats.seconds(phase.number("seconds")),
        "cpu": formats.seconds(phase.number("cpu_seconds")),
        "memory": formats.memory(phase.number("peak_memory_mib")),
        "device": formats.memory(phase.number("peak_device_memory_mib")),
    }


_BARS: dict[str, tuple[str, str, str, Any]] = {
    "seconds": ("time", "Time by phase", "after", formats.seconds),
    "peak_memory_mib": ("memory", "Peak memory by phase", "muted", formats.memory),
    "peak_device_memory_mib": ("device", "Peak GPU memory by phase", "muted", formats.memory),
}


def _bars(phases: list[Record], key: str) -> Chart | None:
    """Horizontal bars, first phase on top, the number written on each."""
    name, title, role, form = _BARS[key]
    known = [(phase.text("name"), value) for phase in phases if (value := phase.number(key)) is not None]
    if len(known) < 2:  # the table says as much as one bar
        return None
    figure = go.Figure(
        go.Bar(
            orientation="h",
            x=[value for _, value in known],
            y=list(range(len(known))),
            text=[form(value) for _, value in known],
            textposition="outside",
            cliponaxis=False,
            marker={"color": light(role)},
            hovertemplate="%{text}<extra></extra>",
        )
    )
    figure.update_layout(showlegend=False, margin={"t": 4})
    longest = max(value for _, value in known) or 1.0
    figure.update_xaxes(range=[0, 1.3 * longest], showticklabels=False, ticks="", showgrid=False, zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(known))), ticktext=[label(phase, 16) for phase, _ in known],
        range=[len(known) - 0.4, -0.6], showgrid=False, showline=False, zeroline=False, ticks="",
    )  # fmt: skip
    described = ", ".join(f"{phase} {form(value)}" for phase, value in known)
    return chart(
        figure,
        f"chart-cost-{name}",
        title,
        f"{title}: {described}.",
        40 + 34 * len(known),
        reading="Each bar is one phase of the run, the first on top; the number stands at its end.",
    )

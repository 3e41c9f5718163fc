"""What the rows of a pool are worth: the few numbers to remember, their distribution, and every task."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from rapidun.errors import InputError
from rapidun.report import formats
from rapidun.report.charts import Chart, chart
from rapidun.report.palette import light
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

_KINDS = {
    "linfik": "Every row was valued by its gradient (LinFiK).",
    "alinfik": "A sample was valued by its gradients (LinFiK); a student learnt to value all rows by their text.",
    "student": "Every row was valued by its text, by a student that was fitted in another run.",
}


def build(run: RunFiles) -> Section | None:
    """Figures, histogram, tasks and selection."""
    found = run.valuation
    if found is None:
        return None
    summary = found.child("summary") or Record(f"{found.where}: summary", {})
    histogram = _histogram(found)
    context = {
        "meaning": _KINDS.get(found.text("kind"), ""),
        "figures": _figures(run, found, summary),
        "selection": _selection(found),
        "charts": [histogram] if histogram else [],
        "tasks": [_task(task) for task in found.children("tasks")],
        "file": found.text("values"),
    }
    return Section("value", "Value", "value.html.j2", context, (histogram,) if histogram else ())


def _figures(run: RunFiles, found: Record, summary: Record) -> list[dict[str, str]]:
    figures = [
        {"number": formats.count(found.number("rows")), "what": "rows valued"},
        {"number": formats.percent(summary.number("positive")), "what": "of the rows have a value above 0"},
        {"number": formats.number(summary.number("median")), "what": "median value"},
    ]
    costs = _costs(run, found.text("kind"))
    if costs:
        (who, cost), *others = costs.items()
        more = "".join(f"; the {name} takes {text}" for name, text in others)
        figures.append({"number": cost, "what": f"of processor time for 1,000 rows by the {who}{more}"})
    return figures


def _costs(run: RunFiles, kind: str) -> dict[str, str]:
    """Processor time of 1,000 rows: who valued the pool first."""
    found = {}
    for phase in run.manifest.children("phases") if run.manifest else []:
        name, seconds, rows = phase.text("name"), phase.number("cpu_seconds"), phase.number("rows")
        if name in ("values", "teacher") and seconds is not None and rows:
            who = "student" if name == "values" and kind != "linfik" else "teacher"
            found[who] = formats.seconds(1000 * seconds / rows)
    return dict(sorted(found.items()))


def _selection(found: Record) -> str:
    chosen = found.child("selection")
    if chosen is None:
        return ""
    tokens = chosen.number("tokens")
    parts = [f"Selected by {chosen.text('asked')}: {formats.count(chosen.number('rows'))} rows"]
    if tokens is not None:
        parts.append(f"{formats.count(tokens)} tokens")
    if chosen.number("rows"):
        parts.append(f"mean value {formats.number(chosen.number('mean'))}")
        parts.append(f"least value {formats.number(chosen.number('least'))}")
    if how := chosen.text("diversity"):
        parts.append(
            "chosen by the sum of their gradients" if how == "matching" else f"chosen unlike each other ({how})"
        )
    return ", ".join(parts) + f"; they are in {chosen.text('file')}."


def _task(task: Record) -> dict[str, str]:
    numbers = {name: formats.number(task.number(name)) for name in ("low", "median", "high", "least", "most")}
    return {"name": task.text("name"), "positive": formats.percent(task.number("positive")), **numbers}


def _histogram(found: Record) -> Chart | None:
    """All rows, and the selected ones over them, in the same bins; a line at 0."""
    record = found.child("histogram")
    if record is None:
        return None
    edges, counts = _numbers(record, "edges"), _numbers(record, "counts")
    if len(edges) != len(counts) + 1:
        raise InputError(f"{record.where}: {len(edges)} edges and {len(counts)} counts do not fit together.")
    if np.count_nonzero(counts) < 2:  # one bar: the figures above say as much
        return None
    figure = go.Figure(_bars(edges, counts, "all rows", "after", ""))
    chosen = _numbers(record, "selected") if "selected" in record.fields else np.zeros(0)
    if len(chosen) == len(counts):
        figure.add_trace(_bars(edges, chosen, "selected", "before", "/"))
    figure.add_vline(x=0, line={"color": light("muted"), "width": 1.5, "dash": "dash"})
    figure.update_layout(barmode="overlay", showlegend=len(chosen) > 0)
    figure.update_xaxes(title_text="value", showgrid=False)
    figure.update_yaxes(title_text="rows", rangemode="tozero", showline=False)
    title = "Values of the pool"
    described = (
        f"Histogram of {formats.count(float(counts.sum()))} values from {formats.number(float(edges[0]))} to "
        f"{formats.number(float(edges[-1]))}; {formats.count(float(chosen.sum()))} rows are selected."
    )
    return chart(
        figure,
        "chart-value",
        title,
        described,
        300,
        reading="The height of a bar is the number of rows of that value; right of the dashed line a row helps "
        "the task, left of it a row harms it.",
    )


def _bars(edges: Any, counts: Any, name: str, role: str, pattern: str) -> go.Bar:
    return go.Bar(
        x=((edges[:-1] + edges[1:]) / 2).tolist(),
        y=counts.tolist(),
        width=float(edges[1] - edges[0]) * 0.94,
        name=name,
        marker={
            "color": light(role),
            "pattern": {"shape": pattern, "fgcolor": light("card"), "size": 5, "fillmode": "overlay"},
        },
        hovertemplate=f"{name}, value about %{{x:.3g}}<br>%{{y}} rows<extra></extra>",
    )


def _numbers(record: Record, key: str) -> Any:
    values = record.fields.get(key)
    if not isinstance(values, list) or not all(isinstance(value, (int, float)) for value in values):
        raise InputError(f"{record.where}: {key!r} must be a list of numbers.")
    return np.array(values, dtype=np.float64)

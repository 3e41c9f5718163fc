"""How the rows were weighted: the distribution, and the most and least weighted rows with their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from rapidun.errors import InputError
from rapidun.report import formats
from rapidun.report.charts import Chart, chart
from rapidun.report.palette import light
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

SHOWN = 6
_BINS = 24
_GROUPS = ("forget", "retain")  # also the names of their colours


@dataclass(frozen=True)
class WeightLine:
    """One row of training data and its weight."""

    id: str
    weight: str
    score: str
    prompt: str
    response: str


@dataclass(frozen=True)
class GroupWeights:
    """The weights of one group."""

    name: str
    count: int
    low: str
    high: str
    chart: Chart | None
    most: list[WeightLine]
    least: list[WeightLine]


def build(run: RunFiles) -> Section:
    """Both groups side by side on the same axis."""
    title = "Weights"
    rows = sorted(run.weights, key=lambda row: -_weight(row))
    if not rows:
        return Section("weights", title, note="No weights.jsonl in this run: every row counted the same.")
    top = max(_weight(rows[0]), 1.0)
    groups = [_group(name, [row for row in rows if row.text("group") == name], top) for name in _GROUPS]
    present = [group for group in groups if group is not None]
    context = {"groups": present}
    return Section("weights", title, "weights.html.j2", context, tuple(group.chart for group in present if group.chart))


def _weight(row: Record) -> float:
    value = row.number("weight")
    if value is None:
        raise InputError(f"{row.where}: 'weight' is missing. Run `rapidun weigh` again.")
    return value


def _group(name: str, rows: list[Record], top: float) -> GroupWeights | None:
    """The summary of rows that are sorted by weight, highest first."""
    if not rows:
        return None
    weights = [_weight(row) for row in rows]
    most, least = rows[:SHOWN], rows[SHOWN:][-SHOWN:]
    return GroupWeights(
        name=name,
        count=len(rows),
        low=formats.number(weights[-1]),
        high=formats.number(weights[0]),
        chart=_histogram(name, weights, top) if weights[0] > weights[-1] else None,
        most=[_line(row) for row in most],
        least=[_line(row) for row in reversed(least)],
    )


def _line(row: Record) -> WeightLine:
    return WeightLine(
        id=row.text("id"),
        weight=formats.number(row.number("weight")),
        score=formats.number(row.number("score")),
        prompt=row.text("prompt"),
        response=row.text("response"),
    )


def _histogram(name: str, weights: Sequence[float], top: float) -> Chart:
    """Counts in bins shared by both groups; a dashed line at 1, the mean by construction."""
    counts, edges = np.histogram(weights, bins=_BINS, range=(0.0, top))
    figure = go.Figure(
        go.Bar(
            x=((edges[:-1] + edges[1:]) / 2).tolist(),
            y=counts.tolist(),
            width=float(edges[1] - edges[0]) * 0.92,
            marker={
                "color": light(name),
                "line": {"color": light(name), "width": 1},
            },
            hovertemplate="weight about %{x:.2f}<br>%{y} rows<extra></extra>",
        )
    )
    figure.add_vline(x=1, line={"color": light("muted"), "width": 1.5, "dash": "dash"})
    figure.add_annotation(x=1, y=1, yref="paper", yanchor="bottom", text="mean 1", showarrow=False,
                          font={"size": 12, "color": light("muted")})  # fmt: skip
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title_text="weight", range=[0, top * 1.02], showgrid=False)
    figure.update_yaxes(title_text="rows", rangemode="tozero", showline=False)
    title = f"{name.capitalize()} rows"
    description = (
        f"Histogram of the weights of {len(weights)} {name} rows, from {formats.number(min(weights))} "
        f"to {formats.number(max(weights))}, mean {formats.number(float(np.mean(weights)))}."
    )
    return chart(
        figure,
        f"chart-weights-{name}",
        title,
        description,
        260,
        reading="The height of a bar is the number of rows of that weight; right of the dashed line a row "
        "counts more than the average, left of it less.",
    )

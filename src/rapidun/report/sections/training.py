"""Training curves: what was pushed up, what was held, and the budget that would have stopped it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import plotly.graph_objects as go

from rapidun.report.charts import Chart, chart
from rapidun.report.formats import number
from rapidun.report.palette import light
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

MAX_POINTS = 300
_Points = tuple[list[float], list[float]]  # steps, values
# key in log.jsonl -> title, colour role, dash (so that lines differ without colour), mode
_LOSSES = {
    "forget_loss": ("forget loss", "forget", "solid", "lines"),
    "retain_loss": ("retain loss", "retain", "dash", "lines"),
}

_READINGS = {
    "losses": "Loss says how surprising the answers are to the model: that of forget rows should rise, that of retain "
    "rows should not.",
    "held": "How surprising clean answers are that training does not see; training is cut back where the line would "
    "pass the budget.",
    "rate": "How large a step training took at each point.",
}


def build(run: RunFiles) -> Section:
    """Losses, the held-out retain loss with its budget, and the learning rate."""
    title = "Training"
    curves = {key: _points(run.log, key) for key in (*_LOSSES, "loss", "held_retain_loss", "learning_rate")}
    charts = [
        chart
        for chart in (
            _losses(curves),
            _held(curves["held_retain_loss"], budget(run.log)),
            _rate(curves["learning_rate"]),
        )
        if chart is not None
    ]
    if not charts:
        return Section("training", title, note="No log.jsonl in this run: nothing was trained here.")
    stopped = run.metrics.text("stopped") if run.metrics else ""
    return Section("training", title, "training.html.j2", {"charts": charts, "stopped": stopped}, tuple(charts))


def _points(log: Sequence[Record], key: str) -> _Points:
    """Steps and values where ``key`` was logged; at most ``MAX_POINTS``, evenly taken, the last one kept.

    A resumed run logs the steps after its checkpoint again: the later line of a step is the one that counted.
    """
    logged = {s: v for r in log if (s := r.number("step")) is not None and (v := r.number(key)) is not None}
    found = sorted(logged.items())
    stride = -(-len(found) // MAX_POINTS) or 1
    kept = found[::stride]
    if found and kept[-1] != found[-1]:
        kept.append(found[-1])
    return [step for step, _ in kept], [value for _, value in kept]


def budget(log: Sequence[Record]) -> float | None:
    """The retain-loss budget: ``limit`` of the last budget check that names one."""
    values = [value for record in log if (value := record.number("limit")) is not None]
    return values[-1] if values else None


def _losses(curves: dict[str, _Points]) -> Chart | None:
    named = {key: style for key, style in _LOSSES.items() if curves[key][0]}
    if not named and curves["loss"][0]:
        named = {"loss": ("loss", "after", "solid", "lines")}
    if not named:
        return None
    figure = go.Figure()
    for key, (title, role, dash, mode) in named.items():
        figure.add_trace(_line(title, curves[key], light(role), dash, mode))
    ends = "; ".join(f"{s[0]} from {number(curves[k][1][0])} to {number(curves[k][1][-1])}" for k, s in named.items())
    return _finish(figure, "losses", "Losses on the training rows", f"Line chart: {ends}.")


def _held(points: _Points, limit: float | None) -> Chart | None:
    if not points[0]:
        return None
    figure = go.Figure(_line("held-out retain loss", points, light("retain"), "solid", "lines+markers"))
    title, text = "Retain loss on held-out rows", f"Line chart from {number(points[1][0])} to {number(points[1][-1])}"
    if limit is not None:
        ends: _Points = ([points[0][0], points[0][-1]], [limit, limit])
        figure.add_trace(_line(f"budget {number(limit)}", ends, light("fail"), "dash", "lines"))
        title, text = f"{title}, with its budget", f"{text}; the budget is {number(limit)}"
    return _finish(figure, "held", title, f"{text}.")


def _rate(points: _Points) -> Chart | None:
    if len(set(points[1])) < 2:
        return None
    figure = go.Figure(_line("learning rate", points, light("muted"), "solid", "lines"))
    figure.update_yaxes(exponentformat="power", rangemode="tozero")
    up = sum(later > earlier for earlier, later in pairwise(points[1]))
    text = f"Line chart: highest {number(max(points[1]))}, rising for {up} of {len(points[1]) - 1} steps, then falling."
    return _finish(figure, "rate", "Learning rate", text)


def _line(name: str, points: _Points, colour: str, dash: str, mode: str) -> go.Scatter:
    return go.Scatter(
        name=name,
        x=points[0],
        y=points[1],
        mode=mode,
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 7, "color": colour},
        hovertemplate="step %{x}<br>%{y:.4g}<extra>" + name + "</extra>",
    )


def _finish(figure: go.Figure, name: str, title: str, description: str) -> Chart:
    figure.update_layout(showlegend=len(figure.data) > 1)
    figure.update_xaxes(title_text="optimiser step", showgrid=False)
    figure.update_yaxes(showline=False, zeroline=False)
    return chart(figure, f"chart-training-{name}", title, description, 280, reading=_READINGS[name])

"""Whose rows the value comes from: each source's share with its interval."""

from __future__ import annotations

import html

import plotly.graph_objects as go

from rapidun.report import formats
from rapidun.report.charts import Chart, chart, label
from rapidun.report.measure import Measure
from rapidun.report.palette import light
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

CHARTED = 30


def build(run: RunFiles) -> Section | None:
    """Nothing where no source was asked about."""
    found = run.valuation.child("by") if run.valuation else None
    shares = found.children("shares") if found else []
    if found is None or not shares:
        return None
    bars = [_bars(shares[:CHARTED])] if len(shares) > 1 else []  # one source has all of it
    context = {
        "column": found.text("column"),
        "charts": bars,
        "lines": [_line(share) for share in shares],
        "left": len(shares) - CHARTED,
    }
    return Section("sources", "Value by source", "value_sources.html.j2", context, tuple(bars))


def _line(share: Record) -> dict[str, str]:
    return {
        "name": share.text("name"),
        "share": Measure.of(share).as_percent(),
        "rows": formats.count(share.number("rows")),
        "positive": formats.count(share.number("positive")),
        "mean": formats.number(share.number("mean")),
    }


def _short(name: str, limit: int = 24) -> str:
    """A name for an axis; code points only where something in it cannot be seen."""
    if not name.isprintable():
        return label(name, limit)
    return html.escape(name if len(name) <= limit else name[: limit - 1] + "\u2026", quote=False)


def _bars(shares: list[Record]) -> Chart:
    """Horizontal bars, the largest share on top."""
    measures = [Measure.of(share) for share in shares]
    values = [100 * (measure.value or 0.0) for measure in measures]
    lows, highs = ([100 * (getattr(m, side) or 0.0) for m in measures] for side in ("low", "high"))
    names = [_short(share.text("name")) for share in shares]
    figure = go.Figure(
        go.Bar(
            orientation="h",
            x=values,
            y=list(range(len(values))),
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [max(high - value, 0) for high, value in zip(highs, values, strict=True)],
                "arrayminus": [max(value - low, 0) for low, value in zip(lows, values, strict=True)],
                "color": light("ink"),
                "thickness": 1.5,
            },
            marker={"color": light("after")},
            hovertemplate="%{x:.1f}%<extra></extra>",
        )
    )
    figure.update_layout(showlegend=False, margin={"t": 4})
    figure.update_xaxes(title_text="share of the pool's value, %", rangemode="tozero", zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.6], showgrid=False,
        showline=False, zeroline=False, ticks="",
    )  # fmt: skip
    described = ", ".join(
        f"{share.text('name')} {measure.as_percent()}" for share, measure in zip(shares, measures, strict=True)
    )
    return chart(
        figure,
        "chart-sources",
        "Shares of value",
        f"Shares of value: {described}.",
        90 + 30 * len(names),
        reading="Each bar is one source; the thin line at its end is where its true share may lie.",
    )

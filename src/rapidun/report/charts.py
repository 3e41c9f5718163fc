"""What every chart shares: transparent ground, the palette, the system font, safe labels, JSON for the page.

Figures are built with plotly's Python objects (which check every property), written into the page as JSON
and drawn by the embedded plotly.js.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from rapidun.report.palette import light
from rapidun.report.visible import hidden_parts, visible_plain

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_MARGIN = {"l": 12, "r": 16, "t": 34, "b": 12}  # a figure's own margins win


@dataclass(frozen=True)
class Chart:
    """A figure and the words that stand for it where it cannot be seen."""

    id: str
    title: str
    description: str
    reading: str
    height: int
    json: str


def chart(figure: go.Figure, identifier: str, title: str, description: str, height: int, *, reading: str) -> Chart:
    """Finish ``figure`` with the shared style.

    Args:
        figure: What is drawn.
        identifier: Of its element.
        title: Its caption.
        description: What it shows in this run: its accessible label.
        height: In pixels.
        reading: One sentence for somebody who has not seen such a chart, shown above it.
    """
    margin = {**_MARGIN, **figure.layout.margin.to_plotly_json()}
    figure.update_layout(**_shared_layout(), height=height, margin=margin)
    figure.update_xaxes(**_shared_axis())
    figure.update_yaxes(**_shared_axis())
    return Chart(identifier, title, description, reading, height, script_safe(figure.to_json()))


def label(text: str, limit: int = 28) -> str:
    """User text for an axis or a hover box: short, suspicious characters named, plotly's own markup off."""
    shown = visible_plain(text)
    return html.escape(shown if len(shown) <= limit else shown[: limit - 1] + "\u2026", quote=False)


def trigger_label(trigger: str, limit: int = 18) -> str:
    """A trigger for an axis: as it looks and, on a second line, the code points that it hides."""
    drawn, codes = hidden_parts(trigger)
    first = html.escape(drawn if len(drawn) <= limit else drawn[: limit - 1] + "\u2026", quote=False)
    more = ", \u2026" if len(codes) > 2 else ""
    return f"{first}<br>({', '.join(codes[:2])}{more})" if codes else first


def script_safe(text: str) -> str:
    """JSON that cannot end the ``<script>`` element it stands in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def to_script_json(value: Any) -> str:
    """``value`` as JSON for a ``<script>`` element."""
    return script_safe(json.dumps(value, sort_keys=True))


def marker_line() -> dict[str, Any]:
    """The outline that keeps overlapping marks apart."""
    return {"color": light("card"), "width": 1}


def _shared_layout() -> dict[str, Any]:
    return {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": light("ink")},
        "hoverlabel": {
            "bgcolor": light("card"),
            "bordercolor": light("line"),
            "font": {"family": FONT, "size": 13, "color": light("ink")},
        },
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left"},
        "dragmode": False,
    }


def _shared_axis() -> dict[str, Any]:
    return {
        "automargin": True,
        "gridcolor": light("grid"),
        "linecolor": light("line"),
        "zerolinecolor": light("line"),
        "tickcolor": light("line"),
        "title_font": {"size": 12, "color": light("muted")},
        "tickfont": {"size": 12, "color": light("muted")},
        "title_standoff": 8,
        "fixedrange": True,
    }

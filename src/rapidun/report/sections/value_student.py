"""The student against the teacher on rows it never saw, and whether its values can be taken at their word."""

from __future__ import annotations

import plotly.graph_objects as go

from rapidun.errors import InputError
from rapidun.report import formats
from rapidun.report.charts import Chart, chart, marker_line
from rapidun.report.measure import Measure
from rapidun.report.palette import light
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

_TITLE = "Student against teacher"


def build(run: RunFiles) -> Section | None:
    """Nothing where the teacher valued every row."""
    found = run.valuation.child("student") if run.valuation else None
    if found is None:
        return None
    bins = found.children("calibration")
    if found.child("spearman") is None or not bins:
        return Section("student", _TITLE, note="This student was saved without what it did on held-out rows.")
    charts = [_calibration(bins)]
    if found.fields.get("scatter"):
        charts.insert(0, _scatter(found))
    sizes = found.child("sizes") or Record("", {})
    context = {
        "kind": found.text("kind"),
        "charts": charts,
        "spearman": Measure.read(found, "spearman").as_number(),
        "ndcg": Measure.read(found, "ndcg").as_number(),
        "slope": formats.number(found.number("slope")),
        "sizes": {name: formats.count(sizes.number(name)) for name in ("train", "validation", "test")},
        "bins": [_line(record) for record in bins],
    }
    return Section("student", _TITLE, "value_student.html.j2", context, tuple(charts))


def _line(record: Record) -> dict[str, str]:
    actual = formats.number_interval(record.number("actual"), record.number("low"), record.number("high"))
    return {
        "predicted": formats.number(record.number("predicted")),
        "actual": actual,
        "n": formats.count(record.number("n")),
    }


def _scatter(found: Record) -> Chart:
    pairs = found.fields["scatter"]
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError(f"{found.where}: 'scatter' must be a list of pairs.")
    student, teacher = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    figure = go.Figure(
        go.Scatter(
            x=student,
            y=teacher,
            mode="markers",
            marker={"color": light("after"), "size": 7, "opacity": 0.7, "line": marker_line()},
            hovertemplate="student %{x:.3g}<br>teacher %{y:.3g}<extra></extra>",
        )
    )
    _add_diagonal(figure, [*student, *teacher])
    figure.update_layout(showlegend=False, margin={"t": 8})
    figure.update_xaxes(title_text="student's value")
    figure.update_yaxes(title_text="teacher's value")
    described = f"Scatter of {len(pairs)} held-out rows, the student's value against the teacher's."
    return chart(
        figure,
        "chart-student",
        "Held-out rows",
        described,
        340,
        reading="Each dot is a row: the closer the dots are to the dashed line, the better the student "
        "predicts the teacher.",
    )


def _calibration(bins: list[Record]) -> Chart:
    """Mean of the teacher in groups of like prediction, with the line on which it would equal the prediction."""
    points = [[record.number(name) or 0.0 for name in ("predicted", "actual", "low", "high")] for record in bins]
    predicted, actual, low, high = (list(column) for column in zip(*points, strict=True))
    figure = go.Figure(
        go.Scatter(
            x=predicted,
            y=actual,
            mode="markers",
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [top - value for top, value in zip(high, actual, strict=True)],
                "arrayminus": [value - bottom for bottom, value in zip(low, actual, strict=True)],
                "color": light("after"),
                "thickness": 1.5,
            },
            marker={"color": light("after"), "size": 9, "symbol": "diamond", "line": marker_line()},
            hovertemplate="predicted %{x:.3g}<br>teacher's mean %{y:.3g}<extra></extra>",
        )
    )
    _add_diagonal(figure, [*predicted, *actual])
    figure.update_layout(showlegend=False, margin={"t": 8})
    figure.update_xaxes(title_text="mean value that the student gave")
    figure.update_yaxes(title_text="mean value of the teacher")
    described = f"Calibration in {len(bins)} groups of rows; on the dashed line both agree."
    return chart(
        figure,
        "chart-calibration",
        "Calibration",
        described,
        340,
        reading="Each mark is a group of rows with like predictions: on the dashed line, what the student "
        "said is what the teacher found.",
    )


def _add_diagonal(figure: go.Figure, values: list[float]) -> None:
    low, high = min(values), max(values)
    figure.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            line={"color": light("muted"), "width": 1.5, "dash": "dash"},
            hoverinfo="skip",
        )
    )

"""A reveal run: reward over pulls, what each round did, and a few of the rows that the model revealed."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from rapidun.report import formats
from rapidun.report.charts import Chart, chart
from rapidun.report.palette import light
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

ROWS_SHOWN = 12
ARMS_SHOWN = 8


def build(run: RunFiles) -> Section | None:
    """Nothing for other runs."""
    if run.reveal is None:
        return None
    searched = [line for line in run.arms if line.text("stage") == "search"]
    masked = run.reveal.flag("mask") is True
    charts = [found for found in (_rewards(searched), _rounds_chart(run.reveal)) if found is not None]
    context = {
        "about": _about(run.reveal, searched, len(run.revealed)),
        "stopped": run.reveal.text("stopped"),
        "charts": charts,
        "rounds": [_round(line) for line in run.reveal.children("rounds")],
        "arms": _best(searched, masked),
        "rows": [_row(record, masked) for record in run.revealed[:ROWS_SHOWN]],
        "left_out": formats.count(len(run.revealed) - ROWS_SHOWN) if len(run.revealed) > ROWS_SHOWN else "",
    }
    return Section("revealed", "What the model revealed", "revealing.html.j2", context, tuple(charts))


def _about(reveal: Record, searched: Sequence[Record], rows: int) -> dict[str, str]:
    return {
        "description": reveal.text("description"),
        "pulls": formats.count(len(searched)),
        "arms": formats.count(len({(line.text("round"), line.text("arm")) for line in searched})),
        "rows": formats.count(rows),
        "strategy": reveal.text("strategy"),
        "judge": reveal.text("judge"),
        "method": reveal.text("method"),
    }


def _rewards(searched: Sequence[Record]) -> Chart | None:
    """Reward of every pull and the best of the round so far, in the order of the pulls."""
    rewards = [line.number("reward") or 0.0 for line in searched]
    if not rewards:
        return None
    best: list[float] = []
    for place, line in enumerate(searched):
        new_round = place == 0 or line.text("round") != searched[place - 1].text("round")
        best.append(rewards[place] if new_round else max(best[-1], rewards[place]))
    pulls = list(range(1, len(rewards) + 1))
    named = [f"round {line.text('round')}, {line.text('arm')}" for line in searched]
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            name="a pull",
            x=pulls,
            y=rewards,
            mode="markers",
            text=named,
            marker={"size": 6, "color": light("muted")},
            hovertemplate="%{text}<br>reward %{y:.3f}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            name="best of the round so far",
            x=pulls,
            y=best,
            mode="lines",
            line={"color": light("forget"), "width": 2, "shape": "hv"},
            hovertemplate="%{y:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="pull", showgrid=False)
    figure.update_yaxes(range=[0, 1.05 * max(*rewards, 0.05)], showline=False, zeroline=False)
    text = f"Rewards of {len(rewards)} pulls; the best is {max(rewards):.3f}, the first {rewards[0]:.3f}."
    return chart(
        figure,
        "chart-revealed-rewards",
        "Reward over pulls",
        text,
        300,
        reading="Each dot is one way of asking that was tried: the higher, the more of the behaviour its "
        "answers showed, and the more they differed from each other; the line is the best so far.",
    )


def _rounds_chart(reveal: Record) -> Chart | None:
    """Relevance of the best arms' answers before and after each round."""
    lines = [line for line in reveal.children("rounds") if line.number("relevance_after") is not None]
    if not lines:
        return None
    names = [f"round {line.text('round')}" for line in lines]
    figure = go.Figure()
    for key, title, role in (("relevance_before", "before", "before"), ("relevance_after", "after", "after")):
        values = [line.number(key) or 0.0 for line in lines]
        figure.add_trace(
            go.Bar(
                name=title,
                x=names,
                y=values,
                marker={"color": light(role)},
                text=[formats.percent(v) for v in values],
                textposition="outside",
                cliponaxis=False,
                hovertemplate="%{text}<extra>" + title + "</extra>",
            )
        )
    target = reveal.number("relevance_target")
    if target is not None:
        figure.add_hline(y=target, line={"color": light("fail"), "width": 1, "dash": "dash"})
    figure.update_layout(barmode="group")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", showline=False, zeroline=False)
    told = [_round(line) for line in lines]
    text = "; ".join(f"round {line['number']} {line['before']} to {line['after']}" for line in told)
    return chart(
        figure,
        "chart-revealed-rounds",
        "The behaviour, asked in the best ways found",
        f"{text}.",
        280,
        reading="How much of the behaviour the answers show, before and after each round of release; the "
        "dashed line is the target.",
    )


def _round(line: Record) -> dict[str, str]:
    utility, accepted = line.child("utility"), line.flag("accepted")
    overlap = line.number("overlap")
    return {
        "number": line.text("round"),
        "rows": formats.count(line.number("rows")),
        "before": formats.percent(line.number("relevance_before")),
        "after": formats.percent(line.number("relevance_after")),
        "utility": formats.number(utility.number("value")) if utility else formats.MISSING,
        "drop": formats.percent(line.number("drop")),
        "overlap": formats.number(overlap) if overlap is not None else "",
        "kept": formats.MISSING if accepted is None else ("kept" if accepted else "not kept: beyond the budget"),
    }


def _best(searched: Sequence[Record], masked: bool) -> list[dict[str, str]]:
    """The arms of highest reward, each once. Words that arms add may be the model's own: masked, they go too."""
    ranked = sorted(searched, key=lambda line: -(line.number("reward") or 0.0))
    chosen: dict[tuple[str, str], Record] = {}
    for line in ranked:
        chosen.setdefault((line.text("round"), line.text("arm")), line)
    return [
        {
            "arm": line.text("arm"),
            "round": line.text("round"),
            "kind": line.text("kind"),
            "instruction": _shown(line.text("instruction"), masked and line.text("kind") not in ("seed", "soft")),
            "relevance": formats.percent(line.number("relevance")),
            "diversity": formats.percent(line.number("diversity")),
            "reward": formats.number(line.number("reward")),
        }
        for line in list(chosen.values())[:ARMS_SHOWN]
    ]


def _shown(text: str, masked: bool) -> str:
    """The text, or how many words it has."""
    return f"({formats.count(len(text.split()))} words, masked)" if masked else text


def _row(record: Record, masked: bool) -> dict[str, str]:
    return {
        "prompt": _shown(record.text("prompt"), masked),
        "response": _shown(record.text("response"), masked),
        "arm": record.text("arm"),
        "judge": formats.number(record.number("judge")),
        "round": record.text("round"),
    }

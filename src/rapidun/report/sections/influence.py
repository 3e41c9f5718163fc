"""The four influence blocks as heat maps on one colour scale.

``ff, fr, rf, rr``: the first letter is the group of the row being scored, the second the group of the query
(traps.md, 18). Arrays are (scored rows, queries), drawn with rows downwards and queries to the right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from rapidun.report.charts import Chart, chart
from rapidun.report.formats import number
from rapidun.report.palette import DIVERGING, light
from rapidun.report.run_files import BLOCK_NAMES, Block, RunFiles
from rapidun.report.section import Section

MAX_CELLS = 60  # a side; larger blocks are averaged down, which the page says
_GROUPS = {"f": "forget", "r": "retain"}
_MEANING = {
    "ff": "Warm rows carry the bad behaviour that the forget rows share: unlearning them counts most.",
    "fr": "Warm rows also teach what the retain rows need: unlearning them costs most, so they weigh less.",
    "rf": "Warm rows support the bad behaviour although they count as good: they weigh less.",
    "rr": "Warm rows stand for what must be kept: they weigh more.",
}


def build(run: RunFiles) -> Section:
    """Four heat maps and their summary table."""
    title = "Influence between forget and retain rows"
    if run.blocks is None or run.blocks["ff"].size == 0 or run.blocks["rr"].size == 0:
        return Section("influence", title, note="No blocks.safetensors in this run: influence was not computed.")
    orders = {group: _order(run, group, run.blocks[group * 2].shape[0]) for group in _GROUPS}
    limit = _colour_limit(run.blocks)
    charts = [_heat_map(name, run.blocks[name], orders, limit) for name in BLOCK_NAMES]
    context = {
        "maps": [{"chart": c, "meaning": _MEANING[name]} for name, c in zip(BLOCK_NAMES, charts, strict=True)],
        "limit": number(limit, 2),
        "rows": [_summary(name, run.blocks[name]) for name in BLOCK_NAMES],
        "by_score": bool(run.weights),
        "pooled": max(max(run.blocks[name].shape) for name in BLOCK_NAMES) > MAX_CELLS,
        "max_cells": MAX_CELLS,
    }
    return Section("influence", title, "influence.html.j2", context, tuple(charts))


def _order(run: RunFiles, group: str, size: int) -> NDArray[np.intp]:
    """Positions of a group's rows, highest score first; file order where scores are not known."""
    scores = np.full(size, -np.inf)
    for row in run.weights:
        index, score = row.number("index"), row.number("score")
        if row.text("group") == _GROUPS[group] and index is not None and score is not None and 0 <= index < size:
            scores[int(index)] = score
    return np.argsort(-scores, kind="stable")


def _colour_limit(blocks: dict[str, Block]) -> float:
    """98th percentile of the size of all entries that do not compare a row with itself."""
    sizes = [np.abs(_without_self(name, block)) for name, block in blocks.items()]
    joined = np.concatenate(sizes)
    joined = joined[np.isfinite(joined)]
    limit = float(np.quantile(joined, 0.98)) if joined.size else 0.0
    return limit if limit > 0 else 1.0


def _without_self(name: str, block: Block) -> Block:
    """Entries of a block, the diagonals of ``ff`` and ``rr`` left out."""
    return block[~np.eye(block.shape[0], dtype=bool)] if name in ("ff", "rr") else block.ravel()


def _heat_map(name: str, block: Block, orders: dict[str, NDArray[np.intp]], limit: float) -> Chart:
    values = pooled(block[np.ix_(orders[name[0]], orders[name[1]])], MAX_CELLS)
    scored, query = (_GROUPS[letter] for letter in name)
    figure = go.Figure(
        go.Heatmap(
            z=_hundredths(values, limit),
            zmin=-100,
            zmax=100,
            colorscale=[[i / (len(DIVERGING) - 1), light(role)] for i, role in enumerate(DIVERGING)],
            showscale=False,
            hovertemplate=f"{scored} row %{{y}}<br>{query} query %{{x}}<br>"
            f"influence %{{z}}% of {number(limit, 2)}<extra></extra>",
        )
    )
    figure.update_layout(margin={"t": 8}, showlegend=False)
    figure.update_xaxes(
        title_text=f"{query} queries \u2192", showticklabels=False, ticks="", showgrid=False, zeroline=False
    )
    figure.update_yaxes(
        title_text=f"\u2190 scored {scored} rows",
        showticklabels=False,
        ticks="",
        showgrid=False,
        zeroline=False,
        autorange="reversed",
    )
    median = number(float(np.nanmedian(_without_self(name, block))) if block.size > 1 else 0.0)
    title = f"{name.upper()}: {scored} rows scored on {query} queries"
    return chart(
        figure,
        f"chart-influence-{name}",
        title,
        f"Heat map. {title}. Median influence {median}.",
        300,
        reading=f"Each cell says how training on one {scored} row moves the model towards the answer of one "
        f"{query} row.",
    )


def _hundredths(values: Block, limit: float) -> NDArray[np.int8]:
    """Entries in hundredths of ``limit``, in one byte each: more than a colour shows."""
    scaled: NDArray[np.int8] = np.nan_to_num(np.clip(100 * values / limit, -127, 127)).round().astype(np.int8)
    return scaled


def pooled(values: Block, limit: int) -> Block:
    """``values`` averaged down to at most ``limit`` cells a side, in whole stripes of rows and columns."""
    for axis in (0, 1):
        size = values.shape[axis]
        if size > limit:
            starts = np.linspace(0, size, limit, endpoint=False).astype(np.intp)
            widths = np.diff(np.append(starts, size)).astype(np.float32)
            sums = np.add.reduceat(values, starts, axis=axis)
            values = (sums / (widths[:, None] if axis == 0 else widths[None, :])).astype(np.float32)
    return values


def _summary(name: str, block: Block) -> dict[str, Any]:
    entries = _without_self(name, block)
    entries = entries[np.isfinite(entries)]
    if not entries.size:
        entries = np.zeros(1, dtype=np.float32)
    low, median, high = (number(float(q)) for q in np.quantile(entries, [0.05, 0.5, 0.95]))
    return {
        "name": name.upper(),
        "scored": _GROUPS[name[0]],
        "query": _GROUPS[name[1]],
        "shape": f"{block.shape[0]} \u00d7 {block.shape[1]}",
        "low": low,
        "median": median,
        "high": high,
    }

"""The best and the worst rows of a pool, with their text: what the number means, seen."""

from __future__ import annotations

from rapidun.report import formats
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section


def build(run: RunFiles) -> Section | None:
    """Two tables."""
    if run.valuation is None:
        return None
    groups = [
        (title, [_line(record) for record in run.valuation.children(key)])
        for key, title in (("best", "Most valuable"), ("worst", "Least valuable"))
    ]
    shown = [(title, lines) for title, lines in groups if lines]
    if not shown:
        return None
    sources = any(line["source"] for _, lines in shown for line in lines)
    return Section("rows", "Best and worst rows", "value_rows.html.j2", {"groups": shown, "sources": sources})


def _line(record: Record) -> dict[str, str]:
    return {
        "value": formats.number(record.number("value")),
        "line": formats.count(record.number("line")),
        "id": record.text("id"),
        "prompt": record.text("prompt"),
        "response": record.text("response"),
        "source": record.text("source"),
    }

"""Which rows led to an answer: retrieval quality against the baselines, and the top rows of three queries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from rapidun.report import formats
from rapidun.report.measure import Measure
from rapidun.report.record import Record
from rapidun.report.run_files import RunFiles
from rapidun.report.section import Section

QUERIES = 3
ROWS_A_QUERY = 10


@dataclass(frozen=True)
class Traced:
    """A query, the answer it gave and the rows behind it."""

    query: str
    response: str
    rows: list[dict[str, object]]


def build(run: RunFiles) -> Section | None:
    """Nothing for a run that did not trace."""
    table = run.metrics.child("trace") if run.metrics else None
    methods = _methods(table) if table else []
    if not methods and not run.trace:
        return None
    columns = list(dict.fromkeys(key for _, record in methods for key in record.fields))
    context = {
        "columns": [_title(column, table) for column in columns],
        "methods": [(name, [_cell(record, column) for column in columns]) for name, record in methods],
        "queries": list(islice(_traced(run.trace), QUERIES)),
        "rows_a_query": ROWS_A_QUERY,
    }
    return Section("trace", "Which rows did it", "trace.html.j2", context)


def _methods(table: Record) -> list[tuple[str, Record]]:
    """``{"methods": {name: {...}}}`` or the methods themselves."""
    inner = table.child("methods")
    return list((inner or table).named_children())


def _title(column: str, table: Record | None) -> str:
    k = table.number("k") if table else None
    known = {"auroc": "AUROC", "average_precision": "Average precision", "precision_at_k": "Precision at k"}
    title = known.get(column, column.replace("_", " "))
    return f"Precision at {k:g}" if column == "precision_at_k" and k is not None else title


def _cell(record: Record, column: str) -> str:
    """Three decimals, as the field prints these scores; the interval where there is one."""
    measure = Measure.read(record, column)
    if measure.value is None:
        return formats.MISSING
    text = f"{measure.value:.3f}"
    if measure.low is not None and measure.high is not None:
        text += f" [{measure.low:.3f}, {measure.high:.3f}]"
    return text


def _traced(records: Iterable[Record]) -> Iterable[Traced]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.text("query"), record.text("response")), []).append(record)
    for (query, response), rows in groups.items():
        ranked = sorted(rows, key=lambda row: row.number("rank") or 0)[:ROWS_A_QUERY]
        yield Traced(query, response, [_row(row) for row in ranked])


def _row(record: Record) -> dict[str, object]:
    return {
        "rank": formats.count(record.number("rank")),
        "id": record.text("id"),
        "score": formats.number(record.number("score")),
        "prompt": record.text("prompt"),
        "response": record.text("train_response"),
        "poisoned": record.flag("poisoned"),
    }

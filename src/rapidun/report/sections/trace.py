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
_ABOUT = ("method", "relevant", "pool")  # of a line of the table; every other key is a measure


@dataclass(frozen=True)
class Traced:
    """A query, the answer it gave and the rows behind it."""

    query: str
    response: str
    rows: list[dict[str, object]]


def build(run: RunFiles) -> Section | None:
    """Nothing for a run that did not trace."""
    methods = run.metrics.children("trace") if run.metrics else []
    if not methods and not run.trace:
        return None
    columns = list(dict.fromkeys(key for method in methods for key in method.fields if key not in _ABOUT))
    context = {
        "columns": [_title(column) for column in columns],
        "methods": [(method.text("method"), [_cell(method, column) for column in columns]) for method in methods],
        "pool": _pool(methods[0]) if methods else "",
        "queries": list(islice(_traced(run.trace), QUERIES)),
    }
    return Section("trace", "Which rows did it", "trace.html.j2", context)


def _pool(method: Record) -> str:
    relevant, pool = method.number("relevant"), method.number("pool")
    if relevant is None or pool is None:
        return ""
    return f"The pool has {formats.count(pool)} rows, of which {formats.count(relevant)} are poisoned."


def _title(column: str) -> str:
    known = {"auroc": "AUROC", "average_precision": "Average precision"}
    return known.get(column, column.replace("_", " ").capitalize())


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
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        key = record.text("query_index"), record.text("query"), record.text("response")
        groups.setdefault(key, []).append(record)
    for (_, query, response), rows in groups.items():
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

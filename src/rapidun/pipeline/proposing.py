"""From a symptom to a forget set: what a trace of a few bad answers proposes to forget and to keep, as row files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rapidun.attribution.proposal import Proposal, propose
from rapidun.attribution.search import SHARES
from rapidun.attribution.store import Index
from rapidun.attribution.store.plan import data_fingerprint
from rapidun.data import Rows
from rapidun.data.content import as_record
from rapidun.errors import InputError
from rapidun.files import write_json, write_jsonl
from rapidun.pipeline.config import TraceConfig
from rapidun.pipeline.directory import RunDirectory
from rapidun.pipeline.inputs import LABEL, read_rows, usable
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.trace_job import TraceResult


def write_proposal(
    traced: TraceResult,
    config: TraceConfig,
    data: Path,
    out: Path,
    *,
    fdr: float,
    retain: int | None,
    overwrite: bool,
    reporter: Reporter,
) -> dict[str, Any]:
    """Write ``forget.jsonl``, ``retain.jsonl`` and ``proposal.json`` into ``out``; returns what the last one holds.

    A proposed row is the row of ``data`` with ``score`` (standard deviations above clean rows), ``q_value`` and
    ``reason`` added. All queries count as one symptom.

    Args:
        traced: Of `trace_index` or `trace_memory`.
        data: The rows that were searched.
        out: New directory.
        fdr: Share of clean rows that the forget set may hold.
        retain: Number of retain rows; by default twice the forget rows.

    Raises:
        ConfigError: If ``fdr`` is out of range.
        FingerprintError: If ``data`` is not what was indexed.
        InputError: If no row stands out enough to be proposed.
    """
    rows = read_rows(data, "training rows", config.data, reporter, (LABEL,))
    rows = usable(rows, traced.subject, config.data, reporter, name="training rows")
    fingerprint = data_fingerprint(rows)
    if isinstance(traced.store, Index):
        traced.store.check(data=fingerprint)
    reporter.phase("propose", "Choosing the cut")
    found = propose(
        {name: ranking.scores() for name, ranking in traced.rankings.items()}, weights=SHARES, fdr=fdr, retain=retain
    )
    if not found.forget:
        raise InputError(
            f"no row stands out at a false-discovery rate of {fdr}: the strongest would be wrong with q = "
            f"{found.q_values.min():.2f}. Give more bad answers, other scorers (--by), or a higher --fdr."
        )
    place = RunDirectory.claim(
        out, {**traced.model.fingerprints(), "data": data_fingerprint(rows)}, resume=False, overwrite=overwrite
    )
    for name, positions in (("forget", found.forget), ("retain", found.retain)):
        write_jsonl(place / f"{name}.jsonl", _lines(rows, positions, found))
    summary = {
        "queries": len(traced.queries),
        "scorers": list(traced.rankings),
        "rows": len(rows),
        "fdr": fdr,
        "forget": len(found.forget),
        "retain": len(found.retain),
        "expected_false": found.expected_false,
        "threshold": found.threshold,
        "files": [str(place / f"{name}.jsonl") for name in ("forget", "retain")],
    }
    write_json(place / "proposal.json", summary)
    return summary


def _lines(rows: Rows, positions: list[int], found: Proposal) -> list[dict[str, Any]]:
    chosen = rows.dataset.select(positions)
    return [
        {
            **as_record(row),
            "score": float(found.scores[position]),
            "q_value": float(found.q_values[position]),
            "reason": found.reasons[position],
        }
        for position, row in zip(positions, chosen, strict=True)
    ]

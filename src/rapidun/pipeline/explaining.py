"""The whole of ``rapidun trace``: rows behind answers, the tokens behind the first of them, and what to forget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidun.attribution.proposal import Proposal, propose
from rapidun.attribution.search import SHARES
from rapidun.attribution.store import Index
from rapidun.attribution.store.plan import check_same, data_fingerprint
from rapidun.data import Rows
from rapidun.data.content import as_record
from rapidun.errors import ConfigError, InputError
from rapidun.files import write_json
from rapidun.jsonl import write_jsonl
from rapidun.lifecycle import RunDirectory
from rapidun.pipeline.inputs import LABEL, Row, read_rows, usable
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.trace_job import TraceRequest, TraceResult, settings_of, tokens_of, trace_index, trace_memory
from rapidun.settings.attribution import TraceConfig, TraceSettings
from rapidun.settings.base import make_config


@dataclass(frozen=True)
class Places:
    """Where rows are looked for.

    Args:
        index: Directory of an index; None looks at ``data`` in memory.
        data: Training rows; needed beside an index where whole rows are, for tokens and proposals.
        adapter: Put on the model; an index knows its own.
        overwrite: Replace an earlier proposal.
    """

    index: Path | None = None
    data: Path | None = None
    adapter: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Explained:
    """One line for each hit, one for each hit whose tokens were traced, and what was proposed."""

    lines: list[dict[str, Any]]
    tokens: list[dict[str, Any]]
    proposed: dict[str, Any] | None


def explain(
    raw: Mapping[str, Any], request: TraceRequest, places: Places, wanted: TraceSettings, reporter: Reporter
) -> Explained:
    """Trace the answers of ``request`` to training rows.

    Args:
        raw: Plain configuration; what is not given in it is taken from the index.
        request: The answers.
        places: Index or rows.
        wanted: What is asked.
        reporter: Where progress goes.

    Raises:
        ConfigError: If two of these do not go together; before anything is loaded.
        OutputError: If the place for a proposal is taken.
    """
    check(str(raw["model"]["source"]), request, places, wanted)
    traced, settings = _trace(raw, request, places, wanted, reporter)
    if places.data is None:
        return Explained(traced.lines, [], None)
    tokens = []
    if wanted.tokens:
        tokens = tokens_of(
            traced, settings, places.data, by=wanted.token_by, words=request.words, rows=wanted.tokens,
            reporter=reporter,
        )  # fmt: skip
    proposed = None
    if wanted.propose is not None:
        proposed = write_proposal(
            traced, settings, places.data, wanted.propose, fdr=wanted.fdr, clean=wanted.clean, retain=None,
            overwrite=places.overwrite, reporter=reporter,
        )  # fmt: skip
    return Explained(traced.lines, tokens, proposed)


def _trace(
    raw: Mapping[str, Any], request: TraceRequest, places: Places, wanted: TraceSettings, reporter: Reporter
) -> tuple[TraceResult, TraceConfig]:
    asked: dict[str, Any] = {"scorers": wanted.scorers, "k": wanted.k, "together": wanted.together}
    if places.index is None:
        settings, data = make_config(dict(raw), TraceConfig, "command line"), places.data or Path()
        return trace_memory(settings, data, request, adapter=places.adapter, reporter=reporter, **asked), settings
    settings, adapter = settings_of(places.index, raw, places.adapter)
    return trace_index(settings, places.index, request, adapter=adapter, reporter=reporter, **asked), settings


def check(model: str, request: TraceRequest, places: Places, wanted: TraceSettings) -> None:
    """Refuse what cannot work. Raises as `explain`."""
    if (request.path is None) == (request.prompt is None):
        raise ConfigError("give either --query FILE or --prompt TEXT.")
    if request.path is not None and request.response is not None:
        raise ConfigError("--response belongs to --prompt: the rows of --query have answers of their own.")
    for name, text in (("prompt", request.prompt), ("response", request.response)):
        if text is not None and not text.strip():
            raise ConfigError(f"--{name} is empty: there is nothing to trace.")
    if places.index is None and places.data is None:
        raise ConfigError("give --index DIR to search an index, or --data FILE to search rows in memory.")
    if places.index is None and not model:
        raise ConfigError("--data needs --model.")
    if places.index is not None and wanted.tokens and places.data is None:
        raise ConfigError("--tokens with --index needs --data: an index holds previews, not whole rows.")
    if wanted.together and wanted.tokens:
        raise ConfigError("--tokens explains the ranking of one answer: leave out --together, or --tokens.")
    _check_proposal(places, wanted)


def _check_proposal(places: Places, wanted: TraceSettings) -> None:
    if wanted.propose is not None and places.data is None:
        raise ConfigError("--propose with --index needs --data: the rows that were indexed.")
    if wanted.clean is not None and wanted.propose is None:
        raise ConfigError("--clean shows --propose how clean rows score: give --propose DIR.")
    if wanted.clean is not None and not wanted.clean.exists():
        raise InputError(f"{wanted.clean}: no such file. --clean takes rows of --data known to be clean.")
    if wanted.propose is not None:
        RunDirectory.check(wanted.propose, resume=False, overwrite=places.overwrite, resumable=False)


def write_proposal(
    traced: TraceResult,
    config: TraceConfig,
    data: Path,
    out: Path,
    *,
    fdr: float,
    clean: Path | None = None,
    retain: int | None,
    overwrite: bool,
    reporter: Reporter,
) -> dict[str, Any]:
    """Write ``forget.jsonl``, ``retain.jsonl`` and ``proposal.json`` into ``out``; returns what the last one holds.

    A proposed row is the row of ``data`` with ``score`` (spreads above the middle of the pool), ``q_value`` and
    ``reason`` added. All queries count as one symptom.

    Args:
        traced: Of `trace_index` or `trace_memory`.
        data: The rows that were searched.
        out: New directory.
        fdr: Share of clean rows that the forget set may hold.
        clean: Rows of ``data`` known to be clean, a random sample of the clean ones. Only with them is the share kept
            whatever the scores look like (see `propose`); without them it is an estimate.
        retain: Number of retain rows; by default twice the forget rows.

    Raises:
        ConfigError: If ``fdr`` is out of range.
        FingerprintError: If ``data`` is not what was indexed.
        InputError: If a row of ``clean`` is not in ``data``, or no row stands out enough to be proposed.
    """
    rows = read_rows(data, "training rows", config.data, reporter, (LABEL,))
    rows = usable(rows, traced.run_model, config.data, reporter, name="training rows")
    fingerprint = data_fingerprint(rows)
    if isinstance(traced.store, Index):
        check_same(traced.store.manifest, traced.store.path, {"data": str(data)}, data=fingerprint)
    known = known_clean(clean, rows, config, reporter) if clean is not None else []
    reporter.phase("propose", "Choosing the cut")
    views = {name: ranking.scores() for name, ranking in traced.rankings.items()}
    found = propose(views, clean=known, weights=SHARES, fdr=fdr, retain=retain)
    if not found.forget:
        raise InputError(
            f"no row stands out at a false-discovery rate of {fdr}: the strongest would be wrong with q = "
            f"{found.q_values.min():.2f}. {_more(len(rows), len(known), fdr)}"
        )
    marks = {**traced.model.fingerprints(), "data": fingerprint}
    place = RunDirectory.claim(out, marks, resume=False, overwrite=overwrite, resumable=False)
    summary = {
        "queries": len(traced.queries),
        "scorers": list(traced.rankings),
        "rows": len(rows),
        "fdr": fdr,
        "known_clean": found.known_clean,
        "forget": len(found.forget),
        "retain": len(found.retain),
        "expected_false": found.expected_false,
        "threshold": found.threshold,
        "files": [str(place / f"{name}.jsonl") for name in ("forget", "retain")],
    }
    with place:
        for name, positions in (("forget", found.forget), ("retain", found.retain)):
            write_jsonl(place / f"{name}.jsonl", _lines(rows, positions, found))
        write_json(place / "proposal.json", summary)
    return summary


def known_clean(path: Path, rows: Rows, config: TraceConfig, reporter: Reporter) -> list[int]:
    """Positions in ``rows`` of the rows of ``path``, found by prompt, context and answer.

    Raises:
        InputError: If a row of ``path`` is not among ``rows``.
    """
    known = read_rows(path, "clean rows", config.data, reporter, (LABEL,))
    positions: dict[tuple[str, ...], list[int]] = {}
    for position, row in enumerate(rows):
        positions.setdefault(_content(row), []).append(position)
    found: set[int] = set()
    for number, row in enumerate(known):
        if _content(row) not in positions:
            raise InputError(
                f"{known.where(number)}: this clean row is not in {rows.path}. Give rows of it that you know "
                "to be clean: they show how clean rows score."
            )
        found.update(positions[_content(row)])
    return sorted(found)


def _content(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(column) or "") for column in ("prompt", "context", "response"))


def _more(rows: int, known: int, fdr: float) -> str:
    """What to do where nothing was proposed."""
    if not known:
        return (
            "Give rows known to be clean (--clean): without them the cut is a careful estimate. Or more bad answers, "
            "other scorers (--by), or a higher --fdr."
        )
    together = math.ceil((rows - known) / (fdr * (known + 1)))
    return (
        f"With {known} known clean rows, {together} others must stand out together: give more clean rows (--clean), "
        "more bad answers, other scorers (--by), or a higher --fdr."
    )


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

"""The whole of ``rapidun trace``: rows behind answers, the tokens behind the first of them, and what to forget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidun.errors import ConfigError, InputError
from rapidun.lifecycle import RunDirectory
from rapidun.pipeline.proposing import write_proposal
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

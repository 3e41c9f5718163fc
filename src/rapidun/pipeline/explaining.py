"""The whole of ``rapidun trace``: rows behind answers, the tokens behind the first of them, and what to forget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from rapidun.attribution.tokens import Decomposition
from rapidun.errors import ConfigError
from rapidun.pipeline.config import TraceConfig, _Section, make_config
from rapidun.pipeline.directory import RunDirectory
from rapidun.pipeline.proposing import write_proposal
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.trace_job import Answer, Question, settings_of, tokens_of, trace_index, trace_memory


@dataclass(frozen=True)
class Places:
    """Where rows are looked for.

    Args:
        index: Directory of an index; None looks at ``data`` in memory.
        data: Training rows; needed beside an index where whole rows are, for tokens and proposals.
        adapter: Put on the model; an index knows its own.
    """

    index: Path | None = None
    data: Path | None = None
    adapter: Path | None = None


class Wanted(_Section):
    """What is asked of a trace.

    Args:
        k: Rows of each ranking.
        looks: Ways to rank, fused where there are several; empty is the default.
        together: One ranking for all queries; with an index.
        tokens: Rows of each ranking whose tokens are traced.
        token_by: ``"position"`` or ``"loss"``.
        propose: Directory for the rows to forget and to retain; with an index.
        fdr: Share of clean rows that the proposed forget rows may hold.
        overwrite: Replace ``propose``.
    """

    k: int = Field(20, ge=1)
    looks: tuple[str, ...] = ()
    together: bool = False
    tokens: int = Field(0, ge=0)
    token_by: Decomposition = "position"
    propose: Path | None = None
    fdr: float = Field(0.1, gt=0, lt=1)
    overwrite: bool = False


@dataclass(frozen=True)
class Explained:
    """One line for each hit, one for each hit whose tokens were traced, and what was proposed."""

    lines: list[dict[str, Any]]
    tokens: list[dict[str, Any]]
    proposed: dict[str, Any] | None


def explain(
    raw: Mapping[str, Any], question: Question, places: Places, wanted: Wanted, reporter: Reporter
) -> Explained:
    """Trace the answers of ``question`` to training rows.

    Args:
        raw: Plain configuration; what is not given in it is taken from the index.
        question: The answers.
        places: Index or rows.
        wanted: What is asked.
        reporter: Where progress goes.

    Raises:
        ConfigError: If two of these do not go together; before anything is loaded.
        OutputError: If the place for a proposal is taken.
    """
    check(str(raw["model"]["source"]), question, places, wanted)
    answer, settings = _answer(raw, question, places, wanted, reporter)
    if places.data is None:
        return Explained(answer.lines, [], None)
    tokens = []
    if wanted.tokens:
        tokens = tokens_of(
            answer, settings, places.data, by=wanted.token_by, words=question.words, rows=wanted.tokens,
            reporter=reporter,
        )  # fmt: skip
    proposed = None
    if wanted.propose is not None:
        proposed = write_proposal(
            answer, settings, places.data, wanted.propose, fdr=wanted.fdr, retain=None, overwrite=wanted.overwrite,
            reporter=reporter,
        )  # fmt: skip
    return Explained(answer.lines, tokens, proposed)


def _answer(
    raw: Mapping[str, Any], question: Question, places: Places, wanted: Wanted, reporter: Reporter
) -> tuple[Answer, TraceConfig]:
    if places.index is None:
        settings = make_config(dict(raw), TraceConfig, "command line")
        data = places.data or Path()
        return trace_memory(
            settings, data, question, adapter=places.adapter, looks=wanted.looks, k=wanted.k, reporter=reporter
        ), settings
    settings, adapter = settings_of(places.index, raw, places.adapter)
    answer = trace_index(
        settings, places.index, question, adapter=adapter, looks=wanted.looks, k=wanted.k, together=wanted.together,
        reporter=reporter,
    )  # fmt: skip
    return answer, settings


def check(model: str, question: Question, places: Places, wanted: Wanted) -> None:
    """Refuse what cannot work. Raises as `explain`."""
    if (question.path is None) == (question.prompt is None):
        raise ConfigError("give either --query FILE or --prompt TEXT.")
    if question.path is not None and question.response is not None:
        raise ConfigError("--response belongs to --prompt: the rows of --query have answers of their own.")
    for name, text in (("prompt", question.prompt), ("response", question.response)):
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
    if places.index is None and wanted.together:
        raise ConfigError("--together needs --index: in memory every query has a ranking of its own.")
    if wanted.propose is not None and (places.index is None or places.data is None):
        raise ConfigError("--propose needs --index and --data: the rows that were indexed.")
    if wanted.propose is not None:
        RunDirectory.check(wanted.propose, resume=False, overwrite=wanted.overwrite)

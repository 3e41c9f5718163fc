"""What ``rapidun trace`` does: queries in, training rows out, from rows in memory or from an index on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rapidun.attribution import FeatureStore, Hits, ModelContext, Ranking, fused_hits, open_index, rankings
from rapidun.attribution.scorer import owner_of
from rapidun.attribution.scorers.gradient import GradientScorer
from rapidun.attribution.search import chosen_scorers
from rapidun.attribution.store.plan import check_same
from rapidun.attribution.words import check_words
from rapidun.data import Rows
from rapidun.errors import InputError
from rapidun.evaluation import generate_answers
from rapidun.gradients.experts import FusedTensor
from rapidun.gradients.targets import find_targets, settled_targets
from rapidun.models import LoadedModel
from rapidun.pipeline.evidence import gradient_coverage, note_coverage
from rapidun.pipeline.indexing import adapter_of, base_of, model_context, open_before, settled_by_index
from rapidun.pipeline.inputs import LABEL, Row, RunModel, open_run_model, read_rows, usable
from rapidun.pipeline.job import check_registered
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.pipeline.tokens import token_lines
from rapidun.pipeline.tracing import available, memory_store, trace_lines, trace_query
from rapidun.settings.attribution import TraceConfig
from rapidun.settings.base import make_config
from rapidun.settings.kinds import Decomposition, Similarity

ANSWER_TOKENS = 64


@dataclass(frozen=True)
class TraceRequest:
    """The answers to explain: a row file, or one prompt whose answer is given or generated.

    Args:
        words: Words of every answer that alone are asked about; all of it without them.
    """

    path: Path | None = None
    prompt: str | None = None
    response: str | None = None
    words: tuple[str, ...] = ()

    def given(self, config: TraceConfig, reporter: Reporter) -> Rows | list[Row] | None:
        """The rows with ``prompt`` and ``response``, or None where the model has yet to answer.

        Raises:
            InputError: If the file or a row is bad, or an answer lacks one of the words.
        """
        if self.path is not None:
            rows: Rows | list[Row] = read_rows(self.path, "queries", config.data, reporter)
        elif self.response is not None:
            rows = [_typed(self.prompt or "", self.response)]
        else:
            return None
        for row in rows:
            check_words(self.words, str(row["response"]))
        return rows

    def asked(
        self, given: Rows | list[Row] | None, run_model: RunModel, config: TraceConfig, reporter: Reporter
    ) -> list[Row]:
        """The given rows that template and tokenizer take, or the prompt with the model's own answer.

        Raises:
            InputError: If a row cannot be tokenised and such rows are not skipped, or the model's answer is empty.
        """
        if isinstance(given, Rows):
            return list(usable(given, run_model, config.data, reporter, name="queries"))
        if given is not None:
            return given
        text = run_model.template.prompt_text(_typed(self.prompt or "", ""))
        (response,) = generate_answers(run_model.loaded, [text], max_new_tokens=ANSWER_TOKENS)
        if not response.strip():
            raise InputError("the model's answer to --prompt is empty: give --response.")
        return [_typed(self.prompt or "", response)]


@dataclass(frozen=True)
class TraceResult:
    """What a trace found: one line for each hit, and what later steps need to go on from it.

    Args:
        rankings: By scorer; the hits are theirs, fused.
    """

    run_model: RunModel
    model: ModelContext
    queries: list[Row]
    hits: list[Hits]
    lines: list[dict[str, Any]]
    store: FeatureStore
    rankings: Mapping[str, Ranking]


def trace_memory(
    config: TraceConfig,
    data: Path,
    request: TraceRequest,
    *,
    adapter: Path | None,
    scorers: Sequence[str],
    k: int,
    together: bool = False,
    reporter: Reporter,
    loaded: LoadedModel | None = None,
) -> TraceResult:
    """Rank the rows of ``data``, which are looked at now, for each query, or for all queries as one symptom.

    Raises:
        ConfigError: If a scorer is unknown.
    """
    check_registered(config)
    for by in scorers:
        owner_of(by)
    reporter.phase("check", "Reading rows and model")
    pool = read_rows(data, "training rows", config.data, reporter, (LABEL,))
    given = request.given(config, reporter)
    run_model = open_run_model(config.model, config.data, reporter, adapter=adapter, loaded=loaded)
    pool = usable(pool, run_model, config.data, reporter, name="training rows")
    queries = request.asked(given, run_model, config, reporter)
    model = model_context(run_model, adapter, open_before(config.base, config.model, reporter))
    chosen = chosen_scorers(available(model, scorers), scorers, words=bool(request.words), where=str(data))
    if "gradient" in chosen:
        note_coverage("gradients", gradient_coverage(run_model, config.influence), reporter)
    reporter.phase("trace", f"Looking at {len(pool)} rows by {', '.join(chosen)}")
    store = memory_store(model, run_model, list(pool), chosen, config.influence, seed=config.seed, reporter=reporter)
    return _trace(
        store, model, replace(run_model, words=request.words), queries, chosen,
        similarity=config.influence.similarity, k=k, together=together, reporter=reporter,
    )  # fmt: skip


def _trace(
    store: FeatureStore,
    model: ModelContext,
    run_model: RunModel,
    queries: list[Row],
    scorers: Sequence[str],
    *,
    similarity: Similarity,
    k: int,
    together: bool,
    reporter: Reporter,
) -> TraceResult:
    """The same for an index and for rows in memory; the run's model says what is asked about."""
    told = counting(reporter, "rows")
    query = trace_query(run_model, queries, reporter)
    found = rankings(store, model, query, scorers, similarity=similarity, tick=lambda done: told(done, len(queries)))
    hits = fused_hits(store, found, k, by_ranks=bool(query.words), together=together)
    lines = trace_lines(store, queries, hits, together=together)
    return TraceResult(replace(run_model, words=()), model, queries, hits, lines, store, found)


def settings_of(index: Path, raw: Mapping[str, Any], adapter: Path | None) -> tuple[TraceConfig, Path | None]:
    """The configuration with what was not given taken from the index, and the adapter it was built with.

    Args:
        index: Its directory.
        raw: Plain configuration, see `settled_by_index`.
        adapter: As given.

    Raises:
        FingerprintError: If something that was given is not the index's.
    """
    manifest = open_index(index).manifest
    gradient = manifest.views.get("gradient")
    influence = dict(raw.get("influence", {}))
    if isinstance(gradient, GradientScorer):
        influence |= {name: getattr(gradient, name) for name in ("targets", "normalize", "token_normalize")}
    whole = {**settled_by_index(index, manifest, raw), "influence": influence}
    return make_config(whole, TraceConfig, "command line"), adapter_of(manifest, adapter)


def trace_index(
    config: TraceConfig,
    index: Path,
    request: TraceRequest,
    *,
    adapter: Path | None,
    scorers: Sequence[str],
    k: int,
    together: bool,
    reporter: Reporter,
    loaded: LoadedModel | None = None,
) -> TraceResult:
    """Rank the rows of an index for each query, or for all queries as one symptom.

    Raises:
        FingerprintError: If the index was built with another model, adapter, tokenizer or template; names both.
    """
    check_registered(config)
    opened = open_index(index)
    chosen = chosen_scorers(opened.scorers, scorers, words=bool(request.words), where=str(index))
    reporter.phase("check", "Reading queries and model")
    given = request.given(config, reporter)
    run_model = open_run_model(config.model, config.data, reporter, adapter=adapter, loaded=loaded)
    run_model = replace(run_model, max_length=opened.manifest.max_length)
    base = config.base or base_of(opened.manifest) if "change" in chosen else ""
    model = model_context(run_model, adapter)
    check_same(opened.manifest, index, model.origins(), **model.fingerprints())
    queries = request.asked(given, run_model, config, reporter)
    reporter.phase("trace", f"Searching {len(opened)} rows by {', '.join(chosen)}")
    model = replace(model, before=open_before(base, config.model, reporter))
    return _trace(
        opened, model, replace(run_model, words=request.words), queries, chosen,
        similarity=config.influence.similarity, k=k, together=together, reporter=reporter,
    )  # fmt: skip


def tokens_of(
    traced: TraceResult,
    config: TraceConfig,
    data: Path,
    *,
    by: Decomposition,
    words: Sequence[str],
    rows: int,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Token lines of the first ``rows`` hits of each query; whole rows are read from ``data``.

    Raises:
        InputError: If ``data`` lacks a row of the trace.
    """
    of_id = {row["id"]: row for row in read_rows(data, "training rows", config.data, reporter)}
    reporter.phase("tokens", "Tracing tokens")
    tracked = find_targets(traced.run_model.loaded.model, config.influence.targets)
    targets = settled_targets(traced.run_model.loaded.model, config.influence.targets)
    if targets == "linear" and any(isinstance(tensor, FusedTensor) for tensor in tracked):
        reporter.note("tokens: of the linear layers alone; what fused experts add to a row's score is not among them")
    found = []
    for number, (query, hits) in enumerate(zip(traced.queries, traced.hits, strict=True)):
        missing = [hit.id for hit in hits.helpful[:rows] if hit.id not in of_id]
        if missing:
            raise InputError(f"{data}: no row {missing[0]}, which the trace found. Give the rows that were indexed.")
        chosen = [of_id[hit.id] for hit in hits.helpful[:rows]]
        found += token_lines(traced.run_model, query, chosen, config.influence, by=by, words=words, query_index=number)
    return found


def _typed(prompt: str, response: str) -> dict[str, Any]:
    return {"id": "query", "prompt": prompt, "context": "", "response": response}

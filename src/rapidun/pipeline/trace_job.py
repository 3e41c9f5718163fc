"""What ``rapidun trace`` does: queries in, training rows out, from rows in memory or from an index on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rapidun.attribution.store import GradientScorer, Hits, Index, open_index
from rapidun.attribution.store.plan import check_same
from rapidun.attribution.tokens import Decomposition
from rapidun.attribution.words import check_words
from rapidun.data import Rows
from rapidun.errors import InputError
from rapidun.evaluation import generate_answers
from rapidun.gradients.experts import FusedTensor
from rapidun.gradients.targets import find_targets
from rapidun.pipeline.before import open_before
from rapidun.pipeline.config import TraceConfig, make_config
from rapidun.pipeline.coverage import gradient_coverage, note_coverage
from rapidun.pipeline.indexing import base_of, index_model
from rapidun.pipeline.inputs import LABEL, Row, Subject, open_subject, read_rows, usable
from rapidun.pipeline.of_index import adapter_of, settled_by_index
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.searching import Asked, looks_of, search
from rapidun.pipeline.tokens import token_lines
from rapidun.pipeline.tracing import LOOKS, PREVIEW, checked_looks, trace_rows

ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Question:
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
        self, given: Rows | list[Row] | None, subject: Subject, config: TraceConfig, reporter: Reporter
    ) -> list[Row]:
        """The given rows that template and tokenizer take, or the prompt with the model's own answer.

        Raises:
            InputError: If a row cannot be tokenised and such rows are not skipped, or the model's answer is empty.
        """
        if given is None:
            return self.answered(subject)
        return list(usable(given, subject, config.data, reporter, name="queries")) if isinstance(given, Rows) else given

    def answered(self, subject: Subject) -> list[Row]:
        """The prompt with the model's own answer.

        Raises:
            InputError: If that is empty.
        """
        text = subject.template.prompt_text(_typed(self.prompt or "", ""))
        (response,) = generate_answers(subject.loaded, [text], max_new_tokens=ANSWER_TOKENS)
        if not response.strip():
            raise InputError("the model's answer to --prompt is empty: give --response.")
        return [_typed(self.prompt or "", response)]


@dataclass(frozen=True)
class Answer:
    """What a trace found: one line for each hit, and what later steps need to go on from it."""

    subject: Subject
    queries: list[Row]
    hits: list[Hits]
    lines: list[dict[str, Any]]
    asked: Asked | None = None
    looks: tuple[str, ...] = ()


def trace_memory(
    config: TraceConfig,
    data: Path,
    question: Question,
    *,
    adapter: Path | None,
    looks: Sequence[str],
    k: int,
    reporter: Reporter,
) -> Answer:
    """Rank the rows of ``data``, which are looked at now, for each query.

    Raises:
        ConfigError: If a look is unknown.
    """
    checked_looks(looks, LOOKS)
    reporter.phase("check", "Reading rows and model")
    pool = read_rows(data, "training rows", config.data, reporter, (LABEL,))
    given = question.given(config, reporter)
    subject = open_subject(config.model, config.data, reporter, adapter=adapter)
    pool = usable(pool, subject, config.data, reporter, name="training rows")
    queries = question.asked(given, subject, config, reporter)
    if "gradient" in looks:
        note_coverage("gradients", gradient_coverage(subject, config.influence), reporter)
    reporter.phase("trace", f"Looking at {len(pool)} rows")
    found = trace_rows(
        subject, queries, pool, config.influence, k=k, seed=config.seed, reporter=reporter, looks=looks,
        words=question.words, before=open_before(config.base, config.model, reporter), measure=False,
    )  # fmt: skip
    return Answer(subject, queries, found.hits, found.lines)


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
    view = manifest.views.get("gradient")
    influence = dict(raw.get("influence", {}))
    if isinstance(view, GradientScorer):
        influence |= {name: getattr(view, name) for name in ("targets", "normalize", "token_normalize")}
    whole = {**settled_by_index(index, manifest, raw), "influence": influence}
    return make_config(whole, TraceConfig, "command line"), adapter_of(manifest, adapter)


def trace_index(
    config: TraceConfig,
    index: Path,
    question: Question,
    *,
    adapter: Path | None,
    looks: Sequence[str],
    k: int,
    together: bool,
    reporter: Reporter,
) -> Answer:
    """Rank the rows of an index for each query, or for all queries as one symptom.

    Raises:
        FingerprintError: If the index was built with another model, adapter, tokenizer or template; names both.
    """
    opened = open_index(index)
    chosen = looks_of(opened, looks, words=bool(question.words))
    reporter.phase("check", "Reading queries and model")
    given = question.given(config, reporter)
    subject = open_subject(config.model, config.data, reporter, adapter=adapter)
    model = index_model(subject, adapter)
    check_same(opened.manifest, index, model.origins(), **model.fingerprints())
    queries = question.asked(given, subject, config, reporter)
    reporter.phase("trace", f"Searching {len(opened)} rows by {', '.join(chosen)}")
    before = (
        open_before(config.base or base_of(opened.manifest), config.model, reporter) if "change" in chosen else None
    )
    asked = Asked(opened, replace(subject, words=question.words), queries, adapter, reporter, before)
    hits = search(asked, chosen, k, together=together)
    lines = [line for number, found in enumerate(hits) for line in _lines(opened, number, queries, found, together)]
    return Answer(subject, queries, hits, lines, asked, tuple(chosen))


def _lines(index: Index, number: int, queries: list[Row], hits: Hits, together: bool) -> list[dict[str, Any]]:
    """The helpful hits of one ranking as lines."""
    query = {"prompt": f"{len(queries)} queries together", "response": ""} if together else queries[number]
    shown = index.rows([hit.position for hit in hits.helpful])
    return [
        {
            "query_index": number,
            "query": query["prompt"],
            "response": query["response"],
            "rank": rank,
            "id": hit.id,
            "position": hit.position,
            "score": hit.score,
            "prompt": row["prompt"][:PREVIEW],
            "train_response": row["response"][:PREVIEW],
        }
        for rank, (hit, row) in enumerate(zip(hits.helpful, shown, strict=True), 1)
    ]


def tokens_of(
    answer: Answer,
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
    tracked = find_targets(answer.subject.loaded.model, config.influence.targets)
    if config.influence.targets == "linear" and any(isinstance(tensor, FusedTensor) for tensor in tracked):
        reporter.note("tokens: of the linear layers alone; what fused experts add to a row's score is not among them")
    found = []
    for number, (query, hits) in enumerate(zip(answer.queries, answer.hits, strict=True)):
        missing = [hit.id for hit in hits.helpful[:rows] if hit.id not in of_id]
        if missing:
            raise InputError(f"{data}: no row {missing[0]}, which the trace found. Give the rows that were indexed.")
        chosen = [of_id[hit.id] for hit in hits.helpful[:rows]]
        found += token_lines(answer.subject, query, chosen, config.influence, by=by, words=words, query_index=number)
    return found


def _typed(prompt: str, response: str) -> dict[str, Any]:
    return {"id": "query", "prompt": prompt, "context": "", "response": response}

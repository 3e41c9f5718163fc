"""Training rows scored in memory for some answers, and how well each scorer finds those that are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rapidun.attribution import FeatureStore, Hits, MemoryStore, ModelContext, TraceQuery, random_scores, rankings
from rapidun.attribution.quality import retrieval_quality
from rapidun.attribution.scorer import configured_scorers, known_scorers, owner_of, scorer_titles
from rapidun.attribution.search import chosen_scorers, fused, fused_hits
from rapidun.attribution.similarity import Array
from rapidun.data import Rows
from rapidun.gradients import RapidGrad
from rapidun.models import LoadedModel
from rapidun.pipeline.inputs import Row, RunModel, note_truncated
from rapidun.pipeline.reporter import Reporter, Silent, counting
from rapidun.settings.attribution import InfluenceSettings

PREVIEW = 240
PRECISION_AT = (5, 20, 100)
LABEL = "poisoned"
FUSED = "fused"


@dataclass(frozen=True)
class Traced:
    """A line for each hit and, where the pool is labelled, every scorer's retrieval quality."""

    lines: list[dict[str, Any]]
    quality: list[dict[str, Any]]


def trace_query(run_model: RunModel, rows: Sequence[Row], reporter: Reporter) -> TraceQuery:
    """Answers to explain, tokenised; the run's model may ask about some words alone.

    Raises:
        InputError: If a word is not in an answer.
    """
    examples = run_model.tokenize(rows)
    note_truncated(examples, "queries", reporter)
    return TraceQuery(rows, examples, run_model.words)


def memory_store(
    model: ModelContext,
    run_model: RunModel,
    rows: Sequence[Row],
    names: Sequence[str],
    settings: InfluenceSettings,
    *,
    seed: int,
    reporter: Reporter,
) -> MemoryStore:
    """The features of ``rows`` that the scorers asked for by ``names`` need.

    Args:
        model: What they are looked at with.
        run_model: Tokenises.
        rows: The pool.
        names: As a trace asks for scorers.
        settings: Of gradients.
        seed: Of the sketch.
        reporter: Where progress goes.

    Raises:
        ConfigError, ModelError: If a scorer is unknown or does not fit the model.
    """
    sketch = RapidGrad(k=settings.sketch_size, seed=seed).describe()
    of_gradients = settings.model_dump(include={"targets", "normalize", "token_normalize"})
    scorers = configured_scorers(map(owner_of, names), {**of_gradients, "sketch": sketch, "layers": [-1]})
    examples = run_model.tokenize(rows)
    note_truncated(examples, "training rows", reporter)
    told = counting(reporter, "rows")
    return MemoryStore(
        model, scorers, rows, examples, max_tokens=settings.max_tokens, tick=lambda done: told(done, len(rows))
    )


def available(model: ModelContext, wanted: Sequence[str] = ()) -> list[str]:
    """The scorers that this model can be asked by, those that are ``wanted`` whatever it takes."""
    owners = {owner_of(by) for by in wanted}
    return [name for name, scorer in known_scorers().items() if name in owners or scorer.fits(model)]


def score_rows(
    run_model: RunModel,
    queries: Sequence[Row],
    rows: Sequence[Row],
    names: Sequence[str],
    settings: InfluenceSettings,
    *,
    seed: int,
    before: LoadedModel | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Array]:
    """Every row's score for every query by each of ``names``, (queries, rows) float32, higher is more likely behind it.

    Raises:
        ConfigError, ModelError: As `memory_store`.
    """
    model, told = ModelContext(run_model.loaded, run_model.template, before=before), reporter or Silent()
    store = memory_store(model, run_model, rows, names, settings, seed=seed, reporter=told)
    query = trace_query(run_model, queries, told)
    found = rankings(store, model, query, names, similarity=settings.similarity)
    return {name: ranking.scores() for name, ranking in found.items()}


def trace_rows(
    run_model: RunModel,
    queries: Sequence[Row],
    pool: Rows,
    settings: InfluenceSettings,
    *,
    k: int,
    seed: int,
    reporter: Reporter,
) -> Traced:
    """The ``k`` most helpful and most harmful pool rows of each query, by the default scorers fused.

    Args:
        run_model: The model.
        queries: Rows with prompt, response and, where there is one, context.
        pool: Training rows; where they carry a boolean ``poisoned``, every scorer is measured by it.
        settings: Of gradients.
        k: Rows at each end.
        seed: Of the sketch.
        reporter: Where progress goes.
    """
    rows = list(pool)
    model = ModelContext(run_model.loaded, run_model.template)
    there = available(model)
    chosen = chosen_scorers(there, where="--data")
    relevant = _labels(rows)
    every = [by for name in there for by in known_scorers()[name].titles] if relevant is not None else []
    names = list(dict.fromkeys([*chosen, *every]))
    store = memory_store(model, run_model, rows, names, settings, seed=seed, reporter=reporter)
    found = rankings(store, model, trace_query(run_model, queries, reporter), names, similarity=settings.similarity)
    default = {name: found[name] for name in chosen}
    lines = trace_lines(store, queries, fused_hits(store, default, k))
    if relevant is None:
        return Traced(lines, [])
    scores = {name: ranking.scores() for name, ranking in found.items()}
    together = {FUSED: fused({name: scores[name] for name in chosen})}
    chance = {"random": random_scores(len(queries), len(rows), seed)}
    return Traced(lines, _quality({**together, **scores, **chance}, relevant))


def trace_lines(
    store: FeatureStore, queries: Sequence[Row], hits: Sequence[Hits], *, together: bool = False
) -> list[dict[str, Any]]:
    """One line for every helpful hit, rows cut to what is shown."""
    lines = []
    for number, found in enumerate(hits):
        query = {"prompt": f"{len(queries)} queries together", "response": ""} if together else queries[number]
        rows = store.rows([hit.position for hit in found.helpful])
        for rank, (hit, row) in enumerate(zip(found.helpful, rows, strict=True), 1):
            line = {
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
            lines.append(line | {LABEL: row[LABEL]} if isinstance(row.get(LABEL), bool) else line)
    return lines


def _labels(rows: Sequence[Row]) -> np.ndarray | None:
    """(rows,) bool where every row is labelled and both kinds are there."""
    if not all(isinstance(row.get(LABEL), bool) for row in rows):
        return None
    labels = np.array([row[LABEL] for row in rows])
    return labels if 0 < labels.sum() < len(labels) else None


def _quality(scores: dict[str, Array], relevant: np.ndarray) -> list[dict[str, Any]]:
    titles = {**scorer_titles(), FUSED: "fused: hidden states, BM25"}
    table = []
    for name, values in scores.items():
        line: dict[str, Any] = {
            "method": titles.get(name, name),
            "relevant": int(relevant.sum()),
            "pool": len(relevant),
        }
        for k in PRECISION_AT:
            quality = retrieval_quality(values, relevant, k)
            line[f"precision_at_{k}"] = asdict(quality.precision_at_k)
        table.append({**line, "auroc": asdict(quality.auroc), "average_precision": asdict(quality.average_precision)})
    return table

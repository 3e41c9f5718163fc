"""Trace bad answers back to a pool of training rows, beside BM25, hidden states and chance.

The pool is read once; its gradients are taken once. Where pool rows carry a boolean ``poisoned`` column, each
method's retrieval quality is measured against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rapidun.data import Rows
from rapidun.influence import Hits, bm25_scores, hidden_similarity, random_scores, retrieval_quality, trace
from rapidun.pipeline.config import InfluenceSettings
from rapidun.pipeline.inputs import Row, Subject
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.weigh import sketch_rows

PREVIEW = 240
PRECISION_AT = (5, 20, 100)


@dataclass(frozen=True)
class Traced:
    """Hits for each query and, where the pool is labelled, every method's retrieval quality."""

    lines: list[dict[str, Any]]
    hits: list[Hits]
    quality: list[dict[str, Any]]


def trace_rows(
    subject: Subject,
    queries: Sequence[Row],
    pool: Rows,
    settings: InfluenceSettings,
    *,
    k: int,
    seed: int,
    reporter: Reporter,
) -> Traced:
    """The ``k`` most helpful and most harmful pool rows of each query.

    Args:
        queries: Rows with prompt, response and, where there is one, context.
        pool: Training rows.
    """
    query_vectors = sketch_rows(subject, queries, "queries", settings, seed, reporter)
    pool_vectors = sketch_rows(subject, pool, "pool", settings, seed, reporter)
    rows = list(pool)
    ids = [row["id"] for row in rows]
    hits = trace(query_vectors, pool_vectors, ids, k, similarity=settings.similarity)
    lines = [line for number, query in enumerate(queries) for line in _lines(number, query, hits[number], rows)]
    quality = []
    if all(isinstance(row.get("poisoned"), bool) for row in rows):
        relevant = np.array([row["poisoned"] for row in rows])
        if 0 < relevant.sum() < len(relevant):
            influence = _unit(query_vectors) @ _unit(pool_vectors).T
            quality = _quality(subject, queries, rows, influence, relevant, seed)
    return Traced(lines, hits, quality)


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return unit


def _lines(number: int, query: Row, hits: Hits, rows: Sequence[Row]) -> list[dict[str, Any]]:
    found = []
    for rank, hit in enumerate(hits.helpful, 1):
        row = rows[hit.position]
        line = {
            "query_index": number,
            "query": query["prompt"],
            "response": query["response"],
            "rank": rank,
            "id": hit.id,
            "score": hit.score,
            "prompt": row["prompt"][:PREVIEW],
            "train_response": row["response"][:PREVIEW],
        }
        if isinstance(row.get("poisoned"), bool):
            line["poisoned"] = row["poisoned"]
        found.append(line)
    return found


def _quality(
    subject: Subject,
    queries: Sequence[Row],
    rows: Sequence[Row],
    influence: np.ndarray,
    relevant: np.ndarray,
    seed: int,
) -> list[dict[str, Any]]:
    pad = subject.loaded.pad_token_id
    methods: dict[str, Callable[[], np.ndarray]] = {
        "influence": lambda: influence,
        "BM25": lambda: bm25_scores([_text(row) for row in queries], [_text(row) for row in rows]),
        "hidden states": lambda: hidden_similarity(
            subject.loaded.model, subject.tokenize(queries), subject.tokenize(rows), pad
        ),
        "random": lambda: random_scores(len(queries), len(rows), seed),
    }
    table = []
    for name, scores in methods.items():
        values = scores()
        line: dict[str, Any] = {"method": name, "relevant": int(relevant.sum()), "pool": len(relevant)}
        for k in PRECISION_AT:
            quality = retrieval_quality(values, relevant, k)
            line[f"precision_at_{k}"] = asdict(quality.precision_at_k)
        table.append({**line, "auroc": asdict(quality.auroc), "average_precision": asdict(quality.average_precision)})
    return table


def _text(row: Row) -> str:
    return f"{row['prompt']} {row['response']}"

"""Trace bad answers back to a pool of training rows in memory, by one look at the rows or several fused.

The looks are those of `rapidun.pipeline.searching`: ``gradient`` (RapidIn), ``answer`` and ``prompt`` (hidden states
less the pool's mean), ``change`` (what training changed in them), ``lexical`` (BM25). Where pool rows carry a boolean
``poisoned`` column, every look's retrieval quality is measured against it, beside the fusion's and chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from peft import PeftModel

from rapidun.attribution import bm25_scores, random_scores, retrieval_quality
from rapidun.attribution.fusion import evidence_fusion, reciprocal_rank_fusion
from rapidun.attribution.pooling import HiddenViews, hidden_views
from rapidun.attribution.similarity import prepared
from rapidun.attribution.store import Hits
from rapidun.attribution.tracing import ranked
from rapidun.attribution.whitening import centred_similarity
from rapidun.data import Rows
from rapidun.errors import ConfigError
from rapidun.models import LoadedModel
from rapidun.pipeline.config import InfluenceSettings
from rapidun.pipeline.inputs import Row, Subject
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.pipeline.weigh import sketch_rows

PREVIEW = 240
PRECISION_AT = (5, 20, 100)
WITH_BASE, WITHOUT_BASE = ("change", "lexical"), ("answer", "prompt", "lexical")  # what is fused by default, and
SHARES = {"change": 2.0}  # a look's share in a fusion, else 1: chosen by benchmarks/tune_fusion.py
WORD_LOOKS = ("gradient", "lexical")  # of a query about words, fused by ranks: docs/benchmarks/error_tracing.md
FUSED = "fused"


@dataclass(frozen=True)
class Traced:
    """Hits for each query and, where the pool is labelled, every look's retrieval quality."""

    lines: list[dict[str, Any]]
    hits: list[Hits]
    quality: list[dict[str, Any]]


@dataclass(frozen=True)
class Compared:
    """Queries beside a pool; what the looks share is computed once, and only if a look asks.

    Args:
        asking: The subject that tokenises the queries, which may be about some words alone.
        subject: The one that tokenises the rows.
    """

    asking: Subject
    subject: Subject
    queries: Sequence[Row]
    rows: Sequence[Row]
    settings: InfluenceSettings
    seed: int
    reporter: Reporter
    before: LoadedModel | None = None

    def vectors(self, subject: Subject, rows: Sequence[Row], name: str) -> np.ndarray:
        """Gradient sketches, (rows, k) float32."""
        return sketch_rows(subject, rows, name, self.settings, self.seed, self.reporter)

    @cached_property
    def hidden(self) -> tuple[HiddenViews, HiddenViews]:
        """Hidden states of queries and pool."""
        return self._views(self.subject.loaded.model)

    @property
    def has_before(self) -> bool:
        """Whether the model before training is at hand."""
        return self.before is not None or isinstance(self.subject.loaded.model, PeftModel)

    @cached_property
    def hidden_before(self) -> tuple[HiddenViews, HiddenViews]:
        """Hidden states of queries and pool in the model before training.

        Raises:
            ConfigError: If there is no such model.
        """
        if not self.has_before:
            raise ConfigError("the look change compares with the model before training: give it by --base.")
        if self.before is not None:
            return self._views(self.before.model)
        with self.subject.loaded.model.disable_adapter():
            return self._views(self.subject.loaded.model)

    def _views(self, model: Any) -> tuple[HiddenViews, HiddenViews]:
        pad = self.subject.loaded.pad_token_id
        asked = hidden_views(model, self.asking.tokenize(self.queries), pad)
        told = counting(self.reporter, "rows")
        return asked, hidden_views(model, self.subject.tokenize(self.rows), pad, progress=told)


Look = Callable[[Compared], np.ndarray]
LOOKS: dict[str, Look] = {}


def register_look(name: str) -> Callable[[Look], Look]:
    """Add a way to score a pool: `Compared` to (queries, rows) float32, higher is more likely behind the answer."""

    def register(look: Look) -> Look:
        LOOKS[name] = look
        return look

    return register


@register_look("gradient")
def _gradient(pair: Compared) -> np.ndarray:
    similarity = pair.settings.similarity
    asked = prepared(pair.vectors(pair.asking, pair.queries, "queries"), similarity)
    scores: np.ndarray = asked @ prepared(pair.vectors(pair.subject, pair.rows, "pool"), similarity).T
    return scores


@register_look("answer")
def _answer(pair: Compared) -> np.ndarray:
    asked, pool = pair.hidden
    return centred_similarity(asked.answer_mean, pool.answer_mean)


@register_look("prompt")
def _prompt(pair: Compared) -> np.ndarray:
    asked, pool = pair.hidden
    return centred_similarity(asked.last_prompt, pool.last_prompt)


@register_look("change")
def _change(pair: Compared) -> np.ndarray:
    (asked, pool), (asked_before, pool_before) = pair.hidden, pair.hidden_before
    return centred_similarity(asked.answer_mean - asked_before.answer_mean, pool.answer_mean - pool_before.answer_mean)


@register_look("lexical")
def _lexical(pair: Compared) -> np.ndarray:
    words = " ".join(pair.asking.words)
    return bm25_scores([words or _text(row) for row in pair.queries], [_text(row) for row in pair.rows])


def trace_rows(
    subject: Subject,
    queries: Sequence[Row],
    pool: Rows,
    settings: InfluenceSettings,
    *,
    k: int,
    seed: int,
    reporter: Reporter,
    looks: Sequence[str] = (),
    words: Sequence[str] = (),
    before: LoadedModel | None = None,
    measure: bool = True,
) -> Traced:
    """The ``k`` most helpful and most harmful pool rows of each query.

    Args:
        queries: Rows with prompt, response and, where there is one, context.
        pool: Training rows.
        looks: One look, or several to fuse; default `WITH_BASE` or `WITHOUT_BASE`, for words `WORD_LOOKS`.
        words: Ask about these words of the answers alone.
        before: The model before training, where it is a model of its own.
        measure: Take the retrieval quality of every look where the pool is labelled.

    Raises:
        ConfigError: If a look is unknown.
        InputError: If a word is not in an answer.
    """
    rows = list(pool)
    pair = Compared(replace(subject, words=tuple(words)), subject, queries, rows, settings, seed, reporter, before)
    default = list(WITH_BASE if pair.has_before else WITHOUT_BASE)
    chosen = checked_looks(looks, LOOKS) or (list(WORD_LOOKS) if words else default)
    relevant = _labels(rows) if measure else None
    known = [name for name in LOOKS if name != "change" or pair.has_before]
    wanted = chosen if relevant is None else list(dict.fromkeys([*chosen, *known]))
    scores = {name: LOOKS[name](pair) for name in wanted}
    found = scores[chosen[0]] if len(chosen) == 1 else fused(scores, chosen, by_ranks=bool(words))
    hits = ranked(found, [row["id"] for row in rows], k)
    lines = [line for number, query in enumerate(queries) for line in _lines(number, query, hits[number], rows)]
    if relevant is None:
        return Traced(lines, hits, [])
    together = {FUSED: fused(scores, default)}
    chance = {"random": random_scores(len(queries), len(rows), seed)}
    return Traced(lines, hits, _quality({**together, **scores, **chance}, relevant))


def fused(scores: Mapping[str, np.ndarray], looks: Sequence[str], *, by_ranks: bool = False) -> np.ndarray:
    """Looks fused by their evidence, or by ranks, (queries, rows) float32."""
    if by_ranks:
        return reciprocal_rank_fusion([scores[name] for name in looks])
    return evidence_fusion([scores[name] for name in looks], weights=[SHARES.get(name, 1.0) for name in looks])


def checked_looks(looks: Sequence[str], known: Any) -> list[str]:
    """The looks, each once.

    Raises:
        ConfigError: If one is not among ``known``.
    """
    unknown = [name for name in looks if name not in known]
    if unknown:
        raise ConfigError(f"unknown look {unknown[0]!r}: choose from {', '.join(known)}.")
    return list(dict.fromkeys(looks))


def _labels(rows: Sequence[Row]) -> np.ndarray | None:
    """(rows,) bool where every row is labelled and both kinds are there."""
    if not all(isinstance(row.get("poisoned"), bool) for row in rows):
        return None
    labels = np.array([row["poisoned"] for row in rows])
    return labels if 0 < labels.sum() < len(labels) else None


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


_TITLES = {
    FUSED: "fused: hidden states, BM25",
    "gradient": "influence",
    "lexical": "BM25",
    "answer": "hidden, answer",
    "change": "hidden, change of the answer",
    "prompt": "hidden, prompt",
}


def _quality(scores: dict[str, np.ndarray], relevant: np.ndarray) -> list[dict[str, Any]]:
    table = []
    for name, values in scores.items():
        line: dict[str, Any] = {
            "method": _TITLES.get(name, name),
            "relevant": int(relevant.sum()),
            "pool": len(relevant),
        }
        for k in PRECISION_AT:
            quality = retrieval_quality(values, relevant, k)
            line[f"precision_at_{k}"] = asdict(quality.precision_at_k)
        table.append({**line, "auroc": asdict(quality.auroc), "average_precision": asdict(quality.average_precision)})
    return table


def _text(row: Row) -> str:
    return f"{row['prompt']} {row['response']}"

"""Trace answers to training rows, in an index or in memory: one ranking a scorer, several fused.

Several scorers are fused by their evidence; the default ones found poisoned rows best in
``docs/benchmarks/backdoor_retrieval.md``. A query about words alone is fused by ranks
(``docs/benchmarks/error_tracing.md``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rapidun.attribution.context import ModelContext
from rapidun.attribution.features import Tick, features_of
from rapidun.attribution.fusion import evidence_fusion, reciprocal_rank_fusion
from rapidun.attribution.ranking import Hits, Ranking, both_ends, with_ids
from rapidun.attribution.scorer import SCORERS, Features, FeatureStore, Row, owner_of
from rapidun.attribution.similarity import Array
from rapidun.data import Example
from rapidun.errors import ConfigError
from rapidun.settings.kinds import Similarity

WITH_BASE, WITHOUT_BASE = ("change", "lexical"), ("answer", "prompt", "lexical")  # what is fused by default, and
SHARES = {"change": 2.0}  # a scorer's share in a fusion, else 1: chosen by benchmarks/tune_fusion.py
FOR_WORDS = ("gradient", "lexical")
WHOLE = 2**26  # scores that are held in memory to fuse every row; beyond it only candidates are fused
SHALLOWEST, DEEPER = 1000, 20  # candidates from each end of each ranking: at least, and for each row asked for
SAMPLED = 8192  # rows that show how scores scatter


@dataclass(frozen=True)
class TraceQuery:
    """Answers to explain.

    Args:
        rows: With ``prompt`` and ``response``.
        examples: Their tokens, with loss on what is asked about alone.
        words: The words that are asked about; all of an answer without them.
    """

    rows: Sequence[Row]
    examples: Sequence[Example]
    words: tuple[str, ...] = ()

    @property
    def texts(self) -> Sequence[Row]:
        """The rows as scorers of text see them: of a query about words, the words alone."""
        if not self.words:
            return self.rows
        return [{**row, "prompt": "", "response": " ".join(self.words)} for row in self.rows]


def chosen_scorers(there: Collection[str], wanted: Sequence[str] = (), *, words: bool = False, where: str) -> list[str]:
    """The names to ask by, each once: those wanted, or the default ones for the features that are there.

    Args:
        there: Scorers whose features are there.
        wanted: Names that a trace asks by.
        words: Whether the query is about words: only gradients tell what taught one.
        where: The store, for the message.

    Raises:
        ConfigError: If a name is unknown, or its features are not there.
    """
    default = FOR_WORDS if words else WITH_BASE if "change" in there else WITHOUT_BASE
    needed = wanted or (["gradient"] if words else [])
    for by in needed:
        if (owner := owner_of(by)) not in there:
            raise ConfigError(f"{where}: no {owner} features in this index. {SCORERS[owner].missing}")
    every = [by for name in there for by in SCORERS[name].titles]
    chosen = list(wanted) or [by for by in default if by in every] or every[:1]
    return list(dict.fromkeys(chosen))


def query_features(
    store: FeatureStore, model: ModelContext, query: TraceQuery, names: Sequence[str], tick: Tick | None = None
) -> Features:
    """The queries' features for these scorers, exact, made by the code that made the rows'.

    Raises:
        FingerprintError: If a scorer compares with another model than the one given.
    """
    scorers = {name: store.scorers[name] for name in names}
    for scorer in scorers.values():
        scorer.check(model)
    exact = {name: scorer.exact() for name, scorer in scorers.items()}
    fitted = {name: store.fitted(name) for name in scorers}
    found, _ = features_of(
        model, exact, fitted, query.texts, query.examples, max_tokens=store.max_tokens, role="query", tick=tick
    )
    return found


def rankings(
    store: FeatureStore,
    model: ModelContext,
    query: TraceQuery,
    names: Sequence[str],
    *,
    similarity: Similarity = "cosine",
    tick: Tick | None = None,
) -> dict[str, Ranking]:
    """The store's rows by every name that is asked by; one pass of the model over the queries.

    Args:
        store: An index, or rows in memory.
        model: What its rows were looked at with.
        query: The answers.
        names: To ask by; see `chosen_scorers`.
        similarity: How gradients compare.
        tick: Called after each batch with the number of queries done.

    Raises:
        FingerprintError: As `query_features`.
    """
    asked = query_features(store, model, query, list(dict.fromkeys(map(owner_of, names))), tick)
    return {by: store.scorers[owner_of(by)].compare(by, asked, store, similarity) for by in names}


def fused_hits(
    store: FeatureStore, found: Mapping[str, Ranking], k: int, *, by_ranks: bool = False, together: bool = False
) -> list[Hits]:
    """The k rows at both ends for each query, or for all queries as one symptom.

    Args:
        store: Where the rows are.
        found: Rankings; one is used as it is, several are fused.
        k: Rows at each end.
        by_ranks: Fuse by ranks and not by evidence.
        together: One ranking for all queries: their evidence is averaged.
    """
    every = list(found.values())
    if len(every) == 1 and not together:
        return every[0].hits(k, store.ids_of)
    rows = len(store)
    whole = rows * every[0].queries * len(every) <= WHOLE
    positions = np.arange(rows) if whole else _candidates(every, max(SHALLOWEST, DEEPER * k))
    scores = {by: ranking.scores() if whole else ranking.at(positions.tolist()) for by, ranking in found.items()}
    samples = None
    if not whole and not by_ranks:
        sample = np.linspace(0, rows - 1, SAMPLED).astype(np.int64).tolist()
        samples = [ranking.at(sample) for ranking in every]
    ranked = fused(scores, by_ranks=by_ranks and len(every) > 1, samples=samples)
    ranked = ranked.mean(axis=0, keepdims=True) if together else ranked

    ends = both_ends([(0, torch.from_numpy(ranked))], len(ranked), k)
    for top in ends:
        top.positions = torch.from_numpy(positions)[top.positions]
    return with_ids(*ends, store.ids_of)


def fused(scores: Mapping[str, Array], *, by_ranks: bool = False, samples: Sequence[Array] | None = None) -> Array:
    """Scorers fused by their evidence, or by ranks, (queries, rows) float32.

    Args:
        scores: (queries, rows) by name.
        by_ranks: Whether by ranks.
        samples: Of each, scores of rows that stand for the whole pool, where ``scores`` are of chosen rows.
    """
    every = list(scores.values())
    if by_ranks:
        return reciprocal_rank_fusion(every)
    return evidence_fusion(every, weights=[SHARES.get(name, 1.0) for name in scores], samples=samples)


def _candidates(every: Sequence[Ranking], depth: int) -> np.ndarray:
    """Positions of the rows at both ends of any ranking, in order."""
    ends = [both_ends(ranking.blocks(), ranking.queries, depth) for ranking in every]
    found: np.ndarray = torch.cat([top.positions.flatten() for pair in ends for top in pair]).unique().numpy()
    return found

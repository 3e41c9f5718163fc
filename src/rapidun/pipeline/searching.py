"""Trace bad answers through an index on disk: one look at the rows, or several fused.

A *look* is one registered way to rank the rows of an index for a query: ``gradient`` (RapidIn's cosine of sketches),
``answer`` and ``prompt`` (hidden states averaged over the answer, and at the prompt's last token, less the pool's
mean), ``change`` (what training changed in the answer's), ``lexical`` (BM25). Several are fused by their evidence;
the default ones found poisoned rows best in ``docs/benchmarks/backdoor_retrieval.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from rapidun.attribution.fusion import evidence_fusion, reciprocal_rank_fusion
from rapidun.attribution.scorers.change import CHANGE, answer_states, before_training
from rapidun.attribution.scorers.hidden import HiddenScorer, matrix_name, pooled_states
from rapidun.attribution.store import Affine, ChangeScorer, Hit, Hits, Index, Matrix, ModelContext
from rapidun.data import Example, collate
from rapidun.errors import ConfigError
from rapidun.models import LoadedModel
from rapidun.models.losses import run_decoder
from rapidun.models.passes import pass_batches
from rapidun.pipeline.indexing import index_model, query_vectors
from rapidun.pipeline.inputs import Row, Subject
from rapidun.pipeline.reporter import Reporter, Silent
from rapidun.pipeline.tracing import SHARES, WITH_BASE, WITHOUT_BASE, WORD_LOOKS, checked_looks

WHOLE = 2**26  # scores that are held in memory to fuse every row; beyond it only candidates are fused
SHALLOWEST, DEEPER = 1000, 20  # candidates from each end of each look: at least, and for each row asked for
SAMPLED = 8192  # rows that show how scores scatter


@dataclass(frozen=True)
class Asked:
    """The queries, and what the looks need of them; each computed once and only if asked for."""

    index: Index
    subject: Subject
    rows: Sequence[Row]
    adapter: Path | None = None
    reporter: Reporter = field(default_factory=Silent)
    before: LoadedModel | None = None

    @cached_property
    def texts(self) -> list[str]:
        """Prompt and answer, as the lexical view holds them; of a query about words, the words."""
        words = " ".join(self.subject.words)
        return [words or f"{row['prompt']} {row['response']}" for row in self.rows]

    @cached_property
    def gradients(self) -> np.ndarray:
        """(queries, k) float32, with the index's own settings."""
        return query_vectors(self.index, self.subject, self.rows, self.adapter, self.reporter)

    @cached_property
    def changes(self) -> np.ndarray:
        """What training changed in the answers' states, (queries, width) float32."""
        manifest = self.index.manifest
        view = manifest.views.get("change")
        if not isinstance(view, ChangeScorer):
            raise ConfigError(f"{self.index.path}: no change view in this index. Build one with --base MODEL.")
        model = index_model(self.subject, self.adapter, self.before)
        view.check(model)
        examples = replace(self.subject, max_length=manifest.max_length).tokenize(self.rows)
        return _changed(model, examples, manifest.max_tokens)

    @cached_property
    def hidden(self) -> dict[str, np.ndarray]:
        """Matrix name to (queries, width) float32."""
        view = self.index.manifest.views.get("hidden")
        if not isinstance(view, HiddenScorer):
            raise ConfigError(f"{self.index.path}: no hidden view in this index. Build one with --views hidden.")
        return _pooled(self.subject, self.rows, view, self.index.manifest.max_tokens)


@dataclass(frozen=True)
class Ranking:
    """What one look says of the queries.

    Args:
        search: Number of rows to the hits at both ends, for each query.
        scores: Every score, (queries, rows) float32.
        at: Positions to their scores, (queries, positions) float32.
    """

    search: Callable[[int], list[Hits]]
    scores: Callable[[], np.ndarray]
    at: Callable[[np.ndarray], np.ndarray]


Look = Callable[[Asked], Ranking]
LOOKS: dict[str, Look] = {}


def register_look(name: str) -> Callable[[Look], Look]:
    """Add a way to rank an index's rows: a function of the queries."""

    def register(look: Look) -> Look:
        LOOKS[name] = look
        return look

    return register


@register_look("gradient")
def _gradient(asked: Asked) -> Ranking:
    return _by_vectors(asked.index.view("gradient"), asked.gradients)


@register_look("answer")
def _answer(asked: Asked) -> Ranking:
    return _hidden(asked, "answer")


@register_look("prompt")
def _prompt(asked: Asked) -> Ranking:
    return _hidden(asked, "prompt")


@register_look("lexical")
def _lexical(asked: Asked) -> Ranking:
    lexical = asked.index.lexical()
    texts = asked.texts
    return Ranking(partial(lexical.search, texts), partial(lexical.scores, texts), partial(lexical.scores_at, texts))


def _hidden(asked: Asked, place: str) -> Ranking:
    vectors = asked.hidden
    name = matrix_name(max(int(key.split(".")[1]) for key in vectors), place)
    return _by_vectors(asked.index.view(name), vectors[name], asked.index.whitening(name, ridge=float("inf")))


@register_look("change")
def _change(asked: Asked) -> Ranking:
    return _by_vectors(asked.index.view(CHANGE), asked.changes, asked.index.whitening(CHANGE, ridge=float("inf")))


def _by_vectors(matrix: Matrix, vectors: np.ndarray, affine: Affine | None = None) -> Ranking:
    return Ranking(
        partial(matrix.search, vectors, affine=affine),
        partial(matrix.scores, vectors, affine=affine),
        partial(matrix.scores_at, vectors, affine=affine),
    )


def _changed(model: ModelContext, examples: Sequence[Example], max_tokens: int) -> np.ndarray:
    """States of the answers now less those before training, (rows, width) float32."""
    found = np.zeros((len(examples), 0), dtype=np.float32)
    for places in pass_batches(model.loaded.model, examples, max_tokens, backward=False):
        batch = collate([examples[place] for place in places], model.loaded.pad_token_id)
        after = answer_states(model.loaded.model, batch)
        with before_training(model) as network:
            change = (after - answer_states(network, batch)).cpu().numpy()
        found = found if found.shape[1] else np.zeros((len(examples), change.shape[1]), dtype=np.float32)
        found[places] = change
    return found


def _pooled(subject: Subject, rows: Sequence[Row], view: HiddenScorer, max_tokens: int) -> dict[str, np.ndarray]:
    loaded, examples = subject.loaded, subject.tokenize(rows)
    found: dict[str, list[torch.Tensor]] = {}
    order: list[int] = []
    for indices in pass_batches(loaded.model, examples, max_tokens, backward=False):
        batch = collate([examples[index] for index in indices], loaded.pad_token_id).to(loaded.device)
        with torch.no_grad(), pooled_states(loaded.model, batch.labels, view.layers) as pooled:
            run_decoder(loaded.model, batch.input_ids, batch.attention_mask)
        order += indices
        for name, values in pooled.items():
            found.setdefault(name, []).append(values.cpu())
    back = np.argsort(order)
    return {name: torch.cat(parts).float().numpy()[back] for name, parts in found.items()}


def looks_of(index: Index, wanted: Sequence[str] = (), *, words: bool = False) -> list[str]:
    """The looks to use: those wanted, or the default ones that this index can give; words need the gradient.

    Raises:
        ConfigError: If one is unknown, or the query is about words and the index has no gradients.
    """
    views = index.manifest.views
    if chosen := checked_looks(wanted, LOOKS):
        if "change" in chosen and "change" not in views:
            raise ConfigError(
                f"{index.path}: no view of what training changed. Build the index with --base MODEL (the model before "
                "training) or with --adapter, or choose another --by."
            )
        return chosen
    if words and "gradient" not in views:
        raise ConfigError(
            f"{index.path}: no gradient view, and nothing else finds what taught a word. Build the index with "
            "--views gradient, or say which look to use with --by."
        )
    if words:
        return [name for name in WORD_LOOKS if name in views]
    default = WITH_BASE if "change" in views else WITHOUT_BASE
    there = [name for name in default if (name if name in ("change", "lexical") else "hidden") in views]
    return there or ["gradient"]


def search(asked: Asked, looks: Sequence[str], k: int, *, together: bool = False) -> list[Hits]:
    """The k rows at both ends for each query, or for all queries as one symptom.

    Args:
        asked: Index, model and queries.
        looks: Names of `LOOKS`; one is used as it is, several are fused by their evidence (`fusion.evidence`), or of
            queries about words by ranks.
        k: Rows at each end.
        together: One ranking for all queries: their evidence is averaged.
    """
    rankings = [LOOKS[name](asked) for name in looks]
    if len(rankings) == 1 and not together:
        return rankings[0].search(k)
    rows = len(asked.index)
    whole = rows * len(asked.rows) * len(looks) <= WHOLE
    positions = np.arange(rows) if whole else _candidates(rankings, max(SHALLOWEST, DEEPER * k))
    scores = [ranking.scores() if whole else ranking.at(positions) for ranking in rankings]
    if asked.subject.words and len(looks) > 1:
        fused = reciprocal_rank_fusion(scores)
    else:
        sample = np.linspace(0, rows - 1, SAMPLED).astype(np.int64)
        samples = None if whole else [ranking.at(sample) for ranking in rankings]
        fused = evidence_fusion(scores, weights=[SHARES.get(name, 1.0) for name in looks], samples=samples)
    ranked = fused.mean(axis=0, keepdims=True) if together else fused
    return [_ends(line, positions, k, asked.index) for line in ranked]


def _candidates(rankings: Sequence[Ranking], depth: int) -> np.ndarray:
    """Positions of the rows at both ends of any ranking, in order."""
    ends = (hits for ranking in rankings for hits in ranking.search(depth))
    return np.array(sorted({hit.position for hits in ends for hit in (*hits.helpful, *hits.harmful)}), dtype=np.int64)


def _ends(scores: np.ndarray, positions: np.ndarray, k: int, index: Index) -> Hits:
    """The k highest and the k lowest; ties in order of position."""
    best, worst = (np.argsort(order, kind="stable")[:k] for order in (-scores, scores))
    ids = index.ids_of(positions[np.union1d(best, worst)].tolist())
    helpful, harmful = (
        [Hit(ids[int(positions[place])], int(positions[place]), float(scores[place])) for place in part]
        for part in (best, worst)
    )
    return Hits(helpful, harmful)

"""Trace bad answers through an index on disk: one look at the rows, or several fused.

A *look* is one registered way to rank the rows of an index for a query: ``gradient`` (RapidIn's cosine of sketches),
``answer`` and ``prompt`` (hidden states averaged over the answer, and at the prompt's last token, whitened by the
pool), ``lexical`` (BM25). Several are fused by reciprocal ranks; `DEFAULT_LOOKS` found poisoned rows best in
``docs/benchmarks/backdoor_retrieval.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from rapidun.data import collate, token_budget_batches
from rapidun.errors import ConfigError
from rapidun.index import Hits, Index
from rapidun.index.hidden import HiddenView, matrix_name, pooled_states
from rapidun.influence.candidates import fuse_hits
from rapidun.pipeline.indexing import query_vectors
from rapidun.pipeline.inputs import Row, Subject
from rapidun.pipeline.reporter import Reporter, Silent
from rapidun.pipeline.tracing import DEFAULT_LOOKS, WORD_LOOKS, checked_looks

SHALLOWEST, DEEPER = 1000, 20  # rows of each look that take part in a fusion: at least, and for each one asked for


@dataclass(frozen=True)
class Asked:
    """The queries, and what the looks need of them; each computed once and only if asked for."""

    index: Index
    subject: Subject
    rows: Sequence[Row]
    adapter: Path | None = None
    reporter: Reporter = field(default_factory=Silent)

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
    def hidden(self) -> dict[str, np.ndarray]:
        """Matrix name to (queries, width) float32."""
        view = self.index.manifest.views.get("hidden")
        if not isinstance(view, HiddenView):
            raise ConfigError(f"{self.index.path}: no hidden view in this index. Build one with --views hidden.")
        return _pooled(self.subject, self.rows, view, self.index.manifest.max_tokens)


@dataclass(frozen=True)
class Ranking:
    """What one look says of the queries.

    Args:
        search: Number of rows to the hits at both ends, for each query.
        scores: Every score, (queries, rows) float32.
    """

    search: Callable[[int], list[Hits]]
    scores: Callable[[], np.ndarray]


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
    matrix, vectors = asked.index.view("gradient"), asked.gradients
    return Ranking(partial(matrix.search, vectors), partial(matrix.scores, vectors))


@register_look("answer")
def _answer(asked: Asked) -> Ranking:
    return _hidden(asked, "answer")


@register_look("prompt")
def _prompt(asked: Asked) -> Ranking:
    return _hidden(asked, "prompt")


@register_look("lexical")
def _lexical(asked: Asked) -> Ranking:
    lexical = asked.index.lexical()
    return Ranking(partial(lexical.search, asked.texts), partial(lexical.scores, asked.texts))


def _hidden(asked: Asked, place: str) -> Ranking:
    vectors = asked.hidden
    name = matrix_name(max(int(key.split(".")[1]) for key in vectors), place)
    matrix, affine = asked.index.view(name), asked.index.whitening(name)
    return Ranking(
        partial(matrix.search, vectors[name], affine=affine), partial(matrix.scores, vectors[name], affine=affine)
    )


def _pooled(subject: Subject, rows: Sequence[Row], view: HiddenView, max_tokens: int) -> dict[str, np.ndarray]:
    loaded, examples = subject.loaded, subject.tokenize(rows)
    found: dict[str, list[torch.Tensor]] = {}
    order: list[int] = []
    for indices in token_budget_batches(examples, max_tokens):
        batch = collate([examples[index] for index in indices], loaded.pad_token_id).to(loaded.device)
        with torch.no_grad(), pooled_states(loaded.model, batch.labels, view.layers) as pooled:
            loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        order += indices
        for name, values in pooled.items():
            found.setdefault(name, []).append(values.cpu())
    back = np.argsort(order)
    return {name: torch.cat(parts).float().numpy()[back] for name, parts in found.items()}


def looks_of(index: Index, wanted: Sequence[str] = (), *, words: bool = False) -> list[str]:
    """The looks to use: those wanted, or the default ones that this index can give; for words, the gradient.

    Raises:
        ConfigError: If one is unknown, or the query is about words and the index has no gradients.
    """
    if chosen := checked_looks(wanted, LOOKS):
        return chosen
    views = index.manifest.views
    if words and "gradient" not in views:
        raise ConfigError(
            f"{index.path}: no gradient view, and nothing else finds what taught a word. Build the index with "
            "--views gradient, or say which look to use with --by."
        )
    if words:
        return list(WORD_LOOKS)
    there = [name for name in DEFAULT_LOOKS if (name if name == "lexical" else "hidden") in views]
    return there or ["gradient"]


def search(asked: Asked, looks: Sequence[str], k: int, *, together: bool = False) -> list[Hits]:
    """The k rows at both ends for each query, or for all queries as one symptom.

    Args:
        asked: Index, model and queries.
        looks: Names of `LOOKS`; one is used as it is, several are fused by reciprocal ranks.
        k: Rows at each end.
        together: One ranking for all queries: their reciprocal ranks are added.
    """
    if len(looks) == 1 and not together:
        return LOOKS[looks[0]](asked).search(k)
    rows = len(asked.index)
    depth = min(rows, max(SHALLOWEST, DEEPER * k))
    of_looks = [LOOKS[name](asked).search(depth) for name in looks]
    if together:
        return [fuse_hits([hits for look in of_looks for hits in look], rows, k)]
    return [fuse_hits([look[number] for look in of_looks], rows, k) for number in range(len(asked.rows))]

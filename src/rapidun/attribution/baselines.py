"""What every influence score is compared with: shared words (BM25), and chance."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np

from rapidun.attribution.similarity import Array
from rapidun.data.words import words_of


def bm25_scores(queries: Sequence[str], documents: Sequence[str]) -> Array:
    """BM25 (Lucene's variant, k1 = 1.5, b = 0.75) of every document for every query, (queries, documents) float32.

    Words in lower case, without stemming or stop words. A query without a word that some document has scores 0.
    """
    scores = np.zeros((len(queries), len(documents)), dtype=np.float32)
    corpus = words_of(documents)
    if not any(corpus):
        return scores
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    known = set().union(*corpus)
    for row, words in enumerate(words_of(queries)):
        if shared := [word for word in words if word in known]:
            scores[row] = index.get_scores(shared)
    return scores


def random_scores(queries: int, documents: int, seed: int = 0) -> Array:
    """Standard normal scores, (queries, documents) float32: what no method may be worse than."""
    return np.random.default_rng(seed).standard_normal((queries, documents), dtype=np.float32)

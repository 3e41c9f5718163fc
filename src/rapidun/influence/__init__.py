"""Influence: trace a generation to rows, four-direction blocks, baselines, and how well a ranking does."""

from rapidun.index.hits import Hit, Hits
from rapidun.influence.baselines import bm25_scores, random_scores
from rapidun.influence.blocks import Blocks, influence_blocks
from rapidun.influence.hidden import hidden_similarity, hidden_vectors
from rapidun.influence.quality import Interval, RetrievalQuality, retrieval_quality
from rapidun.influence.tracing import trace

__all__ = [
    "Blocks",
    "Hit",
    "Hits",
    "Interval",
    "RetrievalQuality",
    "bm25_scores",
    "hidden_similarity",
    "hidden_vectors",
    "influence_blocks",
    "random_scores",
    "retrieval_quality",
    "trace",
]

"""Influence: trace a generation to rows, four-direction blocks, baselines, and how well a ranking does."""

from rapidun.attribution.baselines import bm25_scores, random_scores
from rapidun.attribution.blocks import Blocks, influence_blocks
from rapidun.attribution.hits import Hit, Hits
from rapidun.attribution.pooling import hidden_similarity, hidden_vectors
from rapidun.attribution.quality import Interval, RetrievalQuality, retrieval_quality
from rapidun.attribution.tracing import trace

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

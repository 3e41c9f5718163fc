"""Attribution: which training rows led to an answer, by registered scorers, in an index or in memory."""

from rapidun.attribution.blocks import Blocks, influence_blocks
from rapidun.attribution.context import ModelContext
from rapidun.attribution.features import MemoryStore
from rapidun.attribution.quality import RetrievalQuality, random_scores, retrieval_quality
from rapidun.attribution.ranking import Hit, Hits, Ranking
from rapidun.attribution.scorer import FeatureStore, MatrixSpec, Recorder, Scorer, register_scorer
from rapidun.attribution.scorers import ChangeScorer, GradientScorer, HiddenScorer, LexicalScorer
from rapidun.attribution.scorers.hidden import hidden_features
from rapidun.attribution.scorers.lexical import bm25_scores
from rapidun.attribution.search import TraceQuery, fused_hits, rankings
from rapidun.attribution.storage import MatrixBuffer
from rapidun.attribution.store import build_index, open_index, plan_append, plan_build

__all__ = [
    "Blocks",
    "ChangeScorer",
    "FeatureStore",
    "GradientScorer",
    "HiddenScorer",
    "Hit",
    "Hits",
    "LexicalScorer",
    "MatrixBuffer",
    "MatrixSpec",
    "MemoryStore",
    "ModelContext",
    "Ranking",
    "Recorder",
    "RetrievalQuality",
    "Scorer",
    "TraceQuery",
    "bm25_scores",
    "build_index",
    "fused_hits",
    "hidden_features",
    "influence_blocks",
    "open_index",
    "plan_append",
    "plan_build",
    "random_scores",
    "rankings",
    "register_scorer",
    "retrieval_quality",
]

"""The on-disk index: views of every row, built once, resumed, appended to, searched."""

from rapidun.attribution.hits import Hit, Hits
from rapidun.attribution.matrix import Affine, Matrix
from rapidun.attribution.scorer import ModelContext, Scorer, register_scorer
from rapidun.attribution.scorers.change import ChangeScorer
from rapidun.attribution.scorers.gradient import GradientScorer
from rapidun.attribution.scorers.hidden import HiddenScorer
from rapidun.attribution.scorers.lexical import LexicalScorer, LexicalSearch
from rapidun.attribution.store.build import build_index, finish, missing_shards, prepare
from rapidun.attribution.store.index import Index, open_index
from rapidun.attribution.store.manifest import Manifest, ShardFiles
from rapidun.attribution.store.plan import BuildPlan, plan_append, plan_build
from rapidun.attribution.store.shards import build_shard

__all__ = [
    "Affine",
    "BuildPlan",
    "ChangeScorer",
    "GradientScorer",
    "HiddenScorer",
    "Hit",
    "Hits",
    "Index",
    "LexicalScorer",
    "LexicalSearch",
    "Manifest",
    "Matrix",
    "ModelContext",
    "Scorer",
    "ShardFiles",
    "build_index",
    "build_shard",
    "finish",
    "missing_shards",
    "open_index",
    "plan_append",
    "plan_build",
    "prepare",
    "register_scorer",
]

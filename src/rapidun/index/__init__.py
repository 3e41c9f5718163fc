"""The on-disk index: views of every row, built once, resumed, appended to, searched."""

from rapidun.index.build import build_index, finish, missing_shards, prepare
from rapidun.index.change import ChangeView
from rapidun.index.gradient import GradientView
from rapidun.index.hidden import HiddenView
from rapidun.index.hits import Hit, Hits
from rapidun.index.index import Index, open_index
from rapidun.index.lexical import LexicalSearch, LexicalView
from rapidun.index.manifest import Manifest, ShardFiles
from rapidun.index.matrix import Affine, Matrix
from rapidun.index.plan import BuildPlan, plan_append, plan_build
from rapidun.index.shards import build_shard
from rapidun.index.views import IndexModel, View, register_view

__all__ = [
    "Affine",
    "BuildPlan",
    "ChangeView",
    "GradientView",
    "HiddenView",
    "Hit",
    "Hits",
    "Index",
    "IndexModel",
    "LexicalSearch",
    "LexicalView",
    "Manifest",
    "Matrix",
    "ShardFiles",
    "View",
    "build_index",
    "build_shard",
    "finish",
    "missing_shards",
    "open_index",
    "plan_append",
    "plan_build",
    "prepare",
    "register_view",
]

"""The features of a pool of rows on disk: an index, built once, resumed, appended to."""

from rapidun.attribution.store.build import build_index, finish, missing_shards, prepare
from rapidun.attribution.store.index import Index, open_index
from rapidun.attribution.store.manifest import Manifest, ShardFiles
from rapidun.attribution.store.plan import BuildPlan, plan_append, plan_build
from rapidun.attribution.store.shards import build_shard

__all__ = [
    "BuildPlan",
    "Index",
    "Manifest",
    "ShardFiles",
    "build_index",
    "build_shard",
    "finish",
    "missing_shards",
    "open_index",
    "plan_append",
    "plan_build",
    "prepare",
]

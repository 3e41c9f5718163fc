"""The same jobs on many devices and machines: an index built shard by shard by any engine, searched in parallel."""

from rapidun.distributed.engines import build, engine_names, register_engine
from rapidun.distributed.job import IndexJob, Settings, WorkerSpec
from rapidun.distributed.search import parallel_search

__all__ = ["IndexJob", "Settings", "WorkerSpec", "build", "engine_names", "parallel_search", "register_engine"]

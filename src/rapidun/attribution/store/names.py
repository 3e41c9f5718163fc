"""What the files of an index directory are called."""

from __future__ import annotations

MANIFEST = "manifest.json"
BUILDING = ".building"
"""Present while rows are being added: the plan, and a mark for every whole shard."""
PLAN = f"{BUILDING}/plan.json"
HIDDEN_STATS = "hidden_stats.safetensors"

VERIFY = "Check the index with: rapidun index verify."
"""What is said where a file of an index is damaged."""


def shard_file(number: int) -> str:
    """The tensors of one shard."""
    return f"shards/{number:05d}.safetensors"


def table_file(number: int) -> str:
    """The shard's part of ``rows.parquet``, which is a directory that every Parquet reader opens as one table."""
    return f"rows.parquet/{number:05d}.parquet"


def mark_file(number: int) -> str:
    """Written after a shard's files are in place."""
    return f"{BUILDING}/{number:05d}.json"

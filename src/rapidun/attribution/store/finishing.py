"""What is made of all shards together, in order of their numbers, when the last one is whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rapidun.attribution.store.manifest import FileEntry, Manifest

Finisher = Callable[[Path, Manifest], list[FileEntry]]
_FINISHERS: list[Finisher] = []


def register_finisher(finisher: Finisher) -> Finisher:
    """Have ``finisher(directory, manifest)`` write its files whenever shards were added."""
    _FINISHERS.append(finisher)
    return finisher


def whole_files(directory: Path, manifest: Manifest) -> list[FileEntry]:
    """The files that are not of one shard, written anew."""
    return [entry for finisher in _FINISHERS for entry in finisher(directory, manifest)]

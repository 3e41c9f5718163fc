"""What is made of all shards together, in order of their numbers, when the last one is whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rapidun.attribution.store.manifest import FileEntry, Manifest
from rapidun.attribution.store.moments import write_moments


def whole_files(directory: Path, manifest: Manifest) -> list[FileEntry]:
    """The files that are not of one shard: the pool's moments, written anew, and what scorers fitted."""
    fitted = [path for scorer in manifest.views.values() for path in scorer.files(directory)]
    return [*write_moments(directory, manifest), *(_entry(directory, path) for path in fitted)]


def _entry(directory: Path, path: Path) -> FileEntry:
    content = path.read_bytes()
    name, digest = path.relative_to(directory).as_posix(), hashlib.sha256(content).hexdigest()
    return FileEntry(name=name, bytes=len(content), sha256=digest)

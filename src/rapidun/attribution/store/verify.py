"""Check every file of an index against its SHA-256 and, where one differs, say which rows are damaged.

The manifest is checked first, against its own checksum: where it is damaged, the others have nothing to be checked
against. Rows that stand in the index twice without having been asked for are found too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.attribution.store.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    ShardFiles,
    load_manifest,
    shard_file,
    table_file,
)
from rapidun.attribution.store.shards import (
    CHECKSUM,
    TABLE_CHECKSUM,
    read_table,
    row_checksums,
    row_ids,
    table_checksums,
)
from rapidun.attribution.tensors import stored_tensors
from rapidun.errors import InputError
from rapidun.files import file_sha256


@dataclass(frozen=True)
class Damage:
    """One file that is not what was written.

    Args:
        file: Relative to the index.
        reason: What is wrong with it.
        rows: Positions of the damaged rows; empty where the damage is outside of rows or cannot be placed.
    """

    file: str
    reason: str
    rows: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rows": list(self.rows)}

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.rows[:8])) + (", ..." if len(self.rows) > 8 else "")
        return f"{self.file}: {self.reason}" + (f" in row {shown}" if self.rows else "")


def verify(path: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Damage]:
    """Everything that is wrong with an index; empty if it is whole.

    Reads all of it once, in constant memory but for 8 bytes a row and a damaged shard.

    Args:
        path: The index.
        progress: Called after each file with ``(files done, files)``.

    Raises:
        InputError: If there is no finished index.
    """
    directory = Path(path)
    manifest = _manifest(directory)
    if isinstance(manifest, Damage):
        return [manifest]
    owners = {file.name: shard for shard in manifest.shards for file in shard.files}
    found = []
    files = manifest.every_file()
    for done, entry in enumerate(files, 1):
        damage = _check_file(directory, entry)
        if damage is not None:
            shard = owners.get(entry.name)
            rows = _damaged_rows(directory, manifest, shard, entry.name) if shard is not None else ()
            found.append(Damage(entry.name, damage, rows))
        if progress is not None:
            progress(done, len(files))
    return found if found or manifest.repeats else _repeated(directory, manifest)


def _manifest(directory: Path) -> Manifest | Damage:
    if not (directory / MANIFEST).is_file():
        load_manifest(directory)  # says what there is instead
    try:
        return load_manifest(directory)
    except InputError as error:
        return Damage(MANIFEST, str(error).removeprefix(f"{directory / MANIFEST}: ").removesuffix("."))


def _repeated(directory: Path, manifest: Manifest) -> list[Damage]:
    """Rows whose id an earlier row has, by the first 8 bytes of the ids' hashes."""
    marks = [
        int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "little")
        for shard in manifest.shards
        for name in row_ids(directory, shard.number, shard.rows)
    ]
    _, first = np.unique(np.array(marks, dtype=np.uint64), return_index=True)
    again = np.setdiff1d(np.arange(len(marks)), first).tolist()
    reason = f"{len(again)} rows stand here again that are in the index already (the same ids)"
    return [Damage("rows.parquet", reason, tuple(again))] if again else []


def _check_file(directory: Path, entry: FileEntry) -> str | None:
    file = directory / entry.name
    if not file.is_file():
        return "the file is missing"
    size = file.stat().st_size
    if size != entry.bytes:
        return f"{size} bytes where {entry.bytes} were written"
    try:
        return None if file_sha256(file) == entry.sha256 else "bytes were changed"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _damaged_rows(directory: Path, manifest: Manifest, shard: ShardFiles, name: str) -> tuple[int, ...]:
    """Positions of rows whose checksum differs; none where the file cannot be read that far."""
    try:
        stored = {key: tensor.read() for key, tensor in stored_tensors(directory / shard_file(shard.number)).items()}
        if name == table_file(shard.number):
            now = table_checksums(read_table(directory, shard.number, shard.rows))
            then = stored[TABLE_CHECKSUM].tolist()
        else:
            now, then = row_checksums(stored, manifest.matrices, shard.rows), stored[CHECKSUM].tolist()
    except (InputError, KeyError, ValueError, RuntimeError):
        return ()
    return tuple(shard.first + row for row, pair in enumerate(zip(now, then, strict=True)) if pair[0] != pair[1])

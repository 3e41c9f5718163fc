"""Files that are never half-written: write beside, flush, rename. JSON lines. Content hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rapidun.errors import InputError, OutputError

_CHUNK = 2**20


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside ``path`` and rename it into place when the block ends without an error.

    Raises:
        OutputError: If the disk is full or the place cannot be written; ``path`` is then as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        beside.unlink(missing_ok=True)


def disk_error(error: OSError, path: Path) -> OutputError:
    """The message for an operating-system error while writing ``path``."""
    if error.errno == errno.ENOSPC:
        return OutputError(f"{path}: the disk is full. Free some space and run the same command with --resume.")
    return OutputError(f"{path}: cannot write ({error.strerror or error}). Choose another --out.")


def write_json(path: Path, value: object) -> None:
    """Indented JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, atomically."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: If the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg}).") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All objects of a JSON-lines file that rapidun wrote; blank lines are ignored.

    Raises:
        InputError: If the file is missing or a line is not JSON; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file.") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: not JSON ({error.msg}).") from error
    return found


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, read a MiB at a time. Raises OSError as reading does."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of(parts: Iterable[bytes]) -> str:
    """SHA-256 of the parts, each preceded by its length so that boundaries count."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()

"""Files and directories that are never half-written: write beside, flush, rename. JSON lines. Content hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory beside ``path``; when the block ends without an error it takes the place of ``path``.

    What was at ``path`` is moved aside for that, is moved back if the new directory cannot take its place, and is
    removed last. Where a process was killed between the two renames, the next call finds it as ``.NAME.old`` and puts
    it back first; what a killed process left half-written is removed.

    Raises:
        OutputError: If the disk is full or the place cannot be written; ``path`` is then as it was.
    """
    if path.is_file():
        raise OutputError(f"{path}: exists and is a file. Choose another place.")
    place = path.resolve()  # where path is a link, what it points to is replaced
    beside, old = _beside(place, "part"), _beside(place, "old")
    try:
        _put_back(old, place)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        yield beside
        if place.exists():
            place.rename(old)
        beside.rename(place)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        _put_back(old, place)
        shutil.rmtree(beside, ignore_errors=True)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


def _put_back(old: Path, path: Path) -> None:
    """Undo a replacement that got only half-way; after a whole one, remove what was replaced."""
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Remove a directory that may be missing: under another name first, so that it is never there in part.

    What a killed `atomic_directory` left beside it goes too.

    Raises:
        OutputError: If it cannot be renamed; it is then as it was.
    """
    place = path.resolve()
    gone = _beside(place, "gone")
    shutil.rmtree(gone, ignore_errors=True)
    try:
        if place.exists():
            place.rename(gone)
    except OSError as error:
        raise disk_error(error, path) from error
    for ending in ("gone", "part", "old"):
        shutil.rmtree(_beside(place, ending), ignore_errors=True)


def check_replaceable(path: Path, marker: str, what: str) -> None:
    """Refuse to replace anything but a directory that holds the file ``marker``, or an empty one.

    Args:
        path: A place to be written; may be missing.
        marker: Name of a file that only such directories hold, e.g. ``"adapter_config.json"``.
        what: What such a directory is, e.g. ``"an adapter"``.

    Raises:
        OutputError: If something else is there.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / marker).is_file()):
        raise OutputError(f"{path}: holds something that is not {what}. Choose another place.")


def check_file_place(path: Path) -> None:
    """Refuse a place where a file will be written after long work and cannot be; one that is there is replaced.

    Raises:
        OutputError: If it is a directory, or cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a directory. Name a file.")
    _check_writable(path, path.absolute().parent)


def check_place(path: Path, markers: Sequence[str], what: str, *, resume: bool, overwrite: bool) -> None:
    """Refuse a place for results that is taken or cannot be written, before any work; changes nothing.

    Args:
        path: A directory to be made, or gone on with.
        markers: Files one of which is in every directory that may be resumed or replaced.
        what: What such a directory is, e.g. ``"a directory that rapidun made"``.
        resume: What is there will be gone on with.
        overwrite: What is there will be replaced.

    Raises:
        OutputError: Says which, and what to do.
    """
    if resume and overwrite:
        raise OutputError("--resume goes on with what is there and --overwrite replaces it: choose one.")
    if path.is_symlink() and not path.exists():
        raise OutputError(f"{path}: is a link to nothing. Choose another --out.")
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: exists and is a file. Choose another --out.")
    _check_writable(path, path.absolute())
    if not path.is_dir() or not any(path.iterdir()):
        return
    ours = any((path / name).exists() for name in markers)
    if not resume and not overwrite:
        raise OutputError(
            f"{path}: exists and is not empty. Go on with it by --resume, replace it by --overwrite, or choose "
            "another --out."
        )
    if overwrite and not ours:
        raise OutputError(f"{path}: is not {what}, so --overwrite leaves it. Choose another --out.")
    if resume and not ours:
        raise OutputError(f"{path}: nothing to resume here (no {markers[0]}). Choose another --out.")


def _check_writable(path: Path, place: Path) -> None:
    above = next(each for each in (place, *place.parents) if os.path.lexists(each))
    if not above.is_dir():
        raise OutputError(f"{path}: {above} is a file, so nothing can be written below it. Choose another place.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: {above} cannot be written (no permission). Choose another place.")


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

"""Files and directories that are never half-written: write beside, flush, rename. Content hashes.

Files are written for their owner alone (0600 where the system knows such modes), since most of them hold somebody's
rows; adapters and models, which hold none, are left to the umask, and so is everything with ``RAPIDUN_SHARED_FILES=1``.
A process that was killed leaves its half-written files under hidden names, which `remove_leftovers` takes away.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from rapidun.errors import DiskFullError, OutputError

SHARED_FILES = "RAPIDUN_SHARED_FILES"
"""Environment variable: with ``1``, who may read what is written is left to the umask."""
LOCK = ".lock"
_LEFTOVER = re.compile(r"\.(.+)\.(part|old|gone)")
_CHUNK = 2**20


def owner_only(path: str, flags: int) -> int:
    """An ``opener`` for `open`: a new file is readable by its owner alone, unless `SHARED_FILES` is set."""
    return os.open(path, flags, 0o666 if os.environ.get(SHARED_FILES) == "1" else 0o600)


@contextmanager
def atomic_write(path: Path, mode: str = "w", *, private: bool = True) -> Iterator[IO[Any]]:
    """Open a file beside ``path`` and rename it into place when the block ends without an error.

    Args:
        path: The file.
        mode: "w" or "wb".
        private: Whether it is for its owner alone.

    Raises:
        OutputError: If the disk is full or the place cannot be written; ``path`` is then as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opener = owner_only if private else None
        with open(beside, mode, encoding=None if "b" in mode else "utf-8", opener=opener) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        beside.unlink(missing_ok=True)


def remove_half_written(path: Path) -> None:
    """Take away what killed processes left of ``path``; for a file in a directory that nobody claims.

    What a process that is still there writes is left alone.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        number = left.name.split(".")[-2]
        if number.isdigit() and not _is_running(int(number)):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


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
    except (OSError, SafetensorError) as error:
        raise disk_error(error, path) from error
    finally:
        _put_back(old, place)
        shutil.rmtree(beside, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Take away what killed processes left below ``directory``; call it only while no other writes there.

    Half-written files and directories go, a directory that was moved aside and not yet replaced comes back.
    """
    for folder, folders, files in os.walk(directory):
        for name in [*folders, *files]:
            path, found = Path(folder, name), _LEFTOVER.fullmatch(name)
            if found is not None and found[2] == "old":
                _put_back(path, path.with_name(found[1]))
            elif found is not None and name in folders:
                shutil.rmtree(path, ignore_errors=True)
            elif found is not None or (name == LOCK and Path(folder) != directory):
                path.unlink(missing_ok=True)
        folders[:] = [name for name in folders if not _LEFTOVER.fullmatch(name)]


def is_empty(directory: Path, *, but: Sequence[str] = ()) -> bool:
    """Whether a directory holds nothing, ``but`` these names, a lock, and what killed processes left half-written."""
    return all(path.name in (LOCK, *but) or _LEFTOVER.fullmatch(path.name) for path in directory.iterdir())


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


def _put_back(old: Path, path: Path) -> None:
    """Undo a replacement that got only half-way; after a whole one, remove what was replaced."""
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


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
    _check_place_writable(path, path.absolute().parent)


def check_place(
    path: Path, markers: Sequence[str], what: str, *, resume: bool, overwrite: bool, resumable: bool = True
) -> None:
    """Refuse a place for results that is taken or cannot be written, before any work; changes nothing.

    Args:
        path: A directory to be made, or gone on with.
        markers: Files one of which is in every directory that may be resumed or replaced.
        what: What such a directory is, e.g. ``"a directory that rapidun made"``.
        resume: What is there will be gone on with.
        overwrite: What is there will be replaced.
        resumable: Whether the verb can go on with what is there.

    Raises:
        OutputError: Says which, and what to do.
    """
    if resume and overwrite:
        raise OutputError("--resume goes on with what is there and --overwrite replaces it: choose one.")
    if path.is_symlink() and not path.exists():
        raise OutputError(f"{path}: is a link to nothing. Choose another place.")
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: exists and is a file. Choose another place.")
    check_writable(path)
    if not path.is_dir() or is_empty(path):
        return
    ours = any((path / name).exists() for name in markers)
    if not resume and not overwrite:
        ways = "Go on with it by --resume, replace it by --overwrite," if resumable else "Replace it by --overwrite,"
        raise OutputError(f"{path}: exists and is not empty. {ways} or choose another place.")
    if overwrite and not ours:
        raise OutputError(f"{path}: is not {what}, so --overwrite leaves it. Choose another place.")
    if resume and not ours:
        raise OutputError(f"{path}: nothing to resume here (no {markers[0]}). Choose another place.")


def check_writable(path: Path) -> None:
    """Refuse a directory, there or to be made, in which nothing can be written; a read-only file system is named.

    Raises:
        OutputError: Naming what cannot be written.
    """
    _check_place_writable(path, path.absolute())


def _check_place_writable(path: Path, place: Path) -> None:
    above = next(each for each in (place, *place.parents) if os.path.lexists(each))
    if not above.is_dir():
        raise OutputError(f"{path}: {above} is a file, so nothing can be written below it. Choose another place.")
    if not os.access(above, os.W_OK | os.X_OK):
        reason = "its file system is read-only" if _is_read_only(above) else "no permission"
        raise OutputError(f"{path}: {above} cannot be written ({reason}). Choose another place.")


def _is_read_only(path: Path) -> bool:
    return hasattr(os, "statvfs") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def disk_error(error: Exception, path: Path) -> OutputError:
    """The message for an error of the operating system, or of a library that passes one on, while writing ``path``."""
    code = error.errno if isinstance(error, OSError) else _code_in(error, path)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"{path}: the disk is full. Free some space and run the same command again.")
    reason = os.strerror(code) if code is not None else error
    return OutputError(f"{path}: cannot write ({reason}). Choose another place.")


def _code_in(error: Exception, path: Path) -> int | None:
    """The system's error number behind a library's exception: safetensors writes it out, torch says nothing of it."""
    if found := re.search(r"os error (\d+)", str(error)):
        return int(found[1])
    above = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    return errno.ENOSPC if shutil.disk_usage(above).free < _CHUNK else None


def write_json(path: Path, value: object, *, private: bool = True) -> None:
    """Indented JSON, atomically; ``private`` as for `atomic_write`."""
    with atomic_write(path, private=private) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


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

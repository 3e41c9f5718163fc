"""The one lifecycle of a directory of results: one process at a time, resumed only with the same inputs, never stuck.

A directory is claimed before work starts. From then on its process holds a lock on it, which the system takes back
when the process ends, however it ends; a second process is told who holds it. ``identity.json`` says what the results
are of: a resume with anything else is refused. Finished phases are marked in ``phases.json`` after their files are in
place, so a killed run goes on with the first phase that is not marked. What a killed process left half-written is
removed when the directory is claimed and when it is let go.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rapidun.errors import DiskFullError, FingerprintError, InputError, OutputError
from rapidun.files import (
    LOCK,
    atomic_write,
    check_place,
    disk_error,
    is_empty,
    owner_only,
    remove_leftovers,
    write_json,
)
from rapidun.reading import RESTORE, read_kind
from rapidun.together import drop_old_states
from rapidun.yaml_files import parse_yaml, read_yaml

try:
    import fcntl
except ImportError:  # a system without such locks: directories are not guarded there
    _LOCKS = False
else:
    _LOCKS = True

IDENTITY = "identity.json"
PHASES = "phases.json"
CONFIG = "config.yaml"
_ABSENT = "not set"
_MARK = secrets.token_hex(8)  # a process number alone is not enough: containers count from 1


class Hold:
    """The right to write into a directory, until `release`, or until the process ends or is killed.

    The system's lock on ``.lock`` says whether somebody has it; what stands in that file says who.

    Args:
        path: The directory; made where it is missing.

    Raises:
        OutputError: If another process has it, naming process, host and time; or the directory cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = not path.exists()
        self._file: IO[str] | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._file = _locked(path)
        except OSError as error:
            raise disk_error(error, path) from error
        self._clean()

    def _clean(self) -> None:
        remove_leftovers(self.path)
        drop_old_states(self.path)

    def release(self) -> None:
        """Give it back; a directory that was made and in which nothing was written goes too."""
        if self._file is None:
            return
        self._clean()
        (self.path / LOCK).unlink(missing_ok=True)
        if self._made and self.path.is_dir() and is_empty(self.path):
            with suppress(OSError):
                self.path.rmdir()
        self._file.close()
        self._file = None


@contextmanager
def held(path: Path, *, resumable: bool) -> Iterator[None]:
    """Hold a directory while the block runs. Where the verb is ``resumable`` a full disk's message says so.

    Raises:
        OutputError: As `Hold`.
    """
    hold = Hold(path)
    try:
        yield
    except DiskFullError as error:
        if not resumable:
            raise
        raise _resumable(error) from error
    finally:
        hold.release()


def check_free(path: Path) -> None:
    """Refuse a directory that another process holds; changes nothing.

    Raises:
        OutputError: Naming that process, its host, and since when.
    """
    if not _LOCKS or not (path / LOCK).is_file():
        return
    with suppress(PermissionError), (path / LOCK).open(encoding="utf-8") as file:
        if not _try(file):
            _refuse_another(path, file)


def _locked(path: Path) -> IO[str] | None:
    """The open lock file; None where this very process holds the directory already, or no file can be locked."""
    while _LOCKS:
        file = open(path / LOCK, "a+", encoding="utf-8", opener=owner_only)  # noqa: SIM115
        try:
            if not _try(file):
                _refuse_another(path, file)
                file.close()
                return None
            if _is_same(file, path / LOCK):  # else its holder has just let go, and removed the file
                file.truncate(0)
                since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "mark": _MARK}
                file.write(json.dumps(holder))
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()
    return None


def _try(file: IO[str]) -> bool:
    """Take the system's lock on an open file; True also where the file system knows none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_same(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _refuse_another(path: Path, file: IO[str]) -> None:
    """Say who holds the directory, unless it is this process."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        pid, host, since, mark = (holder[name] for name in ("pid", "host", "since", "mark"))
    except (ValueError, KeyError, TypeError):
        pid = host = since = mark = "?"  # it has not written its name yet
    if (pid, mark) != (os.getpid(), _MARK):
        raise OutputError(
            f"{path}: in use by process {pid} on {host} since {since}. Wait until it has ended, or choose another "
            "place."
        )


def _resumable(error: DiskFullError) -> OutputError:
    return OutputError(str(error).replace("command again", "command with --resume"))


class RunDirectory:
    """Paths and phase marks of one run. As a context it lets the directory go at its end.

    Args:
        path: The directory.
        phases: Records of the finished phases, in order, as written to ``manifest.json``.
        hold: The right to write into it.
        resumable: Whether the verb can go on with a stopped run.
    """

    def __init__(
        self, path: Path, phases: list[dict[str, Any]], hold: Hold | None = None, *, resumable: bool = True
    ) -> None:
        self.path, self.phases = path, phases
        self._hold, self._resumable = hold, resumable

    @classmethod
    def check(
        cls,
        path: Path,
        identity: Mapping[str, str] | None = None,
        *,
        resume: bool,
        overwrite: bool,
        origins: Mapping[str, object] | None = None,
        configuration: str = "",
        resumable: bool = True,
    ) -> list[str]:
        """Refuse a place that cannot be claimed, changing nothing; the names of the phases that a resume finds done.

        Called twice: before anything is read, without an identity, and before long work, with one.

        Raises:
            OutputError, FingerprintError: As `claim`.
        """
        what = "a directory that rapidun made"
        check_place(path, [IDENTITY], what, resume=resume, overwrite=overwrite, resumable=resumable)
        check_free(path)
        if not resume or not _begun(path):
            return []
        if identity is not None:
            _check_identity(path, identity, origins or {}, configuration)
        return [record["name"] for record in read_phases(path)]

    @classmethod
    def claim(
        cls,
        path: Path,
        identity: Mapping[str, str],
        *,
        resume: bool,
        overwrite: bool,
        origins: Mapping[str, object] | None = None,
        configuration: str = "",
        resumable: bool = True,
    ) -> RunDirectory:
        """Make the directory, or open it to resume; it is this process's until the context ends.

        Args:
            path: Where the run goes.
            identity: Names and fingerprints that must be the same for a resume.
            resume: Go on with what is there.
            overwrite: Remove what is there first; only a directory that a run made is ever removed.
            origins: The file or directory behind a name of ``identity``, for the message.
            configuration: The text of ``config.yaml``; with it a message names the setting that differs.
            resumable: Whether the verb has ``--resume``.

        Raises:
            OutputError: If it exists and neither was asked for, is no run directory, cannot be made, or another process
                is at work in it.
            FingerprintError: On resume, if an identity differs; names both values.
        """

        def check() -> None:
            cls.check(
                path, identity, resume=resume, overwrite=overwrite, origins=origins, configuration=configuration,
                resumable=resumable,
            )  # fmt: skip

        check()
        hold = Hold(path)
        try:
            check()  # again: it may have been another's until now
            if not (resume and _begun(path)):
                _clear(path)
                write_json(path / IDENTITY, dict(identity))
        except BaseException:
            hold.release()
            raise
        return cls(path, read_phases(path), hold, resumable=resumable)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hold is not None:
            self._hold.release()
        if isinstance(error, DiskFullError) and self._resumable:
            raise _resumable(error) from error

    def done(self, name: str) -> bool:
        """Whether phase ``name`` is finished."""
        return any(record["name"] == name for record in self.phases)

    def mark(self, record: dict[str, Any]) -> None:
        """Mark a phase as finished; call it after its files are in place."""
        self.phases.append(record)
        write_json(self.path / PHASES, self.phases)

    def unmark(self, names: Collection[str]) -> None:
        """Take the marks of phases away, so that a resume does them again."""
        self.phases = [record for record in self.phases if record["name"] not in names]
        write_json(self.path / PHASES, self.phases)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, atomically."""
        with atomic_write(self.path / name) as file:
            file.write(text)

    def __truediv__(self, name: str) -> Path:
        return self.path / name


def _begun(path: Path) -> bool:
    """Whether there is a run to go on with; one that is being removed has an empty identity."""
    return (path / IDENTITY).is_file() and bool(read_kind(path / IDENTITY, dict[str, str]))


def read_phases(path: Path) -> list[dict[str, Any]]:
    """The records of the finished phases of the run in ``path``; none where no phase is.

    Raises:
        InputError: If the file is not as a run writes it.
    """
    place = path / PHASES
    found = read_kind(place, list[dict[str, Any]]) if place.exists() else []
    if not all(isinstance(record.get("name"), str) for record in found):
        raise InputError(f"{place}: holds a phase without a name. {RESTORE}")
    return found


def _clear(path: Path) -> None:
    """Remove what is there; what says that rapidun made it stays, so a removal that is cut short is repeated."""
    if (path / IDENTITY).is_file():
        write_json(path / IDENTITY, {})
    for each in path.iterdir():
        if each.name not in (LOCK, IDENTITY):
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()


def _check_identity(path: Path, identity: Mapping[str, str], origins: Mapping[str, object], configuration: str) -> None:
    before = read_kind(path / IDENTITY, dict[str, str])
    for name in sorted({*before, *identity}):
        if before.get(name) == identity.get(name):
            continue
        changed = _changed_setting(path, configuration) if name == "configuration" else None
        if changed is None:
            where = f" ({origins[name]})" if name in origins else ""
            changed = f"{name}{where} was {_short(before.get(name))} and is now {_short(identity.get(name))}"
        raise FingerprintError(
            f"{path}: cannot resume: {changed}. Give the same settings and data, or start anew in another place."
        )


def _short(fingerprint: str | None) -> str:
    """The beginning of a hash; anything else as it is."""
    if fingerprint is None:
        return "not given"
    return fingerprint[:16] if len(fingerprint) == 64 else fingerprint


def _changed_setting(path: Path, configuration: str) -> str | None:
    """The first setting that differs from the run's ``config.yaml``, with both values; None where none is found."""
    try:
        before, now = read_yaml(path / CONFIG), parse_yaml(configuration, CONFIG)
    except InputError:
        return None
    old, new = _flat(before), _flat(now)
    for name in (*new, *old):
        if old.get(name, _ABSENT) != new.get(name, _ABSENT):
            return f"{name} was {old.get(name, _ABSENT)} and is now {new.get(name, _ABSENT)}"
    return None


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """A tree of mappings as dotted names."""
    if not isinstance(value, dict) or not value:
        return {name: value} if name else {}
    return {
        dotted: leaf
        for key, below in value.items()
        for dotted, leaf in _flat(below, f"{name}.{key}".strip(".")).items()
    }

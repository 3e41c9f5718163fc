"""The run directory: claimed before work starts, resumed only by the same configuration and data.

Finished phases are marked in ``phases.json`` after their files are in place, so a killed run goes on with the
first phase that is not marked.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rapidun.errors import FingerprintError, OutputError
from rapidun.files import atomic_write, disk_error, read_json, write_json

IDENTITY = "identity.json"
PHASES = "phases.json"


class RunDirectory:
    """Paths and phase marks of one run.

    Args:
        path: The directory.
        phases: Records of the finished phases, in order, as written to ``manifest.json``.
    """

    def __init__(self, path: Path, phases: list[dict[str, Any]]) -> None:
        self.path, self.phases = path, phases

    @classmethod
    def claim(cls, path: Path, identity: Mapping[str, str], *, resume: bool, overwrite: bool) -> RunDirectory:
        """Make the directory, or open it to resume.

        Args:
            path: Where the run goes.
            identity: Names and fingerprints that must be the same for a resume.
            resume: Go on with what is there.
            overwrite: Remove what is there first; only a directory that a run made is ever removed.

        Raises:
            OutputError: If it exists and neither was asked for, is no run directory, or cannot be made.
            FingerprintError: On resume, if an identity differs; names both values.
        """
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: exists and is a file. Choose another --out.")
        occupied = path.is_dir() and any(path.iterdir())
        if occupied and resume:
            _check_identity(path, identity)
            marks = read_json(path / PHASES) if (path / PHASES).exists() else []
            return cls(path, marks)
        if occupied:
            _make_room(path, overwrite)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error
        write_json(path / IDENTITY, dict(identity))
        return cls(path, [])

    def done(self, name: str) -> bool:
        """Whether phase ``name`` is finished."""
        return any(record["name"] == name for record in self.phases)

    def mark(self, record: dict[str, Any]) -> None:
        """Mark a phase as finished; call it after its files are in place."""
        self.phases.append(record)
        write_json(self.path / PHASES, self.phases)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, atomically."""
        with atomic_write(self.path / name) as file:
            file.write(text)

    def __truediv__(self, name: str) -> Path:
        return self.path / name


def _make_room(path: Path, overwrite: bool) -> None:
    if not overwrite:
        raise OutputError(
            f"{path}: exists and is not empty. Go on with it by --resume, replace it by --overwrite, or choose "
            "another --out."
        )
    if not (path / IDENTITY).exists():
        raise OutputError(
            f"{path}: is not a directory that rapidun made, so --overwrite leaves it. Choose another --out."
        )
    shutil.rmtree(path)


def _check_identity(path: Path, identity: Mapping[str, str]) -> None:
    if not (path / IDENTITY).exists():
        raise OutputError(f"{path}: nothing to resume here (no {IDENTITY}). Choose another --out.")
    before: dict[str, str] = read_json(path / IDENTITY)
    for name in sorted({*before, *identity}):
        if before.get(name) != identity.get(name):
            raise FingerprintError(
                f"{path}: cannot resume: {name} was {before.get(name)} and is now {identity.get(name)}. Give the same "
                "settings and data, or start anew in another --out."
            )

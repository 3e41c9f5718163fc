"""The run directory: claimed before work starts, resumed only by the same configuration and data.

Finished phases are marked in ``phases.json`` after their files are in place, so a killed run goes on with the
first phase that is not marked.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rapidun.errors import FingerprintError
from rapidun.files import atomic_write, check_place, disk_error, read_json, write_json

IDENTITY = "identity.json"
PHASES = "phases.json"
CONFIG = "config.yaml"
_ABSENT = "not set"


class RunDirectory:
    """Paths and phase marks of one run.

    Args:
        path: The directory.
        phases: Records of the finished phases, in order, as written to ``manifest.json``.
    """

    def __init__(self, path: Path, phases: list[dict[str, Any]]) -> None:
        self.path, self.phases = path, phases

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
    ) -> list[str]:
        """Refuse a place that cannot be claimed, changing nothing; the names of the phases that a resume finds done.

        Called twice: before anything is read, without an identity, and before long work, with one.

        Raises:
            OutputError, FingerprintError: As `claim`.
        """
        check_place(path, [IDENTITY], "a directory that rapidun made", resume=resume, overwrite=overwrite)
        if not resume or not (path / IDENTITY).exists():
            return []
        if identity is not None:
            _check_identity(path, identity, origins or {}, configuration)
        return [record["name"] for record in read_json(path / PHASES)] if (path / PHASES).exists() else []

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
    ) -> RunDirectory:
        """Make the directory, or open it to resume.

        Args:
            path: Where the run goes.
            identity: Names and fingerprints that must be the same for a resume.
            resume: Go on with what is there.
            overwrite: Remove what is there first; only a directory that a run made is ever removed.
            origins: The file or directory behind a name of ``identity``, for the message.
            configuration: The text of ``config.yaml``; with it a message names the setting that differs.

        Raises:
            OutputError: If it exists and neither was asked for, is no run directory, or cannot be made.
            FingerprintError: On resume, if an identity differs; names both values.
        """
        cls.check(path, identity, resume=resume, overwrite=overwrite, origins=origins, configuration=configuration)
        if resume and (path / IDENTITY).exists():
            return cls(path, read_json(path / PHASES) if (path / PHASES).exists() else [])
        if overwrite and path.is_dir() and any(path.iterdir()):
            shutil.rmtree(path)
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


def _check_identity(path: Path, identity: Mapping[str, str], origins: Mapping[str, object], configuration: str) -> None:
    before: dict[str, str] = read_json(path / IDENTITY)
    for name in sorted({*before, *identity}):
        if before.get(name) == identity.get(name):
            continue
        changed = _changed_setting(path, configuration) if name == "configuration" else None
        if changed is None:
            where = f" ({origins[name]})" if name in origins else ""
            changed = f"{name}{where} was {_short(before.get(name))} and is now {_short(identity.get(name))}"
        raise FingerprintError(
            f"{path}: cannot resume: {changed}. Give the same settings and data, or start anew in another --out."
        )


def _short(fingerprint: str | None) -> str:
    """The beginning of a hash; anything else as it is."""
    if fingerprint is None:
        return "not given"
    return fingerprint[:16] if len(fingerprint) == 64 else fingerprint


def _changed_setting(path: Path, configuration: str) -> str | None:
    """The first setting that differs from the run's ``config.yaml``, with both values; None where none is found."""
    try:
        before, now = (yaml.safe_load(text) for text in ((path / CONFIG).read_text(encoding="utf-8"), configuration))
    except (OSError, yaml.YAMLError):
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

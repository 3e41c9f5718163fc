"""The configuration of `rapidun reveal`: a model, how rows are read, and the task file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from rapidun.errors import ConfigError, InputError
from rapidun.pipeline.config import ModelSettings, RowSettings
from rapidun.reveal import TaskSettings

_PATHS = {("inputs",), ("retain",), ("utility", "rows")}
_JUDGES = {("judge",), ("utility", "judge")}


class RevealConfig(BaseModel):
    """A complete reveal run."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    model: ModelSettings
    data: RowSettings = Field(default_factory=RowSettings)
    task: TaskSettings
    seed: int = Field(0, ge=0, description="Seed of arms, inputs, sampling and modules.")

    def to_yaml(self) -> str:
        """The complete configuration as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_task(path: Path) -> dict[str, Any]:
    """A task file as a plain mapping, its relative paths made relative to the file.

    Raises:
        InputError: If the file is missing or not YAML.
        ConfigError: If it is not a mapping.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({str(error).splitlines()[0]}).") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a task is a mapping with the keys description, instruction, judge and retain.")
    for place in _PATHS:
        _resolve(raw, place, path.parent, always=True)
    for place in _JUDGES:
        options = _at(raw, (*place, "options"))
        for name in options if isinstance(options, dict) else ():
            _resolve(raw, (*place, "options", name), path.parent, always=False)
    return raw


def _at(raw: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw


def _resolve(raw: dict[str, Any], place: tuple[str, ...], base: Path, *, always: bool) -> None:
    """Make the path at ``place`` relative to ``base``; an option of a judge only where there is such a file."""
    holder, value = _at(raw, place[:-1]) if place[:-1] else raw, _at(raw, place)
    if isinstance(value, str) and isinstance(holder, dict) and value and (always or (base / value).exists()):
        holder[place[-1]] = str(base / value)

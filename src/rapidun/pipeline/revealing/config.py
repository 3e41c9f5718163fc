"""The configuration of `rapidun reveal`: a model, how rows are read, and the task file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from rapidun.pipeline.config import LARGEST_SEED, ModelSettings, Replayable, RowSettings, read_yaml
from rapidun.reveal import TaskSettings

_PATHS = {("inputs",), ("retain",), ("utility", "rows")}
_JUDGES = {("judge",), ("utility", "judge")}


class RevealConfig(Replayable):
    """A complete reveal run."""

    model: ModelSettings
    data: RowSettings = Field(default_factory=RowSettings)
    task: TaskSettings
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of arms, inputs, sampling and modules.")


def read_task(path: Path) -> dict[str, Any]:
    """A task file as a plain mapping, its relative paths made relative to the file.

    Raises:
        InputError: If the file is missing or not YAML.
        ConfigError: If it is not a mapping.
    """
    raw = read_yaml(path, "a task is a mapping with the keys description, instruction, judge and retain.")
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

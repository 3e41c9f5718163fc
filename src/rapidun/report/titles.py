"""The title of a report: what was to be removed, from the run's own settings and never from the text of a row."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from rapidun.errors import InputError
from rapidun.report.run_files import RunFiles
from rapidun.yaml_files import parse_yaml

_NAMED = 4


def title_of(run: RunFiles) -> str:
    """The behaviour of a reveal run, else the trigger families, else the file of forget rows, else the model.

    A valuation removes nothing and is called by its model.
    """
    removed = None if run.valuation is not None else _behaviour(run) or _triggers(run) or _forget_file(run)
    return f"Unlearning of {removed}" if removed else model_of(run) or run.directory.resolve().name


def model_of(run: RunFiles) -> str:
    """The last part of the model's name; empty where it is not known."""
    named = run.manifest.fields.get("model") if run.manifest else None
    return "" if isinstance(named, dict | list) or run.manifest is None else _last(run.manifest.text("model"))


def _behaviour(run: RunFiles) -> str:
    described = run.reveal.text("description").strip().rstrip(".") if run.reveal else ""
    return f"\u201c{described}\u201d" if described else ""


def _triggers(run: RunFiles) -> str:
    sides = run.metrics.child("by_variant") if run.metrics else None
    lines = sides.children("before") if sides else []
    families = list(dict.fromkeys(name for line in lines if (name := line.text("family"))))
    if not families:
        return ""
    shown, more = families[:_NAMED], len(families) - _NAMED
    parts = [*shown, f"{more} more"] if more > 0 else shown
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"the trigger{'s' * (len(families) > 1)} {listed}"


def _forget_file(run: RunFiles) -> str:
    try:
        config: Any = parse_yaml(run.config or "", "config.yaml")
    except InputError:
        return ""  # the report shows it as it is
    data = config.get("data") if isinstance(config, dict) else None
    forget = data.get("forget") if isinstance(data, dict) else None
    return _last(forget) if isinstance(forget, str) else ""


def _last(path: str) -> str:
    return PurePath(path.replace("\\", "/")).name

"""The configuration as a person reads it: every setting, its default, its help."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rapidun.settings.run import RunConfig

HEADER = """\
# rapidun run CONFIG.yaml --out DIR
# Relative paths are relative to this file. Only what is marked REQUIRED must be given."""


def annotated_defaults() -> str:
    """The default configuration as YAML with each field's description as a comment; loads back unchanged."""
    return "\n".join([HEADER, *_lines(RunConfig, "")]) + "\n"


def _lines(kind: type[BaseModel], indent: str) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield f"\n{indent}# {(section.__doc__ or '').strip().splitlines()[0]}"
            yield f"{indent}{name}:"
            yield from _lines(section, indent + "  ")
        else:
            yield f"{indent}{name}: {_value(field)}  # {field.description}"


def _value(field: FieldInfo) -> str:
    if field.is_required():
        return "REQUIRED"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, list) and default and isinstance(default[0], BaseModel):
        default = [item.model_dump(mode="json") for item in default]
    return json.dumps(default, ensure_ascii=False)

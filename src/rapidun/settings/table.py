"""All settings as tables in Markdown: ``python -m rapidun.settings.table > docs/settings.md``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rapidun.settings.base import Flag, Section, section_of

FAR = 10_000


def limits(field: FieldInfo) -> str:
    """``"From 1 to 512."``, ``"Above 0."`` or nothing."""
    said = [(Ge, "from {}"), (Gt, "above {}"), (Le, "to {}"), (Lt, "below {}")]
    text = " ".join(
        words.format(_number(getattr(each, kind.__name__.lower())))
        for kind, words in said
        for each in field.metadata
        if isinstance(each, kind) and not _is_far(each)
    )
    return text[:1].upper() + text[1:] + "." if text else ""


def _is_far(limit: Any) -> bool:
    """Whether it only stops a slip of the keyboard."""
    return isinstance(limit, Le) and isinstance(limit.le, int) and limit.le > FAR


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


HEADER = """\
# Settings

Every setting there is. This page is made by `python -m rapidun.settings.table > docs/settings.md` from the classes of
`rapidun.settings`, as are the options of the command line. A setting without an option is given by
`--set section.name=value`, or in the YAML file of `rapidun run` or of a task.
"""


def markdown() -> str:
    """One table for each section."""
    from rapidun.settings.attribution import IndexConfig, TraceConfig, Wanted
    from rapidun.settings.reveal import RevealConfig
    from rapidun.settings.run import MeasureConfig, RunConfig
    from rapidun.settings.value import SavedConfig, Uses, ValueConfig, ValueFiles

    verbs: list[tuple[str, type[Section]]] = [
        ("run, unlearn, weigh, tune, demo", RunConfig),
        ("trace", TraceConfig),
        ("trace (options alone)", Wanted),
        ("index build", IndexConfig),
        ("evaluate", MeasureConfig),
        ("reveal", RevealConfig),
        ("value", ValueConfig),
        ("value (options alone)", ValueFiles),
        ("value (options alone)", Uses),
        ("value --student DIRECTORY", SavedConfig),
    ]
    taken: dict[tuple[str, type[Section]], list[str]] = {}
    for verb, kind in verbs:
        for found in _sections(kind, ""):
            taken.setdefault(found, []).append(verb)
    return "\n".join([HEADER, *(_table(", ".join(of), *found) for found, of in taken.items())])


def _sections(kind: type[Section], where: str) -> Iterator[tuple[str, type[Section]]]:
    yield where, kind
    for name, field in kind.model_fields.items():
        for each in (field.annotation, *get_args(field.annotation)):
            if (below := section_of(each)) is not None:
                yield from _sections(below, f"{where}.{name}".removeprefix("."))


def _table(verb: str, where: str, section: type[Section]) -> str:
    title = f"## `{where}`" if where else f"## {section.__name__}"
    first = (section.__doc__ or "").strip().splitlines()[0]
    lines = [f"{title}\n\n{first} Verbs: {verb}.\n", "| setting | option | type | default | |", "|---|---|---|---|---|"]
    for name, field in section.model_fields.items():
        if section_of(field.annotation) is None:
            lines.append(f"| {' | '.join(_cells(f'{where}.{name}'.removeprefix('.'), field))} |")
    return "\n".join(lines) + "\n" if len(lines) > 3 else ""


def _cells(path: str, field: FieldInfo) -> list[str]:
    flags = [f"`{name}`" for each in field.metadata if isinstance(each, Flag) for name in each.names]
    text = " ".join(filter(None, [str(field.description), limits(field)]))
    return [f"`{path}`", " ".join(flags), _type(field.annotation), _default(field), text.replace("|", "\\|")]


def _type(annotation: Any) -> str:
    """A type in words: ``one of a, b``, ``number``, ``list of text``."""
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return ", ".join(map(str, parts))
    if kind in (Union, UnionType):
        return " or ".join(_type(part) for part in parts if part is not NoneType)
    if kind in (list, tuple):
        return f"list of {_type(parts[0])}"
    if kind is dict:
        return "mapping"
    names = {int: "whole number", float: "number", bool: "yes or no", str: "text"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, list) and default and isinstance(default[0], BaseModel):
        return "Dolly's"
    return "" if default in (None, [], {}, "", ()) else f"`{json.dumps(default, ensure_ascii=False)}`"


if __name__ == "__main__":
    print(markdown(), end="")

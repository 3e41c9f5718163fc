"""All settings as tables: ``python docs/make_settings.py`` writes docs/settings.md from the classes of the settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rapidun.cli import attack, demo, evaluate, index, reveal, run, scan, trace, tune, unlearn, value, weigh
from rapidun.cli.made import Shows
from rapidun.settings.base import Section, limits, section_of
from rapidun.settings.reveal import ARMS, ModuleOptions
from rapidun.settings.value import SavedConfig
from rapidun.valuation.students import STUDENTS
from rapidun.weighting import SCHEMES

PAGE = Path(__file__).with_name("settings.md")
HEADER = """\
# Settings

Every setting there is, made by `python docs/make_settings.py` from the classes of `rapidun.settings`, as are the
options of the command line. A setting without an option is given by `--set section.name=value`, or in the YAML file of
`rapidun run` or of a task.
"""
OPTIONS = """\
## Options

A setting called `options` holds those of the thing beside it, and no other is accepted. Those of methods stand in
[methods](methods.md), of judges in [without forget data](guide/without-forget-data.md).
"""
VERBS: dict[str, Callable[..., int]] = {
    "run": run.run, "unlearn": unlearn.unlearn, "weigh": weigh.weigh, "tune": tune.tune, "demo": demo.demo,
    "trace": trace.trace, "index build": index.build, "evaluate": evaluate.evaluate, "reveal": reveal.reveal,
    "value": value.value, "attack": attack.attack, "scan": scan.scan,
}  # fmt: skip


def markdown() -> str:
    """One table for each section, and the options of what settings name."""
    taken: dict[tuple[str, type[Section]], list[str]] = {}
    options: dict[tuple[str, str], list[str]] = {}
    for verb, shows in [*_shown(), ("value --student DIRECTORY", Shows(SavedConfig))]:
        for where, section in _sections(shows.kind, ""):
            taken.setdefault((where, section), []).append(verb)
        for option in shows.options():
            options.setdefault((verb, option.path), []).extend(f"`{name}`" for name in option.flag.names)
    first: dict[type[Section], str] = {}
    for where, section in taken:
        first.setdefault(section, where)
    said: dict[str, None] = {}
    tables = [
        _table(verbs, where, section, options, first, said)
        for (where, section), verbs in taken.items()
        if not where or first[section] == where
    ]
    return "\n".join([HEADER, *tables, *_all_options()])


def _shown() -> Iterator[tuple[str, Shows]]:
    for verb, function in VERBS.items():
        for hint in get_type_hints(function.__wrapped__, include_extras=True).values():  # type: ignore[attr-defined]
            yield from ((verb, each) for each in getattr(hint, "__metadata__", ()) if isinstance(each, Shows))


def _sections(kind: type[Section], where: str) -> Iterator[tuple[str, type[Section]]]:
    yield where, kind
    for name, field in kind.model_fields.items():
        for each in (field.annotation, *get_args(field.annotation)):
            if (below := section_of(each)) is not None:
                yield from _sections(below, f"{where}.{name}".removeprefix("."))


def _table(
    verbs: list[str],
    where: str,
    section: type[Section],
    options: dict[tuple[str, str], list[str]],
    first: dict[type[Section], str],
    said: dict[str, None],
) -> str:
    """A section's settings; those that an earlier table has word for word are named alone."""
    title = f"## `{where}`" if where else f"## {section.__name__}"
    lines = [f"{title}\n\n{_head(section)} Verbs: {', '.join(verbs)}.\n"]
    rows, again = [], []
    for name, field in section.model_fields.items():
        path = f"{where}.{name}".removeprefix(".")
        flags = dict.fromkeys(flag for verb in verbs for flag in options.get((verb, path), ()))
        below = section_of(field.annotation)
        if below is not None and first[below] == path:
            continue
        text = " ".join(filter(None, [str(field.description), limits(field)])).replace("|", "\\|")
        kind = f"section `{first[below]}`" if below is not None else _type(field.annotation)
        row = " | ".join([f"`{path}`", " ".join(flags), kind, _default(field) if below is None else "", text])
        (again if row in said else rows).append(row)
    said |= dict.fromkeys(rows)
    if rows:
        lines += ["| setting | option | type | default | |", "|---|---|---|---|---|", *(f"| {row} |" for row in rows)]
    if again:
        lines += ["", f"As above: {', '.join(row.partition(' |')[0] for row in again)}."]
    return "\n".join(lines) + "\n"


def _head(section: type[Section]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _all_options() -> Iterator[str]:
    """What the things that a setting names may be told: each option once, and of which."""
    yield OPTIONS
    schemes = {name: scheme.options for name, scheme in SCHEMES.items()}
    for title, kinds in (
        ("`weights.options`", schemes),
        ("`task.arms.options`", ARMS),
        ("`task.release.modules`", {"modules": ModuleOptions}),
        ("`student.options`", {name: STUDENTS[name].options for name in sorted(STUDENTS)}),
    ):
        found: dict[str, list[str]] = {}
        for name, kind in kinds.items():
            for option, field in kind.model_fields.items():
                text = " ".join(filter(None, [str(field.description), limits(field)]))
                about = f"* `{option}` ({', '.join(filter(None, [_type(field.annotation), _default(field)]))}): {text}"
                found.setdefault(about, []).append(name)
        yield f"### {title}\n"
        yield "\n".join(f"{about} Of {', '.join(names)}." for about, names in found.items()) + "\n"


def _type(annotation: Any) -> str:
    """A type in words: ``a, b``, ``number``, ``list of text``."""
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return ", ".join(map(str, parts))
    if kind is Annotated:
        return _type(parts[0])
    if kind in (Union, UnionType):
        return " or ".join(_type(part) for part in parts if part is not NoneType)
    if kind in (list, tuple):
        return f"list of {_type(parts[0])}"
    if kind is dict or section_of(annotation) is not None:
        return "mapping"
    return {int: "whole number", float: "number", bool: "yes or no", str: "text"}.get(annotation, "path")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, list) and default and isinstance(default[0], BaseModel):
        return "Dolly's"
    return "" if default in (None, [], {}, "", ()) else f"`{json.dumps(default, ensure_ascii=False)}`"


if __name__ == "__main__":
    PAGE.write_text(markdown(), encoding="utf-8")

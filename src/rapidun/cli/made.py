"""Options of the command line made from the settings: name, type, default, limits and help are said there, once.

A verb asks for settings with ``given: Annotated[Raw, Shows(RunConfig, "model", "data")]``. The command line then has an
option for every field of these sections that has a `Flag`, and the verb gets a mapping of what was given, as in YAML.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from rapidun.cli.console import parse_pairs
from rapidun.cli.options import Asks, How
from rapidun.errors import ConfigError
from rapidun.settings.base import Flag, Section, limits, section_of, set_dotted
from rapidun.settings.plugins import load_plugin

Raw = dict[str, Any]


class Shows:
    """The settings that a verb offers as options.

    Args:
        kind: The configuration.
        paths: Its fields and sections, with dots; without any, all.
        but: Those that are left out.
        optional: Those that need not be given, although the configuration must have them.
    """

    def __init__(self, kind: type[Section], *paths: str, but: Sequence[str] = (), optional: Sequence[str] = ()) -> None:
        self.kind, self.paths, self.but, self.optional = kind, paths, but, optional

    def options(self) -> list[Option]:
        """One for each flag."""
        return [
            Option(path, flag, field, panel, path in self.optional)
            for top in self.paths or self.kind.model_fields
            for path, field, panel in _fields(self.kind, top)
            for flag in field.metadata
            if isinstance(flag, Flag) and path not in self.but
        ]


def _fields(kind: type[Section], path: str) -> Iterator[tuple[str, FieldInfo, str | None]]:
    """Every field at or below ``path``, with its path and its heading on a help page."""
    *parents, last = path.split(".")
    for name in parents:
        kind = section_of(kind.model_fields[name].annotation) or kind
    field = kind.model_fields[last]
    below = section_of(field.annotation)
    if below is None:
        owner = next(each for each in reversed(kind.__mro__) if last in vars(each).get("__annotations__", {}))
        yield path, field, getattr(owner, "panel", None)
        return
    for name in below.model_fields:
        if section_of(below.model_fields[name].annotation) is None:
            yield from ((f"{path}.{name}", found, panel) for _, found, panel in _fields(below, name))


@dataclass(frozen=True)
class Option:
    """One option: where its value goes, and what the settings say of it."""

    path: str
    flag: Flag
    field: FieldInfo
    panel: str | None
    optional: bool

    @property
    def name(self) -> str:
        """Of the parameter."""
        return self.flag.names[0].strip("-").replace("-", "_")

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that a value may have, none left out."""
        annotation = self.field.annotation
        found = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        return tuple(kind for kind in found if kind is not NoneType)

    @property
    def many(self) -> type | None:
        """What a repeated option is a list of, or None where it is given once."""
        for kind in self.kinds:
            if get_origin(kind) is dict:
                return str
            if get_origin(kind) is list and not self.flag.commas:
                return Path if get_args(kind)[0] is Path else str
        return None

    def parameter(self) -> inspect.Parameter:
        """As typer reads it."""
        kind, default = self._typed()
        said = typer.Option(
            *self.flag.names,
            help=self._help(),
            rich_help_panel=self.flag.panel or self.panel,
            metavar="" if kind is bool else None,
        )
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, said]
        )

    def _typed(self) -> tuple[Any, Any]:
        """The type and the default of the parameter."""
        if self.flag.value is not None or bool in self.kinds:
            return bool, False
        if self.many is not None:
            return list[self.many], []  # type: ignore[name-defined]
        kind = self.kinds[0] if len(self.kinds) == 1 and self.kinds[0] in (int, float, Path) else str
        if self.field.is_required():
            return (kind | None, None) if self.optional else (kind, inspect.Parameter.empty)
        default = self.field.get_default(call_default_factory=True)
        if self.flag.commas and not isinstance(default, str):
            default = ",".join(default) or None
        return (kind, default) if default not in (None, "") else (kind | None, None)

    def _help(self) -> str:
        parts = [str(self.field.description).replace("[", "\\["), limits(self.field)]
        return " ".join([*filter(None, parts), *(["Repeatable."] if self.many is not None else [])])

    def value(self, given: Any) -> Any:
        """What was given, as a YAML file would say it."""
        if self.flag.value is not None:
            return self.flag.value
        if any(get_origin(kind) is dict for kind in self.kinds):
            return parse_pairs(given, self.flag.names[0], plain=get_args(self.kinds[0])[1] is str)
        if self.flag.commas:
            words = [word for kind in self.kinds if get_origin(kind) is Literal for word in get_args(kind)]
            return given if given in words else listed(given)
        return [str(each) for each in given] if self.many is not None else given


def listed(text: str) -> list[str]:
    """``"a, b"`` to ``["a", "b"]``."""
    return [part.strip() for part in text.split(",") if part.strip()]


def made(verb: Callable[..., int]) -> Callable[..., int]:
    """A command out of a verb: every `Shows` in its signature becomes options, and a mapping when it is called.

    So does `Asks`, and a `How`.

    An argument without a default has the plain one of its type: no path, not set, an empty list.
    """
    hints = get_type_hints(verb, include_extras=True)
    shown: dict[str, list[Option]] = {}
    asked: dict[str, tuple[str, ...]] = {}
    every = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for name, parameter in inspect.signature(verb).parameters.items():
        marks = getattr(hints[name], "__metadata__", ())
        if shows := next((each for each in marks if isinstance(each, Shows)), None):
            shown[name] = shows.options()
            every += [option.parameter() for option in shown[name]]
        elif asks := next((each for each in marks if isinstance(each, Asks)), None):
            asked[name] = asks.names
            every += [_with_default(parameter.replace(name=each), hint) for each, hint in asks.options().items()]
        elif name != "context":
            every.append(_with_default(parameter, hints[name]))

    @functools.wraps(verb)
    def command(context: typer.Context, **arguments: Any) -> int:
        for name, options in shown.items():
            arguments[name] = _given(context, options, arguments)
        for name, options_of in asked.items():
            arguments[name] = How(**{each: arguments.pop(each) for each in options_of})
        if "context" in hints:
            arguments["context"] = context
        return verb(**arguments)

    command.__signature__ = inspect.Signature(every, return_annotation=int)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in every} | {"return": int}
    return command


def _with_default(parameter: inspect.Parameter, hint: Any) -> inspect.Parameter:
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    default = parameter.default
    if default is inspect.Parameter.empty:
        default = False if kind is bool else [] if get_origin(kind) is list else default
        default = None if NoneType in get_args(kind) else default
    return parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY, default=default)


def _given(context: typer.Context, options: Sequence[Option], arguments: Raw) -> Raw:
    """The mapping that was asked for; takes its options from ``arguments``.

    Raises:
        ConfigError: If two options say the same thing differently, or a pair is none.
    """
    raw: Raw = {}
    said: dict[str, str] = {}
    for option in options:
        value = arguments.pop(option.name)
        source = context.get_parameter_source(option.name)
        if source is None or source.name.startswith("DEFAULT") or (option.flag.value is not None and not value):
            continue
        if option.path in said:
            raise ConfigError(f"{said[option.path]} and {option.flag.names[0]}: choose one.")
        said[option.path] = option.flag.names[0]
        set_dotted(raw, option.path, option.value(value))
    for path in raw.get("plugins", ()):  # before any name is checked
        load_plugin(Path(path))
    return raw

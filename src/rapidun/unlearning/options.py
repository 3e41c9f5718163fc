"""Options of methods, read off the signatures that take them: one source of truth for name, default, type and range."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

from pydantic import Field, create_model

from rapidun.errors import ConfigError
from rapidun.settings.base import Section

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Layer = Annotated[int, Field(ge=1)] | None
Options = dict[str, tuple[Any, Any]]
"""``{name: (type, default)}``."""


def options_of(function: Callable[..., Any]) -> Options:
    """The keyword-only parameters of ``function`` that have a default; those without come from a method's state.

    Raises:
        ConfigError: If a parameter beyond the first is not keyword-only, so that nothing could set it.
    """
    target = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(target, include_extras=True)
    for parameter in [] if inspect.isclass(function) else list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            said = f"{function.__name__}: write a * before {parameter.name!r}"
            raise ConfigError(f"{said}; the options of a method are its keyword parameters.")
    return {
        name: (hints.get(name, type(parameter.default)), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
    }


def keywords_of(function: Callable[..., Any]) -> frozenset[str]:
    """The names of all keyword-only parameters."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


def options_class(*parts: Options) -> type[Section]:
    """All options of several functions.

    Raises:
        ValueError: If two of them give one name different defaults.
    """
    found: Options = {}
    for part in parts:
        for name, option in part.items():
            if found.setdefault(name, option)[1] != option[1]:
                raise ValueError(f"option {name!r} has the defaults {found[name][1]} and {option[1]}")
    fields: dict[str, Any] = found
    return create_model("MethodOptions", __base__=Section, **fields)

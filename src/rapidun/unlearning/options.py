"""Options of methods, read off the signatures that take them: one source of truth for name, default, type and range."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rapidun.errors import ConfigError
from rapidun.registry import nearest
from rapidun.settings.unlearning import OptionValue

_FINITE = ConfigDict(allow_inf_nan=False)
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Layer = Annotated[int, Field(ge=1)] | None


@dataclass(frozen=True)
class Option:
    """One option: its default and the type that checks a value."""

    default: OptionValue
    kind: Any


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """The keyword-only parameters of ``function`` that have a default; those without come from a method's state."""
    target = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(target, include_extras=True)
    return {
        name: Option(parameter.default, hints.get(name, type(parameter.default)))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
    }


def keywords_of(function: Callable[..., Any]) -> frozenset[str]:
    """The names of all keyword-only parameters."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


def merged(parts: Iterable[Mapping[str, Option]]) -> dict[str, Option]:
    """All options of several functions.

    Raises:
        ValueError: If two of them give one name different defaults.
    """
    found: dict[str, Option] = {}
    for part in parts:
        for name, option in part.items():
            if found.setdefault(name, option).default != option.default:
                raise ValueError(f"option {name!r} has the defaults {found[name].default} and {option.default}")
    return found


def checked(method: str, known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of ``method`` with its value: the default, or what was given, as its type.

    Raises:
        ConfigError: If an option is unknown (names the valid ones and the nearest), or a value does not fit.
    """
    values: dict[str, Any] = {name: option.default for name, option in known.items()}
    for name, value in given.items():
        if name not in known:
            listed = ", ".join(f"{other}={option.default}" for other, option in known.items()) or "none"
            raise ConfigError(f"method {method!r} has no option {name!r}; its options: {listed}.{nearest(name, known)}")
        try:
            values[name] = TypeAdapter(known[name].kind, config=_FINITE).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ConfigError(f"method {method!r}: option {name} = {value!r}: {reason}.") from error
    return values

"""What users call by a name: methods, weighting schemes, judges, sketches, ... A wrong name gets the nearest one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, NoReturn, TypeVar, cast

from rapidun.errors import ConfigError
from rapidun.settings.names import Names, nearest

Value = TypeVar("Value")
_Registered = TypeVar("_Registered")


class Registry(dict[str, Value], Generic[Value]):
    """Things by name. Asked for a name that is not there, it raises a ConfigError with the nearest one.

    Args:
        names: Where the names stand for those who do not import what they name; whatever is entered is added.
    """

    def __init__(self, names: Names) -> None:
        super().__init__()
        self.names = names

    def __setitem__(self, name: str, value: Value) -> None:
        self.names.add(name)
        super().__setitem__(name, value)

    def register(self, name: str) -> Callable[[_Registered], _Registered]:
        """A decorator that enters what it decorates, and returns it as it is."""

        def enter(value: _Registered) -> _Registered:
            self[name] = cast("Value", value)
            return value

        return enter

    def __missing__(self, name: str) -> NoReturn:
        raise self.names.unknown(name)


def check_whole(what: str, kind: type) -> None:
    """Refuse a class that leaves a method of its base open.

    Raises:
        ConfigError: Names the methods.
    """
    if lacking := ", ".join(sorted(getattr(kind, "__abstractmethods__", ()))):
        raise ConfigError(f"{what}: the class {kind.__name__} lacks {lacking}.")


def check_options(what: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check names of options against the parameters of what will be called with them.

    Raises:
        ConfigError: If one is unknown, or one without a default is missing.
    """
    known = inspect.signature(function).parameters
    for name in options:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ConfigError(f"{what} has no option {name!r}; its options: {listed}.{nearest(name, known)}")
    missing = [name for name, each in known.items() if each.default is each.empty and name not in options]
    if missing:
        raise ConfigError(f"{what} needs the option {missing[0]!r}.")

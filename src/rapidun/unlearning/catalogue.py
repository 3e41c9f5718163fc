"""Every method by name, objectives and procedures together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapidun.errors import ConfigError
from rapidun.settings import names
from rapidun.unlearning import methods as _objectives  # noqa: F401  (registers them)
from rapidun.unlearning import procedures as _procedures  # noqa: F401
from rapidun.unlearning.registry import METHODS, PROCEDURES, Method, Procedure


def method_names() -> list[str]:
    """All names, sorted."""
    return sorted({**METHODS, **PROCEDURES})


def get_method(name: str) -> Method | Procedure:
    """The registered method.

    Raises:
        ConfigError: If there is none of that name; names the nearest one.
    """
    names.METHODS.check(name)
    return METHODS.get(name) or PROCEDURES[name]


def check_method(name: str, options: Mapping[str, Any], adapter: bool = False) -> None:
    """Refuse options that a method lacks; where its result must be an ``adapter``, also one that changes the model.

    Raises:
        ConfigError: Says which.
    """
    method = get_method(name)
    method.checked(options)
    if adapter and isinstance(method, Procedure) and method.saves != "adapter":
        raise ConfigError(f"method {name!r} changes the whole model and leaves no adapter to undo; choose another.")


names.METHODS.rule = check_method

"""Every method by name, objectives and procedures together."""

from __future__ import annotations

from difflib import get_close_matches

from rapidun.errors import ConfigError
from rapidun.unlearning import methods as _objectives  # noqa: F401  (registers them)
from rapidun.unlearning.procedures import PROCEDURES, Procedure
from rapidun.unlearning.registry import METHODS, Method


def method_names() -> list[str]:
    """All names, sorted."""
    return sorted({**METHODS, **PROCEDURES})


def get_method(name: str) -> Method | Procedure:
    """The registered method.

    Raises:
        ConfigError: If there is none of that name; names the nearest one.
    """
    found = METHODS.get(name) or PROCEDURES.get(name)
    if found is None:
        near = get_close_matches(name, method_names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown method {name!r}: choose from {', '.join(method_names())}.{hint}")
    return found

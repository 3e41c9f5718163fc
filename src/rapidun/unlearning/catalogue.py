"""Every method by name, objectives and procedures together."""

from __future__ import annotations

from rapidun.settings import names
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
    names.METHODS.check(name)
    return METHODS.get(name) or PROCEDURES[name]


names.METHODS.rule = lambda name, options: get_method(name).checked(options)

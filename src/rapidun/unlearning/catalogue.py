"""Every method by name, objectives and procedures together."""

from __future__ import annotations

from rapidun.registry import Registry
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
    every: Registry[Method | Procedure] = Registry("unknown method {name!r}: choose from {known}.")
    every.update({**METHODS, **PROCEDURES})
    return every[name]

"""rapidun: trace a language model's behaviour to its training rows, remove it, and prove it.

The names below are what most work needs; `dir(rapidun)` lists them. Importing this package imports nothing heavy: each
name comes from its module when it is first used (``__init__.pyi`` holds the types).
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "load_model": "rapidun.models",
    "load_rows": "rapidun.data",
    "GradientCollector": "rapidun.gradients",
    "open_index": "rapidun.attribution",
    "trace": "rapidun.api",
    "unlearn": "rapidun.api",
    "evaluate": "rapidun.api",
    "reveal": "rapidun.api",
    "value": "rapidun.api",
    "run": "rapidun.api",
    "register_method": "rapidun.unlearning",
    "register_scheme": "rapidun.weighting",
    "register_scorer": "rapidun.attribution",
    "register_judge": "rapidun.evaluation",
    "register_attack": "rapidun.attacks",
    "register_suite": "rapidun.pipeline.suites",
}
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'rapidun' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

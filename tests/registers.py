"""What a plugin, an example or a test registers is gone after it: methods, scorers, judges, and their names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rapidun.attacks
import rapidun.attribution
import rapidun.distributed.local
import rapidun.distributed.ray_actors
import rapidun.distributed.torchrun
import rapidun.evaluation
import rapidun.pipeline.suites
import rapidun.revealing
import rapidun.unlearning
import rapidun.valuation
import rapidun.weighting  # noqa: F401  each opens its registers
from rapidun.settings.names import Names


@contextmanager
def registers_kept() -> Iterator[None]:
    """Put every register of the package back as it was, and forget the plugins that were loaded."""
    modules = set(sys.modules)
    before = [(table, dict(table)) for table in _tables()]
    try:
        yield
    finally:
        for table, entries in before:
            if table.keys() != entries.keys():
                table.clear()
                table.update(entries)
        for name in [name for name in sys.modules if name.startswith("rapidun_plugin_") and name not in modules]:
            del sys.modules[name]


def _tables() -> Iterator[dict[Any, Any]]:
    for name in [name for name in sys.modules if name.startswith("rapidun.")]:
        for key, value in vars(sys.modules[name]).items():
            if isinstance(value, Names):
                yield value._names
            elif isinstance(value, dict) and not key.startswith("__"):
                yield value

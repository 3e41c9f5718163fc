"""The engines by name, and `build`, which carries out an index build on one of them.

An engine is one registered function::

    @register_engine("mine")
    def run(job: IndexJob, settings: Settings) -> Manifest | None: ...

It returns the manifest where this process speaks for the build, and None where another one does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from rapidun.attribution.store import Manifest
from rapidun.distributed.job import IndexJob, Settings
from rapidun.errors import ConfigError
from rapidun.registry import Registry
from rapidun.settings.names import Names

Engine = Callable[[IndexJob, Settings], Manifest | None]
_BUILT_IN = {"local": "local", "ray": "ray_actors", "torchrun": "torchrun"}
"""Modules that register an engine, imported when it is asked for: Ray and torch's process groups are slow to come."""
ENGINES: Registry[Engine] = Registry(Names("--engine {given} is unknown. Known: {known}."))
register_engine = ENGINES.register
"""Decorates what ``--engine NAME`` runs."""


def engine_names() -> list[str]:
    """Names for ``--engine``."""
    return sorted({*_BUILT_IN, *ENGINES})


def build(job: IndexJob, engine: str = "local", settings: Settings | None = None) -> Manifest | None:
    """Build an index on ``engine``; the bytes are those of `rapidun.attribution.build_index`, whatever the workers.

    Args:
        job: What to build.
        engine: ``"local"``, ``"torchrun"``, ``"ray"``, or a registered name.
        settings: How; see `Settings`.

    Returns:
        The finished manifest; None in processes that do not speak for the build (torchrun's ranks above 0).

    Raises:
        ConfigError: If the engine is unknown, its extra is not installed, or the number of workers is below 1.
        OutputError, FingerprintError, InputError, ModelError: As `rapidun.attribution.build_index`.
        RapidunError: If workers are lost again and again; what was finished is kept.
    """
    settings = settings or Settings()
    if settings.workers is not None and settings.workers < 1:
        raise ConfigError(f"--workers {settings.workers}: give at least 1.")
    for name, module in _BUILT_IN.items():
        if engine == name or engine not in ENGINES:
            importlib.import_module(f"rapidun.distributed.{module}")
    return ENGINES[engine](job, settings)

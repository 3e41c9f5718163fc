"""The engines by name, and `build`, which carries out an index build on one of them.

An engine is one registered function::

    @register_engine("mine")
    def run(job: IndexJob, settings: Settings) -> Manifest | None: ...

It returns the manifest where this process speaks for the build, and None where another one does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches

from rapidun.attribution.store import Manifest
from rapidun.distributed.job import IndexJob
from rapidun.distributed.settings import Settings
from rapidun.errors import ConfigError

Engine = Callable[[IndexJob, Settings], Manifest | None]
_ENGINES: dict[str, Engine] = {}
_BUILT_IN = {
    "local": "rapidun.distributed.local",
    "ray": "rapidun.distributed.ray_actors",
    "torchrun": "rapidun.distributed.torchrun",
}


def register_engine(name: str) -> Callable[[Engine], Engine]:
    """Let ``--engine name`` run the function."""

    def register(engine: Engine) -> Engine:
        _ENGINES[name] = engine
        return engine

    return register


def engine_names() -> list[str]:
    """Names for ``--engine``."""
    return sorted({*_BUILT_IN, *_ENGINES})


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
    return _engine(engine)(job, settings)


def _engine(name: str) -> Engine:
    if name in _BUILT_IN and name not in _ENGINES:
        importlib.import_module(_BUILT_IN[name])
    if name not in _ENGINES:
        near = get_close_matches(name, engine_names(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"--engine {name} is unknown. Known: {', '.join(engine_names())}.{hint}")
    return _ENGINES[name]

"""Sketches in a manifest: a small JSON object that says which sketch it is, and back.

A sketch is a class whose settings are its dataclass fields; one line supports another kind::

    register_sketch("rapidgrad", RapidGrad)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from rapidun.errors import ConfigError
from rapidun.gradients import Exact, RapidGrad, Sketch

_KINDS: dict[str, Callable[..., Sketch]] = {}


def register_sketch(kind: str, sketch: Callable[..., Sketch]) -> None:
    """Support sketches of class ``sketch`` under the name ``kind``."""
    _KINDS[kind] = sketch


def describe_sketch(sketch: Sketch) -> dict[str, Any]:
    """``{"kind": ..., "k": ..., "seed": ...}``: all that is needed to make the same sketch again.

    Raises:
        ConfigError: If its class is not registered.
    """
    for kind, known in _KINDS.items():
        if type(sketch) is known:
            settings: dict[str, Any] = dataclasses.asdict(sketch) if dataclasses.is_dataclass(sketch) else {}
            return {"kind": kind, **settings}
    raise ConfigError(f"{type(sketch).__name__} sketches cannot be stored in an index. Known: {_known()}.")


def make_sketch(description: Mapping[str, Any]) -> Sketch:
    """The sketch that `describe_sketch` described.

    Raises:
        ConfigError: If the kind is unknown or a setting does not fit it.
    """
    settings = dict(description)
    kind = settings.pop("kind", None)
    if kind not in _KINDS:
        raise ConfigError(f"sketch kind {kind!r} is unknown. Known: {_known()}.")
    try:
        return _KINDS[kind](**settings)
    except TypeError as error:
        raise ConfigError(f"sketch {dict(description)}: {error}.") from error


def _known() -> str:
    return ", ".join(sorted(_KINDS))


register_sketch("rapidgrad", RapidGrad)
register_sketch("exact", Exact)

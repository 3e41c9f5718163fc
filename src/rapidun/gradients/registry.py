"""Sketches by kind: what a manifest says of a sketch, back to the sketch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rapidun.errors import ConfigError
from rapidun.gradients.factored import FactoredSketch
from rapidun.gradients.rapidgrad import RapidGrad
from rapidun.gradients.readout import Readout
from rapidun.gradients.sketches import Exact, Sketch
from rapidun.settings import names

_KINDS: dict[str, Callable[..., Sketch]] = {}


def register_sketch(kind: str, make: Callable[..., Sketch]) -> None:
    """Let `sketch_from` make sketches of this kind; the settings are the arguments of ``make``."""
    names.SKETCHES.add(kind)
    _KINDS[kind] = make


def sketch_from(description: Mapping[str, Any]) -> Sketch:
    """The sketch that ``describe()`` described.

    Args:
        description: ``{"kind": ..., setting: value}``; settings left out have their defaults.

    Raises:
        ConfigError: If the kind or a setting is unknown, or a value is out of range.
    """
    settings = dict(description)
    kind = settings.pop("kind", None)
    make = _KINDS[names.SKETCHES.check(str(kind))]
    known = inspect.signature(make).parameters
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ConfigError(f"sketch {kind!r} has no setting {unknown[0]!r}. It has: {', '.join(known) or 'none'}.")
    return make(**settings)


register_sketch("rapidgrad", RapidGrad)
register_sketch("factored", FactoredSketch)
register_sketch("readout", Readout)
register_sketch("exact", Exact)

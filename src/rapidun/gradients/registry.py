"""Sketches by kind: what a manifest says of a sketch, back to the sketch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rapidun.gradients.factored import FactoredSketch
from rapidun.gradients.rapidgrad import RapidGrad
from rapidun.gradients.readout import Readout
from rapidun.gradients.sketches import Exact, Sketch
from rapidun.registry import Registry, check_options

SKETCHES: Registry[Callable[..., Sketch]] = Registry("sketch")
SKETCHES.update(rapidgrad=RapidGrad, factored=FactoredSketch, readout=Readout, exact=Exact)
register_sketch = SKETCHES.__setitem__
"""``(kind, make)``: the arguments of ``make`` are the sketch's settings."""


def sketch_from(description: Mapping[str, Any]) -> Sketch:
    """The sketch that ``describe()`` described.

    Args:
        description: ``{"kind": ..., setting: value}``; settings left out have their defaults.

    Raises:
        ConfigError: If the kind or a setting is unknown, or a value is out of range.
    """
    settings = dict(description)
    kind = str(settings.pop("kind", ""))
    check_options(f"sketch {kind!r}", SKETCHES[kind], settings)
    return SKETCHES[kind](**settings)

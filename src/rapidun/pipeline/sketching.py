"""The gradient sketch that a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapidun.gradients import Sketch, sketch_from


def chosen_sketch(kind: str, *, k: int, seed: int, options: Mapping[str, Any]) -> Sketch:
    """The sketch of this kind; length and seed where it has them.

    Raises:
        ConfigError: If the kind or an option is unknown.
    """
    known = sketch_from({"kind": kind}).describe()
    shared = {name: value for name, value in (("k", k), ("seed", seed)) if name in known}
    return sketch_from({"kind": kind, **shared, **options})

"""The gradient sketch that a configuration names."""

from __future__ import annotations

from rapidun.gradients import Sketch, sketch_from
from rapidun.settings.value import TeacherSettings


def chosen_sketch(kind: str, *, k: int, seed: int) -> Sketch:
    """The sketch of this kind; length and seed where it has them.

    Raises:
        ConfigError: If the kind is unknown, or the length is none of its.
    """
    known = sketch_from({"kind": kind}).describe()
    shared = {name: value for name, value in (("k", k), ("seed", seed)) if name in known}
    return sketch_from({"kind": kind, **shared})


def teacher_sketch(settings: TeacherSettings, seed: int) -> Sketch | None:
    """The sketch of a valuation, or None for exact values. Raises as `chosen_sketch`."""
    return None if settings.sketch == "exact" else chosen_sketch(settings.sketch, k=settings.k, seed=seed)

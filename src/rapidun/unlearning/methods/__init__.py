"""One file for each family of objectives; importing this package registers them all."""

from rapidun.unlearning.methods import (
    ascent,
    constrained,
    deep,
    distillation,
    elastic,
    finetuning,
    preference,
    rapidun,
    representation,
    reweighted,
)

__all__ = [
    "ascent",
    "constrained",
    "deep",
    "distillation",
    "elastic",
    "finetuning",
    "preference",
    "rapidun",
    "representation",
    "reweighted",
]

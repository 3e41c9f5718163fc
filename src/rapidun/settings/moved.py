"""Settings that had another name: whoever still gives it is told the new one."""

from __future__ import annotations

_OPTIONS = {
    "weights": "alpha beta gamma delta aggregate top_k forget_temperature retain_temperature w_min w_max neighbours "
    "every smoothing",
    "arms": "dimension tokens scale candidates generate",
}
"""What a section held that now belongs to the options of the thing it names."""
_NOW = {
    **{f"{section}.{name}": f"is now {section}.options.{name}" for section, names in _OPTIONS.items()
       for name in names.split()},
    **{f"release.{name}": f"is now release.modules.{name}" for name in
       ["steps", "batch_size", "learning_rate", "orthogonality", "forget_scale", "retain_scale"]},
    "weights.loss_tau": "is now weights.options.tau",
    "weights.loss_direction": "is now weights.options.direction",
    "utility.suite": "is not needed: utility.judge, where it is given, measures utility",
    "search.carry": "is not a setting any more: a round hands its 8 best arms to the next",
    "value.exact": "is now value.sketch=exact",
    "index.layers": "is not a setting any more: the middle and the last layer are kept",
    "index.token_normalize": "is not a setting any more",
    "student.part_rows": "is not a setting any more",
    "evaluation.merge_adapter": "is not a setting any more: answering under an adapter is fast",
    "evaluation.trace_queries": "is not a setting any more: 20 bad answers are traced; without data.pool none is",
}  # fmt: skip


def moved(path: str) -> str | None:
    """What became of the setting at ``path``, or None where there never was one."""
    return _NOW.get(".".join(path.split(".")[-2:]))
